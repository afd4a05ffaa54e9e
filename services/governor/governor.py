"""The governor's core: samples the machine, answers for it, judges pulses, holds leases. Shared by threads."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from chassis.atomic import read_json, write_json
from chassis.audit import Audit
from chassis.clock import Clock
from services.governor.admission import Admission, AdmitTerms, admit
from services.governor.capacity import Capacity, Freshness, capacity
from services.governor.leases import Leases
from services.governor.ram_rule import Intent, RamState, RamTerms, judge
from services.governor.readings import Meter, Sample
from services.governor.rows import Rows, row, slot_of
from services.governor.window import Ring, summarise

log = structlog.get_logger(__name__)

KEPT_SECONDS = 3600.0
"""How much of the past is held in memory; a pulse interval beyond it is judged on the last hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All of the governor's limits."""

    fresh: Freshness = field(default_factory=Freshness)
    ram: RamTerms = field(default_factory=RamTerms)
    admit: AdmitTerms = field(default_factory=AdmitTerms)
    slot_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The capacity as it may be shown now, and the intents in force."""

    capacity: Capacity
    intents: tuple[Intent, ...]


class Governor:
    """Everything behind the gRPC contract. `folder` is the governor's own state folder."""

    def __init__(
        self,
        *,
        meter: Meter,
        clock: Clock,
        leases: Leases,
        audit: Audit,
        folder: Path,
        station_id: str,
        terms: Terms | None = None,
    ) -> None:
        self._meter, self._clock, self.leases, self._audit = meter, clock, leases, audit
        self._station_id, self._terms = station_id, terms or Terms()
        self._lock = threading.RLock()
        self._ring = Ring(max(2, round(KEPT_SECONDS / self._terms.fresh.interval)))
        self._rows = Rows(folder / "capacity.csv")
        self._slot: datetime | None = None
        self._in_slot: list[Sample] = []
        self._sequence, self._started = 0, clock.monotonic()
        self._ram_file = folder / "ram_rule.json"
        self._ram = self._load_ram()
        self._judged_up_to = 0
        self.intents_raised = 0
        self._watchers: list[Callable[[], None]] = []

    # --- sampling ------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Take one sample; when it opens a new slot, write the row of the one before."""
        machine = self._meter.read()
        with self._lock:
            self._sequence += 1
            now = self._clock.now()
            sample = Sample(at=now, monotonic=self._clock.monotonic(), sequence=self._sequence, machine=machine)
            self._ring.add(sample)
            slot = slot_of(now, self._terms.slot_seconds)
            done, held = self._slot, self._in_slot
            if done != slot:
                self._slot, self._in_slot = slot, []
            self._in_slot.append(sample)
            watchers = tuple(self._watchers)
        for wake in watchers:
            wake()
        if done is not None and done != slot:
            self._write_row(done, held)

    def _write_row(self, slot: datetime, samples: list[Sample]) -> None:
        terms = self._terms
        expected = max(1, round(terms.slot_seconds / terms.fresh.interval))
        line = row(slot, samples, station_id=self._station_id, slot_seconds=terms.slot_seconds, expected=expected)
        try:
            self._rows.append(slot, line)
        except OSError as error:  # the figures themselves go on; the row's absence is what a reader will see
            log.error("capacity row lost", slot=slot.isoformat(), reason=str(error))

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after every sample, on the sampler's thread; returns what ends it."""
        with self._lock:
            self._watchers.append(wake)

        def stop() -> None:
            with self._lock:
                self._watchers.remove(wake)

        return stop

    # --- answers -------------------------------------------------------------------------------------------

    def capacity(self, pulse_id: str = "") -> Answer:
        """The latest sample, aged. With a pulse id, the RAM rule judges that pulse first, once."""
        with self._lock:
            if pulse_id:
                self._judge(pulse_id)
            intent = self._ram.intent
            return Answer(
                capacity=capacity(self._ring, self._clock.monotonic(), self._terms.fresh),
                intents=() if intent is None else (intent,),
            )

    def admit(self, *, owner: str, domain: str, needs: Mapping[str, float]) -> Admission:
        """May this task start now? A throttled owner or domain waits for its turn."""
        leases = self.leases.in_force()
        answer = admit(
            self.capacity().capacity, leases, owner=owner, domain=domain, needs=needs, terms=self._terms.admit
        )
        if not answer.admitted:
            return answer
        for lease in leases:
            if lease.kind == "throttle" and lease.target in (owner, domain) and not self.leases.take_turn(lease):
                return Admission(
                    admitted=False, reason=f"{lease.target} is throttled to {lease.share:.0%}: not its turn yet"
                )
        return answer

    def check(self) -> None:
        """Health: raises when the sampler has stopped."""
        with self._lock:
            latest = self._ring.latest
            since = self._started if latest is None else latest.monotonic
            age = self._clock.monotonic() - since
        if age > self._terms.fresh.unknown_after:
            raise RuntimeError(f"no sample for {age:.0f} s")

    # --- the RAM rule --------------------------------------------------------------------------------------

    def _judge(self, pulse_id: str) -> None:
        if pulse_id in self._ram.judged:
            return
        seen = summarise(self._ring.after(self._judged_up_to), "ram", 1)
        verdict = judge(
            self._ram, pulse_id=pulse_id, ram_percent=seen.mean, now=self._clock.now(), terms=self._terms.ram
        )
        try:
            write_json(self._ram_file, verdict.state.to_json(), mode=0o640)
        except OSError as error:  # a count that would not survive a restart is not counted; the figures go on
            log.error("pulse not judged by the RAM rule", pulse=pulse_id, reason=str(error))
            return
        self._ram, self._judged_up_to = verdict.state, self._sequence
        if verdict.raised is not None:
            self.intents_raised += 1
            self._audit.write("intent.raised", id=verdict.raised.id, pulse=pulse_id, reason=verdict.reason)
        if verdict.cleared is not None:
            self._audit.write("intent.cleared", id=verdict.cleared.id, pulse=pulse_id, reason=verdict.reason)

    def _load_ram(self) -> RamState:
        if not self._ram_file.exists():
            return RamState()
        try:
            return RamState.from_json(read_json(self._ram_file))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._ram_file.with_name(self._ram_file.name + ".damaged")
            self._ram_file.replace(aside)
            self._audit.write("ram_rule.damaged", kept=aside.name, reason=str(error))
            return RamState()
