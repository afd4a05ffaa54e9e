"""RAM too high for several pulses in a row → one cleanup intent; it clears when RAM stays low. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from chassis.clock import iso, parse_iso

REMEMBERED_PULSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RamTerms:
    """When to ask and when to stop asking (percent, pulses)."""

    high_percent: float = 80.0
    low_percent: float = 75.0
    high_pulses: int = 3
    low_pulses: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A request to the CBO; the id stays the same until it is cleared."""

    id: str
    kind: str
    domain: str
    reason: str
    raised_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RamState:
    """What the rule remembers: runs of high and low pulses, the open intent, the pulses it has judged."""

    high_run: int = 0
    low_run: int = 0
    intent: Intent | None = None
    judged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        intent = self.intent
        return {
            "high_run": self.high_run,
            "low_run": self.low_run,
            "judged": list(self.judged),
            "intent": None
            if intent is None
            else {
                "id": intent.id,
                "kind": intent.kind,
                "domain": intent.domain,
                "reason": intent.reason,
                "raised_at": iso(intent.raised_at),
            },
        }

    @classmethod
    def from_json(cls, value: Any) -> "RamState":
        """Raises KeyError, TypeError or ValueError for anything that `to_json` did not write."""
        intent = value["intent"]
        return cls(
            high_run=int(value["high_run"]),
            low_run=int(value["low_run"]),
            judged=tuple(str(pulse) for pulse in value["judged"]),
            intent=None if intent is None else Intent(**{**intent, "raised_at": parse_iso(intent["raised_at"])}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The state after a pulse, and why. `raised` and `cleared` name an intent that changed in this pulse."""

    state: RamState
    reason: str
    raised: Intent | None = None
    cleared: Intent | None = None


def judge(state: RamState, *, pulse_id: str, ram_percent: float | None, now: datetime, terms: RamTerms) -> Judgement:
    """Count one pulse's reading (mean since the pulse before; None = unknown). The same pulse counts once.

    An unknown reading neither counts nor clears nor breaks a run. While an intent is open, no second one is
    raised; what is at or below `high_percent` breaks the run to the next one.
    """
    if pulse_id in state.judged:
        return Judgement(state=state, reason=f"pulse {pulse_id} is judged already")
    state = replace(state, judged=(*state.judged, pulse_id)[-REMEMBERED_PULSES:])
    if ram_percent is None:
        return Judgement(state=state, reason="RAM is unknown: this pulse neither counts nor clears")
    high_run = state.high_run + 1 if ram_percent > terms.high_percent else 0
    low_run = state.low_run + 1 if ram_percent < terms.low_percent else 0
    state = replace(state, high_run=min(high_run, terms.high_pulses), low_run=min(low_run, terms.low_pulses))
    if state.intent is None and high_run >= terms.high_pulses:
        intent = Intent(
            id=f"cleanup-{pulse_id}",
            kind="cleanup",
            domain="cleanup",
            reason=f"RAM above {terms.high_percent:g} % for {terms.high_pulses} pulses, last {ram_percent:.1f} %",
            raised_at=now,
        )
        return Judgement(state=replace(state, intent=intent), reason=intent.reason, raised=intent)
    if state.intent is not None and low_run >= terms.low_pulses:
        reason = f"RAM below {terms.low_percent:g} % for {terms.low_pulses} pulses"
        return Judgement(state=replace(state, intent=None, high_run=0, low_run=0), reason=reason, cleared=state.intent)
    return Judgement(state=state, reason=f"RAM {ram_percent:.1f} %, high for {high_run} and low for {low_run} pulses")
