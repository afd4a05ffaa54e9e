"""`calyx ladder`: how far each kind of work may go unattended, and why."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput, NotFound
from cli.output import JsonFlag, at, emit, optional, say, shown, table
from cli.reach import reach_of
from cli.tasks import LEVELS, level_name


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, callback=ladder)
    group.command("explain")(explain)
    group.command("set")(set_)
    app.add_typer(
        group, name="ladder", help="Levels: Watch (OBSERVE), Suggest, Rehearse and ask (GUIDE), Act (EXECUTE)."
    )


def as_json(entry: Any) -> dict[str, Any]:
    return {
        "domain": entry.domain,
        "level": level_name(entry.level),
        "max_level": level_name(entry.max_level),
        "reason": entry.reason,
        "run": entry.run,
        "run_required": entry.run_required,
        "tes_last": optional(entry, "tes_last"),
        "failures_20": entry.failures_20,
        "mean_12": optional(entry, "mean_12"),
        "probation": entry.probation,
        "evidence": entry.evidence,
        "frozen": entry.frozen,
        "next": entry.next,
        "changed_at": at(entry, "changed_at"),
    }


def ladder(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Each domain's level. Example: calyx ladder --json"""
    if ctx.invoked_subcommand is not None:
        return
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().GetLadder(pb.GetLadderRequest())
    emit(
        {"domains": [as_json(entry) for entry in answer.domains]},
        json,
        lambda v: table(
            ("domain", "level", "max", "run", "TES last", "failures/20", "why"),
            [
                (
                    d["domain"], d["level"] + (" (probation)" if d["probation"] else ""), d["max_level"],
                    f"{d['run']}/{d['run_required']}", d["tes_last"], d["failures_20"], d["reason"],
                )
                for d in v["domains"]
            ],
            "no domains",
        ),
    )  # fmt: skip


def explain(ctx: typer.Context, domain: str, json: JsonFlag = False) -> None:
    """Why this level, and what would change it. Example: calyx ladder explain log_rotation"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().GetLadder(pb.GetLadderRequest(domain=domain))
    if not answer.domains:
        raise NotFound(f"no domain {domain!r}; `calyx ladder` lists them")

    def words(d: dict[str, Any]) -> None:
        say(f"{d['domain']}: {d['level']} (never above {d['max_level']}), since {shown(d['changed_at'])}")
        say(f"  why: {d['reason']}")
        say(f"  run {d['run']} of {d['run_required']} pulses above TES 95; last {shown(d['tes_last'])}")
        say(
            f"  mean of the last 12 pulses with work {shown(d['mean_12'])}; failures in the last 20: {d['failures_20']}"
        )
        if d["probation"]:
            say(f"  probation: evidence {d['evidence']:.2f} of 20, at most one effect a pulse")
        if d["frozen"]:
            say("  frozen until a known TES or a person")
        say(f"  next: {d['next']}")

    emit(as_json(answer.domains[0]), json, words)


def set_(
    ctx: typer.Context,
    domain: str,
    level: Annotated[str, typer.Argument(help="OBSERVE, SUGGEST, GUIDE or EXECUTE.")],
    why: Annotated[str, typer.Option(help="The reason; it is kept.")],
    json: JsonFlag = False,
) -> None:
    """Force a level; an override. Example: calyx ladder set log_rotation GUIDE --why "watching it first" """
    from calyx.cbo.v1 import cbo_pb2 as pb
    from calyx.common.v1 import common_pb2

    if level.upper() not in LEVELS[1:]:
        raise InvalidInput(f"{level!r} is not a level; choose from {', '.join(LEVELS[1:])}")
    wanted = common_pb2.Level.Value(f"LEVEL_{level.upper()}")
    entry = reach_of(ctx).cbo().SetLevel(pb.SetLevelRequest(domain=domain, level=wanted, why=why)).entry
    emit(as_json(entry), json, lambda d: say(f"{d['domain']} is at {d['level']}: {d['reason']}"))
