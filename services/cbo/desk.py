"""What people do: submit, approve, reject, cancel, undo, set levels, stop and resume. Idempotent and audited."""

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from chassis.canonical import sha256_hex
from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import InvalidInput, NotFound, Refused
from services.cbo import objectives
from services.cbo.admissions import Admissions
from services.cbo.approvals import Approvals
from services.cbo.bridge import Bridge
from services.cbo.dispatch import UNDO_GATES, Dispatcher, intake
from services.cbo.ladder import Rung
from services.cbo.objectives import Objective, Schedule
from services.cbo.tasks import OPEN, Task, undo_id

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
STATION = "station"
"""Who undoes what regressed: nobody overrode anything then."""
CUT_SHORT = ("failed", "cancelled", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """`done` false with a `task_id`: asked for, but not answered in time or refused; `detail` says which."""

    done: bool
    detail: str
    steps: tuple[str, ...]
    task_id: str


class Desk:
    """`who` is the caller's name as the token gives it."""

    def __init__(self, bridge: Bridge, dispatcher: Dispatcher) -> None:
        self._bridge, self._dispatcher = bridge, dispatcher
        self.admissions = Admissions(bridge, self.cancel)
        self.approvals = Approvals(bridge, dispatcher)
        self.approve, self.reject = self.approvals.approve, self.approvals.reject
        self._engaged = bridge.store.fact("kill_switch") == "engaged"
        self._switch = threading.Lock()

    # objectives

    def submit(
        self, text: str, domain: str, params: Mapping[str, str], schedule: Schedule, key: str, who: str
    ) -> Objective:
        """Raises InvalidInput, NotFound for a domain nobody declared."""
        objectives.check(text, schedule)
        if domain and domain not in self._bridge.domains:
            known = ", ".join(sorted(self._bridge.domains))
            raise NotFound(f"there is no domain {domain}; this station has {known}")
        if missing := self._bridge.artifacts.missing(params):
            raise InvalidInput(missing)
        made = Objective(
            id=self._bridge.ids.new("o"),
            text=text.strip(),
            domain=domain,
            params=dict(params),
            schedule=schedule,
            source="operator",
            created_at=self._bridge.clock.now(),
            key=f"submit:{sha256_hex(key.encode())}" if key else "",
        )
        kept = self._bridge.store.add_objective(made)
        if kept.id == made.id:
            self._bridge.audit.write("objective.submitted", objective=kept.id, domain=domain, by=who)
        return kept

    def cancel_objective(self, objective_id: str, who: str) -> Objective:
        objective = self._bridge.store.objective(objective_id)
        if objective.state == "active":
            self._bridge.store.move_objective(objective, "cancelled")
            self._bridge.audit.write("objective.cancelled", objective=objective_id, by=who)
        return self._bridge.store.objective(objective_id)

    # tasks

    def requeue(self, task_id: str, who: str) -> Task:
        """A dead task gets one more attempt under its own id; a score that it had goes into the audit log.

        Raises Refused for what is not dead, or whose time is over.
        """
        bridge = self._bridge
        task = bridge.store.task(task_id)
        if task.state != "dead":
            raise Refused(f"{task_id} is {task.state}; only a dead task is requeued")
        manifest = bridge.exchange.get(task.id).manifest
        if manifest is None:
            raise Refused(f"the exchange no longer keeps {task_id}; submit its objective again")
        if bridge.clock.now() >= manifest.expires_at:
            raise Refused(f"the time of {task_id} ended at {iso(manifest.expires_at)}; submit its objective again")
        bridge.audit.write("task.requeued", task=task.id, domain=task.domain, by=who, tes=task.tes, was=task.why)
        bridge.store.run("task_requeued", task.id)
        again = bridge.exchange.requeue(task.id)
        if again:
            bridge.store.run("task_requeued", task.id)  # once more: the reaper may have seen it dead in between
        intake(bridge, [bridge.store.task(task.id)])
        bridge.bell.ring()
        if not again:
            raise Refused(f"the exchange does not take {task_id} back: {bridge.store.task(task_id).why or 'no grant'}")
        return bridge.store.task(task.id)

    def cancel(self, task_id: str, why: str, who: str) -> Task:
        """Ends what has not begun; a running one is asked to stop, which is an override."""
        bridge = self._bridge
        task = bridge.store.task(task_id)
        if task.state == "cancelled":
            return task
        reason = f"cancelled by {who}" + (f": {why}" if why else "")
        if (task.state in ("held", "proposed") and not task.approved_as) or (
            task.state == "ready" and task.dispatched_at is None
        ):
            bridge.store.answer_task(task, "cancelled", reason)
            bridge.audit.write("task.cancelled", task=task_id, by=who, why=why)
            bridge.bell.ring()
            return bridge.store.task(task_id)
        if task.state not in OPEN:
            raise Refused(f"{task_id} is {task.state}; there is nothing to cancel")
        intake(bridge)
        running = bridge.store.task(task_id).state == "claimed"
        if not bridge.exchange.cancel(task.id, reason):
            intake(bridge)
            raise Refused(f"{task_id} ended before it could be cancelled")
        if running:
            bridge.override("task.cancelled_running", task=task_id, by=who, why=why)
        else:
            bridge.audit.write("task.cancelled", task=task_id, by=who, why=why)
        intake(bridge)
        return bridge.store.task(task_id)

    # undo

    def dependants(self, task: Task) -> list[Task]:
        """Later done tasks that changed the same targets, newest first: they go before this one or nothing does."""
        store = self._bridge.store
        found: dict[str, Task] = {}
        if task.ended_at is None:
            return []
        for (target,) in store.rows("targets_of", task.id):
            for (other,) in store.rows("targets_later", target, iso(task.ended_at), task.id):
                found.setdefault(other, store.task(other))
        return sorted(found.values(), key=lambda each: (each.ended_at or each.created_at, each.id), reverse=True)

    def undo_possible(self, task: Task) -> tuple[bool, str]:
        """Whether an undo would be tried, and why or why not."""
        manifest = self._bridge.domains.get(task.domain)
        if manifest is not None and manifest.effects == "irreversible" and not (task.undo_of or task.rehearsal):
            return False, f"{task.domain} declares its effects irreversible"
        if task.state in CUT_SHORT and self._kept_by_another(task):
            return self._cut_short(task)
        if task.undo_of and task.state == "done":
            return _redo_possible(task)
        if task.state == "claimed" and not (task.undo_of or task.rehearsal):
            return False, "claimed: it is under way; once it has ended, what it changed can be undone"
        if task.undo_of or task.rehearsal or task.state not in ("done", "undone", "failed"):
            return False, f"{task.state}: nothing was changed" if task.state != "undone" else "already undone"
        if task.state == "undone":
            return False, "already undone"
        ack = task.ack or {}
        if ack.get("status") == "no_work" or (task.state == "failed" and not ack.get("applied")):
            return False, "nothing was changed"
        if task.state == "failed":
            return False, "undone by the agent when it failed" if ack.get("reverted") else "failed halfway; see its ack"
        later = self.dependants(task)
        if later:
            return True, f"{len(later)} later tasks changed the same files: undo them first, or --cascade"
        return True, "its agent journaled every change"

    def _kept_by_another(self, task: Task) -> bool:
        """Its effects lie in the station's own journal, whatever became of the program that made them."""
        return not (task.undo_of or task.rehearsal) and self._undoer(task) != task.owner

    def _cut_short(self, task: Task) -> tuple[bool, str]:
        """A governed program that failed, was stopped, or was lost may have left changes behind."""
        ack = task.ack or {}
        if ack.get("agent") != task.owner:  # it did not answer itself
            begun = task.attempt > 0
            return begun, "what it changed is in the journal" if begun else f"{task.state}: it never began"
        if not ack.get("applied") or ack.get("reverted"):
            return False, "its changes were taken back when it ended" if ack.get("reverted") else "nothing was changed"
        return True, "what it changed before it ended is in the journal"

    def undo(self, task_id: str, *, dry_run: bool, cascade: bool, who: str, wait_seconds: float) -> Undone:
        """Ask the owner to reverse a task; goes on under the kill switch. An override unless it is a dry run.

        Raises Refused when there is nothing to undo or dependants stand.
        """
        task = self._bridge.store.task(task_id)
        if task.state == "undone":
            return Undone(
                done=True, detail=f"already undone; nothing was changed{self._way_forth(task)}", steps=(), task_id=""
            )
        possible, reason = self.undo_possible(task)
        if not possible:
            raise Refused(f"{task_id} can't be undone: {reason}")
        later = self.dependants(task)
        if later and not cascade:
            names = ", ".join(each.id for each in later[:5])
            raise Refused(f"{task_id} can't be undone while {names} stand on it; undo them first or use --cascade")
        ends = self._bridge.clock.monotonic() + wait_seconds
        steps: list[str] = []
        for n, each in enumerate(later):
            made = self._undo_one(each, dry_run, who, ends, after=later[:n])
            steps += [f"{each.id}: {step}" for step in made.steps]
            if not made.done:
                return replace(made, detail=f"{each.id} stands on it: {made.detail}", steps=tuple(steps))
        made = self._undo_one(task, dry_run, who, ends, after=later)
        return replace(made, steps=(*steps, *made.steps))

    def _way_forth(self, task: Task) -> str:
        """How an undone task's effects come back, where they can."""
        undos = self._bridge.store.tasks("tasks_undoing", task.id)
        last = next((each for each in reversed(undos) if each.state == "done" and _redo_possible(each)[0]), None)
        return "" if last is None else f"; to have it as it was before that: calyx undo {last.id}"

    def _undo_one(self, task: Task, dry_run: bool, who: str, ends: float, after: Sequence[Task]) -> Undone:
        """`after`: later tasks that a dry run takes for undone already."""
        bridge = self._bridge
        earlier = [
            each for each in bridge.store.tasks("tasks_undoing", task.id)
            if (each.params.get("dry_run") == "true") == dry_run
        ]  # fmt: skip
        if earlier and earlier[-1].state in OPEN:
            undo = earlier[-1]
        else:
            undo = Task(
                id=undo_id(task.id, len(earlier) + 1, dry_run=dry_run),
                domain=task.domain,
                procedure=task.procedure,
                owner=self._undoer(task),
                state="ready",
                level=Level.EXECUTE,
                created_at=bridge.clock.now(),
                objective=f"undo {task.id}",
                params=_dry_run(after) if dry_run else {},
                undo_of=task.id,
                gates=UNDO_GATES,
            )
            if not dry_run:
                note = bridge.audit.write if who == STATION else bridge.override
                note("task.undo", task=task.id, undo=undo.id, by=who)
            bridge.store.add_task(undo)
        if undo.dispatched_at is None:
            self._dispatcher.send([undo])
        while True:
            intake(bridge)
            kept = bridge.store.task(undo.id)
            if kept.state not in OPEN:
                break
            if bridge.clock.monotonic() >= ends:
                return Undone(
                    done=False, detail=f"{undo.owner} has not answered yet; it goes on", steps=(), task_id=undo.id
                )
            bridge.clock.wait(POLL_SECONDS)
        ack = kept.ack or {}
        return Undone(
            done=ack.get("status") == "undone",
            detail=str(ack.get("detail", "")) or kept.why,
            steps=tuple(_step(each) for each in ack.get("effects", ())),
            task_id=undo.id,
        )

    def _undoer(self, task: Task) -> str:
        """Who did it, unless its domain names another (whose journal has the effects)."""
        manifest = self._bridge.domains.get(task.domain)
        return task.owner if manifest is None or manifest.undo_by == manifest.owner else manifest.undo_by

    # levels, domains, kill switch

    def set_level(self, domain: str, level: Level, why: str, pulse: int, who: str) -> Rung:
        """An override. Raises InvalidInput without a reason or above the manifest's limit, NotFound."""
        if not why.strip():
            raise InvalidInput("say why: a forced level goes into the record with its reason")
        before = self._bridge.ladder.rung(domain).standing.level
        self._bridge.ladder.force(domain, level, f"{why} (by {who})", pulse, self._bridge.clock.now())
        self._bridge.override("level.set", domain=domain, before=before.name, level=level.name, by=who, why=why)
        return self._bridge.ladder.rung(domain)

    def set_kill_switch(self, engaged: bool, why: str, who: str) -> bool:
        """Engage (an override) or release; False when it was so before."""
        bridge = self._bridge
        with self._switch:  # else `notice_kill_switch` sees the flag first and counts the override once more
            if engaged == bridge.kill_switch.engaged():
                return False
            if engaged:
                if not why.strip():
                    raise InvalidInput("say why: the next person to look will want to know")
                bridge.kill_switch.engage(why.strip()[:500], who, bridge.clock.now())
            else:
                bridge.kill_switch.release()
            try:
                if engaged:
                    bridge.override("kill_switch.engaged", by=who, why=why.strip()[:500])
                else:
                    bridge.audit.write("kill_switch.released", by=who)
                self._know(engaged)
            except (OSError, sqlite3.Error) as error:
                # It has taken effect, and the person must hear that; `notice_kill_switch` keeps trying to record it.
                log.error("the kill switch is not recorded yet", engaged=engaged, by=who, why=str(error))
            return True

    def _know(self, engaged: bool) -> None:
        self._engaged = engaged
        with self._bridge.store.transaction():
            self._bridge.store.set_fact("kill_switch", "engaged" if engaged else "")
            self._bridge.store.set_fact("kill_switch_since", iso(self._bridge.clock.now()) if engaged else "")

    def notice_kill_switch(self) -> None:
        """A flag set or removed by hand goes into the audit log too, as soon as it is seen."""
        bridge = self._bridge
        with self._switch:
            engaged = bridge.kill_switch.engaged()
            if engaged == self._engaged:
                return
            if engaged:
                said = bridge.kill_switch.by()
                by = f"the flag file ({said})" if said else "the flag file"
                bridge.override("kill_switch.engaged", by=by, why=bridge.kill_switch.why())
            else:
                bridge.audit.write("kill_switch.released", by="the flag file")
            self._know(engaged)


def _dry_run(after: Sequence[Task]) -> dict[str, str]:
    return {"dry_run": "true", **({"after": ",".join(each.id for each in after)} if after else {})}


def _redo_possible(undo: Task) -> tuple[bool, str]:
    """An undo can be undone where its doer kept what it changed."""
    effects = (undo.ack or {}).get("effects", ())
    if undo.params.get("dry_run") == "true" or not effects:
        return False, "nothing was changed"
    if not all(isinstance(each, dict) and each.get("kept") is True for each in effects):
        return False, "what it changed was not kept"
    return True, "an undo whose former state was kept: the task's effects come back"


def _step(effect: object) -> str:
    if isinstance(effect, Mapping):
        return str(effect.get("step") or effect.get("detail") or " ".join(str(each) for each in effect.values()))
    return str(effect)
