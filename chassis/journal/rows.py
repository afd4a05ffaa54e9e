"""One row of a table in a SQLite file: read and written by its primary key, within one transaction.

A row is journaled column by column, each value with its type, so that 5, 5.0, '5' and x'35' stay what they are. What a
change of one row would take along without saying so (triggers, cascades, rows that a conflict replaces) is refused or
switched off. SQLite's own locks keep others out meanwhile; a locked database is waited for a short while only.
"""

import contextlib
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from chassis.canonical import Json, sha256_hex
from chassis.errors import CalyxError, Drifted, InvalidInput, Refused, ResourceExhausted, Unavailable

MAX_VALUE = 64 << 10
"""Bytes of a row, a text or a blob. The records of the journal hold it, and are kept when contents are dropped."""
BUSY_SECONDS = 2.0
COMPANIONS = ("", "-journal", "-wal", "-shm")
"""What SQLite keeps beside a database while it is in use."""
_MAGIC = b"SQLite format 3\0"
_FIRM = {"NO ACTION", "RESTRICT"}

Row = dict[str, Any]
"""Column → typed value, as it is journaled."""


class Database:
    """A SQLite file within a transaction that holds its write lock; what is not committed is gone afterwards."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection

    def commit(self) -> None:
        with _in_words(self._path):
            self._connection.execute("COMMIT")

    def clear(self) -> None:
        """Have SQLite remove the journal that a killed process left behind, as it does after any write: one of nothing
        new, which is rolled back."""
        with _in_words(self._path):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self._connection.execute(f"PRAGMA user_version = {version}")

    def row(self, table: str, key: Row) -> Row | None:
        """The row, generated columns left out. Refused for a table whose rows can't be changed one by one."""
        with _in_words(self._path):
            columns = self._columns(table)
            if {name for name, at in columns.items() if at} != set(key):
                keyed = ", ".join(name for name, at in columns.items() if at)
                raise Refused(f"a row of {table} is named by its primary key ({keyed})")
            chosen = ", ".join(map(_name, columns))
            found = self._connection.execute(
                f"SELECT {chosen} FROM main.{_name(table)} WHERE {_equal(key)}", _plain(key)  # noqa: S608 — names are quoted, and known
            ).fetchall()  # fmt: skip
        return {name: typed(value) for name, value in zip(columns, found[0], strict=True)} if found else None

    def put(self, table: str, key: Row, values: Row) -> Row:
        """Set these columns of the row, or make it, the others by default; returns the row as it is then."""
        there, columns = self.row(table, key), self._columns(table)
        if strange := set(values) - {name for name, at in columns.items() if not at}:
            raise Refused(f"{table} has no column {sorted(strange)[0]} that could be set beside its key")
        named = _name(table)
        with _in_words(self._path):
            if there is None:
                row = key | values
                names, marks = ", ".join(map(_name, row)), ", ".join("?" * len(row))
                self._one(f"INSERT OR ABORT INTO main.{named} ({names}) VALUES ({marks})", _plain(row))  # noqa: S608 — as above
            elif values:
                sets = ", ".join(f"{_name(name)} = ?" for name in values)
                self._one(f"UPDATE OR ABORT main.{named} SET {sets} WHERE {_equal(key)}", _plain(values) + _plain(key))  # noqa: S608 — as above
        made = self.row(table, key)
        if made is None:
            raise Refused(f"{table} does not keep a row under that key; nothing was changed")
        return made

    def drop(self, table: str, key: Row) -> None:
        with _in_words(self._path):
            self._one(f"DELETE FROM main.{_name(table)} WHERE {_equal(key)}", _plain(key))  # noqa: S608 — as above

    def turn(self, cell: Json) -> bool:
        """From what a change left to what it had found. False if it is so already; Drifted for anything else."""
        table, key, before, after = cell["table"], cell["key"], cell["before"], cell["after"]
        now = self.row(table, key)
        if now == before:
            return False
        if now != after:
            raise Drifted(f"{row_named(cell)} in {self._path} was changed since the task; nothing was touched")
        try:
            if before is None:
                self.drop(table, key)
            else:
                self.put(table, key, {name: value for name, value in before.items() if name not in key})
        except Refused as error:
            raise Drifted(f"{row_named(cell)} in {self._path} can't be put back: {error.message}") from error
        if self.row(table, key) != before:
            raise Drifted(f"{row_named(cell)} in {self._path} would not be what it was; nothing was touched")
        return True

    def _one(self, sql: str, given: tuple[Any, ...]) -> None:
        before = self._connection.total_changes
        self._connection.execute(sql, given)
        if self._connection.total_changes - before != 1:
            raise Refused("more than the one row would have changed; nothing was changed")

    def _columns(self, table: str) -> dict[str, int]:
        """Each column that can be written, with its place in the primary key from 1, or 0."""
        ask = self._connection.execute
        made = ask("SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
        if made is None or table.lower().startswith("sqlite_"):
            raise Refused(f"{self._path.name} has no table {table} whose rows could be changed")
        kinds = {str(found[1]): str(found[2]) for found in ask(f"PRAGMA main.table_list({_name(table)})")}
        if made[0].upper().startswith("CREATE VIRTUAL") or kinds.get(table, "table") != "table":
            raise Refused(f"{table} is kept by a module of SQLite; its rows are not changed one by one")
        if ask(
            "SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", (table,)
        ).fetchone():
            raise Refused(f"{table} has a trigger, whose doings could not be undone; nothing was changed")
        for other, on_update, on_delete in ask(
            "SELECT m.name, f.on_update, f.on_delete FROM main.sqlite_master m, pragma_foreign_key_list(m.name) f "
            "WHERE m.type = 'table' AND f.\"table\" = ? COLLATE NOCASE",
            (table,),
        ):
            if not {on_update, on_delete} <= _FIRM:
                raise Refused(f"rows of {other} would change with those of {table}; nothing was changed")
        found = ask("SELECT name, pk, hidden FROM pragma_table_xinfo(?, 'main')", (table,)).fetchall()
        columns = {str(name): int(place) for name, place, hidden in found if not hidden}
        if not any(columns.values()):
            raise Refused(f"{table} has no primary key, so none of its rows can be told from another")
        return columns


@contextmanager
def transaction(path: Path, *, rehearsed: bool = False) -> Iterator[Database]:
    """With the write lock; rolled back at the end unless committed. Refused, Unavailable (locked), Drifted (gone).

    `rehearsed`: never to be committed, so that no journal file has to appear beside the database for it.
    """
    _fit(path)
    with contextlib.ExitStack() as stack:
        with _in_words(path):
            where = f"{path.as_uri()}?mode=rw"
            opened = sqlite3.connect(where, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            connection = stack.enter_context(closing(opened))
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
            for pragma in (
                "trusted_schema = OFF",
                "foreign_keys = ON",
                "synchronous = FULL",
                "recursive_triggers = ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            if rehearsed and connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA cache_spill = OFF")
                connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("BEGIN IMMEDIATE")
        yield Database(path, connection)


def row_ended(intent: Json, target: Path, _tmp: Path, _kept: Path) -> bool:
    """Whether a change shows that a crash left unconfirmed. What can't be looked at is taken for done: its undo then
    looks again, and refuses what it does not find."""
    cell = intent["cells"][0]
    try:
        with transaction(target) as database:
            with contextlib.suppress(Refused):  # it can't be written to: then nobody was killed writing, either
                database.clear()
            return bool(database.row(cell["table"], cell["key"]) != cell["before"])
    except Refused:
        return True


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _fit(path: Path) -> None:
    """Raises Drifted where nothing is, Refused for what is no database that can be opened without surprises."""
    for companion in COMPANIONS[1:]:
        if path.with_name(path.name + companion).is_symlink():
            raise Refused(f"{path.name}{companion} is a link; nothing was changed")
    try:
        if path.lstat().st_nlink > 1:
            raise Refused(f"{path} has another name, under which its journal would not be found; nothing was changed")
        if not stat.S_ISREG(path.lstat().st_mode) or not is_database(path):
            raise Refused(f"{path} is no SQLite database; nothing was changed")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Drifted(f"{path} is not there; nothing was changed") from error
    except OSError as error:
        raise Refused(f"{path} can't be read ({error.strerror}); nothing was changed") from error


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except CalyxError:
        raise
    except OverflowError as error:
        raise InvalidInput(f"SQLite holds no number that large ({error})") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable(f"{path} is locked by another program; nothing was changed, try again") from error
        if code == sqlite3.SQLITE_FULL:
            raise ResourceExhausted(f"no space for a change in {path}; nothing was changed, make room") from error
        raise Refused(f"{path}: {error}; nothing was changed") from error


def typed(value: object) -> Any:
    """With its type, as JSON. Raises InvalidInput for what SQLite does not hold."""
    if value is None:
        return None
    if isinstance(value, int):
        return {"int": str(int(value))}
    if isinstance(value, float):
        return {"real": value.hex()}
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("a text that is not UTF-8 can't be journaled") from error
        return {"text": value}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    raise InvalidInput(f"{type(value).__name__} is nothing that SQLite holds: int, float, str, bytes or None")


def typed_row(values: Mapping[str, object], *, key: bool = False) -> Row:
    """Raises InvalidInput, for a key also where a part is NULL: no row is found by that."""
    row = {name: typed(value) for name, value in values.items()}
    if key and (not row or None in row.values()):
        raise InvalidInput("a row is named by the columns of its primary key, none of them NULL")
    return row


def row_named(cell: Json) -> str:
    """For people: its table and key."""
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in cell["key"].items())
    return f"row {shown} of {cell['table']}"


def held_by(path: Path) -> str:
    """A digest of all that a database holds, whatever pages it lies in; empty for what is no database that can be read.
    What SQLite keeps for itself is left out."""
    try:
        return _held(path) if is_database(path) else ""
    except CalyxError:
        return ""


def _held(path: Path) -> str:
    with transaction(path, rehearsed=True) as database, _in_words(path):
        ask = database._connection.execute
        made = ask(
            "SELECT type, name, sql FROM main.sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1, 2"
        ).fetchall()
        found = [repr(made)]
        for name in (each[1] for each in made if each[0] == "table"):
            found += [name, *sorted(repr(row) for row in ask(f"SELECT * FROM main.{_name(name)}"))]  # noqa: S608 — quoted
    return sha256_hex("\n".join(found).encode(errors="backslashreplace"))


def _shown(value: Any) -> str:
    ((kind, text),) = value.items()
    return str(text) if kind == "int" else str(float.fromhex(text)) if kind == "real" else repr(text)[:40]


def _plain(row: Row) -> tuple[Any, ...]:
    return tuple(map(_untyped, row.values()))


def _untyped(value: Any) -> Any:
    if value is None:
        return None
    ((kind, text),) = value.items()
    return _READ[kind](text)


_READ: dict[str, Callable[[str], Any]] = {"int": int, "real": float.fromhex, "text": str, "blob": bytes.fromhex}


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _equal(key: Row) -> str:
    return " AND ".join(f"{_name(name)} = ?" for name in key)
