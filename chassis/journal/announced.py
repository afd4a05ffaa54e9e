"""What somebody was going to make of watched folders, so that half of it can be told from what others did.

Each path with what may be found there: signs as `sign` gives them, or `any` for what is only on its way. A recovery
takes back what was cut short only where nothing else is found: else it might take a person's edit.
"""

from collections.abc import Mapping, Sequence

from chassis.atomic import read_json, write_json
from chassis.journal.records import Entry, TaskLog

Announced = Mapping[str, Sequence[str]]


def keep(log: TaskLog, announced: Announced) -> None:
    """Before anything is changed."""
    write_json(log.announced, {path: list(may) for path, may in announced.items()}, mode=0o600)


def strange(log: TaskLog, entries: Sequence[Entry]) -> str:
    """The first path that is as nobody announced; empty for none."""
    announced: Announced = read_json(log.announced)
    for entry in entries:
        target, after = str(entry.intent["target"]), entry.intent["after"]
        may = announced.get(target, ())
        now = "absent" if after is None else sign(after["kind"], after["sha256"], after["to"])
        # A name that was one file with another has, beside this, a change of its own.
        if now not in may and "any" not in may and entry.intent["op"] != "twin":
            return target
    return ""


def sign(kind: str, sha256: str | None, to: str) -> str:
    """Of what is at a path: its content, where it points, or that it is a folder."""
    return sha256 or f"{kind} {to}".strip()
