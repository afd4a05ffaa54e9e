"""What lies under a folder, and a kept copy of its files: the state before somebody else's program may change it."""

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chassis.canonical import Json
from chassis.errors import Refused, ResourceExhausted
from chassis.journal.extents import copy
from chassis.journal.targets import attributes, dress, refuse_secret

Kind = Literal["file", "folder", "link", "other"]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is copied at most before a program starts. More is refused before anything is done."""

    files: int = 20_000
    size_bytes: int = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing under a folder, its links not followed."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    size: int
    ino: int
    links: int
    to: str = ""
    """Where a symbolic link points."""
    attributes: dict[str, str] = field(default_factory=dict)
    stored: int = 0
    """Bytes on the disk: fewer than its size where it has holes."""

    @property
    def same(self) -> tuple[int, ...]:
        """Unchanged while this is: the change time of an inode can't be set by a program."""
        return (self.ino, self.ctime_ns, self.mtime_ns, self.size, self.mode, self.uid, self.gid)

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in self.__slots__}


def look(path: Path) -> Found | None:
    """What is there now; None for nothing."""
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _found(str(path), info)


def _found(path: str, info: os.stat_result) -> Found:
    kind: Kind = _KINDS.get(stat.S_IFMT(info.st_mode), "other")
    return Found(
        path=path, kind=kind, mode=stat.S_IMODE(info.st_mode), uid=info.st_uid, gid=info.st_gid,
        mtime_ns=info.st_mtime_ns, ctime_ns=info.st_ctime_ns, size=info.st_size if kind == "file" else 0,
        ino=info.st_ino, links=info.st_nlink, to=os.readlink(path) if kind == "link" else "",  # noqa: PTH115 — as text
        stored=min(info.st_blocks * 512, info.st_size) if kind == "file" else 0,
        attributes=attributes(Path(path)) if kind in ("file", "folder") else {},
    )  # fmt: skip


_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


def survey(roots: Sequence[Path], *, deep: bool = True) -> Iterator[Found]:
    """Each root and, if `deep`, all below it, a folder before what is in it. What vanishes meanwhile is left out."""
    for root in roots:
        found = look(root)
        if found is not None:
            yield found
            if deep and found.kind == "folder":
                yield from _below(root, root.lstat().st_dev)


def _below(folder: Path, device: int) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise Refused(f"{folder} can't be listed, so what changes in it could not be undone") from error
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            info = entry.stat(follow_symlinks=False)
            found = _found(entry.path, info)
            yield found
            if found.kind == "folder":
                if info.st_dev != device:
                    raise Refused(f"{entry.path} is another file system; declare it as a path of its own")
                yield from _below(Path(entry.path), device)


def take(roots: Sequence[Path], kept: Path, bounds: Bounds, *, deep: bool = True) -> list[Found]:
    """Survey the roots and copy each file to `kept`/<its number from 1 on>, durably.

    Raises Refused (a secret, something unreadable, not ours, in use) or ResourceExhausted (too much, no space).
    Nothing outside `kept` is touched.
    """
    before = list(survey(roots, deep=deep))
    files = [(n, found) for n, found in enumerate(before, 1) if found.kind == "file"]
    _within(roots, before, bounds, shutil.disk_usage(kept).free)
    for n, found in files:
        _keep(found, kept / str(n))
    sync_file_system(kept)
    return before


def _within(roots: Sequence[Path], before: Sequence[Found], bounds: Bounds, free: int) -> None:
    total, where = 0, ", ".join(map(str, roots))
    for found in before:
        path = Path(found.path)
        try:
            found.path.encode()
            found.to.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"under {where} is a name that is not UTF-8; it can't be journaled") from error
        refuse_secret(path if found.kind != "folder" else path / "-")
        total += found.stored
    if len(before) > bounds.files:
        raise ResourceExhausted(
            f"{where}: {len(before)} files and folders, at most {bounds.files} are kept for undo; name narrower paths"
        )
    if total > bounds.size_bytes:
        raise ResourceExhausted(
            f"{where}: {total / 2**20:.0f} MiB, at most {bounds.size_bytes / 2**20:.0f} MiB are kept for an undo; "
            "name narrower paths"
        )
    if total * 1.1 > free:
        raise ResourceExhausted(f"{where}: {total / 2**20:.0f} MiB to keep, {free / 2**20:.0f} MiB are free; make room")


def _keep(found: Found, kept: Path) -> None:
    """A copy with the file's own bytes, mode, owner and time: shared blocks where the file system can, never a link."""
    try:
        source = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{found.path} can't be read ({error.strerror}), so it could not be put back") from error
    with os.fdopen(source, "rb") as reader:
        kept.unlink(missing_ok=True)
        target = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(target, "wb") as writer:
            copy(reader.fileno(), writer.fileno(), found.size)
        if _found(found.path, os.fstat(reader.fileno())).same != found.same:
            raise Refused(f"{found.path} is being written to; start when it is quiet, or name narrower paths")
    try:
        dress(kept, found.to_json(), durable=False)
    except PermissionError as error:
        raise Refused(f"{found.path} belongs to somebody else; its owner could not be put back") from error


def sync_file_system(folder: Path) -> None:
    """Everything below is on the disk: one call instead of one for each file."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(fd)
