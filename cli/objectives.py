"""`calyx objective`: work for the CBO."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.artifacts import hand_in
from cli.output import JsonFlag, at, emit, say
from cli.reach import reach_of
from cli.tables import Column, table
from cli.times import local, parse_moment, parse_span


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_)
    group.command("cancel")(cancel)
    app.add_typer(group, name="objective", help="What you want done, in words. Example: calyx objective list")


def parse_params(pairs: list[str], option: str = "--param takes key=value") -> dict[str, str]:
    """`k=v` pairs as a mapping. Raises InvalidInput."""
    params: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{option}, not {pair!r}")
        params[key] = value
    return params


def as_json(objective: Any) -> dict[str, Any]:
    schedule: dict[str, Any] | None = None
    if objective.HasField("schedule"):
        if objective.schedule.every_pulse:
            schedule = {"every_pulse": True}
        elif objective.schedule.HasField("every"):
            schedule = {"every_s": objective.schedule.every.ToTimedelta().total_seconds()}
        elif objective.schedule.HasField("at"):
            schedule = {"at": at(objective.schedule, "at")}
    return {
        "id": objective.id,
        "text": objective.text,
        "domain": objective.domain,
        "params": dict(objective.params),
        "schedule": schedule,
        "source": objective.source,
        "state": objective.state,
        "created_at": at(objective, "created_at"),
        "last_planned_at": at(objective, "last_planned_at"),
        "tasks": objective.tasks,
    }


def add(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What you want done.")],
    domain: Annotated[str, typer.Option(help="Kind of work; left out: the planner decides.")] = "",
    param: Annotated[list[str] | None, typer.Option(help="key=value for the procedure; repeatable.")] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(help="key=FILE: hand the file in, for what is too large for a param; repeatable."),
    ] = None,
    at: Annotated[str, typer.Option("--at", help="Once, at this time (2026-01-31T18:00, or a span like 2h).")] = "",
    every: Annotated[str, typer.Option("--every", help="Again and again at this interval (1h, 5s).")] = "",
    json: JsonFlag = False,
) -> None:
    """Give the station work. Example: calyx objective add "rotate the logs" --domain log_rotation --every 1h"""
    import secrets

    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    if at and every:
        raise InvalidInput("give either --at or --every, not both")
    request = pb.SubmitObjectiveRequest(
        text=text, domain=domain, params=parse_params(param or []), idempotency_key=secrets.token_hex(12)
    )
    for key, path in parse_params(file or [], "--file takes key=FILE").items():
        request.params[key] = hand_in(reach, Path(path))
    if every:
        seconds = parse_span(every)
        if seconds < 1:
            raise InvalidInput("--every is at least 1s")
        request.schedule.every.FromNanoseconds(round(seconds * 1e9))
    if at:
        request.schedule.at.FromDatetime(parse_moment(at, reach.clock.now(), ago=False))
    objective = reach.cbo().SubmitObjective(request).objective
    emit(as_json(objective), json, lambda o: say(_accepted(o, reach.clock.now())))


def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also those done or cancelled.")] = False,
    json: JsonFlag = False,
) -> None:
    """What the station has been asked to do. Example: calyx objective list --json"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    now = reach.clock.now()
    answer = reach.cbo().ListObjectives(pb.ListObjectivesRequest(include_finished=everything))
    emit(
        {"objectives": [as_json(o) for o in answer.objectives]},
        json,
        lambda v: table(
            (
                Column("id"), Column("state", "state"), Column("domain"), Column("when"),
                Column("tasks", "number"), Column("text", "words"),
            ),
            [
                (o["id"], o["state"], o["domain"] or "open", _when(o, now), o["tasks"], o["text"])
                for o in v["objectives"]
            ],
            "No objectives: nobody has asked for work. Try:\n"
            'calyx objective add "rotate the logs" --domain log_rotation --every 1h',
        ),
    )  # fmt: skip


def cancel(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """No further tasks from it. Example: calyx objective cancel obj-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    objective = reach_of(ctx).cbo().CancelObjective(pb.CancelObjectiveRequest(id=id)).objective
    emit(as_json(objective), json, lambda o: say(f"{o['id']} is {o['state']}"))


def _accepted(objective: dict[str, Any], now: datetime) -> str:
    kind = f" as {objective['domain']}" if objective["domain"] else ""
    return (
        f"{objective['id']}\n"
        f"accepted{kind}, {_when(objective, now)}; the next pulse plans it (`calyx task list`, `calyx inbox`)"
    )


def _when(objective: dict[str, Any], now: datetime) -> str:
    schedule = objective["schedule"]
    if schedule is None:
        return "once"
    if "every_pulse" in schedule:
        return "every pulse"
    return f"every {_exactly(schedule['every_s'])}" if "every_s" in schedule else f"at {local(schedule['at'], now)}"


def _exactly(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"
