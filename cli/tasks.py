"""`calyx task` and `calyx undo`: units of work, your answers to them, and the way back."""

import json as jsonlib
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, optional, say, shown
from cli.reach import Reach, reach_of
from cli.reproduce import reproduce
from cli.tables import Column, bullet, facts, table, tell
from cli.times import ago, local, readable

STATES = (
    "held", "proposed", "waiting", "ready", "claimed", "rehearsed", "done", "failed", "expired", "cancelled",
    "rejected", "dead", "undone",
)  # fmt: skip
LEVELS = ("UNSPECIFIED", "OBSERVE", "SUGGEST", "GUIDE", "EXECUTE")


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    for name, command in (
        ("list", list_),
        ("show", show),
        ("approve", approve),
        ("reject", reject),
        ("cancel", cancel),
        ("requeue", requeue),
        ("reproduce", reproduce),
    ):
        group.command(name)(command)
    app.add_typer(group, name="task", help="Tasks with every gate's answer. Example: calyx task list")
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
        "why": task.why,
    }


def answers_to(task: dict[str, Any]) -> str:
    """The command that answers a waiting task."""
    if task["state"] == "rehearsed" or _unrehearsed(task):
        return f"calyx task approve {task['id']}"
    if task["state"] == "proposed":
        return f"calyx task reject {task['id']} --why … | calyx ladder set {task['domain']} GUIDE --why …"
    return f"calyx task show {task['id']}"


def _unrehearsed(task: dict[str, Any]) -> bool:
    """Proposed although its kind of work may rehearse: its agent can't, so the yes is to the task itself."""
    return bool(task["state"] == "proposed" and task["level"] == "GUIDE")


def _answers(task: dict[str, Any]) -> list[str]:
    """Every command that answers, one a line."""
    if task["state"] == "rehearsed" or _unrehearsed(task):
        return [
            f"calyx task show {task['id']}",
            f"calyx task approve {task['id']}",
            f'calyx task reject {task["id"]} --why "…"',
        ]
    if task["state"] == "proposed":
        return [
            f'calyx task reject {task["id"]} --why "…"',
            f'calyx ladder set {task["domain"]} GUIDE --why "…"',
        ]
    return [answers_to(task)]


def list_(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help=f"Only this state: {', '.join(STATES)}.")] = "",
    domain: Annotated[str, typer.Option(help="Only this domain.")] = "",
    query: Annotated[str, typer.Option(help="Only with all of these words in objective, domain or reason.")] = "",
    last: Annotated[int, typer.Option("--last", min=1, max=500, help="How many.")] = 50,
    json: JsonFlag = False,
) -> None:
    """Tasks, newest first. Example: calyx task list --state failed --query "web logs" """
    from calyx.cbo.v1 import cbo_pb2 as pb

    if state and state not in STATES:
        raise InvalidInput(f"{state!r} is not a task's state; choose from {', '.join(STATES)}")
    reach = reach_of(ctx)
    answer = reach.cbo().ListTasks(pb.ListTasksRequest(limit=last, state=state, domain=domain, query=query))
    found = sorted((row_json(t) for t in answer.tasks), key=lambda t: t["at"] or "", reverse=True)
    narrowed = " ".join(word for word in (state, domain, query) if word)
    empty = (
        f"No tasks that match ({narrowed}); `calyx task list` shows all."
        if narrowed
        else "No tasks yet: the next pulse plans the first (`calyx pulse --now`); `calyx objective add` gives work."
    )
    emit({"tasks": found}, json, lambda v: _rows(v["tasks"], empty, reach))


def show(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """One task with every gate's answer. Example: calyx task show t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    emit(as_json(reach.cbo().GetTask(pb.GetTaskRequest(id=id)).task), json, lambda t: _words(t, reach))


def approve(
    ctx: typer.Context,
    id: str,
    plan_digest: Annotated[str, typer.Option(help="The plan you saw; left out: the one it has now.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say yes to a rehearsed plan, or to a task that can't be rehearsed. Example: calyx task approve t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    cbo = reach_of(ctx).cbo()
    seen = cbo.GetTask(pb.GetTaskRequest(id=id)).task
    digest = plan_digest or seen.plan_digest
    answer = cbo.ApproveTask(pb.ApproveTaskRequest(id=id, plan_digest=digest))
    said = f" plan {digest[:12]}" if digest else ""

    def words(task: dict[str, Any]) -> None:
        if answer.already:
            say(f"approved before as {task['id']} ({task['state']}); nothing was done")
        else:
            say(f"approved{said}; {task['id']} ({task['state']}) will do it")

    emit({**as_json(answer.task), "already": answer.already}, json, words)


def reject(
    ctx: typer.Context,
    id: str,
    why: Annotated[str, typer.Option("--why", "--reason", help="The reason.")],
    json: JsonFlag = False,
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


def requeue(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """Give a dead task one more attempt, within its time. Example: calyx task requeue t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    task = reach_of(ctx).cbo().RequeueTask(pb.RequeueTaskRequest(task_id=id)).task
    emit(as_json(task), json, lambda t: say(f"{t['id']} is {t['state']} again"))


def undo(
    ctx: typer.Context,
    task: str,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    cascade: Annotated[bool, typer.Option("--cascade", help="Undo what was built on it first.")] = False,
    json: JsonFlag = False,
) -> None:
    """Reverse a task's effects; refuses on drift. Example: calyx undo t-000000012-1 --dry-run"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.cbo().Undo(pb.UndoRequest(id=task, dry_run=dry_run, cascade=cascade), timeout=60)
    value = {
        "done": answer.done,
        "dry_run": dry_run,
        "detail": answer.detail,
        "steps": list(answer.steps),
        "undo_task": answer.undo_task_id,
    }

    def words(v: dict[str, Any]) -> None:
        here = f"{reach.layout.root}/"
        said = (v["detail"] or ("undone" if v["done"] else "not undone")).replace(here, "")
        tell(f"{'Dry run, nothing was changed: ' if dry_run else ''}{said}")
        for step in v["steps"]:
            bullet(step.replace(here, ""))
        if v["steps"]:
            say(f"Paths are in {reach.layout.root}.")
        if dry_run and v["done"]:
            say(f"To do it: calyx undo {task}{' --cascade' if cascade else ''}")

    emit(value, json, words)
    if not answer.done:
        raise Exit(1)


def _rows(tasks: list[dict[str, Any]], empty: str, reach: Reach) -> None:
    table(
        (
            Column("id"), Column("state", "state"), Column("level", drop=2), Column("domain"),
            Column("procedure", drop=3), Column("TES", "number"), Column("planned", drop=1),
            Column("objective", "words", drop=4),
        ),
        [
            (
                t["id"], t["state"], t["level"], t["domain"], t["procedure"], t["tes"],
                ago(t["at"], reach.clock.now()), t["objective"],
            )
            for t in tasks
        ],
        empty,
    )  # fmt: skip


def _words(task: dict[str, Any], reach: Reach) -> None:
    now, here = reach.clock.now(), f"{reach.layout.root}/"
    tell(f"{task['id']}: {task['objective']}")
    expected = "unknown" if task["prediction"] is None else f"{task['prediction']:.0%}"
    rows: list[tuple[str, Any]] = [
        ("state", f"{task['state']}, planned {ago(task['at'], now)} at level {task['level']}"),
        ("work", f"{task['domain']} / {task['procedure']} by {task['owner']}"),
        ("success", f"predicted {expected}"),
        ("TES", f"{shown(task['tes'])}{f' ({_said})' if (_said := task['tes_note']) else ''}"),
    ]
    said = (task["ack"] or {}).get("detail", "")
    if task["why"] and task["why"] != said:
        rows.append(("why", readable(task["why"].replace(here, ""), now)))
    if said:
        rows.append(("said", said.replace(here, "")))
    for change in (task["plan"] or {}).get("changes", []):
        target = str(change["target"]).replace(here, "")
        rows.append(("plan", f"{change['op']} {target} ({change['size_bytes']} bytes)"))
    for each in task["verifications"]:
        when = "" if each["probed_at"] or not each["due_at"] else f", due {local(each['due_at'], now)}"
        detail = f": {each['detail'].replace(here, '')}" if each["detail"] else ""
        rows.append((_window(each["window"]), f"{each['verdict'] or 'not yet'}{when}{detail}"))
    rows.append(("undo", f"{'possible' if task['undo']['possible'] else 'not possible'}: {task['undo']['reason']}"))
    facts(rows)
    if task["gates"]:
        say("")
        table(
            (Column("gate"), Column("answer", "state"), Column("reason", "words")),
            [(g["gate"].replace("_", " "), g["answer"], readable(g["reason"], now)) for g in task["gates"]],
            "",
        )
    if task["state"] in ("rehearsed", "proposed"):
        say("")
        say("Answer with:")
        for command in _answers(task):
            if not command.startswith("calyx task show"):
                say(f"  {command}")


def _window(window: str) -> str:
    return "at once" if window == "0" else f"after {window.lstrip('+')}"


def _parsed(text: str) -> Any:
    return jsonlib.loads(text) if text else None
