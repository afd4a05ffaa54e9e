"""The memory limit and CPU quota that a container or slice puts on us, from cgroup v2 or v1."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.governor.readings import Reading

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Usage:
    """CPU microseconds used by a group with a quota of `cores`, at a monotonic time."""

    group: Path
    used: float
    cores: float
    at: float


class CgroupMeter:
    """Reads our own group and its parents; the one nearest to its limit is what holds us.

    RAM is the working set, as the kubelet counts it: usage without inactive file pages, which the kernel gives
    back at once. `None` = nothing limits us below the machine's own size. `root` and `proc` are parameters
    so that tests lay out real files. See Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        host_ram_bytes: float,
        host_cores: float,
        root: Path = Path("/sys/fs/cgroup"),
        proc: Path = Path("/proc"),
    ) -> None:
        self._monotonic, self._root, self._proc = monotonic, root, proc
        self._host_ram, self._host_cores = host_ram_bytes, host_cores
        self._cpu_before = self._cpu_usage_or_none()

    def ram(self) -> Reading | None:
        try:
            return self._ram()
        except (OSError, ValueError) as error:
            return Reading.unknown(f"the cgroup's memory could not be read: {error}", source=self._source)

    def cpu(self) -> Reading | None:
        try:
            now = self._cpu_usage()
        except (OSError, ValueError) as error:
            self._cpu_before = None
            return Reading.unknown(f"the cgroup's CPU use could not be read: {error}", source=self._source)
        if now is None:
            return None
        before = self._cpu_before
        if before is None or before.group != now.group or before.cores != now.cores:
            self._cpu_before = now
            return Reading.unknown("needs two readings under the same CPU quota", source=self._source)
        elapsed = now.at - before.at
        if elapsed < 0.05:
            return Reading.unknown("too short since the reading before", source=self._source)
        self._cpu_before = now
        percent = 100.0 * (now.used - before.used) / 1e6 / (elapsed * now.cores)
        return Reading.ok(round(min(100.0, max(0.0, percent)), 2), source=self._source, total=now.cores)

    @property
    def _v2(self) -> bool:
        return (self._root / "cgroup.controllers").is_file()

    @property
    def _source(self) -> str:
        return "cgroup-v2" if self._v2 else "cgroup-v1"

    def _ram(self) -> Reading | None:
        tightest: Reading | None = None
        for group in self._groups("memory"):
            limit = self._memory_limit(group)
            if limit is None or not 0 < limit < self._host_ram:
                continue
            percent = round(min(100.0, 100.0 * self._working_set(group) / limit), 2)
            if tightest is None or percent > (tightest.value or 0.0):
                tightest = Reading.ok(percent, source=self._source, total=limit)
        return tightest

    def _memory_limit(self, group: Path) -> float | None:
        """None where the group has no limit of its own (the v2 root has no such file)."""
        path = group / ("memory.max" if self._v2 else "memory.limit_in_bytes")
        if not path.exists():
            return None
        text = path.read_text().strip()
        return None if text == "max" else float(text)

    def _working_set(self, group: Path) -> float:
        usage = float((group / ("memory.current" if self._v2 else "memory.usage_in_bytes")).read_text())
        stat = _table(group / "memory.stat")
        inactive = stat["inactive_file"] if self._v2 else stat.get("total_inactive_file", stat.get("inactive_file", 0))
        return max(0.0, usage - inactive)

    def _cpu_usage_or_none(self) -> _Usage | None:
        try:
            return self._cpu_usage()
        except (OSError, ValueError) as error:
            log.warning("cgroup CPU use could not be read", error=str(error))
            return None

    def _cpu_usage(self) -> _Usage | None:
        """Use of the group with the smallest quota below the machine's cores."""
        tightest: tuple[float, Path] | None = None
        for group in self._groups("cpu"):
            cores = self._quota_cores(group)
            if cores is not None and cores < self._host_cores and (tightest is None or cores < tightest[0]):
                tightest = (cores, group)
        if tightest is None:
            return None
        cores, group = tightest
        if self._v2:
            used = _table(group / "cpu.stat")["usage_usec"]
        else:
            account = self._root / "cpuacct" / group.relative_to(self._root / "cpu")
            used = float((account / "cpuacct.usage").read_text()) / 1e3
        return _Usage(group=group, used=used, cores=cores, at=self._monotonic())

    def _quota_cores(self, group: Path) -> float | None:
        if self._v2:
            path = group / "cpu.max"
            quota, period = path.read_text().split() if path.exists() else ("max", "1")
        else:
            path = group / "cpu.cfs_quota_us"
            if not path.exists():
                return None
            quota, period = path.read_text().strip(), (group / "cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return None
        return float(quota) / float(period)

    def _groups(self, controller: str) -> Iterator[Path]:
        """Our group and its parents up to the mount point.

        A container may see a path of the host's tree that is not mounted inside: then the mount is our group.
        """
        mount = self._root if self._v2 else self._root / controller
        if not mount.is_dir():
            return
        group = mount / self._own_path(controller).lstrip("/")
        if not group.is_dir():
            group = mount
        while True:
            yield group
            if group == mount:
                return
            group = group.parent

    def _own_path(self, controller: str) -> str:
        for line in (self._proc / "self" / "cgroup").read_text().splitlines():
            number, names, path = line.split(":", 2)
            if (self._v2 and number == "0") or (not self._v2 and controller in names.split(",")):
                return path
        return "/"


def _table(path: Path) -> dict[str, float]:
    """`key value` lines; a missing key raises ValueError at the caller's hands, not KeyError."""
    table = _Table()
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        table[key] = float(value)
    return table


class _Table(dict[str, float]):
    def __missing__(self, key: str) -> float:
        raise ValueError(f"no {key} in the group's statistics")
