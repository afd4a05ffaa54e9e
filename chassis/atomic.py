"""Files that are whole or absent, and logs whose torn last line is set aside."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chassis.canonical import canonical_json


def fsync_dir(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` by `data`: temporary file in the same folder, fsync, rename, fsync of the folder.

    A reader sees the old file or the new one, never a part. OSError (full disk, read-only folder)
    leaves the old file and no temporary behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if durable:
        fsync_dir(path.parent)


def write_json(path: Path, value: Any, *, mode: int = 0o644, durable: bool = True) -> None:
    """`write_whole` of the value's canonical JSON and a newline."""
    write_whole(path, canonical_json(value) + b"\n", mode=mode, durable=durable)


def append_line(path: Path, line: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Append one line (without its newline) durably, after setting aside a torn last line.

    One writer per file. The torn bytes go to `<name>.torn`, so nothing is lost and nothing half is parsed.
    OSError (full disk) leaves the log as it was, so that the same line can be tried again.
    """
    append_lines(path, [line], mode=mode, durable=durable)


def append_lines(path: Path, lines: Sequence[bytes], *, mode: int = 0o644, durable: bool = True) -> int:
    """`append_line` of several at the price of one; the byte at which the first one starts."""
    if any(b"\n" in line for line in lines):
        raise ValueError("a line holds no newline")
    fresh = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        _set_torn_tail_aside(fd, path)
        size, data = os.fstat(fd).st_size, b"".join(line + b"\n" for line in lines)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write, the disk may be full", str(path))
            if durable:
                os.fsync(fd)
                if fresh:
                    fsync_dir(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise
        return size
    finally:
        os.close(fd)


def _set_torn_tail_aside(fd: int, path: Path) -> None:
    size = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(65536, start)
        start -= step
        tail = os.pread(fd, step, start) + tail
    keep = start + tail.rfind(b"\n") + 1
    with path.with_name(path.name + ".torn").open("ab") as aside:
        aside.write(tail[tail.rfind(b"\n") + 1 :] + b"\n")
    os.ftruncate(fd, keep)


def whole_lines(path: Path) -> Iterator[bytes]:
    """Each complete line of a log, without its newline; a torn last line is not one. Absent file: none."""
    try:
        with path.open("rb") as log:
            for line in log:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


FileState = tuple[int, int, int, int]


def file_state(path: Path) -> FileState:
    """What tells one content of a file from the next without reading it: its times, inode and size. Raises OSError."""
    return state_of(os.stat(path))  # noqa: PTH116 — asked many times a second; a path's own way is half as slow again


def state_of(found: os.stat_result) -> FileState:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())
