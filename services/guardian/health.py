"""What the last probe of each service found, and what may be said about it now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

ProbeState = Literal["serving", "not_serving", "unreachable"]
ViewState = Literal["up", "down", "starting", "sleeping", "quarantined", "unknown"]

STALE_AFTER_INTERVALS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One answer (or none). `pid`, `version` and `started_at` are as the service itself reports them."""

    service: str
    state: ProbeState
    version: str = ""
    pid: int | None = None
    started_at: datetime | None = None
    detail: str = ""


class HealthProbe(Protocol):
    """Asks a service over its own health endpoint. Never raises: what can't be asked is unreachable."""

    def probe(self, service: str, patience_seconds: float) -> Probe: ...


class LocalHealthProbe:
    """Health on the virtual station: a service serves while `alive` says that it is there."""

    def __init__(self, alive: Callable[[str], bool], *, version: str = "virtual") -> None:
        self._alive, self._version = alive, version

    def probe(self, service: str, patience_seconds: float) -> Probe:
        if self._alive(service):
            return Probe(service=service, state="serving", version=self._version)
        return Probe(service=service, state="unreachable", detail="not there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One service's row. Ages and uptime in seconds, on the clock that asked."""

    service: str
    state: ViewState
    probed_at: datetime | None
    last_up_at: datetime | None
    age_seconds: float | None
    pid: int | None
    version: str
    uptime_seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is kept of a service between probes; times on the monotonic clock unless they end in `_at`."""

    service: str
    probe: Probe | None = None
    probed: float | None = None
    probed_at: datetime | None = None
    last_up_at: datetime | None = None

    def with_probe(self, probe: Probe, mono: float, now: datetime) -> "Row":
        up_at = now if probe.state == "serving" else self.last_up_at
        return replace(self, probe=probe, probed=mono, probed_at=now, last_up_at=up_at)


def view(
    row: Row,
    *,
    mono: float,
    now: datetime,
    interval_seconds: float,
    quarantined: bool,
    sleeping: bool,
    starting: bool,
) -> Health:
    """Say what is known of a service now. An answer older than two probe intervals is no longer its state."""
    age = None if row.probed is None else mono - row.probed
    probe = row.probe
    stale = age is None or age > STALE_AFTER_INTERVALS * interval_seconds
    state: ViewState
    detail = probe.detail if probe is not None else "not probed yet"
    if quarantined:
        state, detail = "quarantined", "stopped by the guardian; a person releases it"
    elif stale:
        state = "unknown"
        detail = detail if age is None else f"the last probe is {age:.0f} s old"
    elif probe is not None and probe.state == "serving":
        state = "sleeping" if sleeping else "up"
    elif sleeping:
        state = "sleeping"
    else:
        state = "starting" if starting else "down"
    up = state in ("up", "sleeping") and probe is not None and probe.state == "serving"
    started = probe.started_at if probe is not None else None
    return Health(
        service=row.service,
        state=state,
        probed_at=row.probed_at,
        last_up_at=row.last_up_at,
        age_seconds=age,
        pid=probe.pid if up and probe is not None else None,
        version=probe.version if probe is not None else "",
        uptime_seconds=max(0.0, (now - started).total_seconds()) if up and started is not None else None,
        detail=detail,
    )


def all_up(rows: Sequence[Row]) -> bool:
    """Whether every service answered its last probe."""
    return all(row.probe is not None and row.probe.state == "serving" for row in rows)
