"""A person's yes or no to what was rehearsed or proposed. A yes makes one task with effects; saying it again, too late,
or to another plan does nothing and says why."""

from dataclasses import replace

from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import Drifted, InvalidInput, Refused
from services.cbo.bridge import Bridge
from services.cbo.dispatch import Dispatcher
from services.cbo.tasks import Task, approved_id
from services.cbo.waiting import answer_until


class Approvals:
    """Idempotent and audited. `who` is the caller's name as the token gives it."""

    def __init__(self, bridge: Bridge, dispatcher: Dispatcher) -> None:
        self._bridge, self._dispatcher = bridge, dispatcher

    def approve(self, task_id: str, plan_digest: str, who: str) -> Task:
        """Yes to the plan the person saw: a second task with effects, at once. The same one when repeated.

        Raises Refused when there is nothing (any more) to approve, Drifted when the plan is another one.
        """
        bridge = self._bridge
        task = bridge.store.task(task_id)
        if task.approved_as:
            return bridge.store.task(task.approved_as)
        self._in_time(task)
        if task.state == "proposed":
            self._askable(task, plan_digest)
        else:
            self._approvable(task, plan_digest)
        second = replace(
            task,
            id=approved_id(task.id),
            state="ready",
            rehearsal=False,
            rehearsal_of=task.id if task.state == "rehearsed" else "",
            approval=who,
            approved_as="",
            ended_pulse_id="",
            created_at=bridge.clock.now(),
            dispatched_at=None,
            ended_at=None,
            scored=False,
            probe_tries=0,
            tes=None,
            tes_note="",
            stability=None,
            ack=None,
            why="",
            remembered=False,
            attempt=0,
        )
        second, gated = self._dispatcher.gate(second)
        if gated.verdict == "refuse":
            bridge.audit.write("policy.blocked", task=second.id, domain=second.domain, why=gated.reason)
            raise Refused(f"{task_id} can't run: {gated.reason}")
        hold = gated.verdict != "go"
        second = replace(second, state="held" if hold else "ready", why=gated.reason if hold else "")
        with bridge.store.transaction():
            won = bridge.store.run("task_approved", second.id, task.id)
            if won:
                bridge.store.add_task(second)
        if not won:
            return self._overtaken(task_id)
        bridge.audit.write("task.approved", task=task.id, second=second.id, plan=plan_digest, by=who)
        if not hold:
            self._dispatcher.send([second])
        bridge.bell.ring()
        return bridge.store.task(second.id)

    def _overtaken(self, task_id: str) -> Task:
        """Somebody answered in between."""
        now = self._bridge.store.task(task_id)
        if not now.approved_as:
            raise Refused(f"{task_id} is {now.state} by now ({now.why}); nothing was done")
        return self._bridge.store.task(now.approved_as)

    def _approvable(self, task: Task, plan_digest: str) -> None:
        """A rehearsed plan, and the one that the person saw."""
        if task.state != "rehearsed":
            why = f" ({task.why})" if task.why else ""
            raise Refused(f"{task.id} is {task.state}{why}; nothing was done, only a rehearsed plan is approved")
        if not task.scored:
            raise Refused(f"{task.id} has not been probed yet; the next pulse does it")
        if not plan_digest:
            raise InvalidInput("name the plan_digest you saw; `calyx task show` has it")
        if plan_digest != task.plan_digest:
            raise Drifted(f"the plan of {task.id} is {task.plan_digest[:12]}, not {plan_digest[:12]}; nothing was done")

    def _askable(self, task: Task, plan_digest: str) -> None:
        """A proposal that nobody can rehearse: then the yes is to the task itself, and there is no plan to name."""
        manifest = self._bridge.domains.get(task.domain)
        rehearses = manifest is not None and manifest.rehearses and not task.cannot_rehearse
        if manifest is None or rehearses or task.level is not Level.GUIDE:
            raise Refused(f"{task.id} is a suggestion, nothing was rehearsed; raise {task.domain} to GUIDE first")
        if plan_digest:
            raise InvalidInput(f"{task.id} was not rehearsed, so it has no plan; approve it without a plan_digest")

    def _in_time(self, task: Task) -> None:
        """Also before the sweep that ends what nobody answered has come by."""
        ends = answer_until(task, self._bridge.options.answer_within)
        if task.state in ("proposed", "rehearsed") and self._bridge.clock.now() >= ends:
            raise Refused(f"{task.id} could be answered until {iso(ends)}; nothing was done")

    def reject(self, task_id: str, why: str, who: str) -> Task:
        """No. Not an override."""
        task = self._bridge.store.task(task_id)
        if task.state == "rejected":
            return task
        if task.state not in ("proposed", "rehearsed") or task.approved_as:
            raise Refused(f"{task_id} is {'approved' if task.approved_as else task.state}; there is nothing to reject")
        self._in_time(task)
        self._bridge.store.answer_task(task, "rejected", f"rejected by {who}: {why}" if why else f"rejected by {who}")
        self._bridge.audit.write("task.rejected", task=task_id, by=who, why=why)
        self._bridge.store.run("objectives_finished")
        self._bridge.bell.ring()
        return self._bridge.store.task(task_id)
