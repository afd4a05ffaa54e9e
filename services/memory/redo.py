"""The second copy of what was acknowledged: each change by value, durable here before the database commits.

Segments `<first number>.jsonl`, filled up with NUL bytes before their first use, so that making an entry durable only
overwrites and costs the file system no transaction. A line is `{"n":<number>,"digest":"<sha256>","body":{…}}`, numbers
rise by one without a gap over all segments, and the digest covers number and body. The database keeps, in the same
commit, the number of the last entry that it holds. Whatever it lost since, by a damaged WAL or an older copy put in its
place, is replayed.
"""

import contextlib
import errno
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import structlog

from chassis.atomic import fsync_dir
from chassis.canonical import sha256_hex
from services.memory.faults import explained

log = structlog.get_logger(__name__)

UNREADABLE = "no line that matches its digest"
SEGMENT_BYTES = 4 * 1024 * 1024
_LINE = re.compile(rb'\{"n":(\d{1,18}),"digest":"([0-9a-f]{64})","body":(\{.*\})\}', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change as it was acknowledged; see experience.py and replay.py for what a body holds."""

    number: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """Entries that can't be believed or are gone: `first` to `last`, both included."""

    first: int
    last: int
    where: str
    why: str


class RedoLog:
    """One writer, which the commit's lock makes sure of; reading is safe meanwhile. `durable=False` leaves out fsync.

    A torn last line is set aside in `<segment>.torn` when the log is opened. OSErrors come out as the memory's own.
    """

    def __init__(self, folder: Path, *, durable: bool = True, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._durable, self._segment_bytes = durable, segment_bytes
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._size = 0
        with explained("open the redo log", folder):
            folder.mkdir(parents=True, exist_ok=True)
            segments = self.segments()
            self._last = segments[-1][0] - 1 if segments else 0
            if segments:
                self._go_on(segments[-1][1])
                for number, _ in _lines(segments[-1]):
                    self._last = number

    @property
    def last(self) -> int:
        """The number of the last entry; 0: none was ever written."""
        return self._last

    def segments(self) -> list[tuple[int, Path]]:
        """(number of its first entry, path), oldest first."""
        return sorted((int(path.stem), path) for path in self.folder.glob("[0-9]*.jsonl") if path.stem.isdigit())

    def begin_after(self, number: int) -> None:
        """The next entry gets a number above this one; for a log that holds less than the database says."""
        with self._lock:
            if number > self._last:
                self._close()
                self._last = number

    @contextlib.contextmanager
    def written(self, bodies: Sequence[bytes]) -> Iterator[int]:
        """Entries (canonical JSON) are durable inside the block, which commits them; given is the last one's number.

        If it raises, they are taken back. Raises ResourceExhausted or Unavailable; nothing is in the log then.
        """
        with self._lock:
            before, fd, start = self._last, -1, 0
            data = b"".join(line(before + 1 + place, body) for place, body in enumerate(bodies))
            try:
                with explained("write the redo log", self.folder):
                    fd = self._segment(len(data))
                    start = self._size
                    if os.pwrite(fd, data, start) != len(data):
                        raise OSError(errno.ENOSPC, "short write, the disk may be full", str(self.folder))
                    if self._durable:
                        os.fdatasync(fd)
                self._size, self._last = start + len(data), before + len(bodies)
                yield self._last
            except BaseException:
                self._size, self._last = start, before
                if fd >= 0:
                    self._take_back(fd, start, len(data), len(bodies))
                raise

    def read(self, after: int = 0) -> Iterator[Entry | Spoilt]:
        """Entries with a number above `after`, in order, each checked; what is damaged or missing is named."""
        segments = self.segments()
        done = after
        for place, (first, path) in enumerate(segments):
            ends = segments[place + 1][0] - 1 if place + 1 < len(segments) else None
            if ends is not None and ends <= after:
                continue
            if first > done + 1 and done:
                yield Spoilt(first=done + 1, last=first - 1, where=str(self.folder), why="these entries are gone")
            done = max(done, first - 1)
            seen = done
            for number, entry in _lines((first, path)):
                seen = number
                if entry is None or number <= done:
                    continue
                if number > done + 1:
                    yield Spoilt(first=done + 1, last=number - 1, where=path.name, why=UNREADABLE)
                yield entry
                done = number
            if (last := seen if ends is None else ends) > done:
                yield Spoilt(first=done + 1, last=last, where=path.name, why=UNREADABLE)
                done = last

    def drop_through(self, number: int) -> list[Path]:
        """Delete segments whose entries are all in two verified backups, up to `number`; returns what went."""
        segments = self.segments()
        gone = []
        with explained("drop old segments of the redo log", self.folder):
            for (_, path), (following, _) in pairwise(segments):
                if following - 1 <= number:
                    path.unlink()
                    gone.append(path)
        return gone

    def close(self) -> None:
        with self._lock:
            self._close()

    def _segment(self, size: int) -> int:
        if self._fd is None or self._size + size > self._segment_bytes:
            self._close()
            return self._begin(self.folder / f"{self._last + 1:012d}.jsonl", max(size, self._segment_bytes))
        return self._fd

    def _begin(self, path: Path, size: int) -> int:
        if path.exists() and not _written(path):
            path.unlink()  # begun on a disk that then took nothing more, not even this
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if self._durable:
                left = memoryview(bytes(size))
                while left:
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
                fsync_dir(path.parent)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):  # what failed is what the caller hears; the next entry tries again
                path.unlink()
            raise
        self._fd, self._size = fd, 0
        return fd

    def _go_on(self, path: Path) -> None:
        data = _written(path)
        self._size = data.rfind(b"\n") + 1
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if torn := data[self._size :]:
            with path.with_name(path.name + ".torn").open("ab") as aside:
                aside.write(torn + b"\n")
            self._blank(self._fd, self._size, len(torn))

    def _blank(self, fd: int, start: int, size: int) -> None:
        os.pwrite(fd, bytes(size), start)
        if self._durable:
            os.fdatasync(fd)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _take_back(self, fd: int, start: int, size: int, taken: int) -> None:
        try:
            self._blank(fd, start, size)
        except OSError as error:
            # What stays is replayed at the next start: a change whose caller was told that it may be repeated.
            log.error("an entry of the redo log could not be taken back", why=str(error))
            self._close()  # the next entry begins a segment
            self._last += taken


def line(number: int, body: bytes) -> bytes:
    """One line of a segment; `body` is canonical JSON of an object."""
    return b'{"n":%d,"digest":"%s","body":%s}\n' % (number, _digest(number, body).encode(), body)


def _digest(number: int, body: bytes) -> str:
    return sha256_hex(b"%d:%s" % (number, body))


def _lines(segment: tuple[int, Path]) -> Iterator[tuple[int, Entry | None]]:
    """(number, entry); a line that fails its check is counted, and its entry is None."""
    number = segment[0] - 1
    for raw in _written(segment[1]).split(b"\n")[:-1]:
        number += 1
        found = _LINE.fullmatch(raw)
        if found is None or _digest(int(found[1]), found[3]) != found[2].decode():
            yield number, None
            continue
        number = int(found[1])
        yield number, Entry(number=number, body=json.loads(found[3]))


def _written(path: Path) -> bytes:
    """A segment without what it was filled up with; its last line may be torn."""
    return path.read_bytes().rstrip(b"\0")
