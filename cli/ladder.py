"""`calyx ladder`: how far each kind of work may go unattended, and why."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput, NotFound
from cli.output import JsonFlag, at, emit, optional, say, shown
from cli.reach import reach_of
from cli.tables import Column, facts, table, tell
from cli.tasks import LEVELS, level_name
from cli.times import ago

WORDS = {
    "OBSERVE": "Watch (OBSERVE)",
    "SUGGEST": "Suggest (SUGGEST)",
    "GUIDE": "Rehearse and ask (GUIDE)",
    "EXECUTE": "Act (EXECUTE)",
}

EVIDENCE_GOAL = 20.0
"""Of a CBO that does not say it."""


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, callback=ladder)
    group.command("explain")(explain)
    group.command("set")(set_)
    app.add_typer(
        group,
        name="ladder",
        help="How far each kind of work may go alone. Levels: Watch (OBSERVE), Suggest (SUGGEST), Rehearse and ask "
        "(GUIDE), Act (EXECUTE). Example: calyx ladder",
    )


def as_json(entry: Any) -> dict[str, Any]:
    return {
        "domain": entry.domain,
        "level": level_name(entry.level),
        "earned_level": level_name(entry.earned_level or entry.level),
        "max_level": level_name(entry.max_level),
        "reason": entry.reason,
        "since": entry.since,
        "run": entry.run,
        "run_required": entry.run_required,
        "tes_last": optional(entry, "tes_last"),
        "failures_20": entry.failures_20,
        "mean_12": optional(entry, "mean_12"),
        "probation": entry.probation,
        "evidence": entry.evidence,
        "evidence_goal": entry.evidence_goal or EVIDENCE_GOAL,
        "effects_missing": entry.effects_missing,
        "demotions_288": entry.demotions_288,
        "unknown_run": entry.unknown_run,
        "frozen": entry.frozen,
        "obstacle": entry.obstacle,
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
        _table,
    )


def _table(value: dict[str, Any]) -> None:
    table(
        (
            Column("domain"), Column("level", "words"), Column("good\npulses"), Column("last\nTES", "number"),
            Column("failed\nof 20", "number"), Column("why", "words"),
        ),
        [
            (d["domain"], _level(d), _run(d), d["tes_last"], d["failures_20"], _why(d)[0])
            for d in value["domains"]
        ],
        "This station knows no kind of work yet: its domain manifests are missing (`calyx doctor`).",
    )  # fmt: skip
    say("`calyx ladder explain DOMAIN` tells what set a level and what would change it")


def _level(entry: dict[str, Any]) -> str:
    words = WORDS.get(entry["level"], str(entry["level"]))
    return f"{words}, probation" if entry["probation"] else words


def _run(entry: dict[str, Any]) -> str:
    """How far the run of good pulses is; once it is long enough, how long it is."""
    reached = entry["run"] >= entry["run_required"]
    return str(entry["run"]) if reached else f"{entry['run']} of {entry['run_required']}"


def _why(entry: dict[str, Any]) -> tuple[str, str]:
    """The reason of now, and what set the level (after `since:`)."""
    now, _, since = entry["reason"].partition(" (since: ")
    return now, since.removesuffix(")")


def explain(ctx: typer.Context, domain: str, json: JsonFlag = False) -> None:
    """Why this level, and what would change it. Example: calyx ladder explain log_rotation"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.cbo().GetLadder(pb.GetLadderRequest(domain=domain))
    if not answer.domains:
        raise NotFound(f"no domain {domain!r}; `calyx ladder` lists them")

    def words(d: dict[str, Any]) -> None:
        now, since = _why(d)
        highest = "" if d["level"] == d["max_level"] else f"; never above {WORDS.get(d['max_level'], d['max_level'])}"
        tell(f"{d['domain']}: {WORDS.get(d['level'], d['level'])}{highest}")
        rows: list[tuple[str, Any]] = [("now", now)]
        if since:
            rows.append(("level set", f"{ago(d['changed_at'], reach.clock.now())}: {since}"))
        if d["earned_level"] != d["level"]:
            rows.append(("earned", f"{WORDS[d['earned_level']]}; it comes back with a valid manifest"))
        rows += [
            ("good pulses", _good_pulses(d)),
            ("TES", f"last {shown(d['tes_last'])}, mean of the last 12 pulses with work {shown(d['mean_12'])}"),
            ("failures", f"{d['failures_20']} in the last 20 pulses with work; more than 2 demote"),
            ("probation", _probation(d)),
        ]
        if d["frozen"]:
            rows.append(("frozen", "until a known TES or a person"))
        elif d["unknown_run"]:
            rows.append(("unknown TES", f"{d['unknown_run']} in a row; 3 freeze the level"))
        if d["obstacle"]:
            rows.append(("in the way", f"{d['obstacle']}; until that changes it can't rise"))
        facts([*rows, ("next", d["next"].removesuffix(f"; {d['obstacle']}"))])

    emit(as_json(answer.domains[0]), json, words)


def _good_pulses(entry: dict[str, Any]) -> str:
    said = f"{_run(entry)} in a row (pulses with work and TES above 95)"
    times = entry["demotions_288"]
    if not times:
        return said
    return f"{said}; {entry['run_required']} are needed after {times} demotion{'' if times == 1 else 's'} in 288 pulses"


def _probation(entry: dict[str, Any]) -> str:
    """The evidence and its goal, always: also below EXECUTE it says how much a promotion would be worth."""
    evidence, goal, missing = entry["evidence"], entry["evidence_goal"], entry["effects_missing"]
    said = f"evidence {evidence:.3g} of {goal:g}"
    if evidence >= goal:
        return f"over: {said}"
    ends = f"; {missing} effects that hold, and none that fails, end it" if missing else ""
    if entry["probation"]:
        return f"{said}; at most one effect a pulse{ends}"
    if entry["level"] == "EXECUTE":
        return f"over; {said} since then"
    return f"{said}, when it acts{ends}"


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
    emit(as_json(entry), json, lambda d: say(f"{d['domain']}: {WORDS.get(d['level'], d['level'])}; {_why(d)[0]}"))
