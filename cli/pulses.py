"""`calyx pulse`: check-ins (Bridge Pulses) of the overseer."""

import json as jsonlib
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, figure, figure_state, say, span
from cli.reach import reach_of
from cli.tables import Column, table, tell
from cli.times import local

STATUSES = ("identical", "recorded before replay", "different code", "damaged")
REPLAY_SECONDS = 600.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, callback=pulse)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="pulse", help="Check-ins (Bridge Pulses) of the overseer. Example: calyx pulse --now")


def as_json(summary: Any) -> dict[str, Any]:
    """What an interrupted pulse did not come to is unknown."""
    broken = summary.status == "interrupted"
    return {
        "id": summary.id,
        "started_at": at(summary, "started_at"),
        "duration_s": None if broken else summary.duration_seconds,
        "status": summary.status,
        "planned": summary.planned,
        "dispatched": summary.dispatched,
        "ended": summary.ended,
        "tes": figure(summary.tes),
        "tes_state": figure_state(summary.tes),
        "tes_note": summary.tes.note,
        "kill_switch": summary.kill_switch,
        "incidents": summary.incidents if summary.HasField("incidents") and not broken else None,
        "mood": summary.mood,
    }


def line(pulse: dict[str, Any]) -> str:
    """One pulse in one line."""
    tes = f"TES {pulse['tes']:.1f}" if pulse["tes"] is not None else f"TES unknown ({pulse['tes_note'] or 'no work'})"
    parts = [
        f"{pulse['id']} {pulse['status']}",
        f"{pulse['planned']} planned, {pulse['dispatched']} dispatched, {pulse['ended']} ended",
        tes,
    ]
    if pulse["incidents"]:
        parts.append("1 incident" if pulse["incidents"] == 1 else f"{pulse['incidents']} incidents")
    if pulse["kill_switch"]:
        parts.append("KILL SWITCH ON")
    if pulse["mood"]:
        parts.append(pulse["mood"])
    return ", ".join(parts)


def pulse(
    ctx: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Run the next pulse at once.")] = False,
    json: JsonFlag = False,
) -> None:
    """The last pulse, or the next one now. Example: calyx pulse --now"""
    if ctx.invoked_subcommand is not None:
        return
    from calyx.cbo.v1 import cbo_pb2 as pb

    cbo = reach_of(ctx).cbo()
    if now:
        summary = cbo.RunPulse(pb.RunPulseRequest(), timeout=60).pulse
    else:
        summary = cbo.GetPulse(pb.GetPulseRequest()).summary
    emit(as_json(summary), json, lambda p: tell(line(p)))


def list_(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", min=1, max=2000, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """Pulses, newest first. Example: calyx pulse list --last 5"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.cbo().ListPulses(pb.ListPulsesRequest(limit=last))
    emit(
        {"pulses": [as_json(p) for p in answer.pulses]},
        json,
        lambda v: table(
            (
                Column("pulse"), Column("started"), Column("took", "number", drop=1), Column("status", "state"),
                Column("planned", "number"), Column("sent", "number"), Column("ended", "number"),
                Column("TES", "number"), Column("incidents", "number", drop=2),
            ),
            [
                (
                    p["id"], local(p["started_at"], reach.clock.now()), span(p["duration_s"]), p["status"],
                    p["planned"], p["dispatched"], p["ended"], p["tes"], p["incidents"],
                )
                for p in v["pulses"]
            ],
            "No pulse yet: the overseer has not checked in. `calyx pulse --now` runs one.",
        ),
    )  # fmt: skip


def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="bp-000000012; left out: the last one.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="The report for people.")] = False,
    json: JsonFlag = False,
) -> None:
    """One pulse's record. Example: calyx pulse show bp-000000012 --markdown"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().GetPulse(pb.GetPulseRequest(id=id))
    if markdown and not json:
        say(answer.report_markdown.rstrip())
        return
    record = jsonlib.loads(answer.record_json)
    emit(record, json, lambda r: say(answer.report_markdown.rstrip() or jsonlib.dumps(r, indent=2)))


def replay(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="bp-000000012; left out: the last one.")] = "",
    last: Annotated[int, typer.Option("--last", min=1, max=1_000_000, help="The last so many instead.")] = 1,
    all_: Annotated[bool, typer.Option("--all", help="Every pulse that is kept.")] = False,
    json: JsonFlag = False,
) -> None:
    """Decide again from the record alone and compare, byte for byte; exit 1 on damage.
    Example: calyx pulse replay --last 200"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    if id and (all_ or last != 1):
        raise InvalidInput("name one pulse, or say --last N or --all")
    request = pb.ReplayPulsesRequest(id=id, last=0 if all_ else last)
    found = [_replayed(each) for each in reach_of(ctx).cbo().ReplayPulses(request, timeout=REPLAY_SECONDS)]
    counted = {status: sum(each["status"] == status for each in found) for status in STATUSES}
    emit({"pulses": found, "counted": counted}, json, _replay_words)
    if counted["damaged"]:
        raise Exit(1)


def _replayed(verdict: Any) -> dict[str, Any]:
    return {
        "id": verdict.pulse_id,
        "status": verdict.status,
        "reason": verdict.reason,
        "findings": [
            {"section": each.section, "path": each.path, "reason": each.reason, "damage": each.damage}
            for each in verdict.findings
        ],
        "sections": list(verdict.sections),
        "skipped": dict(verdict.skipped),
    }


def _replay_words(value: dict[str, Any]) -> None:
    """What is as it was takes one line in all; each section that differs has its own."""
    pulses = value["pulses"]
    if not pulses:
        tell("No pulse yet: there is nothing to replay.")
    if len(pulses) == 1:
        tell(f"{pulses[0]['id']} {pulses[0]['status']}: {pulses[0]['reason']}")
    for each in pulses:
        if len(pulses) > 1 and (each["findings"] or each["skipped"]):
            tell(f"{each['id']} {each['status']}: {each['reason']}")
        for finding in each["findings"]:
            tell(f"{finding['section']}: {finding['path']}: {finding['reason']}", "  ")
    if len(pulses) > 1:
        said = ", ".join(f"{count} {status}" for status, count in value["counted"].items() if count)
        tell(f"{len(pulses)} pulses from {pulses[0]['id']} to {pulses[-1]['id']}: {said}")
