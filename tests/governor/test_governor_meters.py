"""Meters on real files laid out as kernels lay them out, and on an NVML that misbehaves."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.governor.cgroup import CgroupMeter
from services.governor.gpu import LOOK_AGAIN_AFTER, GpuMeter
from services.governor.host import HostMeter
from services.governor.psi import PsiMeter
from services.governor.readings import PSI_FIGURES, MachineMeter

GIB = 1024**3


class Tree:
    """A fake /proc and /sys/fs/cgroup, of real files."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc, self.time = folder / "cgroup", folder / "proc", 0.0

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def own(self, text: str) -> None:
        (self.proc / "self").mkdir(parents=True, exist_ok=True)
        (self.proc / "self" / "cgroup").write_text(text)

    def meter(self, ram: float = 16 * GIB, cores: float = 4) -> CgroupMeter:
        return CgroupMeter(
            monotonic=lambda: self.time, host_ram_bytes=ram, host_cores=cores, root=self.root, proc=self.proc
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def v2(tree: Tree, group: str = "", limit: str = str(GIB), used: int = GIB // 2, inactive: int = 0) -> None:
    tree.put("cgroup.controllers", "cpu memory\n")
    tree.put(f"{group}memory.max", f"{limit}\n")
    tree.put(f"{group}memory.current", f"{used}\n")
    tree.put(f"{group}memory.stat", f"anon 1\ninactive_file {inactive}\n")


def test_v2_ram_is_the_working_set_of_the_limit(tree: Tree) -> None:
    tree.own("0::/\n")
    v2(tree, inactive=GIB // 4)
    reading = tree.meter().ram()
    assert reading is not None
    assert (reading.value, reading.source, reading.total) == (25.0, "cgroup-v2", GIB)


def test_v2_without_a_limit_leaves_ram_to_the_host(tree: Tree) -> None:
    tree.own("0::/\n")
    v2(tree, limit="max")
    assert tree.meter().ram() is None


def test_a_limit_above_the_machines_memory_is_no_limit(tree: Tree) -> None:
    tree.own("0::/\n")
    v2(tree, limit=str(64 * GIB))
    assert tree.meter().ram() is None


def test_the_parent_group_that_is_nearer_to_its_limit_counts(tree: Tree) -> None:
    tree.own("0::/slice/unit\n")
    v2(tree, "slice/unit/", limit=str(GIB), used=GIB // 10)
    v2(tree, "slice/", limit=str(2 * GIB), used=int(1.8 * GIB))
    reading = tree.meter().ram()
    assert reading is not None
    assert (reading.value, reading.total) == (90.0, 2 * GIB)


def test_v2_statistics_without_inactive_file_are_unknown_not_guessed(tree: Tree) -> None:
    tree.own("0::/\n")
    v2(tree)
    tree.put("memory.stat", "anon 1\n")
    reading = tree.meter().ram()
    assert reading is not None
    assert (reading.state, reading.value) == ("unknown", None)
    assert "inactive_file" in reading.note


def test_v1_ram_uses_the_hierarchical_inactive_pages(tree: Tree) -> None:
    tree.own("4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/\n")
    tree.put("memory/jobs/a/memory.limit_in_bytes", f"{GIB}\n")
    tree.put("memory/jobs/a/memory.usage_in_bytes", f"{GIB // 2}\n")
    tree.put("memory/jobs/a/memory.stat", f"inactive_file 0\ntotal_inactive_file {GIB // 4}\n")
    reading = tree.meter().ram()
    assert reading is not None
    assert (reading.value, reading.source) == (25.0, "cgroup-v1")


def test_v1_unlimited_is_the_hosts_business(tree: Tree) -> None:
    tree.own("4:memory:/jobs/a\n")
    tree.put("memory/jobs/a/memory.limit_in_bytes", "9223372036854771712\n")
    assert tree.meter().ram() is None


def test_inside_a_container_the_mount_is_our_group_when_the_hosts_path_is_not_there(tree: Tree) -> None:
    tree.own("4:memory:/docker/0123abcd\n")
    tree.put("memory/memory.limit_in_bytes", f"{GIB}\n")
    tree.put("memory/memory.usage_in_bytes", f"{GIB // 4}\n")
    tree.put("memory/memory.stat", "total_inactive_file 0\n")
    reading = tree.meter().ram()
    assert reading is not None and reading.value == 25.0


def test_v2_cpu_is_measured_against_the_quota(tree: Tree) -> None:
    tree.own("0::/\n")
    tree.put("cgroup.controllers", "cpu\n")
    tree.put("cpu.max", "200000 100000\n")
    tree.put("cpu.stat", "usage_usec 1000000\nuser_usec 5\n")
    meter = tree.meter()
    tree.time = 10.0
    tree.put("cpu.stat", "usage_usec 6000000\nuser_usec 5\n")
    reading = meter.cpu()
    assert reading is not None
    assert (reading.value, reading.source, reading.total) == (25.0, "cgroup-v2", 2.0)


def test_v1_cpu_is_measured_against_the_quota(tree: Tree) -> None:
    tree.own("2:cpu:/a\n3:cpuacct:/a\n")
    tree.put("cpu/a/cpu.cfs_quota_us", "50000\n")
    tree.put("cpu/a/cpu.cfs_period_us", "100000\n")
    tree.put("cpuacct/a/cpuacct.usage", "0\n")
    meter = tree.meter()
    tree.time = 2.0
    tree.put("cpuacct/a/cpuacct.usage", "500000000\n")
    reading = meter.cpu()
    assert reading is not None
    assert (reading.value, reading.source, reading.total) == (50.0, "cgroup-v1", 0.5)


def test_without_a_quota_cpu_is_the_hosts_business(tree: Tree) -> None:
    tree.own("0::/\n")
    tree.put("cgroup.controllers", "cpu\n")
    tree.put("cpu.max", "max 100000\n")
    assert tree.meter().cpu() is None


def test_a_quota_that_appears_needs_two_readings_and_none_is_invented(tree: Tree) -> None:
    tree.own("0::/\n")
    tree.put("cgroup.controllers", "cpu\n")
    tree.put("cpu.stat", "usage_usec 1000000\n")
    meter = tree.meter()
    tree.put("cpu.max", "100000 100000\n")
    first = meter.cpu()
    assert first is not None and (first.state, first.value) == ("unknown", None)
    tree.time = 1.0
    second = meter.cpu()
    assert second is not None and second.value == 0.0


def test_a_cgroup_that_cannot_be_read_is_unknown(tree: Tree) -> None:
    tree.put("cgroup.controllers", "cpu\n")
    meter = tree.meter()
    for reading in (meter.ram(), meter.cpu()):
        assert reading is not None
        assert (reading.state, reading.value) == ("unknown", None)


def test_no_cgroup_file_system_at_all_is_no_limit(tree: Tree) -> None:
    tree.own("0::/\n")
    assert (tree.meter().ram(), tree.meter().cpu()) == (None, None)


def test_pressure_is_read_by_resource_and_kind(tmp_path: Path) -> None:
    folder = tmp_path / "pressure"
    folder.mkdir()
    (folder / "cpu").write_text("some avg10=1.50 avg60=0.10 avg300=0.00 total=9\n")
    (folder / "memory").write_text(
        "some avg10=2.00 avg60=0 avg300=0 total=9\nfull avg10=0.25 avg60=0 avg300=0 total=9\n"
    )
    (folder / "io").write_text("some avg10=broken avg60=0 avg300=0 total=9\n")
    psi = PsiMeter(tmp_path).read()
    assert set(psi) == set(PSI_FIGURES)
    assert (psi["cpu_some"].value, psi["memory_some"].value, psi["memory_full"].value) == (1.5, 2.0, 0.25)
    assert (psi["io_some"].state, psi["io_full"].state) == ("unknown", "absent")


def test_a_kernel_without_pressure_reads_absent_and_never_zero(tmp_path: Path) -> None:
    assert {(r.state, r.value) for r in PsiMeter(tmp_path).read().values()} == {("absent", None)}


def test_the_real_host_reads_plausible_figures(tmp_path: Path) -> None:
    meter = HostMeter(tmp_path)
    for reading in (meter.ram(), meter.disk()):
        assert reading.value is not None and reading.total is not None
        assert 0 < reading.value <= 100 and reading.total > 0
    assert meter.swap().state in ("ok", "absent")
    cpu = meter.cpu()
    while cpu.value is None:  # until the kernel's counters have moved far enough to say something
        assert (cpu.state, cpu.note) == ("unknown", "too short since the reading before")
        cpu = meter.cpu()
    assert 0 <= cpu.value <= 100
    assert cpu.total == len(os.sched_getaffinity(0))


def test_a_station_folder_that_is_gone_has_an_unknown_disk(tmp_path: Path) -> None:
    reading = HostMeter(tmp_path / "gone").disk()
    assert (reading.state, reading.value) == ("unknown", None)


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"nvml says {value}")
        self.value = value


class Nvml:
    """The part of pynvml that is used; `faults` maps a call to what it raises."""

    NVMLError = NvmlError
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND = 3, 6
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND = 9, 12
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, devices: int = 1) -> None:
        self.devices, self.faults, self.starts = devices, dict[Any, int](), 0

    def _try(self, *keys: Any) -> None:
        for key in keys:
            if key in self.faults:
                raise NvmlError(self.faults[key])

    def nvmlInit(self) -> None:
        self.starts += 1
        self._try("init")

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._try(("open", index))
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"GPU {handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._try("use", ("use", handle))
        return SimpleNamespace(gpu=40 + handle)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._try("memory", ("memory", handle))
        return SimpleNamespace(used=1, total=4)

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:
        self._try("temperature", ("temperature", handle))
        return 55


@pytest.fixture
def driver(tmp_path: Path) -> tuple[Path, ...]:
    (tmp_path / "nvidiactl").touch()
    return (tmp_path / "nvidiactl",)


def gpu_meter(nvml: Nvml, driver: tuple[Path, ...]) -> GpuMeter:
    return GpuMeter(load=lambda: nvml, driver=driver)


def test_gpus_are_read_each_with_its_figures(driver: tuple[Path, ...]) -> None:
    gpu = gpu_meter(Nvml(2), driver).read()
    assert gpu.state == "ok"
    assert [(d.index, d.name, d.utilization_percent.value) for d in gpu.devices] == [(0, "GPU 0", 40), (1, "GPU 1", 41)]
    assert (gpu.devices[0].memory_percent.value, gpu.devices[0].temperature_celsius.value) == (25.0, 55.0)


def test_without_a_driver_nvml_is_never_loaded(tmp_path: Path) -> None:
    def load() -> Any:
        raise AssertionError("loaded for nothing")

    assert GpuMeter(load=load, driver=(tmp_path / "none",)).read().state == "absent"


@pytest.mark.parametrize(("code", "state"), [(12, "absent"), (9, "absent"), (999, "error")])
def test_nvml_that_does_not_start_is_absent_or_an_error(driver: tuple[Path, ...], code: int, state: str) -> None:
    nvml = Nvml()
    nvml.faults["init"] = code
    assert gpu_meter(nvml, driver).read().state == state


def test_a_driver_without_its_library_installed_is_an_error(driver: tuple[Path, ...]) -> None:
    def load() -> Any:
        raise ImportError("no pynvml")

    assert GpuMeter(load=load, driver=driver).read().state == "error"


def test_nvml_is_started_once_and_looked_for_again_only_after_a_while(driver: tuple[Path, ...]) -> None:
    nvml = Nvml()
    nvml.faults["init"] = 9
    meter = gpu_meter(nvml, driver)
    for _ in range(LOOK_AGAIN_AFTER):
        assert meter.read().state == "absent"
    assert nvml.starts == 1
    nvml.faults.clear()
    assert meter.read().state == "ok"
    for _ in range(100):
        meter.read()
    assert nvml.starts == 2


def test_one_bad_device_leaves_the_other_ones_figures(driver: tuple[Path, ...]) -> None:
    nvml = Nvml(3)
    nvml.faults[("use", 1)] = nvml.faults[("memory", 1)] = 15
    nvml.faults[("open", 2)] = 2
    gpu = gpu_meter(nvml, driver).read()
    assert [d.utilization_percent.state for d in gpu.devices] == ["ok", "unknown", "unknown"]
    assert (gpu.state, gpu.detail) == ("ok", "device 1: nvml says 15")


def test_a_device_that_reports_no_figures_is_unsupported(driver: tuple[Path, ...]) -> None:
    nvml = Nvml()
    nvml.faults["use"] = nvml.faults["memory"] = 3
    gpu = gpu_meter(nvml, driver).read()
    assert (gpu.state, gpu.devices[0].utilization_percent.state) == ("unsupported", "absent")


def test_when_every_device_fails_it_is_an_error_and_nvml_starts_afresh(driver: tuple[Path, ...]) -> None:
    nvml = Nvml(2)
    meter = gpu_meter(nvml, driver)
    assert meter.read().state == "ok"
    nvml.faults["use"] = nvml.faults["memory"] = nvml.faults["temperature"] = 15
    assert meter.read().state == "error"
    nvml.faults.clear()
    assert meter.read().state == "ok"
    assert nvml.starts == 2


def test_a_machine_reading_takes_the_cgroups_figure_before_the_hosts(tree: Tree, tmp_path: Path) -> None:
    tree.own("0::/\n")
    v2(tree)
    none: Callable[[], Any] = lambda: None  # noqa: E731 - never called: there is no driver
    machine = MachineMeter(HostMeter(tmp_path), tree.meter(), PsiMeter(tmp_path), GpuMeter(load=none, driver=())).read()
    assert (machine.ram.source, machine.ram.value) == ("cgroup-v2", 50.0)
    assert machine.disk.source == "host"
    assert machine.gpu.state == "absent"
