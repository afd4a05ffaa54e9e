"""One row of a SQLite table: changed, undone by itself, refused where more than the row would move."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chassis.clock import VirtualClock
from chassis.drill import drill
from chassis.errors import CalyxError, Drifted, InvalidInput, Refused, Unavailable
from chassis.exchange.manifest import Manifest
from chassis.footprints import Terms, compare
from chassis.journal import Journal, Session, cells, consent_within, rows
from chassis.listing import take
from chassis.probing import Verdict
from chassis.work import Effects, Outcome, Plan

SCHEMA = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'none', x REAL, b BLOB, g AS (name || '!'));
INSERT INTO t (id, name, x, b) VALUES (1, 'one', 1.5, x'00ff'), (2, 'two', NULL, NULL), (3, '', 3.0, x'');
CREATE TABLE pairs (k TEXT COLLATE NOCASE, n INTEGER, v, PRIMARY KEY (k, n)) WITHOUT ROWID;
INSERT INTO pairs VALUES ('A', 1, 5), ('A', 2, '5'), ('b', 1, 5.0), ('b', 2, x'35');
"""


class Crash(BaseException):
    """The process is gone at this point."""


class Yard:
    def __init__(self, root: Path, schema: str = SCHEMA) -> None:
        self.root, self.data, self.left = root, root / "data", 10**9
        self.data.mkdir()
        self.db = self.data / "a b?.sqlite"
        self.sql(schema)

    @property
    def journal(self) -> Journal:
        return Journal(self.root / "journal", VirtualClock(), consent_within([self.data]), self._at)

    def _at(self, step: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash(step)

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.db)) as opened:
            opened.executescript(script)

    def do(self, what: Callable[[Session], None], task: str = "t1") -> None:
        with self.journal.session(task, 1, lambda: None) as effects:
            what(effects)
            effects.finish({})

    def held(self, tables: tuple[str, ...] = ("t", "pairs")) -> list[str]:
        """Every row with its types."""
        with closing(sqlite3.connect(self.db)) as opened:
            found = [(name, row) for name in tables for row in opened.execute(f"SELECT * FROM {name}")]
        return sorted(f"{name} {row!r}" for name, row in found)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir())


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def _many(effects: Session, db: Path) -> None:
    effects.put_row(db, "t", {"id": 1}, {"name": "uno", "b": None})
    effects.put_row(db, "t", {"id": 9}, {"x": 2})
    effects.drop_row(db, "t", {"id": 3})
    effects.put_row(db, "t", {"id": 9}, {"name": "nul\0l"})
    for n, value in enumerate(("5", 5.0, b"5", 5)):
        effects.put_row(db, "pairs", {"k": "ab"[n // 2], "n": n % 2 + 1}, {"v": value})


def _few(effects: Session, db: Path) -> None:
    effects.put_row(db, "t", {"id": 1}, {"name": "uno", "b": None})
    effects.put_row(db, "pairs", {"k": "new", "n": 1}, {"v": b""})
    effects.drop_row(db, "t", {"id": 3})


def test_rows_are_set_made_and_dropped_with_their_types_and_come_back(yard: Yard) -> None:
    before = yard.held()
    yard.do(lambda effects: _many(effects, yard.db))
    after = yard.held()
    assert "t (1, 'uno', 1.5, None, 'uno!')" in after and "t (9, 'nul\\x00l', 2.0, None, 'nul\\x00l!')" in after
    assert "pairs ('A', 1, '5')" in after and "pairs ('b', 2, 5)" in after
    shown = yard.journal.status("t1").changes
    assert (shown[0]["op"], shown[0]["rows"]) == ("put_row", ["row id=1 of t"])
    assert "uno" not in str(shown), "what a row holds is nobody's business"
    there = yard.data.stat().st_mtime_ns, yard.db.read_bytes(), yard.db.stat().st_mtime_ns
    assert "remove row id=9 of t" in " ".join(yard.journal.undo("t1", dry_run=True).steps)
    assert (yard.data.stat().st_mtime_ns, yard.db.read_bytes(), yard.db.stat().st_mtime_ns) == there
    yard.journal.undo("t1", by="u1")
    assert yard.held() == before
    yard.journal.undo("u1", by="u2")
    assert yard.held() == after
    yard.journal.undo("u2")
    assert yard.held() == before
    assert yard.files() == ["a b?.sqlite"]


def test_what_others_changed_in_other_rows_since_survives(yard: Yard) -> None:
    before = yard.held()
    yard.do(lambda effects: _many(effects, yard.db))
    yard.sql("INSERT INTO t (id) VALUES (77); UPDATE t SET x = 8 WHERE id = 2; VACUUM;")
    yard.journal.undo("t1", by="u1")
    theirs = ["t (2, 'two', 8.0, None, 'two!')", "t (77, 'none', None, None, 'none!')"]
    assert sorted(yard.held()) == sorted([*(row for row in before if "(2, 'two'" not in row), *theirs])
    yard.journal.undo("u1")
    assert theirs[1] in yard.held() and "t (1, 'uno', 1.5, None, 'uno!')" in yard.held()


@pytest.mark.parametrize(
    "theirs",
    [
        "UPDATE t SET x = 2 WHERE id = 1", "DELETE FROM t WHERE id = 1", "INSERT INTO t (id) VALUES (3)",
        "UPDATE t SET name = 'z' WHERE id = 9", "ALTER TABLE t ADD COLUMN more", "DROP TABLE pairs",
        "UPDATE pairs SET v = 5.0 WHERE k = 'b' AND n = 2", "CREATE TRIGGER w AFTER DELETE ON t BEGIN SELECT 1; END",
    ],
)  # fmt: skip
def test_drift_of_the_same_row_is_refused_and_nothing_touched(yard: Yard, theirs: str) -> None:
    yard.do(lambda effects: _many(effects, yard.db))
    yard.sql(theirs)
    before = yard.db.read_bytes()
    with pytest.raises(Refused):
        yard.journal.undo("t1")
    assert yard.db.read_bytes() == before
    assert yard.journal.status("t1").state == "finished"


def test_a_row_whose_place_somebody_took_is_not_put_back_over_them(tmp_path: Path) -> None:
    yard = Yard(
        tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE); INSERT INTO t VALUES (1, 'u')"
    )
    yard.do(lambda effects: effects.drop_row(yard.db, "t", {"id": 1}))
    yard.sql("INSERT INTO t VALUES (2, 'u')")
    with pytest.raises(Drifted, match="UNIQUE"):
        yard.journal.undo("t1")
    assert yard.held(("t",)) == ["t (2, 'u')"]


def test_killed_at_every_step_a_row_is_there_or_not_and_comes_back(tmp_path: Path) -> None:
    at = 0
    while True:
        root = tmp_path / str(at)
        root.mkdir()
        yard = Yard(root)
        before, yard.left = yard.held(), at
        try:
            yard.do(lambda effects, yard=yard: _few(effects, yard.db))
            yard.journal.undo("t1", by="u1")
            done = True
        except Crash:
            done = False
        yard.left = 10**9
        yard.journal.recover()
        assert yard.journal.recover() == []
        if yard.journal.can_undo("t1")[0]:
            yard.journal.undo("t1")
        assert yard.held() == before
        assert yard.files() == ["a b?.sqlite"]
        if done:
            break
        at += 1
    assert at > 25


def test_what_somebody_did_to_a_row_after_a_crash_is_never_undone(yard: Yard) -> None:
    yard.left = 3  # the row is written; the confirmation is not
    with pytest.raises(Crash):
        yard.do(lambda effects: effects.put_row(yard.db, "t", {"id": 1}, {"name": "uno"}))
    yard.left = 10**9
    assert "t (1, 'uno', 1.5, b'\\x00\\xff', 'uno!')" in yard.held()
    yard.sql("UPDATE t SET name = 'theirs' WHERE id = 1")
    assert len(yard.journal.recover()) == 1
    with pytest.raises(Drifted):
        yard.journal.undo("t1")
    assert "t (1, 'theirs', 1.5, b'\\x00\\xff', 'theirs!')" in yard.held()


def test_a_database_in_wal_mode_that_others_have_open_is_changed_and_undone(yard: Yard) -> None:
    yard.sql("PRAGMA journal_mode = WAL")
    before = yard.held()
    with closing(sqlite3.connect(yard.db, isolation_level=None)) as other:
        other.execute("SELECT count(*) FROM t").fetchone()
        seen = take([str(yard.data)], 0)
        yard.do(lambda effects: _many(effects, yard.db))
        effects = yard.journal.status("t1").changes
        now = take([str(yard.data)], 0, seen)
        assert compare(seen, now, Terms(effects=effects)).verdict is Verdict.CONFIRMED
        assert compare(seen, seen, Terms(effects=effects)).missing, "nothing was written, beside it neither"
        assert compare(seen, now, Terms()).undeclared
        assert not compare(seen, now, Terms(others={str(yard.db)})).undeclared, "nor what lies beside it"
        assert other.execute("SELECT name FROM t WHERE id = 1").fetchone() == ("uno",)
        yard.journal.undo("t1")
        assert other.execute("SELECT name FROM t WHERE id = 1").fetchone() == ("one",)
    assert yard.held() == before


def test_a_locked_database_is_waited_for_a_short_while_and_said(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BUSY_SECONDS", 0.01)
    yard.do(lambda effects: _many(effects, yard.db))
    with closing(sqlite3.connect(yard.db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for act in (
            lambda: yard.do(lambda effects: effects.drop_row(yard.db, "t", {"id": 2}), "t2"),
            lambda: yard.journal.undo("t1"),
        ):
            with pytest.raises(Unavailable, match="locked by another program; nothing was changed"):
                act()
        other.execute("ROLLBACK")
    assert not yard.journal.can_undo("t2")[0]
    assert yard.journal.undo("t1").done


HOSTILE: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any], str]] = [
    ("CREATE TABLE h (a, b)", "h", {"a": 1}, {"b": 1}, "no primary key"),
    ("CREATE TABLE h (a PRIMARY KEY, b); CREATE TRIGGER x AFTER INSERT ON h BEGIN DELETE FROM t; END", "h", {"a": 1},
     {}, "has a trigger"),
    ("CREATE TABLE h (a PRIMARY KEY); CREATE TABLE c (r REFERENCES h ON DELETE CASCADE)", "h", {"a": 1}, {},
     "rows of c would change"),
    ("CREATE TABLE h (a PRIMARY KEY, b REFERENCES t)", "h", {"a": 1}, {"b": 99}, "FOREIGN KEY"),
    ("CREATE VIEW h AS SELECT * FROM t", "h", {"id": 1}, {}, "no table h"),
    ("CREATE VIRTUAL TABLE h USING fts5(a)", "h", {"a": 1}, {}, "module of SQLite"),
    ("CREATE VIRTUAL TABLE h USING fts5(a)", "h_content", {"id": 1}, {}, "module of SQLite"),
    ("", "sqlite_master", {"name": "t"}, {"sql": "x"}, "no table"),
    ("", "nothing", {"id": 1}, {}, "no table"),
    ("", 't"; DROP TABLE t; --', {"id": 1}, {}, "no table"),
    ("", "t", {"name": "one"}, {"x": 1}, r"primary key \(id\)"),
    ("", "t", {"id": 1, "x": 1}, {}, r"primary key \(id\)"),
    ("", "t", {"id": 1}, {"nope": 1}, "no column nope"),
    ("", "t", {"id": 1}, {"g": "x"}, "no column g"),
    ("", "t", {"id": 1}, {"id": 2}, "no column id"),
    ("", "t", {"id": 1}, {"name": None}, "NOT NULL"),
    ("", "t", {"id": None}, {}, "none of them NULL"),
    ("", "t", {}, {}, "none of them NULL"),
    ("", "t", {"id": 1}, {"x": [1]}, "nothing that SQLite holds"),
    ("", "t", {"id": 1}, {"name": "\ud800"}, "not UTF-8"),
    ("", "t", {"id": 1}, {"x": 2**64}, "no number that large"),
    ("", "t", {"id": "one"}, {}, "mismatch"),
    ("", "t", {"id": 1}, {"b": bytes(rows.MAX_VALUE + 1)}, "too big"),
    ("INSERT INTO t (id, b) VALUES (50, zeroblob(2000000))", "t", {"id": 50}, {"x": 1}, "too big"),
    ("INSERT INTO t (id, name) VALUES (50, CAST(x'ff' AS TEXT))", "t", {"id": 50}, {"x": 1}, "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "table", "key", "values", "why"), HOSTILE)
def test_a_row_that_can_not_be_changed_alone_is_refused_before_any_effect(
    tmp_path: Path, schema: str, table: str, key: Mapping[str, Any], values: Mapping[str, Any], why: str
) -> None:
    yard = Yard(tmp_path, SCHEMA + schema)
    before = yard.db.read_bytes()
    with pytest.raises((Refused, InvalidInput), match=why):
        yard.do(lambda effects: effects.put_row(yard.db, table, key, values))
    assert (yard.db.read_bytes(), yard.files()) == (before, ["a b?.sqlite"])
    assert not yard.journal.can_undo("t1")[0]
    assert yard.journal.recover() == []


@pytest.mark.parametrize(
    "how", ["text", "empty", "absent", "folder", "link", "hard link", "linked journal", "damaged", "no row"]
)
def test_what_is_no_database_of_its_own_is_refused_before_any_effect(yard: Yard, how: str) -> None:
    db, key = yard.data / "other.sqlite", {"id": 1}
    if how in ("text", "empty"):
        db.write_text("SQLite format 3" if how == "text" else "")
    elif how == "folder":
        db.mkdir()
    elif how == "link":
        db.symlink_to(yard.db)
    elif how == "hard link":
        db.hardlink_to(yard.db)
    elif how == "linked journal":
        db.write_bytes(yard.db.read_bytes())
        (yard.data / "other.sqlite-journal").symlink_to(yard.root / "elsewhere")
    elif how == "damaged":
        db.write_bytes(yard.db.read_bytes()[:100] + bytes(4096))
    elif how == "no row":
        db, key = yard.db, {"id": 1000}
    before = yard.held()
    with pytest.raises(CalyxError):
        yard.do(lambda effects: effects.drop_row(db, "t", key))
    assert yard.held() == before
    assert not (yard.root / "elsewhere").exists()
    assert not yard.journal.can_undo("t1")[0]


def test_a_row_that_is_so_already_is_no_change_and_counters_of_the_table_stay_out_of_it(tmp_path: Path) -> None:
    yard = Yard(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO t VALUES (1, 'x')")
    yard.do(lambda effects: effects.put_row(yard.db, "t", {"id": "1"}, {"v": "x"}))
    assert not yard.journal.can_undo("t1")[0]
    yard.do(lambda effects: effects.put_row(yard.db, "t", {"id": "7"}, {"v": True}), "t2")
    assert yard.journal.status("t2").changes[0]["rows"] == ["row id=7 of t"]
    yard.journal.undo("t2")
    assert yard.held(("t",)) == ["t (1, 'x')"]


def test_a_database_is_changed_by_rows_or_as_a_file_in_one_task_but_not_both(yard: Yard) -> None:
    made = yard.root / "made"
    before = yard.held()

    def row_then_file(effects: Session) -> None:
        effects.drop_row(yard.db, "t", {"id": 1})
        effects.remove(yard.db)

    def file_then_row(effects: Session) -> None:
        made.write_bytes(yard.db.read_bytes())
        effects.replace(yard.db, made)
        effects.drop_row(yard.db, "t", {"id": 1})

    for task, what in (("t1", row_then_file), ("t2", file_then_row)):
        with pytest.raises(Refused, match="could then not be undone"):
            yard.do(what, task)
        yard.journal.undo(task)
        assert yard.held() == before


class Bookkeeping:
    """A work that changes a row and a key."""

    domain, procedures = "books", ("only",)

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return Plan(changes=())

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        effects.put_row(Path(task.params["db"]), "t", {"id": 1}, {"v": "changed" * 1000})
        effects.drop_row(Path(task.params["db"]), "t", {"id": 2})
        effects.set_key(Path(task.params["conf"]), ("a",), 2)
        return Outcome(detail="done")

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        with closing(sqlite3.connect(folder / "d.sqlite")) as opened:
            opened.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        (folder / "c.json").write_text('{"a": 1}')
        return {"db": str(folder / "d.sqlite"), "conf": str(folder / "c.json")}


def test_a_work_that_changes_rows_passes_its_drill_and_one_whose_undo_loses_a_row_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drilled() -> str | None:
        return drill(
            Bookkeeping(), "only", tmp_path / "drill", VirtualClock(), agent="a", station_id="s", effectless=False
        )

    assert drilled() is None
    monkeypatch.setattr(cells, "undo_rows", lambda entry, fault: None)
    assert "did not restore d.sqlite" in str(drilled())
