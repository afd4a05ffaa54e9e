"""What a cut of the power leaves of the journal, as against the end of a process.

Which tasks are unfinished is marked by empty files, so that a recovery need not read every task's records. A mark
need only outlive the process that made it: what it wrote is in the kernel from then on. What a power cut takes away is
told by the boot id: under another one than the journal was last used with, every task's records are read once and the
unfinished ones are marked again. So a mark needs no sync. An id that can't be read is always another one.
"""

import ctypes
import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_IN_ORDER = {"ext3", "ext4", "xfs"}
_WRITE_AND_WAIT = 7

_libc = ctypes.CDLL(None, use_errno=True)


def boot_id(source: Path = _BOOT_ID) -> str:
    """Another one after each start of the kernel; empty where nobody says."""
    try:
        return source.read_text().strip()
    except (OSError, ValueError):
        return ""


def keeps_order(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether what was named or renamed earlier is on the disk as soon as any later write is synced.

    ext3, ext4 and XFS write one journal in order of time (ext4 commits whole transactions, XFS forces its log up to
    the change that is waited for); Btrfs logs single inodes. Where it can't be seen: no.
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text().splitlines()
    except (OSError, ValueError):
        return False
    kinds = {(fields := line.split())[fields.index("-") + 1] for line in lines if line.split()[2] == wanted}
    return bool(kinds) and kinds <= _IN_ORDER


def written_out(file: Path, *, in_order: bool) -> None:
    """What anybody wrote to it is on the disk by the time the next record is.

    `in_order`: its bytes are sent now; the sizes and blocks that lead to them come along with that record's sync.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        whole = ctypes.c_int64(0)
        if not in_order or _libc.sync_file_range(fd, whole, whole, _WRITE_AND_WAIT) != 0:
            os.fsync(fd)
    finally:
        os.close(fd)
