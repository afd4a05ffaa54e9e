"""A task's states, as a table, and the task itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from chassis.canonical import Json, sha256_hex
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from chassis.exchange.port import TaskView
from chassis.exchange.rules import ANSWERS

State = Literal[
    "held", "proposed", "waiting", "ready", "claimed", "rehearsed", "done", "failed", "expired", "cancelled",
    "rejected", "dead", "undone",
]  # fmt: skip

_ENDS = frozenset({"rehearsed", "done", "failed", "expired", "cancelled", "dead"})
TRANSITIONS: Mapping[str, frozenset[str]] = {
    "held": frozenset({"ready", "proposed", "cancelled", "rejected", "expired"}),
    "proposed": frozenset({"rejected", "cancelled", "expired"}),
    "waiting": frozenset({"ready", "claimed", "rejected"}) | _ENDS,
    "ready": frozenset({"waiting", "claimed", "held", "proposed", "rejected"}) | _ENDS,
    "claimed": frozenset({"ready", "waiting"}) | _ENDS,
    "rehearsed": frozenset({"rejected", "expired"}),  # answered no, or overtaken by a newer rehearsal
    "done": frozenset({"undone"}),
    "dead": frozenset({"ready", "undone"}),  # requeued by a person; or its program's changes were taken back
    "failed": frozenset({"undone"}),
    "expired": frozenset(),
    "cancelled": frozenset({"undone"}),
    "rejected": frozenset(),
    "undone": frozenset(),
}
"""From → to. What is not here is refused by the store's compare-and-set."""

OPEN: tuple[State, ...] = ("held", "waiting", "ready", "claimed")
"""Not ended; its objective makes no further task meanwhile."""

STATE_OF: Mapping[str, State] = {
    "go": "ready", "hold": "held", "propose": "proposed", "refuse": "rejected", "record": "rejected",
}  # fmt: skip
"""What the gates said → where a task stands then."""

_ACKED: Mapping[str, State] = {
    "rehearsed": "rehearsed", "done": "done", "no_work": "done", "failed": "failed", "expired": "expired",
    "cancelled": "cancelled", "undone": "done",
}  # fmt: skip
"""Ack status → task state. An `undone` ack ends the undo task; its target becomes `undone`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit of work as the CBO keeps it. `tes` None with `scored` is unknown; see `tes_note`."""

    id: TaskId
    domain: str
    procedure: str
    owner: str
    state: State
    level: Level
    created_at: datetime
    objective_id: str = ""
    objective: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    rehearsal: bool = False
    rehearsal_of: str = ""
    plan_digest: str = ""
    approval: str = ""
    approved_as: str = ""
    undo_of: str = ""
    gates: tuple[Json, ...] = ()
    prediction: float | None = None
    choices: tuple[Json, ...] = ()
    recalled: tuple[Json, ...] = ()
    pulse_id: str = ""
    ended_pulse_id: str = ""
    dispatched_at: datetime | None = None
    ended_at: datetime | None = None
    scored: bool = False
    probe_tries: int = 0
    tes: float | None = None
    tes_note: str = ""
    stability: float | None = None
    ack: Json | None = None
    why: str = ""
    remembered: bool = False
    source: str = ""
    """Who wished for it: agent:<name> or inbox; empty for what the CBO planned itself."""
    ttl_seconds: float | None = None
    """Shorter than its domain's, if set."""

    @property
    def cannot_rehearse(self) -> str:
        """Why its agent says that this one can't be rehearsed, so that a person is asked first; empty if it can."""
        return self.params.get("cannot_rehearse", "") if self.source.startswith("agent:") else ""

    @property
    def untaken(self) -> bool:
        """Its time ran out before its agent took it even once, as where there is none: it says nothing of the work."""
        ack = self.ack or {}
        return self.state == "expired" and ack.get("agent") == ANSWERS and int(ack.get("epoch", 0)) <= 1

    @property
    def has_effects(self) -> bool:
        """Whether it was sent out to change something (an undo is counted apart)."""
        return not self.rehearsal and not self.undo_of and self.dispatched_at is not None


def task_id(station_id: str, pulse: int, ordinal: int) -> TaskId:
    """The same for the same station, pulse and ordinal, so that a repeat is a Duplicate and not a second task."""
    return TaskId(f"t-{sha256_hex(station_id.encode())[:6]}-{pulse:09d}-{ordinal}")


def proposed_id(station_id: str, source: str, key: str) -> TaskId:
    """The same for the same station, proposer and key, so that a repeated proposal is the same task."""
    of = sha256_hex("\0".join((source, key)).encode())[:20]
    return TaskId(f"t-{sha256_hex(station_id.encode())[:6]}-p{of}")


def approved_id(rehearsal: TaskId) -> TaskId:
    return TaskId(f"{rehearsal}-a")


def undo_id(task: TaskId, attempt: int, *, dry_run: bool) -> TaskId:
    return TaskId(f"{task}-{'d' if dry_run else 'u'}{attempt}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Where the exchange says a task is by now; `lost` when it has never heard of it."""

    state: State
    attempt: int
    ack: Json | None = None
    why: str = ""
    lost: bool = False


def seen(view: TaskView) -> Move:
    """Read the exchange's view of a dispatched task."""
    if view.ack is not None:
        ack = view.ack.to_json()
        return Move(state=_ACKED[view.ack.status], attempt=view.epoch, ack=ack, why=view.ack.detail)
    if view.state == "dead":
        return Move(state="dead", attempt=view.epoch, why=view.reason)
    if view.state == "cancelled":
        return Move(state="cancelled", attempt=view.epoch, why=view.reason)
    if view.state == "unknown":
        return Move(state="ready", attempt=view.epoch, lost=True)
    if view.state == "claimed" or view.state == "done":  # done without its ack: the ack is about to be published
        return Move(state="claimed", attempt=view.epoch)
    return Move(state="waiting" if view.state == "waiting" else "ready", attempt=view.epoch)


def targets_of(ack: Mapping[str, Any]) -> tuple[str, ...]:
    """Every path an ack says it changed, in order, once each."""
    found = (str(each[key]) for each in ack.get("effects", ()) for key in ("target", "to") if each.get(key))
    return tuple(dict.fromkeys(found))
