"""File moves and reads the exchange stands on: no silent replacing, no trusting what lies in a folder.

Names are plain texts, here and where the exchange uses it: a task takes some thirty of these calls, and making Path
objects for them took longer than most of the calls.
"""

# see above
# ruff: noqa: PTH103, PTH108, PTH114, PTH208

import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from chassis.errors import Refused, Unavailable

Name = str | os.PathLike[str]

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x20000  # linux/fs.h, 64 bit
_renameat2 = getattr(_libc, "renameat2", None)

NETWORK = {"nfs", "nfs4", "9p", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "afs"}


class Unfit(ValueError):
    """What lies there can't be used; the message says why."""


def move(source: Name, target: Name) -> None:
    """Rename without replacing. Raises FileNotFoundError (somebody was faster) or FileExistsError."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    os.link(source, target)  # a crash before the unlink leaves both; the older name is set aside at claim
    os.unlink(source)


def move_into(source: str, target: str) -> str:
    """`move`, into a folder that may not be there yet or any more (empty ready folders are swept away)."""
    _into(move, source, target)
    return target


def link(source: str, target: str) -> None:
    """A second name for one file, in such a folder. Raises FileNotFoundError, FileExistsError."""
    _into(os.link, source, target)


def _into(act: Callable[[str, str], None], source: str, target: str) -> None:
    for _ in range(100):
        try:
            return act(source, target)
        except FileNotFoundError:
            if not there(source):
                raise
            os.makedirs(folder_of(target), exist_ok=True)
    raise Unavailable(f"{folder_of(target)} keeps vanishing; nothing was done")


def lstats(folder: Name, *, follow: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """What lies in a folder (a link only with `follow`); what vanishes meanwhile is left out. Raises OSError.

    Through its descriptor: by a path for each of thousands it takes half as long again.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        for name in os.listdir(fd):
            try:
                yield name, os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
    finally:
        os.close(fd)


def there(path: Name) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


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


def read_regular(path: Name, cap_bytes: int) -> bytes:
    """The content of a regular file of at most `cap_bytes`. Raises Unfit, FileNotFoundError.

    Never follows a link, never blocks on a FIFO, never reads a device.
    """
    return read_identified(path, cap_bytes)[0]


def read_identified(path: Name, cap_bytes: int) -> tuple[bytes, os.stat_result]:
    """`read_regular`, and which file it is that was read."""
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
        data = os.read(fd, found.st_size + 1)
        while len(data) > found.st_size and len(data) <= cap_bytes and (part := os.read(fd, cap_bytes + 1 - len(data))):
            data += part  # it grew meanwhile
        if len(data) > cap_bytes:
            raise Unfit(f"grew beyond {cap_bytes} bytes while it was read")
        return data, found
    except OSError as error:
        raise Unfit(f"can't be read ({error.strerror})") from error
    finally:
        os.close(fd)


def write_new(path: Name, data: bytes, *, mode: int = 0o644) -> None:
    """Create `path` with this content, not fsynced: it is promised in the log, or checked when it is read.

    Raises FileExistsError; leaves nothing behind when it fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            written = os.write(fd, data)
            while written < len(data):
                written += os.write(fd, data[written:])
        finally:
            os.close(fd)
    except BaseException:
        remove(path)
        raise


def remove(path: Name) -> None:
    """Gone, whether it was there or not. A folder stays: it is nothing that the exchange made."""
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError):
        return


def names(folder: Name) -> list[str]:
    """What lies in a folder, sorted; an absent folder holds nothing, and so does a link to one."""
    try:
        with os.scandir(folder) as entries:
            found = sorted([entry.name for entry in entries])
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself
            raise
        return []
    return found if found and not os.path.islink(folder) else []


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
