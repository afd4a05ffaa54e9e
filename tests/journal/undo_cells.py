"""Keys of a JSON and a TOML file and rows of a database, changed by chance: a work of the undo property test's own.

A bystander changes other keys and rows meanwhile, in a layout of its own; a person may change the same ones. What is
compared afterwards: a file nobody else touched to the byte, its time included; one that the bystander rewrote by what
it holds; a database row by row. What the bystander did has to be there still.
"""

import json
import os
import random
import sqlite3
import tomllib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import tomlkit

from chassis.clock import VirtualClock
from chassis.exchange.manifest import Manifest
from chassis.journal.records import TaskLog
from chassis.work import Effects, Outcome, Plan

MARK = "bystander"
FOREIGN = 1000
"""Ids from here on are the bystander's rows."""
TABLES = ("plain", "words", "pairs")
_SCHEMA = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT 'x', b REAL, c BLOB, d AS (a || '!'));
CREATE TABLE words (word TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE pairs (x INTEGER, y TEXT COLLATE NOCASE, v ANY, PRIMARY KEY (x, y)) STRICT;
"""


class Cells:
    """`domain`, `procedures`, `perform`: as a `chassis.work.Work`."""

    domain = "cells"
    procedures = ("keys", "rows", "both")

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.json, self.toml, self.db = folder / "conf.json", folder / "conf.toml", folder / "store.sqlite"
        self.foreign: dict[str, Any] = {}
        self.left_ns = 0

    def fill(self) -> None:
        if self.folder.exists():
            return
        self.folder.mkdir()
        chance = self.chance
        tree = {"a": 1, "b": {"c": [1, 2.0], "d": None, "e": {}}, "ü": "ö", "z": True}
        self.json.write_text(json.dumps(tree, indent=chance.choice((None, 2, 4, "\t"))) + chance.choice(("", "\n")))
        self.toml.write_text(
            '# top\na = 1  # one\n\n[b]\n  c = [1,\n    2]\n  # on d\n  d = "x"\n[b.e]\n[f]\ng = 0x1F'
            + chance.choice(("", "\n"))
        )
        with closing(sqlite3.connect(self.db)) as opened:
            opened.executescript(_SCHEMA)
            opened.executemany("INSERT INTO plain (id, a, b, c) VALUES (?, ?, ?, ?)", [self._row(n) for n in range(5)])
            opened.executemany("INSERT INTO words VALUES (?, ?)", [("one", 1), ("two", b"\0\1"), ("", None)])
            opened.executemany("INSERT INTO pairs VALUES (?, ?, ?)", [(1, "A", "1"), (1, "b", 1.5)])
            opened.commit()
        for number, path in enumerate((self.json, self.toml, self.db)):
            path.chmod(chance.choice((0o600, 0o644)))
            os.utime(path, ns=(10**18, 10**18 + number))

    def _row(self, number: int) -> tuple[object, ...]:
        return number, f"n{number}", self.chance.choice((None, 1.0, 2.5)), self.chance.choice((None, b"", b"\xff\0"))

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return Plan(changes=())

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        return {}

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        for _ in range(self.chance.randrange(1, 6)):
            both = (self._key, self._change_row)
            self.chance.choice({"keys": both[:1], "rows": both[1:]}.get(task.procedure, both))(effects)
        return Outcome(detail="")

    def _key(self, effects: Effects) -> None:
        chance, path = self.chance, self.chance.choice((self.json, self.toml))
        tree = read(path)
        # An empty object or table is not always dropped as a key of its own.
        keys = [key for key in paths(tree) if path == self.json or not isinstance(at(tree, key), dict)]
        holders = [(), *(key for key in paths(tree) if isinstance(at(tree, key), dict))]
        keys = [key for key in keys if MARK not in str(key)]
        what = chance.choice(("new", "set", "set", "drop"))
        if what == "new" or len(keys) < 3:
            key = (*chance.choice([each for each in holders if MARK not in str(each)]), f"n{chance.randrange(100)}")
            if key not in paths(tree):
                effects.set_key(path, key, self._value(path))
        elif what == "set":
            effects.set_key(path, chance.choice(keys), self._value(path))
        else:
            effects.drop_key(path, chance.choice(keys))

    def _value(self, path: Path) -> Any:
        plain: list[Any] = [0, 1, 1.0, True, "", "tëxt\n", [], [1, ["x"]], -(2**62)]
        return self.chance.choice(plain if path == self.toml else [*plain, None, {}, {"k": {"l": [None]}}])

    def _change_row(self, effects: Effects) -> None:
        chance, table = self.chance, self.chance.choice(TABLES)
        value: Any = chance.choice((None, 3, 4.5, "t\0xt", "7", b"\xfe", b""))
        if table == "plain":
            key: dict[str, object] = {"id": chance.randrange(8)}
            values = chance.choice(({"a": "set"}, {"b": 2, "c": b"x"}, {}, {"c": None, "a": "y", "b": None}))
        elif table == "words":
            key, values = {"word": chance.choice(("one", "two", "", "drei\n"))}, {"v": value}
        else:
            key, values = {"x": chance.choice((1, 2)), "y": chance.choice(("a", "B", "c"))}, {"v": value}
        where = " AND ".join(f"{name} = ?" for name in key)
        with closing(sqlite3.connect(self.db)) as opened:
            there = opened.execute(f"SELECT 1 FROM {table} WHERE {where}", tuple(key.values())).fetchone()
        if there and chance.random() < 0.4:
            effects.drop_row(self.db, table, key)
        else:
            effects.put_row(self.db, table, key, values)

    # --- others --------------------------------------------------------------------------------------------------

    def meddle(self, fates: random.Random) -> None:
        """A bystander changes other keys and rows."""
        if not self.folder.exists():
            return
        tag = fates.randrange(10**6)
        if fates.random() < 0.5 and isinstance(tree := read(self.json), dict):
            tree[f"{MARK}{tag}"] = self.foreign[f"json{tag}"] = [tag]
            self.json.write_text(json.dumps(tree, indent=fates.choice((None, 1)), ensure_ascii=fates.random() < 0.5))
        if fates.random() < 0.5:
            document = tomlkit.parse(self.toml.read_text())
            document[f"{MARK}{tag}"] = self.foreign[f"toml{tag}"] = tag
            self.toml.write_text(tomlkit.dumps(document))
        if fates.random() < 0.5:
            with closing(sqlite3.connect(self.db)) as opened:
                opened.execute("INSERT INTO plain (id, a) VALUES (?, 'foreign')", (FOREIGN + tag,))
                opened.execute("INSERT INTO words VALUES (?, ?)", (f"{MARK}{tag}", tag))
                opened.commit()
            self.foreign[f"row{tag}"] = tag

    def lost(self) -> str:
        """What of the bystander's is not there any more."""
        if not self.foreign:
            return ""
        trees = {"json": read(self.json), "toml": read(self.toml)}
        with closing(sqlite3.connect(self.db)) as opened:
            ids = {found[0] - FOREIGN for found in opened.execute("SELECT id FROM plain WHERE id >= ?", (FOREIGN,))}
            words = dict(opened.execute("SELECT word, v FROM words"))
        for name, value in self.foreign.items():
            kind, tag = name[:4].rstrip("0123456789"), int("".join(each for each in name if each.isdigit()))
            there = (
                tag in ids and words.get(f"{MARK}{tag}") == tag
                if kind == "row"
                else trees[kind].get(f"{MARK}{tag}") == value
            )
            if not there:
                return f"what a bystander had changed is lost: {name}"
        return ""

    def take_over(self, root: Path, task_id: str, fates: random.Random) -> tuple[Path, bytes] | None:
        """A person changes what the task changed last: returns where, with the bytes to put back."""
        standing = TaskLog(root / "journal", task_id, VirtualClock()).read().standing
        found = [entry.intent for entry in standing if "cells" in entry.intent]
        if not found:
            return None
        target, cell = Path(found[-1]["target"]), found[-1]["cells"][-1]
        data, self.left_ns = target.read_bytes(), target.stat().st_mtime_ns
        if target == self.db:
            with closing(sqlite3.connect(self.db)) as opened:
                key = {name: _plain(value) for name, value in cell["key"].items()}
                where = " AND ".join(f"{name} = ?" for name in key)
                table, names = cell["table"], ", ".join(key)
                value = {"plain": "a", "words": "v", "pairs": "v"}[table]
                if cell["after"] is None:
                    marks = ", ".join("?" * len(key))
                    sql, given = f"INSERT INTO {table} ({names}, {value}) VALUES ({marks}, 'p')", tuple(key.values())
                else:
                    sql, given = f"UPDATE {table} SET {value} = 'by a person' WHERE {where}", tuple(key.values())
                opened.execute(sql, given)
                opened.commit()
            return target, data
        key_path = tuple(cell["key"])
        tree: Any = tomlkit.parse(target.read_text()) if target == self.toml else read(target)
        holder = at(tree, key_path[:-1])
        if cell["after"] is not None and fates.random() < 0.3:
            del holder[key_path[-1]]
        else:
            holder[key_path[-1]] = "by a person"
        target.write_text(tomlkit.dumps(tree) if target == self.toml else json.dumps(tree))
        return target, data


def _plain(value: Any) -> Any:
    ((kind, text),) = value.items()
    return int(text) if kind == "int" else text


def read(path: Path) -> Any:
    return tomllib.loads(path.read_text()) if path.suffix == ".toml" else json.loads(path.read_bytes())


def at(tree: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        tree = tree[part]
    return tree


def paths(tree: Any, start: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return []
    return [key for name, below in tree.items() for key in ((*start, name), *paths(below, (*start, name)))]


def rows_of(path: Path) -> bytes:
    """All rows but the bystander's, with their types."""
    with closing(sqlite3.connect(path)) as opened:
        found = [
            sorted(repr(row) for row in opened.execute(f"SELECT * FROM {table}") if not _foreign(row))
            for table in TABLES
        ]
    return repr(found).encode()


def _foreign(row: tuple[Any, ...]) -> bool:
    return (isinstance(row[0], int) and row[0] >= FOREIGN) or (isinstance(row[0], str) and row[0].startswith(MARK))


def alike(name: str, one: bytes, other: bytes) -> bool:
    """A file that a bystander rewrote holds the same but for the bystander's keys."""
    if name.endswith((".json", ".toml")) and (MARK.encode() in one or MARK.encode() in other):
        trees = [tomllib.loads(each.decode()) if name.endswith(".toml") else json.loads(each) for each in (one, other)]
        told = [
            json.dumps({key: tree[key] for key in tree if not key.startswith(MARK)}, sort_keys=True) for tree in trees
        ]
        return told[0] == told[1]
    return False
