"""Compaction: old routine work becomes members of roll-ups, what a policy ends is retired, free pages go back.

In small transactions, each of which leaves the store right: recording goes on in between, and after a kill at any line
the next run goes on where this one ended.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from chassis.canonical import digest
from chassis.clock import iso, parse_iso
from services.memory.commits import Change
from services.memory.faults import explained
from services.memory.members import Member, member_of, one_snapshot, roll_up, rollup_of
from services.memory.queries import SQL
from services.memory.retention import Rule, orphans_of, retire, rule_for
from services.memory.rows import hydrate
from services.memory.shelf import Shelf
from services.memory.store import Store

PAGE = 512
"""Rows looked at in one go; while they are, nobody waits."""

BATCH = 32
"""Rows moved in one go, in a commit shared with whoever records meanwhile: they wait some milliseconds at most."""

RETIRED_AT_ONCE = 512
"""More, since recall's catalog is copied once for each of these."""

PAGES_GIVEN_BACK = 256
"""Pages of the file given back in one transaction."""

HOMES = ("event", "member")

Routine = tuple[int, int]
"""The number of a routine row and of its outcome."""

INCREMENTAL = 2
"""SQLite's auto_vacuum mode in which a file shrinks by as many pages as one asks for."""


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


def compact(store: Store, shelf: Shelf, terms: Terms, now: datetime, *, dry_run: bool) -> Compacted:
    """Do it, or only count what would be done."""
    with closing(store.snapshot()) as connection, explained("compact", store.path):
        retired = _retire(store, shelf, connection, terms.rules, now, dry_run)
        merged, fresh = _roll_up(store, connection, terms, now, dry_run)
        freed = None if dry_run else _give_back(store)
        (rows,) = connection.execute("SELECT count(*) FROM event").fetchone()
        (rollups,) = connection.execute(SQL["count_rollups"]).fetchone()
    if dry_run:
        rows, rollups = rows - merged - retired["event"], rollups + fresh
    return Compacted(merged=merged, kept=rows, rollups=rollups, retired=retired.total(), freed_bytes=freed)


# rolling up


def _roll_up(
    store: Store, connection: sqlite3.Connection, terms: Terms, now: datetime, dry_run: bool
) -> tuple[int, int]:
    merged = fresh = 0
    before = iso(now - terms.older_than)
    found = (each for objective in _objectives(connection, before) for each in _alike(connection, objective, before))
    if dry_run:  # what a rule ends is gone by then
        found = (each for each in found if not _ended(each[0], terms.rules, now))
    while batch := list(islice(found, BATCH)):
        fresh += sum(new for _, new in batch)
        if dry_run:
            merged += len(batch)
            continue
        merged += store.commit("roll up", partial(_move, [member for member, _ in batch]))
    return merged, fresh


def _move(batch: Sequence[Member], connection: sqlite3.Connection) -> Change[int]:
    """What was amended or judged since it was looked at stays a row."""
    seqs = json.dumps([each.seq for each in batch])
    still = {row[0] for row in connection.execute(SQL["still_routine"], (seqs,))}
    for each in batch:
        if each.seq in still:
            roll_up(connection, each)
    return Change(result=len(still))


def _ended(member: Member, rules: Sequence[Rule], now: datetime) -> bool:
    rule = rule_for(rules, member.kind, member.outcome)
    return rule is not None and parse_iso(member.fields["recorded_at"]) < now - rule.keep


def _objectives(connection: sqlite3.Connection, before: str) -> Iterator[int]:
    """Objectives with more than one routine row, or with one beside a roll-up."""
    after = 0
    while rows := connection.execute(
        SQL["routine_objectives"], {"after": after, "before": before, "page": PAGE}
    ).fetchall():
        yield from (row[0] for row in rows)
        after = rows[-1][0]


def _alike(connection: sqlite3.Connection, objective: int, before: str) -> Iterator[tuple[Member, bool]]:
    """Routine rows that agree with at least one other, or with a roll-up; True with the first of a new roll-up."""
    # The only one of its kind so far, by the digest of what they must agree in; None: its roll-up is or will be there.
    alone: dict[str, Routine | None] = {}
    for row, member in _routine(connection, objective, before):
        kind = digest(list(member.facts))
        if kind not in alone:
            known = rollup_of(connection, member.facts) is not None
            alone[kind] = None if known else row
            if known:
                yield member, False
            continue
        first, alone[kind] = alone[kind], None
        if first is not None:
            yield from ((again, True) for _, again in _members(connection, [first]))
        yield member, False


def _routine(connection: sqlite3.Connection, objective: int, before: str) -> Iterator[tuple[Routine, Member]]:
    after = 0
    while rows := connection.execute(
        SQL["routine"], {"objective": objective, "after": after, "before": before, "page": PAGE}
    ).fetchall():
        yield from _members(connection, [(row[0], row[1]) for row in rows])
        after = rows[-1][0]


def _members(connection: sqlite3.Connection, rows: Sequence[Routine]) -> list[tuple[Routine, Member]]:
    """Those that are whole, as members; damaged ones stay for verify to name, amended ones are routine no longer."""
    with one_snapshot(connection):
        wanted = json.dumps([seq for seq, _ in rows])
        stored = hydrate(connection, connection.execute(SQL["events_by_seq"], (wanted,)).fetchall())
    outcomes = dict(rows)
    return [((each.seq, outcomes[each.seq]), member_of(each, outcomes[each.seq])) for each in stored if not each.damage]


# retiring


def _retire(
    store: Store,
    shelf: Shelf,
    connection: sqlite3.Connection,
    rules: Sequence[Rule],
    now: datetime,
    dry_run: bool,
) -> Counter[str]:
    retired: Counter[str] = Counter()
    for home in HOMES:
        due = _due(connection, home, rules, now)
        while batch := list(islice(due, RETIRED_AT_ONCE)):
            retired[home] += len(batch) if dry_run else _end(store, shelf, home, batch, now)
    # Also what an earlier run left, if it was killed in between.
    if rules and not dry_run and (orphans := orphans_of(connection)):
        shelf.rebuild(orphans)
    return retired


def due_by_rule(store: Store, rules: Sequence[Rule], now: datetime) -> dict[str, int]:
    """How many experiences each rule would end now."""
    with closing(store.snapshot()) as connection, explained("look what is to be retired", store.path):
        return dict(Counter(str(rule) for home in HOMES for _, rule in _due(connection, home, rules, now)))


def _end(store: Store, shelf: Shelf, home: str, batch: Sequence[tuple[int, Rule]], now: datetime) -> int:
    def work(writing: sqlite3.Connection) -> Change[int]:
        gone = [seq for seq, rule in batch if retire(writing, seq, home, rule, iso(now))]
        # What is gone from the store is gone from recall in the same moment.
        return Change(result=len(gone), then=lambda: shelf.forget(gone))

    return store.commit("retire", work)


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


def _give_back(store: Store) -> int:
    """Bytes by which the file shrank. A store from before it could shrink piece by piece is written anew, once."""
    before = after = _pages(store)
    if _pragma(store, "auto_vacuum") != INCREMENTAL:
        store.vacuum()
        after = _pages(store)
    while _pragma(store, "freelist_count"):
        store.give_back(PAGES_GIVEN_BACK)
        left, after = after, _pages(store)
        if after >= left:  # SQLite keeps the rest
            break
    store.fold()
    return max(0, before - after) * _pragma(store, "page_size")


def _pages(store: Store) -> int:
    return _pragma(store, "page_count")


def _pragma(store: Store, name: str) -> int:
    with closing(store.snapshot()) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
