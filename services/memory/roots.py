"""A root per day over the digests of everything that was recorded on it, signed once the day is over.

A leaf is `<table> <number> <digest>`. Rows that were rolled up or retired keep their number and their former digests
(views sealed_event and sealed_outcome), so that a day's root stays the same wherever its rows live by now.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from chassis.canonical import Json, canonical_json, digest
from chassis.clock import iso
from chassis.errors import CalyxError, Unavailable
from services.memory.merkle import Tree
from services.memory.queries import SQL
from services.memory.store import Store

log = structlog.get_logger(__name__)

PAYLOAD_TYPE = "application/vnd.calyx.memory-root+json"
PREFIX = "root:"
"""`root:<yyyy-mm-dd>` is the key of a day's root in `meta`."""

CHANGED = "root_changed:"
"""`root_changed:<yyyy-mm-dd>` says in words why a signed day has other digests now; it is then signed anew."""

SETTLED = timedelta(minutes=1)
"""So long after midnight what was recorded before it may still be on its way to the disk."""

TABLES = ("event", "outcome", "feedback", "standing")

Seal = Callable[[bytes], bytes]
"""A payload to its signed envelope (DSSE). Raises CalyxError where there is no key to sign with."""

Unseal = Callable[[bytes], bytes]
"""An envelope to its payload, if the memory's key signed it. Raises CalyxError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKeys:
    """What signs a day's root, and what tells whether our key signed one. None: there is no key; it is said."""

    seal: Seal | None = None
    unseal: Unseal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRoot:
    """`rows` by table; `root` in hex."""

    day: str
    rows: Mapping[str, int]
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A root as `meta` keeps it. `root` is None when it can't be read; `fault` says what its signature lacks."""

    day: str
    root: DayRoot | None
    fault: str


def day_roots(connection: sqlite3.Connection, day: str = "") -> dict[str, DayRoot]:
    """The root of every day with rows, or of one, as the rows are now. `connection` reads one snapshot."""
    days: dict[str, dict[str, Tree]] = {}
    for table in TABLES:
        tag = table.encode()
        for seq, recorded_at, sealed in _leaves(connection, table, day):
            trees = days.get(recorded_at[:10])
            if trees is None:
                trees = days[recorded_at[:10]] = {name: Tree() for name in TABLES}
            trees[table].add(b"%b %d %b" % (tag, seq, sealed.encode()))
    return {each: _joined(each, trees) for each, trees in sorted(days.items())}


def _leaves(connection: sqlite3.Connection, table: str, day: str) -> Iterator[tuple[int, str, str]]:
    span = {"since": day, "until": f"{day}U" if day else "\U0010ffff"}  # U comes after the T of a time
    for row in connection.execute(SQL[f"root_{table}"], span):
        if table in ("event", "outcome"):
            yield row[0], row[1], row[2]
        else:  # no digest of their own: the row as it is
            yield row[0], row[1], digest([_plain(cell) for cell in tuple(row)[2:]])


def _plain(cell: object) -> object:
    return cell.hex() if isinstance(cell, bytes) else cell


def _joined(day: str, trees: Mapping[str, Tree]) -> DayRoot:
    top = Tree()
    for name, tree in trees.items():
        top.add(b"%b %d " % (name.encode(), tree.leaves) + tree.root())
    return DayRoot(day=day, rows={name: tree.leaves for name, tree in trees.items()}, root=top.root().hex())


def kept_roots(connection: sqlite3.Connection, unseal: Unseal | None) -> list[Kept]:
    """What `meta` keeps, by day; each signature checked."""
    found = []
    for key, value in connection.execute(SQL["kept_roots"]):
        day, fault, root = key.removeprefix(PREFIX), "", None
        try:
            told = json.loads(value)
            if "payload" not in told:
                fault = str(told.get("unsigned", "it is not signed"))
            elif unseal is None:
                fault = "there is no public key to check its signature with"
                told = None
            else:
                told = json.loads(unseal(value.encode()))
            if told is not None:
                if told["day"] != day:
                    raise ValueError("it is another day's")
                rows = {name: int(told["rows"][name]) for name in TABLES}
                root = DayRoot(day=day, rows=rows, root=str(told["root"]))
        except CalyxError as error:
            fault = error.message
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fault = f"it is no root ({error})"
        found.append(Kept(day=day, root=root, fault=fault))
    return found


def close_days(store: Store, now: datetime, seal: Seal | None) -> list[str]:
    """Sign the root of every day that is over and has none, and anew of those whose change was told; their days."""
    with closing(store.snapshot()) as connection:
        connection.execute("BEGIN")
        kept = {key.removeprefix(PREFIX) for key, _ in connection.execute(SQL["kept_roots"])}
        changed = {key.removeprefix(CHANGED): why for key, why in connection.execute(SQL["changed_roots"])}
        today = iso(now - SETTLED)[:10]
        over = {row[0] for row in connection.execute(SQL["days"], {"after": max(kept, default=""), "before": today})}
        due = sorted((over - kept) | {day for day in changed if day < today})
        found = {day: day_roots(connection, day).get(day) for day in due}
    for day, root in found.items():
        if root is not None:
            _keep(store, root, now, seal, changed.get(day, "the day is over"))
        with store.transaction("forget that a day changed") as connection:
            connection.execute(SQL["drop_meta"], (CHANGED + day,))
    return due


def _keep(store: Store, root: DayRoot, now: datetime, seal: Seal | None, why: str) -> None:
    told: Json = {
        "schema": "calyx.memory-root/1",
        "day": root.day,
        "rows": dict(root.rows),
        "root": root.root,
        "made_at": iso(now),
        "why": why,
    }
    try:
        if seal is None:
            raise Unavailable("the memory has no key to sign with")
        value = seal(canonical_json(told)).decode().strip()
    except CalyxError as error:
        log.error("a day's root is kept without a signature", day=root.day, why=error.message)
        value = canonical_json({**told, "unsigned": error.message}).decode()
    store.set_meta(PREFIX + root.day, value)
