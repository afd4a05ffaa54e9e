"""The five KPIs over 24 h (design §5): value, coverage and a verdict that says when it can't be given yet."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from chassis.canonical import Json
from chassis.clock import iso

WINDOW = timedelta(hours=24)
SLOT = timedelta(seconds=60)
MAINTENANCE_SLOTS = 60
"""Minutes of `calyx down` a day that are left out; what goes beyond counts as down."""
MIN_COVERAGE = 0.9
SATURATED = 0.95

SlotState = Literal["up", "down", "unknown", "maintenance"]
Verdict = Literal["met", "missed", "insufficient data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpi:
    """`value` None is unknown. `coverage` is the share, 0 to 1, of what was expected that the value rests on."""

    name: str
    target: str
    value: float | None
    unit: str
    coverage: float
    verdict: Verdict
    note: str

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "target": self.target,
            "value": self.value,
            "unit": self.unit,
            "coverage": self.coverage,
            "verdict": self.verdict,
            "note": self.note,
        }


def _verdict(met: bool, coverage: float, *, breaks_now: bool = False) -> Verdict:
    """`breaks_now`: a limit on a count is missed as soon as it is passed, however little has been seen."""
    if breaks_now:
        return "missed"
    if coverage < MIN_COVERAGE:
        return "insufficient data"
    return "met" if met else "missed"


def uptime(slots: Mapping[datetime, SlotState], slots_from: datetime | None, now: datetime) -> Kpi:
    """Slots in which all six services answered / slots expected; a slot nobody knows counts as down.

    `slots` by their beginning; `slots_from` is when slot keeping began. The slot still running is not counted.
    """
    target = "≥ 95 %"
    if slots_from is None:
        return Kpi(
            name="uptime", target=target, value=None, unit="percent", coverage=0.0, verdict="insufficient data",
            note="the guardian has kept no slots yet",
        )  # fmt: skip
    begin = max(slots_from, now - WINDOW)
    counted = [state for start, state in slots.items() if begin <= start and start + SLOT <= now]
    up, down, out = counted.count("up"), counted.count("down"), min(counted.count("maintenance"), MAINTENANCE_SLOTS)
    over = counted.count("maintenance") - out
    elapsed = max(len(counted), int((now - begin) / SLOT))
    expected = elapsed - out
    value = 100.0 * up / expected if expected else None
    hopeful = 100.0 * (expected - down - over) / expected if expected else None
    full_window = int(WINDOW / SLOT) - out
    coverage = min(1.0, (up + down + over) / full_window) if full_window else 0.0
    first_day = now - slots_from < WINDOW
    unknown = expected - up - down - over
    notes = [f"{unknown} of {expected} slots unknown, counted as down"] if expected else ["no slot of 60 s is over yet"]
    if hopeful is not None and value is not None and hopeful > value:
        notes.append(f"at best {hopeful:.1f} %")
    if out or over:
        notes.append(f"{out} slots of maintenance left out" + (f", {over} more counted as down" if over else ""))
    if first_day:
        verdict_at = slots_from + WINDOW * MIN_COVERAGE
        notes.insert(0, f"since start: {up}/{expected} slots, verdict from {iso(verdict_at)[:16]}Z")
    return Kpi(
        name="uptime", target=target, value=value, unit="percent", coverage=coverage,
        verdict=_verdict(value is not None and value >= 95.0, coverage), note="; ".join(notes),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TesDay:
    """Tasks scored in the last 24 h. Sums, so that SQL can do them."""

    effects_known: int = 0
    effects_sum: float = 0.0
    effects_unknown: int = 0
    rehearsals_known: int = 0
    rehearsals_sum: float = 0.0


def mean_tes(day: TesDay, founded: datetime, now: datetime) -> Kpi:
    """Over tasks with effects; rehearsals are shown apart. Without one there is no value.

    Coverage is the share of them whose score is known, times the share of the 24 h that the station has lived.
    """
    total = day.effects_known + day.effects_unknown
    coverage = _seen(founded, now) * day.effects_known / total if total else 0.0
    value = day.effects_sum / day.effects_known if day.effects_known else None
    note = f"{_count(day.effects_known, 'task')} with effects" if total else "no task with effects in 24 h"
    if day.effects_unknown:
        note += f", {day.effects_unknown} more with unknown TES"
    if day.rehearsals_known:
        note += f"; {_count(day.rehearsals_known, 'rehearsal')} apart: {day.rehearsals_sum / day.rehearsals_known:.1f}"
    return Kpi(
        name="mean_tes", target="≥ 96", value=value, unit="score", coverage=coverage,
        verdict=_verdict(value is not None and value >= 96.0, coverage), note=note,
    )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _seen(founded: datetime, now: datetime) -> float:
    return max(0.0, min(1.0, (now - founded) / WINDOW))


def policy_violations(executed: int, blocked: int, founded: datetime, now: datetime) -> Kpi:
    """Executed ones, 0 wanted; blocked attempts are counted apart."""
    coverage = _seen(founded, now)
    return Kpi(
        name="policy_violations", target="0", value=float(executed), unit="count", coverage=coverage,
        verdict=_verdict(executed == 0, coverage, breaks_now=executed > 0),
        note=f"{_count(blocked, 'attempt')} blocked",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainConfidence:
    """A domain's confidence now and 24 h ago (or as early as known), and its tasks with effects in 24 h."""

    domain: str
    now: float
    before: float
    before_at: datetime
    tasks: int


def confidence_delta(domains: Iterable[DomainConfidence], now: datetime) -> Kpi:
    """Percentage points in 24 h, task-weighted over domains; above 95 % it is `saturated`.

    Saturated meets the target, once enough of the day has been seen to say so.
    """
    weighed = [each for each in domains if each.tasks > 0]
    tasks = sum(each.tasks for each in weighed)
    if not tasks:
        return Kpi(
            name="confidence_delta", target="≥ +1 pp", value=None, unit="pp", coverage=0.0,
            verdict="insufficient data", note="no task with effects in 24 h",
        )  # fmt: skip
    value = sum(100.0 * (each.now - each.before) * each.tasks for each in weighed) / tasks
    level = sum(each.now * each.tasks for each in weighed) / tasks
    coverage = sum(_seen(each.before_at, now) * each.tasks for each in weighed) / tasks
    note = f"confidence {100 * level:.1f} % over {_count(len(weighed), 'domain')}"
    if level > SATURATED:
        return Kpi(
            name="confidence_delta", target="≥ +1 pp", value=value, unit="pp", coverage=coverage,
            verdict=_verdict(True, coverage), note=f"saturated: {note}",
        )  # fmt: skip
    return Kpi(
        name="confidence_delta", target="≥ +1 pp", value=value, unit="pp", coverage=coverage,
        verdict=_verdict(value >= 1.0, coverage), note=note,
    )  # fmt: skip


def overrides(events: Mapping[str, int], answers: Mapping[str, int], founded: datetime, now: datetime) -> Kpi:
    """By kind, as found in the audit log; at most one in 24 h wanted. A person's answers are told, not counted."""
    count = sum(events.values())
    coverage = _seen(founded, now)
    kinds = ", ".join(f"{number} × {kind}" for kind, number in sorted(events.items())) or "none in the audit log"
    told = ", ".join(f"{number} {kind.removeprefix('task.')}" for kind, number in sorted(answers.items()))
    return Kpi(
        name="overrides", target="≤ 1", value=float(count), unit="count", coverage=coverage,
        verdict=_verdict(count <= 1, coverage, breaks_now=count > 1), note=f"{kinds}; {told}" if told else kinds,
    )  # fmt: skip
