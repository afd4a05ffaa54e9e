"""Gathers what the KPIs rest on: the guardian's slots, the audit log, the scores of 24 h."""

import json
import threading
from collections import Counter, deque
from datetime import datetime, timedelta
from pathlib import Path

from chassis.audit import segments
from chassis.clock import iso, parse_iso
from services.cbo import kpis
from services.cbo.bridge import Bridge
from services.cbo.kpis import DomainConfidence, Kpi, SlotState, TesDay
from services.cbo.measured import Measured
from services.cbo.ports import Health
from services.cbo.posterior import Posterior, binned

_ANSWERS = ("task.approved", "task.rejected")
_MARKS = (b'"override":true', b'"event":"policy.', *(b'"event":"%s"' % each.encode() for each in _ANSWERS))


class AuditWindow:
    """The CBO's audit lines of the last 24 h that the KPIs count, read from the log itself, each line once."""

    def __init__(self, bridge: Bridge) -> None:
        self._path = bridge.layout.audit("cbo")
        self._segment = self._offset = 0
        self._events: deque[tuple[datetime, str, str]] = deque()

    def read(self, now: datetime) -> None:
        """Take in what was appended since, over all files of the chain; one that became shorter is read anew."""
        files = segments(self._path)
        for place in range(self._segment, len(files)):
            if place > self._segment:
                self._segment, self._offset = place, 0
            self._read(files[place])
        while self._events and self._events[0][0] <= now - kpis.WINDOW:
            self._events.popleft()

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as log:
                if log.seek(0, 2) < self._offset:
                    self._offset = 0
                    self._events.clear()
                log.seek(self._offset)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    if any(mark in line for mark in _MARKS):
                        self._take(line)
        except FileNotFoundError:  # moved on between the look and the reading; the next look finds it
            return

    def _take(self, line: bytes) -> None:
        entry = json.loads(line)
        kind = "override" if entry.get("override") is True else entry["event"]
        self._events.append((parse_iso(entry["at"]), kind, entry["event"]))

    def count(self, kind: str) -> Counter[str]:
        return Counter(event for _, each, event in self._events if each == kind)


class Meter:
    """Thread-safe."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._lock = threading.Lock()
        self._audit = AuditWindow(bridge)
        self._slots: dict[datetime, SlotState] = {}
        self._slots_from: datetime | None = None

    def slots_since(self, now: datetime) -> datetime:
        """From where on the guardian's slots are still wanted; the last two may have changed."""
        with self._lock:
            if not self._slots:
                return now - kpis.WINDOW
            return max(now - kpis.WINDOW, max(self._slots) - 2 * kpis.SLOT)

    def take(self, health: Health, now: datetime) -> None:
        with self._lock:
            self._slots.update(health.slots)
            self._slots_from = health.slots_from
            for old in [start for start in self._slots if start < now - kpis.WINDOW - kpis.SLOT]:
                del self._slots[old]

    def kpis(self) -> tuple[Kpi, ...]:
        """The five, as of now."""
        return self.measured().kpis()

    def measured(self) -> Measured:
        """What they rest on, as of now."""
        bridge = self._bridge
        now = bridge.clock.now()
        with self._lock:
            self._audit.read(now)
            overridden = self._audit.count("override")
            executed = self._audit.count("policy.violation").total()
            answers = sum((self._audit.count(each) for each in _ANSWERS), Counter[str]())
            blocked = self._audit.count("policy.blocked").total()
            slots, slots_from = dict(self._slots), self._slots_from
        return Measured(
            now=now,
            founded_at=bridge.founded_at,
            interval_seconds=bridge.options.pulse_interval_seconds,
            slots=slots,
            slots_from=slots_from,
            tes=self._tes_day(now),
            executed=executed,
            blocked=blocked,
            overrides=overridden,
            answers=answers,
            confidence=tuple(self._confidence(now)),
            bins=binned([(row[0], row[1]) for row in bridge.store.rows("calibration", iso(now - kpis.WINDOW))]),
            **bridge.beliefs.arms(),
        )

    def _tes_day(self, now: datetime) -> TesDay:
        found = {
            (bool(rehearsal), bool(unknown)): (int(count), float(total))
            for rehearsal, unknown, count, total in self._bridge.store.rows("tes_day", iso(now - kpis.WINDOW))
        }
        nothing = (0, 0.0)
        return TesDay(
            effects_known=found.get((False, False), nothing)[0],
            effects_sum=found.get((False, False), nothing)[1],
            effects_unknown=found.get((False, True), nothing)[0],
            rehearsals_known=found.get((True, False), nothing)[0],
            rehearsals_sum=found.get((True, False), nothing)[1],
        )

    def _confidence(self, now: datetime) -> list[DomainConfidence]:
        store, day_ago = self._bridge.store, now - timedelta(hours=24)
        measured = []
        for domain, count in store.rows("effects_by_domain", iso(day_ago)):
            found = store.rows("confidence_at", domain, iso(day_ago)) or store.rows("confidence_first", domain)
            for at, mean, successes, failures in found:
                known_at, before = parse_iso(at), float(mean)
                if successes is not None:  # as it stood a day ago: what was known long before had faded by then
                    known = Posterior(at=known_at, successes=float(successes), failures=float(failures))
                    before = known.decayed(day_ago).mean
                measured.append(
                    DomainConfidence(
                        domain=domain,
                        now=self._bridge.beliefs.of(domain, "", now).mean,
                        before=before,
                        before_at=known_at,
                        tasks=int(count),
                    )
                )
        return measured
