"""Planned downtime: `calyx down` opens a window, `calyx up` closes it; the guardian counts neither as an outage."""

from pathlib import Path
from typing import Any

from chassis.atomic import append_line, read_json, write_json
from chassis.canonical import canonical_json
from chassis.clock import Clock, iso
from chassis.layout import Layout


def _marker(layout: Layout) -> Path:
    return layout.run / "maintenance.json"


def _log(layout: Layout) -> Path:
    return layout.state("guardian") / "maintenance.jsonl"


def begin(layout: Layout, clock: Clock) -> None:
    """Open a window now, unless one is open."""
    if _marker(layout).exists():
        return
    since = iso(clock.now())
    write_json(_marker(layout), {"since": since}, mode=0o600)
    _append(layout, {"from": since, "to": None})


def end(layout: Layout, clock: Clock) -> None:
    """Close the open window, if there is one."""
    try:
        since = str(read_json(_marker(layout))["since"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        since = ""  # a damaged marker opens nothing and closes nothing
    if since:
        _append(layout, {"from": since, "to": iso(clock.now())})
    _marker(layout).unlink(missing_ok=True)


def _append(layout: Layout, window: dict[str, Any]) -> None:
    _log(layout).parent.mkdir(mode=0o700, exist_ok=True)
    append_line(_log(layout), canonical_json(window), mode=0o640)
