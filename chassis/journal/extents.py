"""Reading and copying files with their holes: what was never written is neither read nor stored."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_FICLONE = 0x40049409
_PART = 1 << 20
_ZEROS = bytes(_PART)


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where bytes were written below `size`: start and end of each piece. The whole, where nobody can say."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: a hole up to the end
                yield at, size
            return
        if start >= size:
            return
        yield start, min(end, size)
        at = end


def prefix_digest(fd: int, size: int) -> str | None:
    """sha256 of the first `size` bytes; None when there are fewer. Holes count as the zeros that they are."""
    if os.fstat(fd).st_size < size:
        return None
    digest, at = hashlib.sha256(), 0
    for start, end in [*extents(fd, size), (size, size)]:
        for done in range(at, start, _PART):
            digest.update(_ZEROS[: min(_PART, start - done)])
        at = start
        while at < end:
            part = os.pread(fd, min(_PART, end - at), at)
            if not part:
                return None
            digest.update(part)
            at += len(part)
    return digest.hexdigest()


def copy(source: int, target: int, size: int) -> None:
    """The first `size` bytes into an empty file: shared blocks where the file system can, else its pieces alone."""
    if os.fstat(source).st_size == size:
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return
        except OSError:
            pass  # a file system without shared blocks
    for start, end in extents(source, size):
        os.lseek(target, start, os.SEEK_SET)
        at = start
        while at < end and (part := os.sendfile(target, source, at, min(end - at, 1 << 24))):
            at += part
    os.ftruncate(target, size)


def copy_durably(source: Path, target: Path) -> None:
    """A new file with the source's bytes, 0600 until it is dressed; an older leftover is overwritten."""
    target.unlink(missing_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reader, os.fdopen(fd, "wb") as writer:
        copy(reader.fileno(), fd, os.fstat(reader.fileno()).st_size)
        os.fsync(writer.fileno())


def stored_bytes(path: Path) -> int:
    """What it takes on the disk, holes left out; its size where the file system rounds up."""
    found = path.lstat()
    return min(found.st_size, found.st_blocks * 512)
