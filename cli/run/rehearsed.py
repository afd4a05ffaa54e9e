"""A run at GUIDE: rehearsed on layers, shown, and once a person has said yes, exactly that is done."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chassis.errors import CalyxError, Drifted, Refused
from chassis.journal.watched import roots_of
from cli.run import entry
from cli.run.applying import announced, apply
from cli.run.asking import say
from cli.run.child import Child
from cli.run.plan import Plan, shown
from cli.run.stage import Cannot, Stage
from cli.run.station import AgentStation, Answer, Governing, Joined, Taken, allowed
from cli.run.watching import Pulse, Watched

if TYPE_CHECKING:
    from cli.run.governing import Run


def rehearse(
    run: "Run", station: AgentStation, joined: Joined, task_id: str, epoch: int, pulse: Pulse, folder: Path
) -> tuple[int, dict[str, Any]]:
    """Run it on the layers, show what it did, and do exactly that once a person has said yes."""
    began = run.clock.monotonic()
    try:
        stage = Stage(folder, roots_of(run.wish.paths, run.reach.layout.journal.resolve()), say)
        stage.look()
        child, went = run.run(task_id, joined, pulse, None, stage)
        plan = stage.plan()
    except (Cannot, CalyxError, OSError) as error:
        why = error.message if isinstance(error, CalyxError) else str(error)
        run.ack(station, task_id, epoch, Answer(status="failed", detail=why, seconds=0.0))
        raise Refused(f"not rehearsed: {why}") from error
    answer, lost = run.answer(child, went, (), run.clock.monotonic() - began)
    if answer.status == "no_work" and plan.changes:
        answer = replace(
            answer, status="rehearsed", detail=f"exit status 0; {plan.notes}", plan=plan.to_json(),
            plan_digest=plan.digest, claims=plan.claims,
        )  # fmt: skip
    recorded = "lost" if lost else run.ack(station, task_id, epoch, answer)
    pulse.stop()
    status = went.ended.status if went is not None else child.began.failed
    told = {
        "governed": True, "rehearsal": task_id, "task": task_id, "status": recorded, "files_changed": 0,
        "applied": False, "reverted": False, "landlock": child.began.landlock, "apart": child.began.apart,
        "throttled_by": "", "cost": dict(answer.cost or {}), "plan_digest": plan.digest,
        "plan": [each.to_json() for each in plan.changes],
    }  # fmt: skip
    if recorded != "rehearsed":
        if plan.changes:
            say(f"rehearsed, and not applied, as it ended with status {status}: {plan.notes}")
            say("a rehearsal has no network; --network asks you before it runs instead")
        return status, told
    try:
        say(f"rehearsed: {len(plan.changes):,} changes")
        task = entry.approval(run.reach, station, run.wish, task_id, plan.digest, shown(plan))
        taken, second = run.claim(station, joined, task)
        try:
            return status, told | _applied(run, station, task.id, taken, second, plan, (child, went))
        finally:
            second.stop()
    except (CalyxError, OSError) as error:
        why = error.message if isinstance(error, CalyxError) else str(error)
        say(why)
        return entry.REFUSED, told | {"refused": why}


def _applied(
    run: "Run", station: Governing, task_id: str, taken: Taken, pulse: Pulse, plan: Plan,
    ran: tuple[Child, Watched | None],
) -> dict[str, Any]:  # fmt: skip
    journal, began = run.journal(), run.clock.monotonic()
    problem: Exception | None = None

    def guard() -> None:
        if run.switch.engaged():
            raise Refused(f"the kill switch is on: {run.switch.why() or 'no reason given'}")
        if pulse.order.kind in ("STOP", "LOST"):
            raise Refused(pulse.order.reason or "the station stopped it")

    try:
        if taken.plan_digest != plan.digest:
            raise Drifted("another plan was approved; nothing was changed")
        with journal.watch(
            task_id,
            taken.epoch,
            run.wish.paths,
            guard=lambda: allowed(station, task_id, taken.epoch),
            announce=announced(plan),
        ) as seen:
            try:
                guard()
                apply(plan, guard)
            except (CalyxError, OSError) as error:
                problem = error
            answer, _ = run.answer(*ran, seen.settle(), run.clock.monotonic() - began)
            if problem is not None:
                stopped = run.switch.engaged() or pulse.order.kind in ("STOP", "LOST")
                answer = replace(
                    answer, status="cancelled" if stopped else "failed", detail=str(problem), claims=()
                )  # fmt: skip
            seen.finish({"status": answer.status, "detail": answer.detail, "applied": answer.applied})
    except (CalyxError, OSError) as error:
        why = error.message if isinstance(error, CalyxError) else str(error)
        run.ack(station, task_id, taken.epoch, Answer(status="cancelled", detail=why, seconds=0.0))
        raise
    if problem is not None and answer.applied:
        answer = run.take_back(journal, task_id, answer)
    recorded = run.ack(station, task_id, taken.epoch, answer)
    if problem is not None:
        raise problem
    run.say_undo(task_id, answer)
    return {
        "task": task_id, "status": recorded, "files_changed": answer.files_changed, "applied": answer.applied
    }  # fmt: skip
