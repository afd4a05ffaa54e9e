"""Whether a process that an agent names as the holder of its claim may be ended once it stalls."""

import os
from pathlib import Path

from chassis.errors import Refused
from chassis.exchange.port import Holder

PROC = Path("/proc")


def accepted(holder: Holder, *, proc: Path = PROC) -> Holder | None:
    """The holder; None for a process that can't be seen from here (another machine or container).

    Raises Refused for one of the station's own (this one, whoever started it, and what they started beside it): the
    reaper ends a stalled holder, and an agent must not aim it.
    """
    here, mine = _boot(proc), _fields(proc, "self")
    if here is None or mine is None or holder.boot_id != here or holder.pid_namespace != _namespace(proc):
        return None
    theirs = _fields(proc, str(holder.pid)) if holder.pid > 0 else None
    if theirs is None or theirs.start_ticks != holder.start_ticks:
        return None
    above = _ancestors(proc, mine.parent)
    if holder.pid in (1, mine.pid, *above) or (theirs.parent == mine.parent and _is_service(proc, holder.pid)):
        raise Refused(f"process {holder.pid} is the station's own; name the process that does the work")
    return holder


class _Stat:
    __slots__ = ("parent", "pid", "start_ticks")

    def __init__(self, text: str) -> None:
        self.pid = int(text.split(" ", 1)[0])
        after = text[text.rindex(")") + 2 :].split()
        self.parent, self.start_ticks = int(after[1]), int(after[19])


def _fields(proc: Path, pid: str) -> _Stat | None:
    try:
        return _Stat((proc / pid / "stat").read_text())
    except (OSError, ValueError, IndexError):
        return None


def _ancestors(proc: Path, pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1 and pid not in found:
        found.append(pid)
        stat = _fields(proc, str(pid))
        pid = 0 if stat is None else stat.parent
    return found


def _is_service(proc: Path, pid: int) -> bool:
    try:
        return b"\0services." in (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return True  # in doubt it is not to be ended


def _boot(proc: Path) -> str | None:
    try:
        return (proc / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    except OSError:
        return None


def _namespace(proc: Path) -> int:
    try:
        return os.stat(proc / "self" / "ns" / "pid").st_ino  # noqa: PTH116 — of what the link stands for, not the link
    except OSError:
        return -1
