"""The `calyx` command: puts the nouns together and turns errors into one line and an exit status."""

import gc
import inspect
import os
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit, TyperException

from chassis.errors import CalyxError, Damaged, DeadlineExceeded, InvalidInput, NotFound, Unavailable
from cli.output import note
from cli.reach import Reach, default_root
from cli.run import governed

DONE, NO, MISUSE, UNREACHABLE = 0, 1, 2, 3
SELDOM = 100_000
"""New objects between two looks of the collector: what gRPC's modules make is there to stay, and looking through it
again and again took a twelfth of a short command's time."""

_FIRST = ("up", "status", "objective", "inbox", "task", "ladder", "pulse", "undo", "recall", "kpi", "trends")
_LAST = ("doctor", "export", "login-link", "down")


class _Ordered(TyperGroup):
    """Commands in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        middle = [name for name in names if name not in (*_FIRST, *_LAST)]
        return [*(n for n in _FIRST if n in names), *middle, *(n for n in _LAST if n in names)]


NOUNS: Mapping[str, tuple[str, ...]] = {
    "station": ("up", "down", "status", "doctor"),
    "objectives": ("objective",),
    "pulses": ("pulse",),
    "tasks": ("task", "undo"),
    "journal": ("journal",),
    "inbox": ("inbox",),
    "notify": ("notify",),
    "ladder": ("ladder",),
    "domains": ("domain",),
    "policy": ("policy",),
    "agents": ("agent",),
    "artifacts": ("artifact",),
    "memory": ("recall", "memory"),
    "overseer": ("cbo",),
    "resources": ("capacity", "governor"),
    "healing": ("incident", "playbook", "quarantine"),
    "trends": ("trends",),
    "kpis": ("kpi",),
    "killswitch": ("stop", "resume"),
    "audit": ("audit",),
    "diagnostics": ("export", "login-link"),
    "mcp": ("mcp",),
    "run.command": ("run",),
}
"""Module of cli/ → what it registers. A command loads only its own module, so that it starts at once."""


def build(noun: str = "") -> typer.Typer:
    """The command line; where `noun` is known, only the part that answers it."""
    app = typer.Typer(
        name="calyx",
        cls=_Ordered,
        help="Station Calyx: agents act only as far as their results have earned.\n\nExample: calyx up --detach",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in [module for module, nouns in NOUNS.items() if noun in nouns] or NOUNS:
        import_module(f"cli.{module}").register(app)
    _tidy(app)
    app.callback(invoke_without_command=True)(_root)
    return app


def __getattr__(name: str) -> typer.Typer:
    """`app`: the whole command line, built when somebody asks for it."""
    if name == "app":
        return build()
    raise AttributeError(name)


def _tidy(group: typer.Typer) -> None:
    """Put each help's example on a line of its own."""
    for command in group.registered_commands:
        text = command.help or inspect.cleandoc(command.callback.__doc__ or "") if command.callback else ""
        command.help = text.replace(" Example: ", "\n\nExample: ")
    for inner in group.registered_groups:
        if isinstance(inner.help, str):
            inner.help = inner.help.replace(" Example: ", "\n\nExample: ")
        if inner.typer_instance is not None:
            _tidy(inner.typer_instance)


def _root(
    ctx: typer.Context,
    station_dir: Annotated[
        Path | None,
        typer.Option("--station", help="The station's folder (default: $CALYX_STATION_DIR, else ./station)."),
    ] = None,
) -> None:
    if ctx.obj is None:
        ctx.obj = Reach(station_dir or default_root())
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise Exit(MISUSE)


def status_of(error: CalyxError) -> int:
    """2: ask differently; 3: it can't be reached; 1: the answer is no."""
    if isinstance(error, Unavailable | DeadlineExceeded):
        return UNREACHABLE
    if isinstance(error, InvalidInput | NotFound):
        return MISUSE
    return NO


def main(argv: list[str] | None = None, reach: Reach | None = None) -> int:
    """Run one command and return its exit status; without `argv` it is this process's own and ends it."""
    if argv is None:
        gc.set_threshold(SELDOM)
    status = _run(argv, reach)
    if argv is None:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """End at once: taking an interpreter with gRPC apart takes a sixth of a short command's time.

    Only where nobody waits to be waited for, and after what was said is out; else the usual way.
    """
    main_thread = threading.main_thread()
    if all(each.daemon for each in threading.enumerate() if each is not main_thread):
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return
        os._exit(status)


def _run(argv: list[str] | None, reach: Reach | None) -> int:
    arguments = _station_first(list(sys.argv[1:] if argv is None else argv))
    if why := governed.refusal(_bare(arguments)):
        note(f"calyx: {why}")
        return NO
    try:
        result = build(_noun(arguments))(arguments, prog_name="calyx", standalone_mode=False, obj=reach)
        return result if isinstance(result, int) else DONE
    except Exit as end:
        return end.exit_code
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return MISUSE
        note(f"calyx: {_one_line(error.format_message())} (calyx --help)")
        return MISUSE
    except CalyxError as error:
        note(f"calyx: {_one_line(error.message)}")
        if isinstance(error, Damaged):
            note("       `calyx doctor` checks the station folder")
        return status_of(error)
    except (Abort, KeyboardInterrupt):
        note("calyx: stopped")
        return 130
    except BrokenPipeError:
        # The reader has gone (| head); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        note(f"calyx: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return NO


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _noun(arguments: list[str]) -> str:
    """The command's first word; empty where an option stands in its place."""
    return next(iter(_bare(arguments)), "")


def _bare(arguments: list[str]) -> list[str]:
    """Without `--station`, which `_station_first` has put first."""
    if arguments[:1] == ["--station"]:
        return arguments[2:]
    return arguments[1:] if arguments and arguments[0].startswith("--station=") else arguments


def _station_first(arguments: list[str]) -> list[str]:
    """`--station` may stand anywhere before `--`; the parser wants it before the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for n, argument in enumerate(arguments[:end]):
        if argument == "--station" and n + 1 < end:
            return [*arguments[n : n + 2], *arguments[:n], *arguments[n + 2 :]]
        if argument.startswith("--station="):
            return [argument, *arguments[:n], *arguments[n + 1 :]]
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
