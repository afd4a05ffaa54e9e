"""Changes of one key of a JSON or TOML file, and of one row of a SQLite table: journaled by the key, undone by it.

A key's change is a replacement of the file, whose undo restores the file whole where nobody else changed it, and else
that key alone. A row's change is a transaction of SQLite, which is there wholly or not. It is tried first in one that
is rolled back, which tells the row that will be; then the intent is written under the write lock, then the row.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chassis.canonical import Json, canonical_json, sha256_hex
from chassis.errors import Drifted, Refused
from chassis.journal import rows
from chassis.journal.documents import Document, checked_key, named, refuse_large, value_of
from chassis.journal.effects import JournaledEffects, _untouched
from chassis.journal.targets import dress, like


class KeyedEffects(JournaledEffects):
    """The part of `chassis.work.Effects` that changes less than a file."""

    _rowed: frozenset[str] = frozenset()

    def set_key(self, target: Path, key: Sequence[str], value: Any) -> None:
        whole = checked_key(key)
        self._change_key("set_key", target, whole, lambda document: document.made(whole, value))

    def drop_key(self, target: Path, key: Sequence[str]) -> None:
        self._change_key("drop_key", target, checked_key(key), lambda _document: None)

    def put_row(self, db: Path, table: str, key: Mapping[str, object], values: Mapping[str, object]) -> None:
        wanted = rows.typed_row(values)
        self._change_row("put_row", db, table, rows.typed_row(key, key=True), wanted)

    def drop_row(self, db: Path, table: str, key: Mapping[str, object]) -> None:
        self._change_row("drop_row", db, table, rows.typed_row(key, key=True), None)

    def _change_key(
        self, op: str, target: Path, key: tuple[str, ...], wanted: Callable[[Document], Json | None]
    ) -> None:
        target = self._allowed(target)
        with self._changing(target):
            document, before = self._document(target)
            was, cell = document.cell(key), wanted(document)
            if cell is None and was is None:
                raise Refused(f"{target} has no {named(key)}; nothing was changed")
            if value_of(was) == value_of(cell):
                return  # it holds that already
            made = document.put(key, cell)
            data, dressed = made.text.encode(), like(before)
            cells = [{"key": list(key), "before": was, "after": made.cell(key)}]
            kept = self._keep(target, before)
            after = {"sha256": sha256_hex(data), "size": len(data), **dressed}
            tmp = self._intend(op, target, before, after, cells=cells)
            write_new(tmp, data, dressed)
            self._fault("staged")

            def place() -> None:
                stands(target, before)
                tmp.replace(target)

            self._place(target, place, lambda: _untouched(kept, before, target), plain=True)
            self._remember_made(target, after)

    def _document(self, target: Path) -> tuple[Document, Json]:
        """What it holds, and what there is to put back."""
        try:
            found = target.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Drifted(f"{target} is not there; nothing was changed") from error
        if stat.S_ISREG(found.st_mode):
            refuse_large(target, found.st_size)
            if found.st_nlink > 1:
                raise Refused(f"{target} has another name, which would keep the old content; nothing was changed")
        before = self._there(target)
        data = target.read_bytes()
        if sha256_hex(data) != before["sha256"]:
            raise Drifted(f"{target} was written to meanwhile; nothing was changed")
        return Document(target, data), before

    def _change_row(self, op: str, db: Path, table: str, key: rows.Row, values: rows.Row | None) -> None:
        target = super()._allowed(db)
        if str(target) in self._changed - self._rowed:
            raise Refused(f"{target} was changed as a file by this task, which could then not be undone")
        with self._changing(target):
            with rows.transaction(target, rehearsed=True) as tried:
                was, made = tried.row(table, key), None
                if values is not None:
                    made = tried.put(table, key, values)
                elif was is None:
                    raise Refused(f"{target}: there is no {rows.row_named({'table': table, 'key': key})} to drop")
                else:
                    tried.drop(table, key)
            there = made or was or {}
            if made == was:
                return  # it is so already
            named_by = {name: there[name] for name in key}  # as it is stored: '5' may have become 5
            cell = {"table": table, "key": named_by, "before": made, "after": was}  # as seen from what is to come
            with rows.transaction(target) as database:
                if database.row(table, named_by) != was:
                    raise Drifted(f"{rows.row_named(cell)} in {target} was changed meanwhile; nothing was changed")
                cells = [{**cell, "before": was, "after": made}]
                self._intend(op, target, facts_of(was), facts_of(made), cells=cells)
                self._rowed |= {str(target)}
                database.turn(cell)
                self._fault("staged")
                self._place(target, database.commit)

    def _allowed(self, path: Path) -> Path:
        target = super()._allowed(path)
        if any(str(target) == db + more for db in self._rowed for more in rows.COMPANIONS):
            raise Refused(f"{target} has rows that this task changed; as a file it could then not be undone")
        return target


def facts_of(row: rows.Row | None) -> Json | None:
    """In the place of what a file's intent says of the file."""
    return (
        None
        if row is None
        else {"sha256": None, "size": len(canonical_json(row)), "row": sha256_hex(canonical_json(row))}
    )


def write_new(path: Path, data: bytes, dressed: Json) -> None:
    """A new file with these bytes, on the disk; an older leftover goes."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    dress(path, dressed)


def stands(target: Path, before: Json) -> None:
    """Raises Drifted when what was read is not what is about to be replaced."""
    try:
        found = target.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Drifted(f"{target} is gone; nothing was changed") from error
    if (found.st_ino, found.st_size, found.st_mtime_ns) != (before["ino"], before["size"], before["mtime_ns"]):
        raise Drifted(f"{target} was written to meanwhile; nothing was changed")
