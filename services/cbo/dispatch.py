"""From a planned task to the exchange: gates, signature, submit. A repeat is a Duplicate and changes nothing."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import Duplicate, InvalidInput, ResourceExhausted, Unavailable
from chassis.exchange.manifest import Manifest
from services.cbo.bridge import Bridge
from services.cbo.gates import Gated, Question, Use, careful, evaluate, gone
from services.cbo.tasks import OPEN, Task, seen

log = structlog.get_logger(__name__)

UNDO_GATES: tuple[Json, ...] = (
    {"gate": "kill_switch", "answer": "pass", "reason": "undo goes on under the kill switch"},
    {"gate": "policy", "answer": "pass", "reason": "a person asked to reverse what was done"},
)
UNDO_TTL_SECONDS = 600.0


class Dispatcher:
    """Thread-safe. The budget of a pulse counts from `new_pulse`; what is approved in between counts to the last."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._lock = threading.RLock()
        self._sent: Counter[str] = Counter()
        self._effects: Counter[str] = Counter()
        self._governor_silent = ""

    def new_pulse(self, governor_silent: str = "") -> None:
        """A governor that did not answer this pulse's first question is not asked again before the next."""
        with self._lock:
            self._governor_silent = governor_silent
            self._sent.clear()
            self._effects.clear()

    def gate(self, task: Task) -> tuple[Task, Gated]:
        """Ask every gate; the task comes back at the level it may run at now. A `go` takes its share of the budget."""
        bridge = self._bridge
        manifest = bridge.domains.get(task.domain)
        if manifest is None:
            gated = gone(task.domain)
            return replace(task, gates=tuple(answer.to_json() for answer in gated.answers)), gated
        standing = bridge.ladder.standing(task.domain)
        level = (
            task.level if task.approval else min(task.level, standing.level, bridge.ladder.terms(task.domain).max_level)
        )
        unconfirmed = bridge.consents.unconfirmed(task.domain)
        if not task.approval:
            level = careful(level, unconfirmed)
        task = replace(task, level=level, rehearsal=level is Level.GUIDE and not task.approval)
        day = bridge.store.rows("task_use", task.domain, iso(bridge.clock.now() - timedelta(hours=24)))[0][0]
        with self._lock:
            use = Use(
                this_pulse=self._sent[task.domain],
                this_day=int(day),
                effects_this_pulse=self._effects[task.domain],
            )
            question = Question(
                kill_switch=bridge.kill_switch.why() if bridge.kill_switch.engaged() else None,
                ruling=bridge.ruling(manifest, task.owner),
                manifest=manifest,
                revoked=bridge.revoked(task.domain),
                procedure=task.procedure,
                level=level,
                approved_by=task.approval,
                use=use,
                probation=standing.probation,
                unconfirmed=unconfirmed,
                admit=lambda: self._admit(task),
            )
            gated = evaluate(question)
            if gated.verdict == "go":
                self._sent[task.domain] += 1
                self._effects[task.domain] += question.effects
        task = replace(task, gates=tuple(answer.to_json() for answer in gated.answers))
        return task, gated

    def _admit(self, task: Task) -> tuple[bool, str]:
        if self._governor_silent:
            raise Unavailable(self._governor_silent)
        return self._bridge.peers.governor.admit(task.id, task.domain, task.owner)

    def send(self, tasks: Sequence[Task]) -> list[Task]:
        """Sign and submit, then note all in one commit. What can't be written stays planned for the next pulse."""
        sent = []
        for task in tasks:
            if not task.undo_of and self._bridge.kill_switch.engaged():
                continue  # engaged since the gate was asked: stays planned, the next pulse holds it
            manifest = self.manifest(task)
            try:
                self._bridge.audit.write(
                    "task.dispatched", task=task.id, domain=task.domain, owner=task.owner, level=task.level.name,
                    rehearsal=task.rehearsal, approval=task.approval,
                )  # fmt: skip
                state = self._bridge.exchange.submit(self._bridge.sign(manifest)).state
            except Duplicate:
                state = "ready"
            except InvalidInput as error:
                self._bridge.store.answer_task(task, "rejected", f"the exchange refused it: {error.message}")
                continue
            except (OSError, ResourceExhausted, Unavailable) as error:
                log.error("task not dispatched, tried again in the next pulse", task=task.id, why=str(error))
                continue
            sent.append(replace(task, state="waiting" if state == "waiting" else "ready"))
        self._bridge.fault("submitted")
        now = iso(self._bridge.clock.now())
        with self._bridge.store.transaction():
            for task in sent:
                self._bridge.store.run(
                    "task_dispatched", task.state, now, json.dumps(task.gates), int(task.level), int(task.rehearsal),
                    task.id,
                )  # fmt: skip
        self._bridge.bell.ring()
        return sent

    def manifest(self, task: Task) -> Manifest:
        """What travels. `expires_at` counts from now, so that time spent on hold consumes no TTL."""
        bridge = self._bridge
        now = bridge.clock.now()
        domain = bridge.domains.get(task.domain)
        ttl = UNDO_TTL_SECONDS if task.undo_of or domain is None else domain.ttl_seconds
        ttl = ttl if task.ttl_seconds is None else min(ttl, task.ttl_seconds)
        return Manifest(
            station_id=bridge.station_id,
            task_id=task.id,
            owner=task.owner,
            issuer="cbo",
            domain=task.domain,
            procedure=task.procedure,
            created_at=now,
            expires_at=now + timedelta(seconds=ttl),
            ttl_seconds=ttl,
            objective=task.objective,
            params=dict(task.params),
            max_attempts=3 if domain is None else domain.max_attempts,
            priority=8 if task.undo_of else 5,
            rehearsal=task.rehearsal,
            rehearsal_of=task.rehearsal_of,
            plan_digest=task.plan_digest if task.approval else "",
            approval=task.approval,
            undo_of=task.undo_of,
            objective_id=task.objective_id,
            pulse_id=task.pulse_id,
            level=task.level.name,
            policy_digest=bridge.policy.digest,
        )


def intake(bridge: Bridge, only: Sequence[Task] | None = None) -> None:
    """Follow the exchange for every open task that was dispatched (or for these), in one commit."""
    moves = []
    for task in bridge.store.tasks("tasks_open") if only is None else only:
        if task.dispatched_at is None or task.state not in OPEN:
            continue
        move = seen(bridge.exchange.get(task.id))
        if move.lost:
            bridge.audit.write("task.lost", task=task.id, kept="planned; dispatched again under the same id")
        if move.lost or move.state != task.state or move.attempt != task.attempt:
            moves.append((task, move))
    if not moves:
        return
    with bridge.store.transaction():
        for task, move in moves:
            if move.lost:
                bridge.store.run("task_lost", task.id)
                continue
            moved = bridge.store.move_task(task, move, bridge.clock.now())
            if moved and task.undo_of and move.ack is not None and move.ack.get("status") == "undone":
                mark_undone(bridge, task)
    bridge.bell.ring()


def follow(bridge: Bridge, task: Task) -> Task:
    """The task as the exchange has it now."""
    intake(bridge, [task])
    return bridge.store.task(task.id)


def mark_undone(bridge: Bridge, undo: Task) -> None:
    """The undo worked: its target becomes `undone` and is not verified any more. Idempotent."""
    if undo.params.get("dry_run") == "true":
        return
    target = bridge.store.find_task(undo.undo_of)
    if target is not None and target.state in ("done", "failed", "cancelled", "dead"):
        bridge.store.answer_task(target, "undone", f"undone by {undo.id}")
        bridge.store.run("verifications_cancel", f"undone by {undo.id}", target.id)
