"""`calyx run`: any program as a governed task. Its own words go to stderr; 125 says that the station refused."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import Exit

from chassis.atomic import write_json
from chassis.errors import CalyxError, Refused
from cli.reach import reach_of
from cli.run import entry
from cli.run.asking import say
from cli.run.entry import REFUSED
from cli.run.governing import Run
from cli.run.watching import BLOCKED
from cli.times import parse_span


def register(app: typer.Typer) -> None:
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


def run(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    domain: Annotated[str, typer.Option(help="The kind of work that it is.")],
    objective: Annotated[str, typer.Option(help="What it is for, in words.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it may take (default, and at most: as its domain says).")] = "",
    path: Annotated[
        list[Path] | None, typer.Option("--path", help="A folder that it may change; default: all of the domain's.")
    ] = None,
    if_down: Annotated[
        Literal["refuse", "run"], typer.Option("--if-down", help="When the station can't be reached.")
    ] = "refuse",
    wait: Annotated[str, typer.Option(help="Wait so long for a person's yes.")] = "0",
    network: Annotated[
        bool, typer.Option("--network", help="It needs the network: you are asked before it runs, as no rehearsal can.")
    ] = False,
    undo_on_failure: Annotated[
        bool, typer.Option("--undo-on-failure", help="Take its changes back when it fails.")
    ] = False,
    json_summary: Annotated[
        Path | None, typer.Option("--json-summary", help="Write how it went to this file, as JSON.")
    ] = None,
) -> None:
    """Run any program as a governed task. Example: calyx run --domain notes --path ~/notes -- sh -c 'date >> log'"""
    reach = reach_of(ctx)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        entry.check_command(command)
        wish = entry.Wish(
            domain=domain,
            objective=objective or f"run {command[0]}",
            argv=tuple(command),
            paths=entry.real_paths(reach, path or ()),
            ttl=timedelta(seconds=parse_span(ttl)) if ttl else None,
            wait_seconds=parse_span(wait),
        )
        if os.environ.get("CALYX_TASK_ID"):
            raise Refused("this is a governed task already; its commands run under the same gates")
        mask = tuple(int(each) for each in before)
        status, summary = Run(reach, wish, mask, undo_on_failure, network).govern(if_down)
    except (CalyxError, OSError) as error:
        say(error.message if isinstance(error, CalyxError) else f"{error.strerror}: {error.filename or ''}")
        status, summary = REFUSED, {"refused": str(error)}
    except KeyboardInterrupt:
        say("stopped before it began")
        status, summary = REFUSED, {"refused": "stopped before it began"}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if json_summary is not None:
        write_json(json_summary, {"exit_status": status, **summary})
    raise Exit(status)
