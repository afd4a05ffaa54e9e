"""The last answers as seen at one moment: how old each is, and whether it may still be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.canonical import Json
from services.dashboard.answers import ASKED_PER_PULSE_SECONDS, Answer
from services.dashboard.figures import State, state_at, terms


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`monotonic` is on the same clock as the answers' times."""

    answers: Mapping[str, Answer]
    now: datetime
    monotonic: float
    pulse_interval_seconds: float

    @property
    def pulse_seconds(self) -> float:
        """How often what changes with each pulse is renewed here: no faster than it is asked for."""
        return max(self.pulse_interval_seconds, ASKED_PER_PULSE_SECONDS)

    def since(self, name: str) -> float | None:
        """Seconds since the peer answered; None: never."""
        at = self.answers[name].at
        return None if at is None else max(0.0, self.monotonic - at)

    def value(self, name: str) -> Any:
        return self.answers[name].value

    def trouble(self, name: str) -> str:
        return self.answers[name].trouble

    def standing(self, name: str, every_seconds: float) -> Json:
        """How far a whole section can be trusted: {state, age_seconds, note, stale_after_seconds, …}."""
        limits, age = terms(every_seconds), self.since(name)
        state: State = "unknown" if age is None else state_at(age, limits)
        note = self.trouble(name)
        if not note and age is None:
            note = "not asked yet"
        return {
            "state": state,
            "age_seconds": None if age is None else round(age, 3),
            "note": note,
            "stale_after_seconds": limits.stale_after,
            "unknown_after_seconds": limits.unknown_after,
        }
