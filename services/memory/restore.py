"""A new store out of every intact copy of every row, verified, then put in the place of the damaged one.

The newest whole backup first, then what still holds in the damaged file and its log, then the redo log, and, as long
as a number is missing, older and damaged backups. What no copy holds is listed. Nothing is deleted: what is replaced
is set aside.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import structlog

from chassis import replacing
from chassis.errors import Damaged, NotFound
from services.memory.backup import backups, fault_of
from services.memory.damage import Damage
from services.memory.faults import explained
from services.memory.hashing import check_events, check_outcomes, spans
from services.memory.members import check_members
from services.memory.pages import Pages
from services.memory.queries import SQL
from services.memory.redo import RedoLog
from services.memory.roots import CHANGED, PREFIX, Unseal, day_roots, kept_roots
from services.memory.salvage import Taken, take, take_unsealed, unpack
from services.memory.store import Store
from services.memory.verify import LOST, check_file, lost_numbers

log = structlog.get_logger(__name__)

FILE = "experience.sqlite"
ASIDE = "replaced"
"""The folder of what restores have replaced."""

MOST_LISTED = 1000
"""So many lost ids are listed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """`from_backup` experiences from `backup` (empty: there was no whole one), `replayed` from other copies.

    `lost`: ids, or `row <number>` where no copy even says the id. `set_aside` is empty in a dry run.
    """

    backup: str
    from_backup: int
    replayed: int
    lost: tuple[str, ...]
    set_aside: str


@dataclass(slots=True)
class _Build:
    """What is known while the new file grows."""

    target: Path
    backup: str = ""
    from_backup: int = 0
    taken: int = 0
    named: dict[int, str] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def took(self, found: Taken) -> None:
        self.taken += found.events
        self.named |= found.named
        for name, number in found.highest.items():
            self.highest[name] = max(number, self.highest.get(name, 0))


def restore(
    folder: Path,
    *,
    backup: Path | None,
    redo: RedoLog | None,
    now: datetime,
    unseal: Unseal | None,
    dry_run: bool,
    swap: Callable[[Callable[[], None]], None],
    held_open: list[Pages] | None,
) -> Restored:
    """Nobody may write meanwhile. `swap` is given what puts the new file in place and does it when nobody reads either.

    `held_open` collects files that must stay open as long as the store is; None: nobody has it open. Raises NotFound
    or Damaged for a backup that can't be used, Damaged if what came out does not pass its own check; nothing was
    replaced then.
    """
    stamp = f"{now:%Y%m%dT%H%M%S%fZ}"
    target, stage = folder / f".restoring-{stamp}.sqlite", folder / f".salvage-{stamp}.sqlite"
    chosen = _choose(folder / "backups", backup)
    with explained("restore", folder / FILE):
        _clear(folder)
        try:
            built = _build(folder, target, stage, chosen, redo, held_open)
            lost = _close(built, unseal)
            _check(target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
            aside = ""
            if not dry_run:
                aside = f"{ASIDE}/{stamp}"
                swap(lambda: replacing.put_in_place(folder / FILE, target, folder / aside))
        finally:
            _clear(folder)
    return Restored(
        backup=built.backup,
        from_backup=built.from_backup,
        replayed=built.taken - built.from_backup,
        lost=lost,
        set_aside=aside,
    )


def _choose(folder: Path, named: Path | None) -> Path | None:
    if named is not None:
        if not named.is_file():
            raise NotFound(f"there is no backup {named}; `calyx memory backup --list` shows what there is")
        if why := fault_of(named):
            raise Damaged(
                f"the backup {named.name} can't be used: {why}; leave it out and the newest whole one is taken"
            )
        return named
    return next((path for path in backups(folder) if not fault_of(path)), None)


def _build(
    folder: Path, target: Path, stage: Path, chosen: Path | None, redo: RedoLog | None, held_open: list[Pages] | None
) -> _Build:
    built = _Build(target)
    Store(target, durable=False).close()
    if chosen is not None:
        built.took(_take_backup(target, chosen, stage))
        built.backup, built.from_backup = chosen.name, built.taken
    _unpacked(built, folder / FILE, stage, held_open)
    _replay(built, redo)
    if stage.exists():
        take_unsealed(target, stage)
    others = [
        path for path in sorted((folder / "backups").glob("experience-*.sqlite*"), reverse=True) if path != chosen
    ]
    others += sorted((folder / ASIDE).glob(f"*/{FILE}"), reverse=True)
    for path in others:
        if path.name.endswith(".sha256") or not _missing(built):
            continue
        _unpacked(built, path, stage, None)
        _replay(built, redo)
    return built


def _take_backup(target: Path, backup: Path, copy: Path) -> Taken:
    """A backup of an older schema is brought forward in a copy first."""
    copy.write_bytes(b"")
    with backup.open("rb") as source, copy.open("wb") as sink:
        while block := source.read(1 << 20):
            sink.write(block)
    Store(copy, durable=False).close()
    return take(target, copy, staged=False)


def _unpacked(built: _Build, path: Path, stage: Path, held_open: list[Pages] | None) -> None:
    if not path.is_file():
        return
    # A damaged newest version of a page must not hide an older one that holds: both orders, while rows are missing.
    for newest_first in (True, False):
        pages = Pages(path, newest_first=newest_first)
        try:
            unpack(pages, stage)
        finally:
            if held_open is None:
                pages.close()
            else:
                held_open.append(pages)
        built.took(take(built.target, stage, staged=True))
        if not _missing(built):
            break


def _replay(built: _Build, redo: RedoLog | None) -> None:
    _drop_halves(built)
    if redo is None:
        return
    store = Store(built.target, durable=False)
    try:
        before = store.count()
        store.replay(redo.read())
        built.taken += store.count() - before
    finally:
        store.close()


def _missing(built: _Build) -> list[int]:
    """Numbers of experiences that were given and that no row has by now."""
    with closing(sqlite3.connect(built.target)) as connection:
        return _gaps(connection, built, "event")


def _gaps(connection: sqlite3.Connection, built: _Build, table: str) -> list[int]:
    there = np.fromiter((row[0] for row in connection.execute(SQL[f"all_sealed_{table}s"])), dtype=np.int64)
    highest = max(int(there.max(initial=0)), built.highest.get(table, 0))
    if table == "event":
        highest = max(highest, max(built.named, default=0))
    told = np.concatenate([there, lost_numbers(connection, table)])
    missing: list[int] = np.setdiff1d(np.arange(1, highest + 1, dtype=np.int64), told).tolist()
    return missing


def _close(built: _Build, unseal: Unseal | None) -> tuple[str, ...]:
    """Say what is lost, in the new file too; keep roots that still fit and mark the days of the others."""
    with closing(sqlite3.connect(built.target, isolation_level=None)) as connection:
        missing, outcomes = (_gaps(connection, built, table) for table in ("event", "outcome"))
        if missing or outcomes:
            runs = {
                table: spans(sorted({*lost_numbers(connection, table).tolist(), *numbers}))
                for table, numbers in (("event", missing), ("outcome", outcomes))
            }
            connection.execute(SQL["set_meta"], (LOST, json.dumps(runs)))
        for name, number in built.highest.items():
            connection.execute(SQL["raise_number"], {"name": name, "number": number})
            connection.execute(SQL["begin_number"], {"name": name, "number": number})
        roots = day_roots(connection)
        for kept in kept_roots(connection, unseal):
            if kept.root is None or kept.root != roots.get(kept.day):
                connection.execute(SQL["drop_meta"], (PREFIX + kept.day,))
                why = f"the store was restored; {len(missing)} rows are lost" if missing else "the store was restored"
                connection.execute(SQL["set_meta"], (CHANGED + kept.day, why))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    listed = [built.named.get(seq) or f"row {seq}" for seq in missing[:MOST_LISTED]]
    if len(missing) > MOST_LISTED:
        listed.append(f"and {len(missing) - MOST_LISTED} more")
    # Each experience that is lost takes an outcome along; more than that are later findings on ones that are here.
    if len(outcomes) > len(missing):
        numbers = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in spans(outcomes))
        listed.append(f"outcome rows {numbers}")
    return tuple(listed)


def _drop_halves(built: _Build) -> None:
    """An event whose outcome does not hold here may still be whole elsewhere; if not, it is listed as lost."""
    with closing(sqlite3.connect(built.target, isolation_level=None)) as connection:
        halves = connection.execute(SQL["events_without_outcome"]).fetchall()
        if not halves:
            return
        triggers = connection.execute(SQL["triggers_against_deleting"]).fetchall()
        connection.execute("BEGIN")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for seq, name in halves:
            built.named[seq] = name
            for table in ("outcome", "context", "confidence", "event"):
                connection.execute(SQL[f"remove_{table}"], (seq,))
        for _, trigger in triggers:
            connection.execute(trigger)
        connection.execute("COMMIT")
        built.taken -= len(halves)


def _check(path: Path) -> None:
    damages: list[Damage] = []
    with closing(sqlite3.connect(path)) as connection:
        damages += check_file(connection)
        (highest,) = connection.execute("SELECT ifnull(max(seq), 0) FROM event").fetchone()
        check_events(connection, highest, damages)
        (highest,) = connection.execute("SELECT ifnull(max(seq), 0) FROM outcome").fetchone()
        check_outcomes(connection, highest, damages)
        connection.row_factory = sqlite3.Row
        damages += [Damage(what=what, why=why) for what, why in check_members(connection)]
    if damages:
        first = f"{damages[0].what}: {damages[0].why}"
        raise Damaged(f"the restored store does not pass its check ({first}); nothing was replaced")


def finish(folder: Path) -> None:
    """End a swap that a crash cut short; before the store is opened."""
    with explained("finish the restore of", folder / FILE):
        replacing.finish(folder / FILE)


def _clear(folder: Path) -> None:
    left: Iterable[Path] = [*folder.glob(".restoring-*.sqlite*"), *folder.glob(".salvage-*.sqlite*")]
    for path in left:
        path.unlink(missing_ok=True)
