"""GPU use, memory and temperature from NVML. The library is looked for once, when the first sample is taken."""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.governor.readings import Gpu, GpuDevice, Reading

LOOK_AGAIN_AFTER = 60
"""Samples between two tries to start NVML after it was not there or failed: a driver may come up later."""


class GpuMeter:
    """One state for all GPUs and a reading per figure and device. A device's error stays with that device.

    `load` gives the pynvml module; `driver` holds paths of which one exists where an NVIDIA driver is loaded,
    so that a machine without one never pays for the import.
    """

    def __init__(
        self,
        load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
        driver: tuple[Path, ...] = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/proc/driver/nvidia/version")),
    ) -> None:
        self._load, self._driver = load, driver
        self._nvml: Any = None
        self._handles: list[tuple[int, str, Any]] = []
        self._failed: Gpu | None = None
        self._rest = 0

    def read(self) -> Gpu:
        if self._nvml is None:
            if self._rest > 0 and self._failed is not None:
                self._rest -= 1
                return self._failed
            self._failed = self._start()
            if self._failed is not None:
                self._rest = LOOK_AGAIN_AFTER - 1
                return self._failed
        if not self._handles:
            return Gpu(state="absent", detail="the driver reports no device")
        devices = tuple(self._device(index, name, handle) for index, name, handle in self._handles)
        return self._together(devices)

    def _start(self) -> Gpu | None:
        """None = started. Import, initialise, and list the devices."""
        if not any(path.exists() for path in self._driver):
            return Gpu(state="absent", detail="no NVIDIA driver on this machine")
        try:
            nvml = self._load()
        except ImportError:
            return Gpu(state="error", detail="a driver is loaded, but nvidia-ml-py is not installed")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            if _code(error) in (
                nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
                nvml.NVML_ERROR_DRIVER_NOT_LOADED,
                nvml.NVML_ERROR_NOT_FOUND,
            ):
                return Gpu(state="absent", detail=str(error))
            return Gpu(state="error", detail=f"NVML did not start: {error}")
        try:
            self._handles = [self._open(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            nvml.nvmlShutdown()
            return Gpu(state="error", detail=f"the devices could not be listed: {error}")
        self._nvml = nvml
        return None

    def _open(self, nvml: Any, index: int) -> tuple[int, str, Any]:
        """A device that can't be opened keeps its place, with the error instead of a handle."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError as error:
            return index, "", error
        return index, name.decode() if isinstance(name, bytes) else str(name), handle

    def _device(self, index: int, name: str, handle: Any) -> GpuDevice:
        nvml = self._nvml
        return GpuDevice(
            index=index,
            name=name,
            utilization_percent=self._figure(handle, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            memory_percent=self._figure(handle, lambda: _memory_percent(nvml.nvmlDeviceGetMemoryInfo(handle))),
            temperature_celsius=self._figure(
                handle, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
        )

    def _figure(self, handle: Any, read: Callable[[], float]) -> Reading:
        if isinstance(handle, self._nvml.NVMLError):
            return Reading.unknown(f"the device could not be opened: {handle}", source="nvml")
        try:
            return Reading.ok(float(read()), source="nvml")
        except self._nvml.NVMLError as error:
            if _code(error) == self._nvml.NVML_ERROR_NOT_SUPPORTED:
                return Reading.absent("the device does not report this figure")
            return Reading.unknown(str(error), source="nvml")

    def _together(self, devices: tuple[GpuDevice, ...]) -> Gpu:
        main = [r for d in devices for r in (d.utilization_percent, d.memory_percent)]
        if any(r.state == "ok" for r in main):
            bad = next((f"device {d.index}: {_trouble(d)}" for d in devices if _trouble(d)), "")
            return Gpu(state="ok", devices=devices, detail=bad)
        if all(r.state == "absent" for r in main):
            return Gpu(state="unsupported", devices=devices, detail="no device reports use or memory")
        self._restart_next_time()
        return Gpu(state="error", devices=devices, detail=next(r.note for r in main if r.state == "unknown"))

    def _restart_next_time(self) -> None:
        """Every device failed: the driver may have been reloaded, and old handles stay dead for ever."""
        with contextlib.suppress(self._nvml.NVMLError):  # it is gone already, which is why we are here
            self._nvml.nvmlShutdown()
        self._nvml, self._handles = None, []
        self._failed, self._rest = None, 0


def _memory_percent(memory: Any) -> float:
    return round(100.0 * float(memory.used) / float(memory.total), 2)


def _trouble(device: GpuDevice) -> str:
    readings = (device.utilization_percent, device.memory_percent)
    return next((r.note for r in readings if r.state == "unknown"), "")


def _code(error: Any) -> Any:
    return getattr(error, "value", None)
