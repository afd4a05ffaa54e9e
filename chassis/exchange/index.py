"""Which finished task lies where in the archive: SQLite, derived from the segments and made again when it is lost."""

import contextlib
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import get_args

from chassis.errors import Unavailable
from chassis.exchange.manifest import TASK_ID, AckStatus, TaskId

_SCHEMA = (Path(__file__).parent / "index.sql").read_text()
_VERSION = 1
_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
_PUT = "INSERT OR REPLACE INTO task VALUES (?,?,?,?,?,?,?,?,?,?)"


class Lost(Exception):
    """The index is not there, or can't be read: it is to be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A finished task whose files are gone; `ended_at` as it stands in its ack."""

    task_id: TaskId
    segment: str
    start: int
    size: int
    status: AckStatus
    epoch: int
    agent: str
    domain: str
    owner: str
    ended_at: str


class Index:
    """One file. Safe for threads and for processes; who makes it anew sees to it that nobody else does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._inode = (0, 0)

    def get(self, task_id: TaskId) -> Row | None:
        with self._asked() as database:
            found = database.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()
        if found is None:
            return None
        row = Row(**dict(zip(Row.__slots__, found, strict=True)))
        if row.status not in get_args(AckStatus) or not TASK_ID.fullmatch(row.task_id):
            raise Lost("it holds what nobody wrote")
        return row

    def ids(self, *, cancelled: bool) -> list[TaskId]:
        """All cancelled tasks, or all that ended in another way."""
        with self._asked() as database:
            found = database.execute("SELECT id FROM task WHERE (status = 'cancelled') = ? ORDER BY id", (cancelled,))
            return [TaskId(each) for (each,) in found]

    def of(self, segment: str) -> list[Row]:
        with self._asked() as database:
            found = database.execute("SELECT * FROM task WHERE segment = ?", (segment,)).fetchall()
        return [Row(**dict(zip(Row.__slots__, each, strict=True))) for each in found]

    def indexed(self) -> dict[str, int]:
        """How many bytes of each segment are in here."""
        with self._asked() as database:
            return dict(database.execute("SELECT name, indexed FROM segment").fetchall())

    def put(self, rows: Iterable[Row], segment: str, indexed: int) -> None:
        """Add what was read from a segment up to a byte, in one transaction."""
        with self._asked() as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_PUT, map(astuple, rows))
            database.execute("INSERT OR REPLACE INTO segment VALUES (?,?)", (segment, indexed))

    def make(self, rows: Iterable[Row], indexed: Mapping[str, int]) -> None:
        """A new index in place of whatever is there. `indexed` is read after the rows."""
        with self._turn:
            self._close()
            fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(6)}.tmp")
            try:
                with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as database:
                    database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
                    database.execute("BEGIN")
                    database.executemany(_PUT, map(astuple, rows))
                    database.executemany("INSERT INTO segment VALUES (?,?)", indexed.items())
                    database.execute("COMMIT")
                _sync(fresh)
                for beside in ("-journal", "-wal", "-shm"):  # of the old one; they would be taken for the new one's
                    self._path.with_name(self._path.name + beside).unlink(missing_ok=True)
                if self._path.is_dir() and not self._path.is_symlink():
                    self._path.rename(self._path.with_name(f"{self._path.name}.{secrets.token_hex(3)}.stray"))
                fresh.replace(self._path)
            except sqlite3.DatabaseError as error:
                raise Unavailable(f"the archive's index can't be written ({error}); make room and try again") from error
            finally:
                fresh.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[sqlite3.Connection]:
        """Raises Lost for a missing or damaged index, Unavailable for a busy one or a full disk."""
        with self._turn:
            try:
                yield self._open()
            except sqlite3.DatabaseError as error:
                if (error.sqlite_errorcode & 0xFF) in _DAMAGE:
                    self._close()
                    raise Lost(str(error)) from error
                raise Unavailable(f"the archive's index can't be used now ({error}); try again") from error

    def _open(self) -> sqlite3.Connection:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            self._close()
            raise Lost("it is not there")
        if self._database is not None and self._inode == (found.st_dev, found.st_ino):
            return self._database
        self._close()
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            database.execute("PRAGMA synchronous=FULL")
            if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                raise Lost("it is of another version")
        except BaseException:
            database.close()
            raise
        self._database, self._inode = database, (found.st_dev, found.st_ino)
        return database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
