"""What somebody wants done, and when it is due."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from chassis.errors import InvalidInput

State = Literal["active", "done", "cancelled"]
TRANSITIONS: Mapping[str, frozenset[str]] = {
    "active": frozenset({"done", "cancelled"}),
    "done": frozenset(),
    "cancelled": frozenset(),
}

MAX_TEXT = 2000
MIN_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """At most one of them; none: once, at the next pulse."""

    every: timedelta | None = None
    at: datetime | None = None
    every_pulse: bool = False

    @property
    def repeats(self) -> bool:
        return self.every_pulse or self.every is not None


ONCE = Schedule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """`source`: operator, builtin, governor:<intent>. `key` makes a repeated submit harmless."""

    id: str
    text: str
    domain: str
    source: str
    created_at: datetime
    schedule: Schedule = ONCE
    params: Mapping[str, str] = field(default_factory=dict)
    state: State = "active"
    last_planned_at: datetime | None = None
    tasks: int = 0
    key: str = ""
    note: str = ""


def check(text: str, schedule: Schedule) -> None:
    """Raises InvalidInput for words or times that can't be meant."""
    if not text.strip():
        raise InvalidInput("an objective needs words: say what should be done")
    if len(text) > MAX_TEXT:
        raise InvalidInput(f"an objective has at most {MAX_TEXT:,} characters, this one has {len(text):,}")
    if sum((schedule.every is not None, schedule.at is not None, schedule.every_pulse)) > 1:
        raise InvalidInput("a schedule is one of: every, at, every pulse")
    if schedule.every is not None and schedule.every < MIN_EVERY:
        raise InvalidInput("an objective repeats at most once a second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    due: bool
    reason: str


def due(objective: Objective, now: datetime, pulse_interval: timedelta, *, has_open_task: bool) -> Due:
    """Should this pulse make a task of it? Missed runs coalesce into one.

    A repeating objective may come up to half an interval (its own or the pulse's, the shorter) early, so that
    pulses that jitter by milliseconds do not skip every other run.
    """
    if objective.state != "active":
        return Due(due=False, reason=objective.state)
    if has_open_task:
        return Due(due=False, reason="its last task has not ended; runs missed meanwhile coalesce")
    schedule, last = objective.schedule, objective.last_planned_at
    if schedule.every_pulse:
        return Due(due=True, reason="every pulse")
    if schedule.every is not None:
        if last is None:
            return Due(due=True, reason="first run")
        slack = min(schedule.every, pulse_interval) / 2
        if now - last >= schedule.every - slack:
            return Due(due=True, reason=f"every {schedule.every}")
        return Due(due=False, reason=f"last planned {now - last} ago, repeats every {schedule.every}")
    if last is not None:
        return Due(due=False, reason="has had its one task")
    if schedule.at is not None and now < schedule.at:
        return Due(due=False, reason="not yet")
    return Due(due=True, reason="once")
