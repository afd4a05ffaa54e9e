"""What lies in watched folders at one moment, as a prober sees it: before a task begins and after it ended.

Read-only, and no link is followed. A content is known by its sha256 up to `FULL_BYTES`, beyond that (or beyond
`TOTAL_BYTES` of reading) by that of its first and last `EDGE_BYTES`: a change in the middle of a large file still
shows in its times, unless somebody sets them back. What cannot have changed since an earlier look is not read again.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from chassis.errors import Refused, ResourceExhausted
from chassis.exchange.moves import lstats
from chassis.journal.targets import refuse_secret

FULL_BYTES = 2**20
TOTAL_BYTES = 64 * 2**20
EDGE_BYTES = 32 * 1024
MAX_ENTRIES = 100_000
RACY_NS = 10**8
"""A content whose last change is this close to the look before is read again: times tick in steps of some ms."""


class Entry(NamedTuple):
    """One thing. `grew`: longer than at the look before, whose content it still begins with. `whole`: `digest` is the
    sha256 of all of it."""

    kind: str
    size: int
    mode: int
    uid: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    to: str = ""
    digest: str = ""
    whole: bool = False
    grew: bool = False

    @property
    def face(self) -> tuple[Any, ...]:
        """What a change changes. A folder's times and an inode's change time say nothing by themselves."""
        if self.kind == "folder":
            return (self.kind, self.mode, self.uid)
        return (self.kind, self.size, self.mode, self.uid, self.mtime_ns, self.to, self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """`taken_ns` by the clock that also stamps the files."""

    roots: tuple[str, ...]
    taken_ns: int
    entries: Mapping[str, Entry]


def take(roots: Sequence[str], taken_ns: int, before: Listing | None = None, known: Listing | None = None) -> Listing:
    """Look now; `before` says what grew, any earlier look (`known`) saves reading.

    Raises Refused for what can't be looked at, ResourceExhausted for too much to look at.
    """
    entries: dict[str, Entry] = {}
    left, known = TOTAL_BYTES, known or before
    was = {} if before is None else before.entries
    seen, settled = ({}, 0) if known is None else (known.entries, known.taken_ns - RACY_NS)
    most = MAX_ENTRIES + len(was)
    for path, info in _walk(roots):
        if len(entries) >= most:
            raise ResourceExhausted(f"more than {MAX_ENTRIES} files under {', '.join(roots)}; name narrower folders")
        same = seen.get(path)
        if (
            same is not None
            and same.ctime_ns == info.st_ctime_ns < settled
            and same.ino == info.st_ino
            and same.mtime_ns == info.st_mtime_ns
        ):
            entries[path] = same._replace(grew=False) if same.grew else same
            continue
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "other")
        entry = Entry(
            kind, info.st_size if kind == "file" else 0, stat.S_IMODE(info.st_mode), info.st_uid, info.st_mtime_ns,
            info.st_ctime_ns, info.st_ino,
        )  # fmt: skip
        if kind == "file":
            entry = _read(path, entry, was.get(path), whole=entry.size <= left)
            left -= entry.size if entry.whole else 2 * EDGE_BYTES
        elif kind == "link":
            with contextlib.suppress(OSError):
                entry = entry._replace(to=os.readlink(path))  # noqa: PTH115 - as text
        entries[path] = entry
    return Listing(roots=tuple(roots), taken_ns=taken_ns, entries=entries)


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


def _walk(roots: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Each root and all below it on the same file system. What vanishes meanwhile is left out."""
    for root in roots:
        try:
            info = os.lstat(root)
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield root, info
        folders = [root] if stat.S_ISDIR(info.st_mode) else []
        while folders:
            folder = folders.pop()
            try:
                for name, found in lstats(folder):
                    path = f"{folder}/{name}"
                    yield path, found
                    if stat.S_ISDIR(found.st_mode) and found.st_dev == info.st_dev:
                        folders.append(path)
            except (FileNotFoundError, NotADirectoryError):  # gone, or a link by now
                continue
            except PermissionError as error:
                raise Refused(f"{folder} can't be listed, so nobody can say what changes in it") from error


def _read(path: str, entry: Entry, was: Entry | None, *, whole: bool) -> Entry:
    """With its digest; without one where the file is a secret, is gone, or can't be read."""
    try:
        refuse_secret(Path(path))
        fd = _opened(path)
    except (Refused, OSError):
        return entry
    try:
        whole = whole and entry.size <= FULL_BYTES
        digest = _digest(fd, entry.size, whole=whole)
        grew = (
            was is not None
            and was.kind == "file"
            and was.digest != ""
            and entry.size > was.size
            and _digest(fd, was.size, whole=was.whole) == was.digest
        )
        return entry._replace(digest=digest, whole=whole, grew=grew)
    except OSError:
        return entry
    finally:
        os.close(fd)


def _opened(path: str) -> int:
    """For reading, without a trace where the file is ours."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _digest(fd: int, size: int, *, whole: bool) -> str:
    if whole:
        return hashlib.sha256(os.pread(fd, size, 0)).hexdigest()
    edges = os.pread(fd, min(size, EDGE_BYTES), 0) + os.pread(fd, min(size, EDGE_BYTES), max(0, size - EDGE_BYTES))
    return hashlib.sha256(edges).hexdigest()


def changed(one: Listing, other: Listing) -> list[str]:
    """Paths at which the two are not the same, in order. What was not read again is the same object."""
    old, new = one.entries, other.entries
    found = [path for path, entry in new.items() if old.get(path) is not entry and old.get(path) != entry]
    return sorted([*found, *(path for path in old if path not in new)])


def packed(listing: Listing, base: Listing | None = None) -> bytes:
    """As it is kept: whole, or by what differs from another one that is kept whole."""
    body: dict[str, Any] = {"roots": listing.roots, "taken_ns": listing.taken_ns}
    if base is None:
        body["entries"] = listing.entries
    else:
        differ = changed(base, listing)
        body["entries"] = {path: listing.entries[path] for path in differ if path in listing.entries}
        body["gone"] = [path for path in differ if path not in listing.entries]
    return zstandard.ZstdCompressor(level=1).compress(json.dumps(body).encode())


def unpacked(data: bytes, base: Listing | None = None) -> Listing:
    """Raises ValueError for what is no listing of ours."""
    try:
        body = json.loads(zstandard.ZstdDecompressor().decompress(data))
        entries = {path: Entry(*row) for path, row in body["entries"].items()}
        if base is not None:
            gone = set(body["gone"])
            entries = {path: each for path, each in base.entries.items() if path not in gone} | entries
        return Listing(roots=tuple(body["roots"]), taken_ns=int(body["taken_ns"]), entries=entries)
    except (zstandard.ZstdError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no listing: {error}") from error
