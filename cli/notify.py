"""`calyx notify`: who is told elsewhere that something waits; addresses are never shown."""

import json as jsonlib
import sqlite3
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.layout import Layout
from cli.output import JsonFlag, emit
from cli.reach import reach_of
from cli.tables import Column, table

NONE = (
    "Nobody is told: there is no target. Write one a line, `name = address`, into {path} (mode 0600), for example\n"
    "phone = ntfys://ntfy.example/my-topic"
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("test")(test)
    app.add_typer(group, name="notify", help="Who is told that something waits. Example: calyx notify test")


def test(
    ctx: typer.Context,
    target: Annotated[str, typer.Option(help="Only this one, by its name.")] = "",
    json: JsonFlag = False,
) -> None:
    """Send a test to every target. Exit 1 if one does not take it. Example: calyx notify test"""
    from calyx.inbox.v1 import inbox_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.inbox().TestNotification(pb.TestNotificationRequest(target=target), timeout=60)
    found = [{"name": t.name, "kind": t.kind, "sent": t.sent, "detail": t.detail} for t in answer.targets]
    emit(
        {"targets": found},
        json,
        lambda v: table(
            (Column("target"), Column("kind"), Column("took it"), Column("why not", "words")),
            [(t["name"], t["kind"], t["sent"], t["detail"]) for t in v["targets"]],
            NONE.format(path=reach.layout.secrets / "notify.conf"),
        ),
    )
    if not found or not all(each["sent"] for each in found):
        raise Exit(1)


def failing(layout: Layout) -> dict[str, Any]:
    """Targets that did not take what they were last sent, by name; from the CBO's own file, read only."""
    database = layout.state("cbo") / "cbo.sqlite"
    if not database.exists():
        return {}
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    try:
        rows = connection.execute(
            "SELECT name, value FROM fact WHERE name >= 'notify:' AND name < 'notify;'"
        ).fetchall()
    except sqlite3.Error:
        return {}  # an older station has none; a damaged file is another check's
    finally:
        connection.close()
    return {name.removeprefix("notify:"): jsonlib.loads(value) for name, value in rows}
