"""Copies of the store that were read back and found whole before they got their names, each with its sha256 beside it.

`<name>.sha256` is in the form that `sha256sum -c` reads.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_whole
from chassis.errors import Damaged
from services.memory.commits import REDO_MARK
from services.memory.damage import Damage, Kind
from services.memory.faults import explained
from services.memory.queries import SQL
from services.memory.store import Store
from services.memory.verify import check_file

KEPT = 14
PATTERN = "experience-[0-9]*.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    path: Path
    size_bytes: int
    sha256: str


def write_backup(store: Store, folder: Path, now: datetime) -> Backup:
    """`VACUUM INTO` a temporary file, check it, fsync, rename. The newest 14 backups are kept.

    Recording and recall go on meanwhile. Raises Damaged if the copy does not pass; it is removed then. What the two
    newest backups hold leaves the redo log.
    """
    path = folder / f"experience-{now:%Y%m%dT%H%M%S%fZ}.sqlite"
    temporary = folder / f".{path.name}.tmp"
    with explained("write a backup", path):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".experience-*.tmp*"):  # what a kill left; one backup at a time
            left.unlink()
        try:
            with closing(store.snapshot()) as connection:
                connection.execute("VACUUM INTO ?", (str(temporary),))
            with closing(read_only(temporary)) as copy:
                if damages := check_file(copy):
                    raise Damaged(f"the backup is damaged and was removed: {damages[0].why}; run `calyx memory verify`")
            with temporary.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            size = temporary.stat().st_size
            # First what is to be believed, then the file: a backup without its sha256 is checked page by page.
            write_whole(manifest_of(path), f"{sha256}  {path.name}\n".encode())
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        fsync_dir(folder)
        others = [each for each in backups(folder) if each != path]
        for old in others[KEPT - 1 :]:  # never the one just made, whatever the clock says
            old.unlink()
            manifest_of(old).unlink(missing_ok=True)
    _shorten_redo(store, backups(folder)[:2])
    return Backup(path=path, size_bytes=size, sha256=sha256)


def _shorten_redo(store: Store, newest: Sequence[Path]) -> None:
    if store.redo is None or len(newest) < 2:
        return
    marks = []
    for path in newest:
        with explained("read a backup", path), closing(read_only(path)) as copy:
            row = copy.execute(SQL["get_meta"], (REDO_MARK,)).fetchone()
            marks.append(int(row[0]) if row else 0)
    store.redo.drop_through(min(marks))


def backups(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def read_only(path: Path) -> sqlite3.Connection:
    """A file that nobody writes; the caller closes it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def fault_of(path: Path) -> str:
    """What is wrong with a backup; empty if it is whole. Without its sha256 its pages are checked instead."""
    try:
        told = manifest_of(path).read_text(errors="replace").split()
    except FileNotFoundError:
        told = []
    try:
        if told:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            return "" if found == told[0] else "it does not match the sha256 beside it"
        with closing(read_only(path)) as copy:
            damages = check_file(copy)
            return f"its sha256 is missing, and {damages[0].why}" if damages else ""
    except (sqlite3.DatabaseError, OSError) as error:
        return f"it can't be read: {error}"


def check_backups(folder: Path) -> tuple[int, list[Damage]]:
    """(how many there are, those that are damaged)."""
    found = backups(folder)
    damages = [
        Damage(what=f"backup {path.name}", why=why, kind=Kind.BACKUP) for path in found if (why := fault_of(path))
    ]
    return len(found), damages


def set_aside(folder: Path, damages: Sequence[Damage]) -> str:
    """Rename damaged backups, so that no restore takes one; what was done, in words."""
    with explained("set a damaged backup aside", folder):
        for each in damages:
            path = folder / each.what.removeprefix("backup ")
            path.rename(path.with_name(f"{path.name}.damaged"))
            if manifest_of(path).exists():
                manifest_of(path).rename(path.with_name(f"{path.name}.damaged.sha256"))
        fsync_dir(folder)
    return "renamed to .damaged: no restore takes it"
