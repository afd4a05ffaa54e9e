"""May this task start now? Fail closed: what can't be seen is no room. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.governor.capacity import Capacity, Figure
from services.governor.leases import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitTerms:
    """From these figures on nothing new starts (percent)."""

    ram_percent: float = 90.0
    disk_percent: float = 95.0
    memory_full_percent: float = 20.0
    """PSI: share of the last 10 s in which every task waited for memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The answer and its reason in one line."""

    admitted: bool
    reason: str


KNOWN_NEEDS = frozenset({"cpu_cores", "ram_bytes", "disk_bytes"})


def admit(
    now: Capacity,
    leases: Sequence[Lease],
    *,
    owner: str,
    domain: str,
    needs: Mapping[str, float],
    terms: AdmitTerms,
) -> Admission:
    """Judge one task by the latest capacity, the leases in force and what it says it needs."""
    asleep = next((e for e in leases if e.kind == "sleep" and e.target in (owner, domain)), None)
    if asleep is not None:
        return _no(f"{asleep.target} sleeps: {asleep.reason}")
    for need, amount in needs.items():
        if need not in KNOWN_NEEDS or not 0 <= amount < float("inf"):
            return _no(f"the need {need}={amount:g} can't be judged; known are {', '.join(sorted(KNOWN_NEEDS))}")
    cpu, ram, disk = now.figures["cpu"], now.figures["ram"], now.figures["disk"]
    for name, figure in (("CPU", cpu), ("RAM", ram), ("disk", disk)):
        if figure.state != "ok" or figure.value is None:
            return _no(f"capacity reading is {figure.state}: {name}{f', {figure.note}' if figure.note else ''}")
    cores = needs.get("cpu_cores", 0.0)
    if cpu.total is not None and cores > cpu.total:
        return _no(f"it needs {cores:g} cores, the station may use {cpu.total:g}")
    reason = _full("RAM", ram, needs.get("ram_bytes", 0.0), terms.ram_percent) or _full(
        "disk", disk, needs.get("disk_bytes", 0.0), terms.disk_percent
    )
    if reason is not None:
        return _no(reason)
    pressure = now.figures["memory_full"]
    if pressure.state == "ok" and pressure.value is not None and pressure.value >= terms.memory_full_percent:
        return _no(f"memory pressure: all tasks waited {pressure.value:.0f} % of the last 10 s")
    return Admission(admitted=True, reason=f"RAM {ram.value:.0f} %, CPU {cpu.value:.0f} %, disk {disk.value:.0f} %")


def _full(name: str, figure: Figure, need: float, bound: float) -> str | None:
    value = figure.value or 0.0
    if value >= bound:
        return f"{name} is at {value:.0f} %, at most {bound:g} % to start"
    if need and figure.total:
        after = value + 100.0 * need / figure.total
        if after >= bound:
            return f"{name} would reach {after:.0f} % with this task, at most {bound:g} % to start"
    return None


def _no(reason: str) -> Admission:
    return Admission(admitted=False, reason=reason)
