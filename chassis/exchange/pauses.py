"""When TTLs stood still, kept as `paused.json`: the reaper writes it, whoever claims reads it."""

import json
from pathlib import Path

from chassis.atomic import write_json
from chassis.clock import iso, parse_iso
from chassis.exchange.moves import read_regular
from chassis.exchange.rules import Pauses

MAX_BYTES = 16 * 1024 * 1024


def read(root: Path) -> Pauses:
    """As the reaper wrote it down; unreadable = never, and the next sweep starts anew."""
    try:
        kept = json.loads(read_regular(root / "paused.json", MAX_BYTES))
        closed = [(parse_iso(begin), parse_iso(end)) for begin, end in kept["closed"]]
        since = parse_iso(kept["since"]) if kept["since"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Pauses()
    return Pauses(closed=closed, since=since)


def write(root: Path, pauses: Pauses) -> None:
    since = iso(pauses.since) if pauses.since else None
    closed = [[iso(begin), iso(end)] for begin, end in pauses.closed]
    write_json(root / "paused.json", {"closed": closed, "since": since})
