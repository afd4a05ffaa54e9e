"""What a model is told to do next: pure, from what the station answered."""

from typing import Literal

from cli.mcp import answers
from cli.mcp.keeper import Held


def because(task: answers.Task) -> str:
    return f" ({task.reason})" if task.reason else ""


def after_proposal(task: answers.Task) -> str:
    if task.approved_as:
        return f"It was approved: claim {task.approved_as}."
    if task.waits_for_person:
        return f"Call request_approval with task_id {task.task_id}, then await_approval."
    if task.ended:
        return "It has ended; nothing is to be done about it. Another idempotency_key makes a new task."
    if task.state == "ready":
        return f"Claim it: claim with task_id {task.task_id}."
    return f"It is {task.state}; look again with status, or claim with task_id {task.task_id} to wait for it."


def approval(task: answers.Task, *, asked: bool) -> answers.Approval:
    if task.approved_as:
        return answers.Approval(
            answer="approved", task=task, run_task_id=task.approved_as, next=f"Claim {task.approved_as}."
        )
    if task.state == "rejected":
        return answers.Approval(
            answer="rejected", task=task, run_task_id="", next="Do not do it. Propose another way, or stop."
        )
    if task.ended and not task.waits_for_person:
        return answers.Approval(answer="ended", task=task, run_task_id="", next=after_proposal(task))
    if task.waits_for_person:
        return answers.Approval(
            answer="waiting", task=task, run_task_id="",
            next="No answer yet. Call await_approval again, or do something else meanwhile.",
        )  # fmt: skip
    if asked:  # it left the inbox without an end: that is a yes to this very task
        return answers.Approval(
            answer="approved", task=task, run_task_id=task.task_id, next=f"Claim {task.task_id}."
        )  # fmt: skip
    return answers.Approval(
        answer="not_needed", task=task, run_task_id="",
        next=f"No person is asked about it: it is {task.state}. {after_proposal(task)}",
    )  # fmt: skip


def claimed(held: Held | None, reason: str, every: float) -> answers.Claimed:
    if held is None:
        return answers.Claimed(
            claimed=False, task=None, mode="none", epoch=None, expires_at=None, undo_of="", approved_plan="",
            heartbeat_every_seconds=None,
            next=f"Nothing was claimed: {reason or 'no task is ready for you'}. Wait, or see status.",
        )  # fmt: skip
    manifest = held.manifest
    undo_of = str(manifest.get("undo_of") or "")
    mode: Literal["rehearse", "perform", "undo"] = (
        "rehearse" if manifest.get("rehearsal") else "undo" if undo_of else "perform"
    )
    return answers.Claimed(
        claimed=True, task=held.task, mode=mode, epoch=held.epoch,
        expires_at=manifest.get("expires_at") or None, undo_of=undo_of,
        approved_plan=str(manifest.get("plan_digest") or ""), heartbeat_every_seconds=every,
        next={
            "rehearse": "Change nothing. Find out what you would change, then ack rehearsed with the plan, or no_work.",
            "perform": "Before each change call heartbeat and go on only if may_act is true; then ack.",
            "undo": f"Take back what {undo_of} did, heartbeat before each change; then ack undone, or failed.",
        }[mode],
    )  # fmt: skip


def after_order(order: answers.Order, may_act: bool) -> str:
    if order.order == "lost":
        return "Stop the work on it and ack nothing; it may be in other hands by now."
    if order.order == "stop":
        return "Stop the work, take back what is half done, then ack cancelled."
    if order.order == "sleep":
        return f"Pause{f' until {order.until}' if order.until else ''}, keep the task, then call heartbeat again."
    if not may_act:
        return "Make no change now. Call heartbeat again; if it stays so, ack failed with the reason."
    if order.order == "throttle":
        return f"Go on with at most {order.cpu_percent or 0:g} % of one core."
    return "Go on: make this one change, then ask again before the next."


def after_ack(task_id: str, status: str, on_record: str, *, recorded: bool) -> str:
    if not recorded:
        return f"An earlier ack stands ({on_record}); this one changed nothing."
    if status == "rehearsed":
        return f"The plan is checked, then a person may be asked: await_approval with task_id {task_id}."
    return "Recorded. Claim another task, or stop."
