"""`calyx journal`: what is kept for undo, how far back it reaches, and what the bound would drop next."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from chassis.agent import KEPT_BYTES, KEPT_FOR
from chassis.clock import iso
from chassis.errors import Unavailable
from chassis.journal import Journal, consent_within
from cli.output import JsonFlag, emit, say
from cli.reach import Reach, reach_of
from cli.tables import Column, table
from cli.times import ago


def register(app: typer.Typer) -> None:
    app.command("journal")(journal)


def journal(
    ctx: typer.Context,
    prune: Annotated[bool, typer.Option("--prune", help="Say what the bounds would drop now; drops nothing.")] = False,
    max_mib: Annotated[int, typer.Option("--max-mib", min=0, help="With --prune: another size bound.")] = (
        KEPT_BYTES >> 20
    ),
    max_days: Annotated[int, typer.Option("--max-days", min=0, help="With --prune: another age bound.")] = (
        KEPT_FOR.days
    ),
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="How many tasks to show.")] = 20,
    json: JsonFlag = False,
) -> None:
    """What is kept for undo, oldest first. Example: calyx journal --prune --max-mib 500"""
    reach = reach_of(ctx)
    emit(_found(reach, prune, max_mib, max_days), json, lambda v: _words(v, reach, last))


def _found(reach: Reach, prune: bool, max_mib: int, max_days: int) -> dict[str, Any]:
    if not reach.layout.journal.is_dir():
        raise Unavailable(f"there is no journal in {reach.layout.root}; `calyx up` makes one, --station picks another")
    kept = Journal(reach.layout.journal, reach.clock, consent_within([]))
    tasks = kept.kept()
    value: dict[str, Any] = {
        "tasks": [
            {
                "id": each.task_id,
                "ended_at": iso(each.ended_at),
                "kept_bytes": each.kept_bytes,
                "undoable": each.undoable,
            }
            for each in tasks
        ],
        "kept_bytes": sum(each.kept_bytes for each in tasks),
        "oldest_undoable": next((each.task_id for each in tasks if each.undoable), None),
        "bound": {"bytes": KEPT_BYTES, "days": KEPT_FOR.days},
        "dropped": [{"id": task_id, "reason": reason} for task_id, reason in kept.dropped()],
    }
    if prune:
        value["would_drop"] = kept.prune(max_mib << 20, timedelta(days=max_days), dry_run=True)
    return value


def _words(value: dict[str, Any], reach: Reach, last: int) -> None:
    bound, now = value["bound"], reach.clock.now()
    say(
        f"{value['kept_bytes'] / 2**20:.1f} MiB are kept for undo, of {len(value['tasks'])} tasks; at most "
        f"{bound['bytes'] >> 20} MiB and {bound['days']} days, the oldest go first."
    )
    if value["oldest_undoable"]:
        say(f"The oldest that can still be undone: {value['oldest_undoable']}")
    if value["dropped"]:
        say(f"{len(value['dropped'])} can no longer be undone; the last: {value['dropped'][-1]['reason']}.")
    table(
        (Column("task"), Column("ended"), Column("KiB kept", "number"), Column("can be undone", "state")),
        [
            (each["id"], ago(each["ended_at"], now), round(each["kept_bytes"] / 1024, 1), each["undoable"])
            for each in value["tasks"][:last]
        ],
        "Nothing is kept: no task has changed anything yet.",
    )
    if "would_drop" in value:
        say("")
        say(f"The bounds would drop {len(value['would_drop'])} tasks now{': ' if value['would_drop'] else '.'}")
        for task_id in value["would_drop"][:last]:
            say(f"  {task_id}")
