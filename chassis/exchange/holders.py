"""Which process holds a claim, and how a stalled one is ended before its task goes to another."""

import contextlib
import json
import os
import select
import signal
from pathlib import Path

from chassis.exchange.moves import Name, Unfit, read_regular
from chassis.exchange.port import Holder

GONE_WITHIN_SECONDS = 2.0
"""How long the reaper waits for a killed process to be gone before it leaves the task to its next turn."""


def holder_of(pid: int) -> Holder | None:
    """The process with this pid as it is now; None where there is none, or no `/proc`."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino  # noqa: PTH116 - Path resolves this link, which leads nowhere
        return Holder(pid=pid, start_ticks=_start_ticks(pid), boot_id=boot_id, pid_namespace=namespace)
    except (OSError, ValueError, IndexError):
        return None


def read_holder(path: Name) -> Holder | None:
    """As written beside a claim or into a slot; None for anything else."""
    try:
        value = json.loads(read_regular(path, 4096))
        holder = Holder(**value)
    except (FileNotFoundError, Unfit, ValueError, TypeError, RecursionError):
        return None
    numbers = (holder.pid, holder.start_ticks, holder.pid_namespace)
    if any(type(each) is not int or each < 1 for each in numbers) or not isinstance(holder.boot_id, str):
        return None
    return holder


def end(holder: Holder) -> bool:
    """Kill this very process if it is local and not us or above us; False while it is still there all the same.

    A process of another machine, boot or pid namespace, or one that may not be killed, is left to the fence.
    """
    us = holder_of(os.getpid())
    if us is None or (us.boot_id, us.pid_namespace) != (holder.boot_id, holder.pid_namespace):
        return True
    if holder.pid in _us_and_above():
        return True
    try:
        fd = os.pidfd_open(holder.pid)
    except OSError:
        return True  # gone, or a kernel without pidfds
    try:
        # Looked at after the pidfd is open: from here on the pid can't become another process's.
        if holder_of(holder.pid) != holder:
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        gone = select.poll()  # `select` itself refuses a descriptor above 1023
        gone.register(fd, select.POLLIN)
        return bool(gone.poll(GONE_WITHIN_SECONDS * 1000))
    except PermissionError:
        return True
    finally:
        os.close(fd)


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/<pid>/stat` after the command's name, which may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _us_and_above() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            pid = int(_stat(pid)[1])
        except (OSError, ValueError, IndexError):
            break
    return found | {1}
