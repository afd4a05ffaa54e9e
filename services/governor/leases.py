"""Throttle and sleep: cooperative leases that end by themselves, on time or across a restart."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from chassis.atomic import read_json, write_json
from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import TASK_ID
from chassis.ids import Ids

LeaseKind = Literal["throttle", "sleep"]

MAX_SECONDS = 24 * 3600.0
KEPT_AWAKE = frozenset({"governor", "guardian", "cbo"})
"""Asleep, one of these could neither wake nor heal the station nor obey a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A request with an end. `share`, of throttles only: how much of the usual rate is left."""

    id: str
    kind: LeaseKind
    target: str
    reason: str
    by: str
    granted_at: datetime
    expires_at: datetime
    share: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "target": self.target,
            "reason": self.reason,
            "by": self.by,
            "granted_at": iso(self.granted_at),
            "expires_at": iso(self.expires_at),
            "share": self.share,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Lease":
        """Raises KeyError, TypeError or ValueError for anything that `to_json` did not write."""
        times = {key: parse_iso(value[key]) for key in ("granted_at", "expires_at")}
        lease = cls(**{**value, **times})
        if lease.kind not in ("throttle", "sleep") or lease.expires_at <= lease.granted_at:
            raise ValueError("not a lease")
        return lease


class Leases:
    """All leases of the station, one per kind and target; a newer one takes the place of the older.

    A lease ends on the monotonic clock, so a wall clock that jumps neither ends nor prolongs it. What is on disk
    is the wall end: after a restart a lease runs for what is left of it, never for more than it was granted.
    """

    def __init__(self, file: Path, clock: Clock, ids: Ids, audit: Audit) -> None:
        self._file, self._clock, self._ids, self._audit = file, clock, ids, audit
        self._lock = threading.RLock()
        self._held: dict[str, tuple[Lease, float]] = {}
        self._turns: dict[str, float] = {}
        self._load()

    def throttle(self, target: str, seconds: float, share: float, *, reason: str, by: str) -> Lease:
        """Raises InvalidInput for a share outside 0 < share < 1, a bad target or duration."""
        if not 0.0 < share < 1.0:
            raise InvalidInput("a throttle leaves a share above 0 and below 1; use sleep for nothing at all")
        return self._grant("throttle", target, seconds, reason, by, share)

    def sleep(self, target: str, seconds: float, *, reason: str, by: str) -> Lease:
        """Raises Refused for what keeps the station alive, InvalidInput for a bad target or duration."""
        if target in KEPT_AWAKE:
            self._audit.write("lease.refused", kind="sleep", target=target, by=by)
            raise Refused(f"{target} keeps the station alive and is not put to sleep; use the kill switch to stop work")
        return self._grant("sleep", target, seconds, reason, by, None)

    def resume(self, target: str, *, by: str) -> list[Lease]:
        """End every lease on the target; empty when there was none."""
        with self._lock:
            ended = self.in_force(target)
            self._end(ended, f"resumed by {by}")
            return ended

    def in_force(self, target: str = "") -> list[Lease]:
        """Oldest first; those whose time is over are ended first."""
        with self._lock:
            now = self._clock.monotonic()
            self._end([lease for lease, end in self._held.values() if end <= now], "its time is over")
            return [lease for lease, _ in self._held.values() if target in ("", lease.target)]

    def sleeping(self, *targets: str) -> Lease | None:
        """The sleep lease that covers one of these (an agent and its domain), if any."""
        return next((e for e in self.in_force() if e.kind == "sleep" and e.target in targets), None)

    def take_turn(self, lease: Lease) -> bool:
        """Under a throttle of share s, one ask in 1/s is granted, in even steps."""
        with self._lock:
            credit = self._turns.get(lease.id, 0.0) + (lease.share or 0.0)
            granted = credit >= 1.0 - 1e-9
            self._turns[lease.id] = credit - 1.0 if granted else credit
            return granted

    def _grant(self, kind: LeaseKind, target: str, seconds: float, reason: str, by: str, share: float | None) -> Lease:
        if not TASK_ID.fullmatch(target):
            raise InvalidInput(f"a lease's target is the name of a service, agent or domain, not {target!r}")
        if not 0.0 < seconds <= MAX_SECONDS:
            raise InvalidInput(f"a lease lasts more than 0 s and at most 24 h, not {seconds:g} s")
        with self._lock:
            replaced = [e for e in self.in_force(target) if e.kind == kind]
            now = self._clock.now()
            lease = Lease(
                id=self._ids.new("lease"),
                kind=kind,
                target=target,
                reason=reason or "no reason given",
                by=by,
                granted_at=now,
                expires_at=now + timedelta(seconds=seconds),
                share=share,
            )
            self._audit.write("lease.granted", **lease.to_json())
            self._held[lease.id] = (lease, self._clock.monotonic() + seconds)
            self._end(replaced, f"replaced by {lease.id}", save=False)
            self._save()
            return lease

    def _end(self, leases: Sequence[Lease], why: str, *, save: bool = True) -> None:
        for lease in leases:
            del self._held[lease.id]
            self._turns.pop(lease.id, None)
            self._audit.write("lease.ended", id=lease.id, kind=lease.kind, target=lease.target, why=why)
        if leases and save:
            self._save()

    def _save(self) -> None:
        write_json(self._file, {"leases": [lease.to_json() for lease, _ in self._held.values()]}, mode=0o640)

    def _load(self) -> None:
        if not self._file.exists():
            return
        try:
            leases = [Lease.from_json(value) for value in read_json(self._file)["leases"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._file.with_name(self._file.name + ".damaged")
            self._file.replace(aside)
            self._audit.write("leases.damaged", kept=aside.name, reason=str(error))
            return
        for lease in leases:
            granted = (lease.expires_at - lease.granted_at).total_seconds()
            left = min(granted, (lease.expires_at - self._clock.now()).total_seconds())
            self._held[lease.id] = (lease, self._clock.monotonic() + left)
        self.in_force()
