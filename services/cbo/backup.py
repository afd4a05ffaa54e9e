"""A copy of cbo.sqlite each day: read back and found whole before it gets its name. The newest few are kept."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from chassis.atomic import fsync_dir
from chassis.errors import Damaged
from services.cbo.store import FILE

log = structlog.get_logger(__name__)

EVERY = timedelta(days=1)
LOOK_SECONDS = 600.0
KEPT = 3
_NAME = "cbo-%Y%m%dT%H%M%SZ.sqlite"


class Backups:
    """`between` holds off pulses: a copy begins where none is under way, and goes on beside the next one."""

    def __init__(
        self, folder: Path, between: Callable[[], AbstractContextManager[object]], now: Callable[[], datetime]
    ) -> None:
        self._database, self._folder = folder / FILE, folder / "backups"
        self._between, self._now = between, now

    def step(self) -> None:
        """One, when the newest is a day old. A full disk is logged, and tried again at the next look."""
        newest = max(self._folder.glob("cbo-*.sqlite"), default=None)
        if newest is not None and self._now() - EVERY < self._made(newest):
            return
        try:
            self.write()
        except (OSError, sqlite3.Error, Damaged) as error:
            log.error("no backup of cbo.sqlite could be written", why=str(error))

    def write(self) -> Path:
        """Raises OSError, sqlite3.Error; Damaged where the copy is not whole, which is removed then."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".cbo-*"):  # what a kill left; one backup at a time
            left.unlink()
        path = self._folder / self._now().strftime(_NAME)
        made = path.with_name(f".{path.name}")
        try:
            self._copy(made)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(path)
        finally:
            for left in self._folder.glob(f"{made.name}*"):
                with contextlib.suppress(FileNotFoundError):
                    left.unlink()
        fsync_dir(self._folder)
        for old in sorted(self._folder.glob("cbo-*.sqlite"))[:-KEPT]:
            if old != path:  # never the one just made, whatever the clock says
                old.unlink()
        return path

    def _made(self, path: Path) -> datetime:
        """When it was made. One from the future is of an unknown age, so that a clock set back does not end backups."""
        made, now = made_at(path), self._now()
        return made if made is not None and made <= now else now - EVERY

    def _copy(self, to: Path) -> None:
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, isolation_level=None)) as source:
            with self._between():
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM fact").fetchone()  # now it sees what is there now, to the end
            with closing(sqlite3.connect(to, isolation_level=None)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
                found = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise Damaged(f"the copy is not whole: {found}")


def made_at(path: Path) -> datetime | None:
    """By its name; None where that says nothing."""
    try:
        return datetime.strptime(path.name, _NAME).replace(tzinfo=UTC)
    except ValueError:
        return None
