"""This process as the station needs to know it, to end it should it stall while it holds a claim."""

import os
import time
from pathlib import Path

from calyx_agent.client import Json


def this_process(proc: Path = Path("/proc")) -> Json | None:
    """AgentService's Holder; None where there is no Linux /proc to say it."""
    try:
        stat = (proc / "self/stat").read_text()
        boot_id = (proc / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (proc / "self/ns/pid").stat().st_ino
    except OSError:
        return None
    start_ticks = int(stat.rpartition(")")[2].split()[19])
    return {"pid": os.getpid(), "start_ticks": start_ticks, "boot_id": boot_id, "pid_namespace": namespace}


class Usage:
    """CPU and memory of this process between two heartbeats; what can't be read stays unset."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._statm = proc / "self/statm"
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def sample(self) -> tuple[float | None, int | None]:
        """(percent of one core since the last sample, resident bytes)."""
        wall, cpu = time.monotonic(), time.process_time()
        passed = wall - self._wall
        percent = 100.0 * (cpu - self._cpu) / passed if passed > 0 else None
        self._wall, self._cpu = wall, cpu
        try:
            return percent, int(self._statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return percent, None
