"""The worker: claims, checks, rehearses or performs, journals, acks (being built)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.audit import Audit
from chassis.clock import Clock
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Exchange
from chassis.journal import Journal
from chassis.killswitch import KillSwitch
from chassis.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A sleep or throttle lease on an agent or domain, as the worker needs to see it."""

    kind: str
    target: str
    until: datetime | None = None
    reason: str = ""


def no_leases(_target: str) -> LeaseView | None:
    return None


class Worker:
    """One agent's hands."""

    def __init__(
        self,
        agent: str,
        exchange: Exchange,
        works: Sequence[Work],
        journal: Journal,
        verifier: Callable[[Manifest], bool],
        kill_switch: KillSwitch,
        clock: Clock,
        scratch_root: Path,
        audit: Audit | None = None,
        leases: Callable[[str], LeaseView | None] = no_leases,
        station_id: str = "",
        heartbeat_seconds: float | None = 5.0,
    ) -> None:
        self._agent = agent

    def drill(self) -> dict[str, str | None]:
        raise NotImplementedError

    def step(self) -> int:
        raise NotImplementedError
