"""Undoing a rotation of a file that is being appended to, without losing a byte.

The old inode gets what the new one holds appended, and takes its name again by one rename: a writer that still
holds the old file goes on in the right place, one that reopens (as WatchedFileHandler does) finds it there. Bytes
written to the new inode in the moment of the rename are copied after it. What a writer that never reopens writes
to the new inode later than that is lost: that window is a few microseconds for a reopening writer.
"""

import os
from collections.abc import Callable
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.journal.records import Entry, TaskLog

_PART = 1 << 20


def join_back(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    """Safe to repeat after a crash at any point."""
    target, to = Path(entry.intent["target"]), Path(entry.intent["to"])
    late = Path(entry.intent["tmp"] + ".late")
    if entry.join is None:
        found = to.stat()
        entry.join = {"size": found.st_size, "ino": found.st_ino, "mtime_ns": found.st_mtime_ns}
        log.append("join", n=entry.n, **entry.join)
        fault("join.recorded")
    swapped = not lexists(to)
    if not swapped:
        late.unlink(missing_ok=True)
        late.hardlink_to(target)  # so that a crash right after the rename can still find late bytes
        fault("join.linked")
    elif not lexists(late):
        return
    old = os.open(target if swapped else to, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    new = os.open(late, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        copied = _append(old, new, _already(old, entry.join["size"], new), fault)
        if not swapped:
            to.replace(target)
            fsync_dir(target.parent)
            fault("join.swapped")
        copied = _append(old, new, copied, fault)
        os.fsync(old)
        if copied == 0 and os.fstat(old).st_size == entry.join["size"]:
            os.utime(old, ns=(os.fstat(old).st_atime_ns, entry.join["mtime_ns"]))
    finally:
        os.close(old)
        os.close(new)
    late.unlink()


def _already(old: int, start: int, new: int) -> int:
    """How much of `new` an interrupted join had appended; 0 if someone wrote in between: rather twice than lost."""
    tail = os.fstat(old).st_size - start
    if tail <= 0 or tail > os.fstat(new).st_size:
        return 0
    done = 0
    while done < tail:
        size = min(_PART, tail - done)
        if os.pread(old, size, start + done) != os.pread(new, size, done):
            return 0
        done += size
    return tail


def _append(old: int, new: int, offset: int, fault: Callable[[str], None]) -> int:
    while part := os.pread(new, _PART, offset):
        offset += os.write(old, part)
        fault("join.appended")
    os.fsync(old)
    return offset
