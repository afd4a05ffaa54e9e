"""`calyx export` and `calyx login-link`: what goes through the dashboard."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, note, say
from cli.reach import Reach, reach_of
from cli.times import local


def register(app: typer.Typer) -> None:
    app.command("export")(export)
    app.command("login-link")(login_link)


def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write the zip; must not exist.")],
    json: JsonFlag = False,
) -> None:
    """Redacted logs, pulses, KPIs, configuration and versions. Example: calyx export diagnostics.zip"""
    from calyx.dashboard.v1 import dashboard_pb2 as pb

    from chassis.atomic import write_whole

    if file.exists():
        raise InvalidInput(f"{file} exists; choose another name")
    if not file.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {file.absolute().parent}")
    answer = reach_of(ctx).dashboard().ExportDiagnostics(pb.ExportDiagnosticsRequest(), timeout=120)
    write_whole(file, answer.archive, mode=0o600)
    value = {"file": str(file), "size_bytes": len(answer.archive)}
    emit(value, json, lambda v: say(f"{v['file']} ({v['size_bytes']} bytes); look through it before you send it"))


def login_link(ctx: typer.Context, json: JsonFlag = False) -> None:
    """A one-time link to the dashboard. Example: calyx login-link"""
    from calyx.dashboard.v1 import dashboard_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.dashboard().IssueLoginLink(pb.IssueLoginLinkRequest())
    emit({"url": answer.url, "expires_at": at(answer, "expires_at")}, json, lambda v: _show(v, reach))


def _show(link: dict[str, Any], reach: Reach) -> None:
    say(link["url"])
    note(f"works once, until {local(link['expires_at'], reach.clock.now())}")
