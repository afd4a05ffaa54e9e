"""Was the recorded history one that a correct exchange can give? Pure: operations with their intervals in, faults out.

Each operation took effect at one moment between its call and its return; one cut short by a kill may have taken
effect until its process was dead, or not at all. A task's history is sound when some order of such moments fits
the sequential model below (linearizability after Wing and Gong; tasks are independent, so each is searched alone).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["submit", "claim", "check", "beat", "enter", "look", "effect", "ack", "nack", "requeue", "rejoin", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of one process on one task; `end` is when its process was dead for one that never returned.

    `result`: ok, duplicate, lost, already, fenced, yes, no, or for `end` the state. None: cut short, nobody knows.
    `epoch` 0 = not known. `effects`, with `end`: lines of this task in its target. `bare`: an ack of nothing done.
    """

    kind: Kind
    task: str
    process: str
    start: float
    end: float
    epoch: int = 0
    result: str | None = None
    effects: int = 0
    bare: bool = False

    @property
    def optional(self) -> bool:
        """It may have had no effect on this task: cut short, or a joining that doesn't say what it gave back."""
        return self.result is None or self.kind == "rejoin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Faults by kind, each a sentence. All empty: the promise held."""

    lost: tuple[str, ...] = ()
    double_acks: tuple[str, ...] = ()
    duplicate_effects: tuple[str, ...] = ()
    two_live_claims: tuple[str, ...] = ()
    epochs: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        kinds = (self.lost, self.double_acks, self.duplicate_effects, self.two_live_claims, self.epochs)
        return tuple(fault for kind in (*kinds, self.impossible) for fault in kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One task as a correct exchange and a correct target have it."""

    phase: Literal["absent", "ready", "claimed", "acked"] = "absent"
    epoch: int = 1
    holder: str = ""
    entered: int = 0
    effected: bool = False
    bare: bool = False


@dataclass(slots=True)
class Found:
    lost: list[str] = field(default_factory=list)
    double_acks: list[str] = field(default_factory=list)
    duplicate_effects: list[str] = field(default_factory=list)
    two_live_claims: list[str] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)


def judge(history: Iterable[Op], deaths: Mapping[str, float]) -> Verdict:
    """Every fault of every task. `deaths`: when a process was dead. An Op of task "" may concern any task."""
    tasks: dict[str, list[Op]] = defaultdict(list)
    anywhere: list[Op] = []
    for op in history:
        (tasks[op.task] if op.task else anywhere).append(op)
    found = Found()
    for task, ops in tasks.items():
        _plainly(task, ops, found)
        first, last = min(op.start for op in ops), max(op.start for op in ops)
        here = [*ops, *(replace(op, task=task) for op in anywhere if op.end >= first and op.start <= last)]
        if (stuck := explain(here, deaths)) is not None:
            found.impossible.append(f"{task}: no order of its operations makes sense; stuck before {stuck}")
    return Verdict(
        lost=tuple(found.lost), double_acks=tuple(found.double_acks),
        duplicate_effects=tuple(found.duplicate_effects), two_live_claims=tuple(found.two_live_claims),
        epochs=tuple(found.epochs), impossible=tuple(found.impossible),
    )  # fmt: skip


def _plainly(task: str, ops: list[Op], found: Found) -> None:
    """What can be said without a search, in words a person wants to read."""
    acks = [op for op in ops if op.kind == "ack" and op.result == "ok"]
    ends = [op for op in ops if op.kind == "end"]
    claims = sorted((op for op in ops if op.kind == "claim" and op.result == "ok"), key=lambda op: op.start)
    if any(op.kind == "submit" and op.result is not None for op in ops) and any(op.result != "done" for op in ends):
        found.lost.append(f"{task}: submitted, and at the end {ends[0].result}")
    if acks and any(op.result == "done" and op.epoch != acks[0].epoch for op in ends):
        found.lost.append(f"{task}: acked at epoch {acks[0].epoch}, and at the end it has another ack")
    if len(acks) > 1:
        found.double_acks.append(f"{task}: {len(acks)} acks were taken, at epochs {[op.epoch for op in acks]}")
    if any(op.effects > 1 for op in ends):
        found.duplicate_effects.append(f"{task}: took effect {max(op.effects for op in ends)} times")
    for i, one in enumerate(claims):
        for two in claims[i + 1 :]:
            if one.end < two.start and two.epoch <= one.epoch:
                found.epochs.append(f"{task}: epoch {two.epoch} was handed out after epoch {one.epoch}")
    entries = [op for op in ops if op.kind == "enter" and op.result == "ok"]
    for one in entries:
        for two in entries:
            if one.end < two.start and two.epoch < one.epoch:
                found.epochs.append(f"{task}: epoch {two.epoch} was let to the target after epoch {one.epoch}")
    for newer in claims:
        for op in ops:
            holds = (op.kind, op.result) in (("check", "yes"), ("beat", "ok"), ("ack", "ok"), ("nack", "ok"))
            if holds and op.epoch < newer.epoch and op.start > newer.end:
                found.two_live_claims.append(
                    f"{task}: epoch {op.epoch} still passed its {op.kind} after epoch {newer.epoch} was claimed"
                )


def explain(ops: list[Op], deaths: Mapping[str, float]) -> str | None:
    """None when the operations fit the model in some order; else the operation no order got past."""
    ops = sorted(ops, key=lambda op: (op.optional, op.end))
    required = sum(not op.optional for op in ops)
    seen: set[tuple[int, State]] = set()
    furthest, stuck = -1, ""
    todo: list[tuple[int, State, float, int]] = [(0, State(), -math.inf, 0)]
    while todo:
        done, state, latest, passed = todo.pop()
        if passed == required:
            return None
        if (done, state) in seen:
            continue
        seen.add((done, state))
        deadline = next(op.end for i, op in enumerate(ops) if not done >> i & 1 and not op.optional)
        if passed > furthest:
            op = next(op for i, op in enumerate(ops) if not done >> i & 1)
            furthest, stuck = passed, f"{op.kind} of {op.process} at epoch {op.epoch}: {op.result}, in state {state}"
        for i in reversed(range(len(ops))):
            op = ops[i]
            if done >> i & 1 or op.start > deadline or op.end < latest:
                continue
            for after in _after(state, op, deaths):
                todo.append((done | 1 << i, after, max(latest, op.start), passed + (not op.optional)))
    return stuck


def _after(state: State, op: Op, deaths: Mapping[str, float]) -> Iterator[State]:
    """The states this operation may lead to with the result it had; none when it can't have had it now."""
    mine = state.phase == "claimed" and state.epoch == op.epoch and state.holder == op.process
    match op.kind, op.result:
        case "submit", ("ok" | None) if state.phase == "absent":
            yield replace(state, phase="ready")
        case "submit", "duplicate" if state.phase != "absent":
            yield state
        case "claim", ("ok" | None) if state.phase == "ready" and op.epoch in (0, state.epoch):
            yield replace(state, phase="claimed", holder=op.process)
        case ("check", "yes") | ("beat", "ok") if mine:
            yield state
        case ("check", "no") | ("beat", "lost") | ("ack", "lost") | ("nack", "lost") if not mine:
            yield state
        case "enter", ("ok" | None) if op.epoch >= state.entered:
            yield replace(state, entered=op.epoch)
        case "enter", "fenced" if op.epoch < state.entered:
            yield state
        case "look", "yes" | "no" if state.effected == (op.result == "yes"):
            yield state
        case "effect", ("ok" | None) if not state.effected and state.entered == op.epoch and state.phase != "acked":
            yield replace(state, effected=True)
        case "ack", ("ok" | None) if mine and state.effected != op.bare:
            yield replace(state, phase="acked", bare=op.bare)
        case "ack", "already" if state.phase == "acked":
            yield state
        case "nack", ("ok" | None) if mine:
            yield replace(state, phase="ready", epoch=state.epoch + 1, holder="")
        case "requeue", ("ok" | None) if state.phase == "claimed":
            yield replace(state, phase="ready", epoch=state.epoch + 1, holder="")
        case "rejoin", _ if state.phase == "claimed" and deaths.get(state.holder, math.inf) <= op.end:
            yield replace(state, phase="ready", epoch=state.epoch + 1, holder="")
        case "end", "done" if state.phase == "acked" and op.epoch == state.epoch and op.effects == state.effected:
            yield state
