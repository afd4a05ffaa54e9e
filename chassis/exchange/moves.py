"""File moves and reads the exchange stands on: no silent replacing, no trusting what lies in a folder."""

import ctypes
import errno
import fcntl
import os
import stat
import sys
from pathlib import Path

from chassis.errors import Refused

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x20000  # linux/fs.h, 64 bit
_renameat2 = getattr(_libc, "renameat2", None)

NETWORK = {"nfs", "nfs4", "9p", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "afs"}


class Unfit(ValueError):
    """What lies there can't be used; the message says why."""


def move(source: Path, target: Path) -> None:
    """Rename without replacing. Raises FileNotFoundError (somebody was faster) or FileExistsError."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    target.hardlink_to(source)  # a crash before the unlink leaves both; the older name is set aside at claim
    source.unlink()


def spread(folder: Path) -> None:
    """Have ext4 put each folder made in `folder` from now on into a block group of its own; elsewhere a no-op.

    It never reuses an inode deleted in the last minutes and steps over those one by one, so that beside a program
    that deletes thousands of files (a test suite, a build) a new file took 1 ms of CPU instead of 20 µs.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _GETFLAGS, bytes(8)), sys.byteorder)
        fcntl.ioctl(fd, _SETFLAGS, (flags | _TOPDIR).to_bytes(8, sys.byteorder))
    except OSError:
        return  # another file system
    finally:
        os.close(fd)


def read_regular(path: Path, cap_bytes: int) -> bytes:
    """The content of a regular file of at most `cap_bytes`. Raises Unfit, FileNotFoundError.

    Never follows a link, never blocks on a FIFO, never reads a device.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unfit(f"can't be opened as a plain file ({error.strerror})") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unfit("not a regular file")
        if found.st_size > cap_bytes:
            raise Unfit(f"{found.st_size} bytes, at most {cap_bytes} are read")
        data = b""
        while len(data) <= cap_bytes and (part := os.read(fd, cap_bytes + 1 - len(data))):
            data += part
        if len(data) > cap_bytes:
            raise Unfit(f"grew beyond {cap_bytes} bytes while it was read")
        return data
    except OSError as error:
        raise Unfit(f"can't be read ({error.strerror})") from error
    finally:
        os.close(fd)


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Create `path` with this content, not fsynced: it is promised in the log, or checked when it is read.

    Raises FileExistsError; leaves nothing behind when it fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def remove(path: Path | str) -> None:
    """Gone, whether it was there or not. A folder stays: it is nothing that the exchange made."""
    try:
        os.unlink(path)  # noqa: PTH108 - Path.unlink costs as much again, and this is called for every task
    except (FileNotFoundError, IsADirectoryError):
        return


def names(folder: Path) -> list[str]:
    """What lies in a folder, sorted; an absent folder holds nothing, and so does a link to one."""
    if os.path.islink(folder):  # noqa: PTH114 - this is called several times a task
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def refuse_network_file_system(folder: Path) -> None:
    """Raises Refused on a file system whose rename and locks are not those of one local machine."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return  # not Linux: nothing to read it from
    for line in mounts:
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if fields[2] == wanted and kind in NETWORK:
            raise Refused(
                f"the exchange folder is on {kind}, where renames and locks can't be trusted; "
                "put the station folder on a local file system"
            )
