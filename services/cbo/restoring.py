"""A copy of cbo.sqlite put back while no CBO runs: the one that is named, the newest whole one, or none at all.

What follows from an older database is decided by the next start (`older.py`). Nothing is deleted: what is replaced is
set aside.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from chassis.audit import Audit
from chassis.clock import Clock, SystemClock, iso
from chassis.errors import CalyxError, Damaged, NotFound, Refused, Unavailable
from chassis.layout import Layout
from chassis.replacing import finish, put_in_place
from chassis.settings import StationSettings, load
from services.cbo import older
from services.cbo.backup import made_at
from services.cbo.store import FILE, last_ended, newest_schema, only_writer, pulse_id

ASIDE = "replaced"
_NEW = ".restoring.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """`fault` is empty for a whole one; `last_pulse` and `made_at` are empty where they are not known."""

    path: str
    size_bytes: int
    made_at: str
    last_pulse: str
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """`missing_pulses`: how many have a record and are not in the copy. `set_aside` is empty in a dry run."""

    copy: Copy | None
    newest_record: str
    missing_pulses: int
    set_aside: str


def copies(layout: Layout) -> list[Copy]:
    """Newest first."""
    found = (layout.state("cbo") / "backups").glob("cbo-*.sqlite")
    return [_look(layout, path) for path in sorted(found, reverse=True)]


def restore(layout: Layout, clock: Clock, *, named: str, empty: bool, dry_run: bool) -> Restored:
    """The audit line comes first: without it nothing is replaced.

    Raises Refused while a CBO runs, and where a whole file would be replaced by one that nobody named; NotFound and
    Damaged for a copy that can't be used; Unavailable for a full disk. Nothing was replaced then, or the next start
    ends it.
    """
    database = layout.state("cbo") / FILE
    guard = _alone(database.parent)
    try:
        if not dry_run:
            finish(database)
        copy = None if empty else _chosen(layout, named)
        if not named and not empty and database.exists() and not fault_of(database):
            raise Refused(f"cbo/{FILE} is whole; name the backup that is to replace it, `calyx cbo backups` shows them")
        aside = f"{ASIDE}/{clock.now():%Y%m%dT%H%M%S%fZ}"
        newest = next((number for number, _ in older.records(layout.pulses)), 0)
        known = int(copy.last_pulse.removeprefix("bp-")) if copy is not None else 0
        done = Restored(
            copy=copy,
            newest_record=pulse_id(newest) if newest else "",
            missing_pulses=max(0, newest - known),
            set_aside="" if dry_run else f"cbo/{aside}",
        )
        if not dry_run:
            new = _copied(layout, copy)
            Audit(layout.audit("cbo"), clock, "cbo").write("cbo.restore", **asdict(done))
            put_in_place(database, new, database.parent / aside)
        return done
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"cbo/{FILE} could not be replaced ({error}); see to that and try again") from error
    finally:
        guard.close()


def fault_of(path: Path) -> str:
    """Why this file can't serve as the CBO's database; empty if it can."""
    try:
        with closing(_read(path)) as database:
            schema = int(database.execute("PRAGMA user_version").fetchone()[0])
            found = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
            if found != "ok":
                return found.splitlines()[0]
            if schema == 0:
                return "no database of the CBO"
            return f"made by a newer release (schema {schema})" if schema > newest_schema() else ""
    except (sqlite3.Error, OSError) as error:
        return f"it can't be read: {error}"


def _read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _alone(folder: Path) -> IO[str]:
    try:
        return only_writer(folder / "cbo.lock")
    except FileNotFoundError as error:
        raise NotFound(f"there is no {folder}; is this the station's folder?") from error
    except Unavailable as error:
        raise Refused("the CBO runs and has its database open; stop the station first: calyx down") from error


def _chosen(layout: Layout, named: str) -> Copy:
    if named:
        path = layout.root / named
        if not path.is_file():
            raise NotFound(f"there is no backup {named}; `calyx cbo backups` shows what there is")
        copy = _look(layout, path)
        if copy.fault:
            raise Damaged(f"{named} can't be used: {copy.fault}; leave it out and the newest whole one is taken")
        return copy
    for copy in copies(layout):
        if not copy.fault:
            return copy
    raise NotFound(
        "there is no whole backup in cbo/backups; `calyx cbo restore --empty` sets the file aside, and the CBO begins "
        "anew after its last pulse record"
    )


def _look(layout: Layout, path: Path) -> Copy:
    fault, last = fault_of(path), ""
    if not fault:
        with closing(_read(path)) as database:
            last = pulse_id(last_ended(database))
    made = made_at(path)
    return Copy(
        path=path.relative_to(layout.root).as_posix(),
        size_bytes=path.stat().st_size,
        made_at=iso(made) if made is not None else "",
        last_pulse=last,
        fault=fault,
    )


def _copied(layout: Layout, copy: Copy | None) -> Path | None:
    """Durably beside the database, and whole there."""
    if copy is None:
        return None
    new = layout.state("cbo") / _NEW
    new.unlink(missing_ok=True)
    with closing(_read(layout.root / copy.path)) as source, closing(sqlite3.connect(new)) as to:
        source.backup(to)
        to.execute("PRAGMA journal_mode = DELETE")
    with new.open("rb") as file:
        os.fsync(file.fileno())
    if fault := fault_of(new):
        new.unlink()
        raise Damaged(f"the copy of {copy.path} is not whole ({fault}); nothing was replaced")
    return new


def main(arguments: list[str]) -> None:
    """`python -m services.cbo backups` and `restore [PATH] [--empty] [--dry-run]`: one line of JSON."""
    layout, clock = load(StationSettings, "cbo").layout, SystemClock()
    try:
        if arguments[0] == "backups":
            answer: object = [asdict(each) for each in copies(layout)]
        else:
            done = restore(
                layout,
                clock,
                named=next((each for each in arguments[1:] if not each.startswith("-")), ""),
                empty="--empty" in arguments,
                dry_run="--dry-run" in arguments,
            )
            answer = asdict(done)
    except CalyxError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write(json.dumps(answer) + "\n")
