"""Holding a tree of processes to a share of CPU: by cgroup v2 where one can be made, else by stopping and going on."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

_PERIOD_US = 100_000
_BURST_SECONDS = 0.25


@dataclass(slots=True)
class Bucket:
    """When to run and when to pause, so that over time no more CPU is used than allowed. Pure; times in seconds."""

    percent: float
    """Of one core."""
    _left: float = 0.0
    _at: float | None = None
    _used: float = field(default=0.0)

    def may_run(self, now: float, cpu_seconds: float) -> bool:
        """`cpu_seconds`: what has been used altogether."""
        share = self.percent / 100
        if self._at is None:
            self._left = share * _BURST_SECONDS
        else:
            self._left += share * (now - self._at) - max(0.0, cpu_seconds - self._used)
            self._left = min(self._left, share * _BURST_SECONDS)
        self._at, self._used = now, cpu_seconds
        return self._left > 0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A control group of its own for one command."""

    folder: Path

    def limit(self, percent: float | None) -> None:
        """At most so much of one core; None lifts it."""
        quota = "max" if percent is None else str(max(1000, round(percent / 100 * _PERIOD_US)))
        (self.folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")

    def remove(self) -> None:
        """Once nothing is in it."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def make_cgroup(name: str, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Cgroup | None:
    """A group beside our own whose CPU can be limited; None where this machine or this user has no such thing.

    Beside, not below: a group with processes in it can't hand the CPU controller down.
    """
    try:
        own = next(
            line[3:] for line in (proc / "self" / "cgroup").read_text().splitlines() if line.startswith("0::/")
        )  # fmt: skip
        parent = (root / own.lstrip("/")).parent if own != "/" else root
        if "cpu" not in (parent / "cgroup.subtree_control").read_text().split():
            return None
        if not os.access(parent / "cgroup.procs", os.W_OK):
            return None  # a process can be moved only by who may write to the group around both
        folder = parent / f"calyx-run-{name}"
        folder.mkdir()
    except (OSError, StopIteration):
        return None
    if not (folder / "cpu.max").exists():
        folder.rmdir()
        return None
    return Cgroup(folder)
