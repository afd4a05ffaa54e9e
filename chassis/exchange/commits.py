"""Promises on disk: what was submitted or answered is in a log, durable, before anybody is told so.

One `fdatasync` serves every thread that waits for it, and costs no file system transaction: a segment is written
full of zeros and fsynced with its folder before its first use, so that a record only overwrites. The task folders
themselves are not fsynced; once a segment is full and everything in it has been done in them, one `syncfs` makes
them durable and the segment goes. Whatever a process leaves behind when it dies is replayed by `recovery.py`.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from chassis.atomic import fsync_dir
from chassis.exchange.moves import Unfit, move, names, read_regular

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 512 * 1024
MAX_SEGMENT_BYTES = 64 * 1024 * 1024
_HEAD = struct.Struct("<II")  # length of what follows, its CRC-32

Kind = Literal["S", "H", "R", "A"]
"""S submitted, H submitted and held: a manifest. R a submit taken back: its task id. A the ack of a task in done."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    kind: Kind
    body: bytes


class _Segment:
    """One log file, locked by the kernel for as long as its process lives."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.written = self.synced = self.unfinished = 0
        self.broken = False
        self.turn = threading.Lock()
        fresh = path.with_suffix(".new")
        self.fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            left = memoryview(bytes(size))
            while left:
                left = left[os.write(self.fd, left) :]
            os.fsync(self.fd)
            move(fresh, path)  # locked before it has the name by which others judge whether its process lives
            fsync_dir(path.parent)
        except BaseException:
            for each in (fresh, path):
                each.unlink(missing_ok=True)
            os.close(self.fd)
            raise

    def sync(self, upto: int) -> None:
        """Durable up to this offset. One fdatasync covers everybody who has written by then.

        After an error the kernel may call the same pages clean, so nothing more is believed of this segment.
        """
        with self.turn:
            if self.synced >= upto:
                return
            if self.broken:
                raise OSError(errno.EIO, "the exchange's log could not be written", str(self.path))
            written = self.written
            try:
                os.fdatasync(self.fd)
            except OSError:
                self.broken = True
                raise
            self.synced = written


class Commits:
    """The log of one exchange object. Safe to be used by many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._name, self._number = folder, secrets.token_hex(6), 0
        self._current: _Segment | None = None
        self._lock = threading.Lock()
        self._open: list[int] = []
        weakref.finalize(self, _close, self._open)

    def ready(self, size: int) -> None:
        """See to it now that there is room for a record of `size` bytes. OSError: there is none, nothing happened."""
        with self._lock:
            self._room(size + _HEAD.size + 1)

    @contextlib.contextmanager
    def promise(self, records: Sequence[Record]) -> Iterator[None]:
        """The records are durable inside the block, in which the folders are brought to what they say.

        Raises OSError when they may not be durable; then nobody may be told that they are.
        """
        data = b"".join(_framed(each) for each in records)
        with self._lock:
            segment = self._room(len(data))
            if os.pwrite(segment.fd, data, segment.written) != len(data):
                raise OSError(errno.EIO, "the exchange's log took only a part", str(segment.path))
            segment.written += len(data)
            upto = segment.written
            segment.unfinished += 1
        try:
            segment.sync(upto)
            yield
        finally:
            with self._lock:
                segment.unfinished -= 1
                if segment.broken and segment is self._current:
                    self._current = None
                done = segment is not self._current and segment.unfinished == 0
            if done and not segment.broken:
                threading.Thread(target=self._retire, args=(segment,), name="exchange-log", daemon=True).start()

    def _room(self, size: int) -> _Segment:
        old = self._current
        if old is not None and old.written + size <= old.size:
            return old
        self._number += 1
        path = self._folder / f"{self._name}.{self._number:06d}.log"
        self._current = _Segment(path, max(SEGMENT_BYTES, size))
        self._open.append(self._current.fd)
        if old is not None and old.unfinished == 0:
            threading.Thread(target=self._retire, args=(old,), name="exchange-log", daemon=True).start()
        return self._current

    def _retire(self, segment: _Segment) -> None:
        """All that it promises is in the folders: make them durable, then drop it. If not, a replay drops it later."""
        try:
            sync_file_system(self._folder)
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a full exchange log is kept for now", segment=segment.path.name, why=str(error))
        with self._lock:
            if segment.fd in self._open:
                self._open.remove(segment.fd)
                os.close(segment.fd)


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _framed(record: Record) -> bytes:
    data = record.kind.encode() + record.body
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def sync_file_system(folder: Path) -> None:
    """Everything written so far to the file system of `folder` is durable."""
    call = getattr(_libc, "syncfs", None)
    if call is None:
        os.sync()
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if call(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The logs of dead processes, in the order written, and whether any process with a log lives."""

    segments: tuple[Path, ...]
    others_live: bool


@contextlib.contextmanager
def left_behind(folder: Path) -> Iterator[Left]:
    """Ours alone for the block: a second caller waits, and then finds what the first one left."""
    fds: list[int] = []
    segments: list[Path] = []
    others_live = False
    with (folder / ".lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            for name in names(folder):
                if not name.endswith(".log"):
                    continue
                try:
                    fd = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError:
                    continue  # gone meanwhile, or no plain file
                fds.append(fd)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    continue
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    segments.append(folder / name)
                except OSError:
                    others_live = True
            yield Left(segments=tuple(segments), others_live=others_live)
        finally:
            for fd in fds:
                os.close(fd)


def read_records(segment: Path) -> list[Record]:
    """Up to the first that is not whole: a power cut tears only what nobody was told of."""
    try:
        data = read_regular(segment, MAX_SEGMENT_BYTES)
    except (FileNotFoundError, Unfit):
        return []
    records: list[Record] = []
    at = 0
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if length == 0 or len(body) != length or zlib.crc32(body) != crc:
            break
        kind = body[:1].decode("latin-1")
        if kind in ("S", "H", "R", "A"):
            records.append(Record(kind=kind, body=body[1:]))  # type: ignore[arg-type] # one of the four, checked above
        at += _HEAD.size + length
    return records
