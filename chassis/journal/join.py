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
    resumed = entry.join is not None
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
        copied = _append(old, new, _already(old, entry.join["size"], new) if resumed else 0, fault)
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
    """How much of `new` an interrupted join had appended; 0 if someone wrote in between: rather twice than lost.

    Zeros at the end are what a power cut leaves where a size came to the disk before its bytes: they are cut off.
    """
    end, done = os.fstat(old).st_size, 0
    size = min(end - start, os.fstat(new).st_size)
    while done < size:
        one, other = (os.pread(fd, min(_PART, size - done), at + done) for fd, at in ((old, start), (new, 0)))
        if one != other:
            same = done + next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            return same if _cut_zeros(old, start + same) else 0
        done += len(one)
    _cut_zeros(old, start + done)
    return done


def _cut_zeros(fd: int, at: int) -> bool:
    """Cut off what follows, if there is nothing in it."""
    position = at
    while part := os.pread(fd, _PART, position):
        if part.strip(b"\0"):
            return False
        position += len(part)
    os.ftruncate(fd, at)
    return True


def _append(old: int, new: int, offset: int, fault: Callable[[str], None]) -> int:
    while part := os.pread(new, _PART, offset):
        offset += os.write(old, part)
        fault("join.appended")
    os.fsync(old)
    return offset
