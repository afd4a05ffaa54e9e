"""`calyx task`, `calyx inbox`, `calyx undo`: units of work, what waits for you, and the way back."""

import json as jsonlib
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from cli.output import JsonFlag, at, emit, optional, say, shown, table
from cli.reach import reach_of

LEVELS = ("UNSPECIFIED", "OBSERVE", "SUGGEST", "GUIDE", "EXECUTE")


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    for name, command in (
        ("list", list_),
        ("show", show),
        ("approve", approve),
        ("reject", reject),
        ("cancel", cancel),
    ):
        group.command(name)(command)
    app.add_typer(group, name="task", help="Tasks with every gate's answer.")
    app.command("inbox")(inbox)
    app.command("undo")(undo)


def level_name(level: int) -> str:
    return LEVELS[level] if 0 <= level < len(LEVELS) else "UNSPECIFIED"


def row_json(task: Any) -> dict[str, Any]:
    return {
        "id": task.id,
        "objective": task.objective,
        "domain": task.domain,
        "procedure": task.procedure,
        "state": task.state,
        "level": level_name(task.level),
        "at": at(task, "created_at"),
        "tes": optional(task, "tes"),
    }


def as_json(task: Any) -> dict[str, Any]:
    return {
        **row_json(task),
        "owner": task.owner,
        "attempt": task.attempt,
        "gates": [{"gate": g.gate, "answer": g.answer, "reason": g.reason} for g in task.gates],
        "prediction": optional(task, "prediction"),
        "tes_note": task.tes_note,
        "verifications": [
            {
                "window": v.window,
                "verdict": v.verdict,
                "due_at": at(v, "due_at"),
                "probed_at": at(v, "probed_at"),
                "prober": v.prober,
                "detail": v.detail,
            }
            for v in task.verifications
        ],
        "undo": {"possible": task.undo_possible, "reason": task.undo_reason},
        "objective_id": task.objective_id,
        "plan_digest": task.plan_digest,
        "plan": _parsed(task.plan_json),
        "ack": _parsed(task.ack_json),
        "rehearsal_of": task.rehearsal_of,
        "pulse": task.pulse_id,
        "ended_pulse": task.ended_pulse_id,
        "ended_at": at(task, "ended_at"),
        "choices": list(task.choices),
    }


def answers_to(task: dict[str, Any]) -> str:
    """The command that answers a waiting task."""
    if task["state"] == "rehearsed":
        return f"calyx task approve {task['id']}"
    if task["state"] == "proposed":
        return f"calyx task reject {task['id']} --why … | calyx ladder set {task['domain']} GUIDE --why …"
    return f"calyx task show {task['id']}"


def list_(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="Only this state (held, ready, rehearsed, done, failed, …).")] = "",
    domain: Annotated[str, typer.Option(help="Only this domain.")] = "",
    last: Annotated[int, typer.Option("--last", min=1, max=500, help="How many.")] = 50,
    json: JsonFlag = False,
) -> None:
    """Tasks, newest first. Example: calyx task list --state rehearsed"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().ListTasks(pb.ListTasksRequest(limit=last, state=state, domain=domain))
    emit({"tasks": [row_json(t) for t in answer.tasks]}, json, lambda v: _rows(v["tasks"], "no tasks"))


def inbox(ctx: typer.Context, json: JsonFlag = False) -> None:
    """What waits for you, newest first, with the command that answers it. Example: calyx inbox"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().ListTasks(pb.ListTasksRequest(limit=100, waiting_for_person=True))
    waiting = [{**row_json(task), "answer_with": answers_to(row_json(task))} for task in answer.tasks]
    emit(
        {"tasks": waiting},
        json,
        lambda v: table(
            ("id", "domain", "state", "objective", "answer with"),
            [(t["id"], t["domain"], t["state"], t["objective"], t["answer_with"]) for t in v["tasks"]],
            "nothing waits for you",
        ),
    )


def show(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """One task with every gate's answer. Example: calyx task show t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    emit(as_json(reach_of(ctx).cbo().GetTask(pb.GetTaskRequest(id=id)).task), json, _words)


def approve(
    ctx: typer.Context,
    id: str,
    plan_digest: Annotated[str, typer.Option(help="The plan you saw; left out: the one it has now.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say yes to a rehearsed plan; a second task does it. Example: calyx task approve t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    cbo = reach_of(ctx).cbo()
    digest = plan_digest or cbo.GetTask(pb.GetTaskRequest(id=id)).task.plan_digest
    task = cbo.ApproveTask(pb.ApproveTaskRequest(id=id, plan_digest=digest)).task
    emit(as_json(task), json, lambda t: say(f"approved plan {digest[:12]}; {t['id']} ({t['state']}) will do it"))


def reject(
    ctx: typer.Context, id: str, why: Annotated[str, typer.Option(help="The reason.")], json: JsonFlag = False
) -> None:
    """Say no to a proposal; not an override. Example: calyx task reject t-000000012-1 --why "not now" """
    from calyx.cbo.v1 import cbo_pb2 as pb

    task = reach_of(ctx).cbo().RejectTask(pb.RejectTaskRequest(id=id, why=why)).task
    emit(as_json(task), json, lambda t: say(f"{t['id']} is {t['state']}"))


def cancel(
    ctx: typer.Context, id: str, why: Annotated[str, typer.Option(help="The reason.")] = "", json: JsonFlag = False
) -> None:
    """Stop a task; cancelling a running one is an override. Example: calyx task cancel t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    request = pb.CancelTaskRequest(id=id, why=why or "cancelled at the command line")
    emit(as_json(reach_of(ctx).cbo().CancelTask(request).task), json, lambda t: say(f"{t['id']} is {t['state']}"))


def undo(
    ctx: typer.Context,
    task: str,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    cascade: Annotated[bool, typer.Option("--cascade", help="Undo what was built on it first.")] = False,
    json: JsonFlag = False,
) -> None:
    """Reverse a task's effects; refuses on drift. Example: calyx undo t-000000012-1 --dry-run"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().Undo(pb.UndoRequest(id=task, dry_run=dry_run, cascade=cascade), timeout=60)
    value = {
        "done": answer.done,
        "dry_run": dry_run,
        "detail": answer.detail,
        "steps": list(answer.steps),
        "undo_task": answer.undo_task_id,
    }

    def words(v: dict[str, Any]) -> None:
        for step in v["steps"]:
            say(f"  {step}")
        say(v["detail"] or ("undone" if v["done"] else "not undone"))

    emit(value, json, words)
    if not answer.done:
        raise Exit(1)


def _rows(tasks: list[dict[str, Any]], empty: str) -> None:
    table(
        ("id", "state", "level", "domain", "procedure", "TES", "at", "objective"),
        [
            (t["id"], t["state"], t["level"], t["domain"], t["procedure"], t["tes"], t["at"], t["objective"])
            for t in tasks
        ],
        empty,
    )


def _words(task: dict[str, Any]) -> None:
    say(f"{task['id']}: {task['objective']}")
    say(f"{task['domain']} / {task['procedure']} by {task['owner']}, {task['state']} at level {task['level']}")
    for gate in task["gates"]:
        say(f"  gate {gate['gate']}: {gate['answer']} – {gate['reason']}")
    say(f"  predicted {shown(task['prediction'])}, TES {shown(task['tes'])} {task['tes_note']}".rstrip())
    for each in task["verifications"]:
        say(f"  after {each['window']}: {each['verdict']} {each['detail']}".rstrip())
    for change in (task["plan"] or {}).get("changes", []):
        say(f"  plan: {change['op']} {change['target']} ({change['size_bytes']} bytes)")
    say(f"  undo {'possible' if task['undo']['possible'] else 'not possible'}: {task['undo']['reason']}")
    say(f"  answer with: {answers_to(task)}" if task["state"] in ("rehearsed", "proposed") else "")


def _parsed(text: str) -> Any:
    return jsonlib.loads(text) if text else None
