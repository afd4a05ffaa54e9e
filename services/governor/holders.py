"""Who can still write to a file that was renamed: a writer that never reopens keeps the old inode."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """free: the kernel says nobody has it open for writing. unseen: `/proc` shows nobody, but may not show all.

    held: somebody does; `by` names those we can see.
    """

    state: Literal["free", "unseen", "held"]
    by: tuple[str, ...] = ()


class Holders(Protocol):
    def writers(self, path: Path) -> Holding: ...


def kernel_says_free(path: Path) -> bool | None:
    """Whether no process at all, in any container, has the file open for writing; None if the kernel won't say.

    A read lease is granted only then (fcntl(2), F_SETLEASE); it is given back at once. Needs the file to be ours
    and a local file system.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # were the lease broken before it is given back, the default signal (SIGIO) would end this process
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    finally:
        os.close(fd)
    return True


class KernelHolders:
    """Asks the kernel by a lease, and where that does not work looks through `/proc/*/fd`."""

    def __init__(self, proc: Path = Path("/proc"), lease: Callable[[Path], bool | None] = kernel_says_free) -> None:
        self._proc, self._lease = proc, lease

    def writers(self, path: Path) -> Holding:
        free = self._lease(path)
        if free is True:
            return Holding(state="free")
        by = tuple(self._seen(path))
        return Holding(state="held" if by or free is False else "unseen", by=by)

    def _seen(self, path: Path) -> Iterator[str]:
        wanted = path.stat()
        for process in self._proc.iterdir():
            if process.name.isdigit() and self._writes(process, (wanted.st_dev, wanted.st_ino)):
                with suppress(OSError):
                    name = (process / "comm").read_text().strip()
                    yield f"{name} (pid {process.name})"
                    continue
                yield f"pid {process.name}"

    def _writes(self, process: Path, inode: tuple[int, int]) -> bool:
        try:
            descriptors = list(os.scandir(process / "fd"))
        except OSError:  # it has ended, or is another user's: that is why a scan says "unseen" and never "free"
            return False
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                # the link's own permission bits say how it was opened: w for writing
                if not descriptor.stat(follow_symlinks=False).st_mode & 0o200:
                    continue
                link = Path(descriptor.path)
                if not str(link.readlink()).startswith("/"):  # a socket or pipe
                    continue
                found = link.stat()
                if (found.st_dev, found.st_ino) == inode:
                    return True
        return False
