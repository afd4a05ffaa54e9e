"""What the KPIs and the calibration rest on, by value: gathered by the meter, kept in the record, and counted here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from services.cbo import kpis
from services.cbo.kpis import DomainConfidence, Kpi, SlotState, TesDay
from services.cbo.posterior import Bin, Calibration, calibration
from services.cbo.uplift import Arm, Uplift, uplift


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """As of `now`. `slots` by their beginning; `bins` are None where the calibration was not asked for."""

    now: datetime
    founded_at: datetime
    interval_seconds: float
    slots: Mapping[datetime, SlotState]
    slots_from: datetime | None
    tes: TesDay
    executed: int
    blocked: int
    overrides: Mapping[str, int]
    confidence: tuple[DomainConfidence, ...]
    answers: Mapping[str, int] = field(default_factory=dict)
    """What people approved and rejected; none of it is an override."""
    bins: tuple[Bin, ...] = field(default=())
    used: Arm = field(default_factory=Arm)
    ignored: Arm = field(default_factory=Arm)
    """How decisions with memory and without it have ended."""

    def kpis(self) -> tuple[Kpi, ...]:
        """The five."""
        return (
            kpis.uptime(self.slots, self.slots_from, self._as_of()),
            kpis.mean_tes(self.tes, self.founded_at, self.now),
            kpis.policy_violations(self.executed, self.blocked, self.founded_at, self.now),
            kpis.confidence_delta(self.confidence, self.now),
            kpis.overrides(self.overrides, self.answers, self.founded_at, self.now),
        )

    def calibration(self) -> Calibration:
        return calibration(self.bins)

    def uplift(self) -> Uplift:
        return uplift(self.used, self.ignored)

    def _as_of(self) -> datetime:
        """The end of the newest slot read while that reading is fresh: what was not asked for yet is not down.

        Older than two readings of two slots it is stale, and every slot since counts as unknown.
        """
        if not self.slots:
            return self.now
        newest = max(self.slots) + kpis.SLOT
        fresh = 2 * (kpis.SLOT + timedelta(seconds=self.interval_seconds))
        return newest if self.now - newest <= fresh else self.now

    def to_json(self) -> Json:
        return {
            "now": iso(self.now),
            "founded_at": iso(self.founded_at),
            "interval_seconds": self.interval_seconds,
            "slots": _runs(self.slots),
            "slots_from": None if self.slots_from is None else iso(self.slots_from),
            "tes": asdict(self.tes),
            "executed": self.executed,
            "blocked": self.blocked,
            "overrides": dict(self.overrides),
            "answers": dict(self.answers),
            "confidence": [{**asdict(each), "before_at": iso(each.before_at)} for each in self.confidence],
            "bins": [asdict(each) for each in self.bins],
            "used": asdict(self.used),
            "ignored": asdict(self.ignored),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        begun = value["slots_from"]
        return cls(
            **{
                **value,
                "now": parse_iso(value["now"]),
                "founded_at": parse_iso(value["founded_at"]),
                "slots": {
                    parse_iso(start) + n * kpis.SLOT: state
                    for start, state, count in value["slots"]
                    for n in range(count)
                },
                "slots_from": None if begun is None else parse_iso(begun),
                "tes": TesDay(**value["tes"]),
                "confidence": tuple(
                    DomainConfidence(**{**each, "before_at": parse_iso(each["before_at"])})
                    for each in value["confidence"]
                ),
                "bins": tuple(Bin(**each) for each in value["bins"]),
                "used": Arm(**value.get("used", {})),
                "ignored": Arm(**value.get("ignored", {})),
            }
        )


def _runs(slots: Mapping[datetime, SlotState]) -> list[list[Any]]:
    """[first slot, state, how many in a row], in order."""
    runs: list[list[Any]] = []
    due: datetime | None = None
    for start in sorted(slots):
        if runs and start == due and runs[-1][1] == slots[start]:
            runs[-1][2] += 1
        else:
            runs.append([iso(start), slots[start], 1])
        due = start + kpis.SLOT
    return runs
