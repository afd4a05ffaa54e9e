"""Which inode took another's place when a rotation was undone.

A rotation may be undone only while its new file is still the target. When a later task changed the same target
and was undone again, the target is the same log under another inode; this file says so.
"""

import hashlib
import json
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.atomic import write_json

_REMEMBERED = 1000


def remember(journal: Path, target: Path, was: int, now: int) -> None:
    """Note that at `target` the file `now` continues `was` (inode numbers), and all that had continued it since:
    an undo that is undone comes back to an older one. Idempotent."""
    heirs = _read(journal, target)
    last = _last(heirs, was)
    if last != now:
        heirs.pop(str(now), None)  # whatever it led to is led back to it
        heirs.pop(str(last), None)
        kept = dict(list(heirs.items())[-(_REMEMBERED - 1) :])
        write_json(_file(journal, target), {**kept, str(last): now}, mode=0o600)


def restored(journal: Path, target: Path, was: int) -> None:
    """An undo put `target` back, which had been the inode `was`. Kept only for what a task has had a lock on, as a
    rotation has: a program's undo may put thousands of files back."""
    if _file(journal, target).with_suffix("").exists() and lexists(target):
        remember(journal, target, was, target.lstat().st_ino)


def heir(journal: Path, target: Path, inode: int) -> int:
    """The inode that stands for `inode` by now."""
    return _last(_read(journal, target), inode)


def spoken_of(journal: Path, target: Path) -> set[int]:
    """The inode numbers that mean something for this target. A file system gives out those of gone files again: the
    next file there must not have one of them, or it would be taken for another."""
    return {number for was, now in _read(journal, target).items() for number in (int(was), now)}


def _last(heirs: dict[str, int], inode: int) -> int:
    seen = {inode}
    while (after := heirs.get(str(inode))) is not None and after not in seen:
        inode = after
        seen.add(inode)
    return inode


def _file(journal: Path, target: Path) -> Path:
    return journal / ".locks" / (hashlib.sha256(str(target).encode()).hexdigest() + ".heirs")


def _read(journal: Path, target: Path) -> dict[str, int]:
    try:
        return {str(was): int(now) for was, now in json.loads(_file(journal, target).read_bytes()).items()}
    except FileNotFoundError:
        return {}
