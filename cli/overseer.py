"""`calyx cbo`: the copies of the overseer's database, and putting one back."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput, NotFound
from cli import offline
from cli.output import JsonFlag, emit, say
from cli.reach import Reach, reach_of
from cli.tables import Column, table


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("backups")(backups)
    group.command("restore")(restore)
    app.add_typer(group, name="cbo", help="The overseer's database and its copies. Example: calyx cbo backups")


def backups(ctx: typer.Context, json: JsonFlag = False) -> None:
    """The daily copies of cbo.sqlite, newest first, each looked through. Example: calyx cbo backups"""
    found = offline.ask(_station(ctx), "cbo", "backups")
    emit(
        {"backups": found},
        json,
        lambda v: table(
            tuple(Column(each) for each in ("backup", "made", "up to pulse", "bytes", "state")),
            [
                (each["path"], _second(each["made_at"]), each["last_pulse"] or None, each["size_bytes"],
                 f"damaged: {each['fault']}" if each["fault"] else "whole")
                for each in v["backups"]
            ],
            "There is no backup yet; the CBO makes one a day.",
        ),
    )  # fmt: skip


def restore(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(help="A backup (see `backups`); left out: the newest whole one.")] = "",
    empty: Annotated[
        bool, typer.Option("--empty", help="Put none back: the CBO begins anew after its last pulse record.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be put back.")] = False,
    json: JsonFlag = False,
) -> None:
    """Replace a damaged cbo.sqlite while the station is down; the old one is set aside.

    Example: calyx cbo restore --dry-run
    """
    if path and empty:
        raise InvalidInput("name a backup or say --empty, not both")
    reach = _station(ctx)
    name = offline.in_station(reach, path, "cbo", "calyx cbo backups")
    value = offline.ask(
        reach, "cbo", "restore", name, "--empty" if empty else "", "--dry-run" if dry_run else ""
    )  # fmt: skip
    value["dry_run"] = dry_run

    def words(v: dict[str, Any]) -> None:
        copy = v["copy"]
        verb = "would put" if dry_run else "put"
        if copy is None:
            say(f"{verb} no database in its place: the CBO begins anew after its last pulse record")
        else:
            say(f"{verb} {copy['path']} in its place: made {_second(copy['made_at']) or 'nobody knows when'}, "
                f"up to pulse {copy['last_pulse']}")  # fmt: skip
        if v["missing_pulses"]:
            say(
                f"{v['missing_pulses']} pulses have a record and are not in it. At the next start what was decided in "
                "them is not known: agents are revoked, signed domains wait for approval, objectives that were to be "
                "done once are cancelled, and nobody stands higher than at the last record"
            )
        if v["set_aside"]:
            say(f"the file that was replaced lies in {v['set_aside']}; start the station: calyx up")

    emit(value, json, words)


def _second(moment: str) -> str | None:
    return f"{moment[:19].replace('T', ' ')} UTC" if moment else None


def _station(ctx: typer.Context) -> Reach:
    reach = reach_of(ctx)
    if not reach.layout.identity.exists():
        raise NotFound(f"there is no station in {reach.root}; say where it is with --station")
    return reach
