"""What a meter can say: a number, that it could not be read, or that there is nothing to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, Self

ReadingState = Literal["ok", "unknown", "absent"]
GpuState = Literal["absent", "ok", "error", "unsupported", "unknown"]

PSI_FIGURES = ("cpu_some", "memory_some", "memory_full", "io_some", "io_full")
"""Pressure figures, in percent of the last 10 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One figure at one moment. `value` is set exactly when `state` is ok; `note` says why it is not.

    `total` is the size behind a percentage (bytes, or cores for CPU), where there is one.
    """

    state: ReadingState
    value: float | None = None
    note: str = ""
    source: str = ""
    total: float | None = None

    @classmethod
    def ok(cls, value: float, *, source: str = "host", total: float | None = None) -> Self:
        return cls(state="ok", value=value, source=source, total=total)

    @classmethod
    def unknown(cls, note: str, *, source: str = "") -> Self:
        return cls(state="unknown", note=note, source=source)

    @classmethod
    def absent(cls, note: str) -> Self:
        return cls(state="absent", note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDevice:
    """One GPU; each figure stands or fails alone."""

    index: int
    name: str
    utilization_percent: Reading
    memory_percent: Reading
    temperature_celsius: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """All GPUs: absent (no driver or device), ok, error (the driver failed), unsupported (no figures).

    `unknown`: nobody has asked lately; a meter never says that.
    """

    state: GpuState
    devices: tuple[GpuDevice, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything read in one go, not yet stamped with a time."""

    cpu: Reading
    ram: Reading
    swap: Reading
    disk: Reading
    psi: Mapping[str, Reading] = field(default_factory=dict)
    gpu: Gpu = Gpu(state="absent", detail="not looked for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A machine reading at a moment; `sequence` grows by one a sample."""

    at: datetime
    monotonic: float
    sequence: int
    machine: Machine

    def figure(self, name: str) -> Reading:
        """A figure by its name: cpu, ram, swap, disk, one of PSI_FIGURES, gpu_utilization, gpu_memory."""
        machine = self.machine
        if name in ("cpu", "ram", "swap", "disk"):
            reading: Reading = getattr(machine, name)
            return reading
        if name in PSI_FIGURES:
            return machine.psi.get(name, Reading.absent("no pressure information on this machine"))
        readings = [
            d.utilization_percent if name == "gpu_utilization" else d.memory_percent for d in machine.gpu.devices
        ]
        values = [r.value for r in readings if r.value is not None]
        if values:
            return Reading.ok(sum(values) / len(values), source="nvml")
        if machine.gpu.state == "error":
            return Reading.unknown(machine.gpu.detail, source="nvml")
        unknown = next((r for r in readings if r.state == "unknown"), None)
        return unknown or Reading.absent(machine.gpu.detail or "no GPU figure")


class Meter(Protocol):
    """Reads the machine. Never raises: what can't be read is `unknown` with a note."""

    def read(self) -> Machine: ...


class MachineMeter:
    """The real machine: host figures, narrowed to the cgroup that limits us, plus pressure and GPUs."""

    def __init__(self, host: "HostPort", cgroup: "CgroupPort", psi: "PsiPort", gpu: "GpuPort") -> None:
        self._host, self._cgroup, self._psi, self._gpu = host, cgroup, psi, gpu

    def read(self) -> Machine:
        return Machine(
            cpu=self._cgroup.cpu() or self._host.cpu(),
            ram=self._cgroup.ram() or self._host.ram(),
            swap=self._host.swap(),
            disk=self._host.disk(),
            psi=self._psi.read(),
            gpu=self._gpu.read(),
        )


class HostPort(Protocol):
    def cpu(self) -> Reading: ...
    def ram(self) -> Reading: ...
    def swap(self) -> Reading: ...
    def disk(self) -> Reading: ...


class CgroupPort(Protocol):
    """None = no cgroup limits us, ask the host."""

    def cpu(self) -> Reading | None: ...
    def ram(self) -> Reading | None: ...


class PsiPort(Protocol):
    def read(self) -> Mapping[str, Reading]: ...


class GpuPort(Protocol):
    def read(self) -> Gpu: ...
