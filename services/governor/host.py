"""CPU, RAM, swap and disk of the machine, by psutil."""

import os
from pathlib import Path

import psutil

from services.governor.readings import Reading

MIN_CPU_SECONDS = 0.05
"""Kernel CPU times tick at 10 ms: a shorter interval measures the tick, not the load."""


class HostMeter:
    """CPU is the busy share between two readings of the CPUs this process may run on."""

    def __init__(self, station: Path) -> None:
        self._station = station
        self._cpu_before = _cpu_seconds()

    def cpu(self) -> Reading:
        now = _cpu_seconds()
        if now is None:
            return Reading.unknown("the kernel's CPU times could not be read")
        before, self._cpu_before = self._cpu_before, now
        if before is None or before[2] != now[2]:
            return Reading.unknown("needs two readings of the same CPUs", source="host")
        busy, total, cores = now[0] - before[0], now[1] - before[1], now[2]
        if total < MIN_CPU_SECONDS * cores:
            self._cpu_before = before
            return Reading.unknown("too short since the reading before", source="host")
        return Reading.ok(_percent(busy, total), total=cores)

    def ram(self) -> Reading:
        try:
            memory = psutil.virtual_memory()
        except (OSError, RuntimeError, ValueError) as error:
            return Reading.unknown(f"memory could not be read: {error}")
        return Reading.ok(_percent(memory.total - memory.available, memory.total), total=memory.total)

    def swap(self) -> Reading:
        try:
            swap = psutil.swap_memory()
        except (OSError, RuntimeError, ValueError) as error:
            return Reading.unknown(f"swap could not be read: {error}")
        if swap.total == 0:
            return Reading.absent("no swap on this machine")
        return Reading.ok(_percent(swap.used, swap.total), total=swap.total)

    def disk(self) -> Reading:
        """As `df`: what is used of what an ordinary user can use."""
        try:
            disk = os.statvfs(self._station)
        except OSError as error:
            return Reading.unknown(f"the station's file system could not be read: {error.strerror}")
        used, free = disk.f_blocks - disk.f_bfree, disk.f_bavail
        if used + free == 0:
            return Reading.unknown("the station's file system reports no size")
        return Reading.ok(_percent(used, used + free), total=(used + free) * disk.f_frsize)


def _cpu_seconds() -> tuple[float, float, int] | None:
    """Busy and total CPU seconds since boot of our CPUs, and their number."""
    try:
        allowed = os.sched_getaffinity(0)
        times = [t for cpu, t in enumerate(psutil.cpu_times(percpu=True)) if cpu in allowed]
    except (OSError, RuntimeError, ValueError):
        return None
    # guest time is already inside user time
    total = sum(t.user + t.nice + t.system + t.idle + t.iowait + t.irq + t.softirq + t.steal for t in times)
    idle = sum(t.idle + t.iowait for t in times)
    return total - idle, total, len(times)


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 2)
