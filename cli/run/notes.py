"""Runs that the station could not govern, kept until it can be told: `<station>/config/ungoverned/*.json`."""

from datetime import datetime
from pathlib import Path

from chassis.atomic import read_json, write_json
from chassis.canonical import Json
from chassis.clock import iso
from chassis.layout import Layout

_MOST = 100


def folder(layout: Layout) -> Path:
    return layout.root / "config" / "ungoverned"


def keep(layout: Layout, domain: str, command: str, began: datetime, ended: datetime, status: int) -> None:
    """Durable before the wrapper ends. Raises OSError."""
    folder(layout).mkdir(parents=True, exist_ok=True, mode=0o700)
    note = {
        "schema": "calyx.ungoverned/1", "domain": domain, "command": command[:500], "began_at": iso(began),
        "ended_at": iso(ended), "exit_status": status,
    }  # fmt: skip
    name = f"{began:%Y%m%dT%H%M%S%f}.json"
    write_json(folder(layout) / name, note, mode=0o600)


def kept(layout: Layout, domain: str) -> list[tuple[Path, Json]]:
    """The oldest first, those of this domain; what can't be read is left for a person."""
    found = []
    for path in sorted(folder(layout).glob("*.json"))[:_MOST]:
        try:
            note = read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(note, dict) and note.get("domain") == domain:
            found.append((path, note))
    return found


def words(note: Json) -> str:
    """As the station is told."""
    return (
        f"ran ungoverned while the station was down, from {note.get('began_at')} to {note.get('ended_at')}, "
        f"exit status {note.get('exit_status')}: {note.get('command')}"
    )[:2000]
