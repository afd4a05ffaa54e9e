"""Compaction: old routine work becomes members of roll-ups, what a policy ends is retired, free pages go back.

In small transactions, each of which leaves the store right: recording goes on in between, and after a kill at any line
the next run goes on where this one ended.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice

from chassis.clock import iso, parse_iso
from services.memory.members import Member, member_of, one_snapshot, roll_up, rollup_of
from services.memory.queries import SQL
from services.memory.retention import Rule, orphans_of, retire, rule_for
from services.memory.rows import hydrate
from services.memory.shelf import Shelf
from services.memory.store import Store, explained

PAGE = 512
"""Rows looked at in one go; while they are, nobody waits."""

BATCH = 64
"""Rows moved in one transaction, so that recording waits some milliseconds at most."""

RETIRED_AT_ONCE = 512
"""More, since recall's catalog is copied once for each of these."""

PAGES_GIVEN_BACK = 256
"""Pages of the file given back in one transaction."""

INCREMENTAL = 2
"""SQLite's auto_vacuum mode in which a file shrinks by as many pages as one asks for."""

Progress = Callable[[str, int], None]
"""Told what is being done and how many so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Successes and no-work runs are routine once they are older than this; `rules` end others, by default none."""

    older_than: timedelta = timedelta(days=30)
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """Rows merged into roll-ups, rows kept as they are, roll-ups there are then, rows retired by policy.

    `freed_bytes` None: not known, since nothing was done.
    """

    merged: int
    kept: int
    rollups: int
    retired: int
    freed_bytes: int | None


def compact(store: Store, shelf: Shelf, terms: Terms, now: datetime, *, dry_run: bool, told: Progress) -> Compacted:
    """Do it, or only count what would be done."""
    with closing(store.snapshot()) as connection, explained("compact", store.path):
        retired = _retire(store, shelf, connection, terms.rules, now, dry_run, told)
        merged, fresh = _roll_up(store, connection, iso(now - terms.older_than), dry_run, told)
        freed = None if dry_run else _give_back(store, told)
        (rows,) = connection.execute("SELECT count(*) FROM event").fetchone()
        (rollups,) = connection.execute(SQL["count_rollups"]).fetchone()
    if dry_run:
        rows, rollups = rows - merged, rollups + fresh
    return Compacted(merged=merged, kept=rows, rollups=rollups, retired=retired, freed_bytes=freed)


# rolling up


def _roll_up(
    store: Store, connection: sqlite3.Connection, before: str, dry_run: bool, told: Progress
) -> tuple[int, int]:
    merged = fresh = 0
    for batch, new in _batches(_alike(connection, before)):
        fresh += new
        if dry_run:
            merged += len(batch)
        else:
            with store.transaction("roll up") as writing:
                merged += _move(writing, batch)
        told("rolled up", merged)
    return merged, fresh


def _move(connection: sqlite3.Connection, batch: Sequence[Member]) -> int:
    """What was amended or judged since it was looked at stays a row."""
    seqs = json.dumps([each.seq for each in batch])
    still = {row[0] for row in connection.execute(SQL["still_routine"], (seqs,))}
    for each in batch:
        if each.seq in still:
            roll_up(connection, each)
    return len(still)


def _batches(found: Iterator[tuple[Member, bool]]) -> Iterator[tuple[list[Member], int]]:
    while batch := list(islice(found, BATCH)):
        yield [member for member, _ in batch], sum(new for _, new in batch)


def _alike(connection: sqlite3.Connection, before: str) -> Iterator[tuple[Member, bool]]:
    """Routine rows that agree with at least one other, or with a roll-up; True with the first of a new roll-up."""
    for _, members in groupby(_routine(connection, before), key=lambda each: each.facts[4]):
        first: dict[tuple[str, ...], Member | None] = {}  # None: its roll-up is there, or will be
        for member in members:
            if member.facts not in first:
                known = rollup_of(connection, member.facts) is not None
                first[member.facts] = None if known else member
                if known:
                    yield member, False
                continue
            waiting, first[member.facts] = first[member.facts], None
            if waiting is not None:
                yield waiting, True
            yield member, False


def _routine(connection: sqlite3.Connection, before: str) -> Iterator[Member]:
    """Whole rows that may be rolled up, objective by objective; damaged ones stay for verify to name."""
    place = (0, 0)
    while True:
        with one_snapshot(connection):
            terms = {"objective": place[0], "seq": place[1], "before": before, "page": PAGE}
            rows = connection.execute(SQL["routine"], terms).fetchall()
            outcomes = {row["seq"]: row["outcome_seq"] for row in rows}
            wanted = (json.dumps(list(outcomes)),)
            found = connection.execute(SQL["events_by_seq"], wanted).fetchall()
            stored = {each.seq: each for each in hydrate(connection, found)}
        if not rows:
            return
        for row in rows:
            if not stored[row["seq"]].damage:
                yield member_of(stored[row["seq"]], outcomes[row["seq"]])
        place = (rows[-1]["objective"], rows[-1]["seq"])


# retiring


def _retire(
    store: Store,
    shelf: Shelf,
    connection: sqlite3.Connection,
    rules: Sequence[Rule],
    now: datetime,
    dry_run: bool,
    told: Progress,
) -> int:
    retired = 0
    for home in ("event", "member"):
        due = _due(connection, home, rules, now)
        while batch := list(islice(due, RETIRED_AT_ONCE)):
            retired += len(batch) if dry_run else _end(store, shelf, home, batch, now)
            told("retired", retired)
    if retired and not dry_run:
        shelf.rebuild(orphans_of(connection))
    return retired


def _end(store: Store, shelf: Shelf, home: str, batch: Sequence[tuple[int, Rule]], now: datetime) -> int:
    with shelf.change:  # what is gone from the store is gone from recall in the same moment
        with store.transaction("retire") as writing:
            gone = [seq for seq, rule in batch if retire(writing, seq, home, rule, iso(now))]
        shelf.forget(gone)
    return len(gone)


def _due(connection: sqlite3.Connection, home: str, rules: Sequence[Rule], now: datetime) -> Iterator[tuple[int, Rule]]:
    if not rules:
        return
    before, after = iso(now - min(each.keep for each in rules)), 0
    while rows := connection.execute(
        SQL["rows_by_age" if home == "event" else "members_by_age"], {"after": after, "before": before, "page": PAGE}
    ).fetchall():
        for row in rows:
            rule = rule_for(rules, row["kind"], row["outcome"])
            if rule is not None and parse_iso(row["recorded_at"]) < now - rule.keep:
                yield row["seq"], rule
        after = rows[-1]["seq"]


# giving back


def _give_back(store: Store, told: Progress) -> int:
    """Bytes by which the file shrank. A store from before it could shrink piece by piece is written anew, once."""
    before = after = _pages(store)
    if _pragma(store, "auto_vacuum") != INCREMENTAL:
        store.vacuum()
        after = _pages(store)
    while _pragma(store, "freelist_count"):
        with store.transaction("give pages back") as writing:
            writing.execute(f"PRAGMA incremental_vacuum({PAGES_GIVEN_BACK})").fetchall()
        left, after = after, _pages(store)
        told("pages given back", before - after)
        if after >= left:  # SQLite keeps the rest
            break
    return max(0, before - after) * _pragma(store, "page_size")


def _pages(store: Store) -> int:
    return _pragma(store, "page_count")


def _pragma(store: Store, name: str) -> int:
    with closing(store.snapshot()) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
