import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from memory_fakes import experience

from chassis.errors import Damaged, InvalidInput, NotFound, Refused, ResourceExhausted, Unavailable
from services.memory.experience import MAX_OBJECTIVE, Finding, Outcome, check
from services.memory.queries import migrations
from services.memory.recording import Appended
from services.memory.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "experience.sqlite"


def _raw(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def _amendment(name: str, outcome: Outcome = Outcome.FAILURE) -> Finding:
    return Finding(
        amendment_id=name,
        outcome=outcome,
        tes=None,
        duration_seconds=None,
        files_changed=None,
        cost={},
        evidence="regressed at +1 h",
        recorded_at="2026-11-01T01:00:00.000000Z",
    )


def test_what_was_recorded_is_read_back_field_by_field(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    found = store.experiences([1])[1]
    assert found.experience == experience(1)
    assert found.damage is None
    store.close()


def test_unknown_figures_come_back_unknown_and_not_as_zero(path: Path) -> None:
    store = Store(path, durable=False)
    told = experience(1, tes=None, duration_seconds=None, files_changed=None, confidence=None, cost={}, context={})
    store.append(told, "2026-11-01T00:00:00.000000Z")
    assert store.experiences([1])[1].experience == told
    store.close()


def test_a_repeated_id_changes_nothing(path: Path) -> None:
    store = Store(path, durable=False)
    assert store.append(experience(1), "2026-11-01T00:00:00.000000Z") == Appended(seq=1, objective_key=1)
    assert store.append(experience(1, objective="another"), "2026-11-01T00:00:00.000000Z") is None
    assert store.count() == 1
    assert store.experiences([1])[1].experience.objective == "rotate the logs"
    store.close()


def test_an_amendment_is_a_new_row_and_the_score_stays(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    assert store.amend("e-1", _amendment("v-1")) == 1
    assert store.amend("e-1", _amendment("v-1")) is None
    found = store.experiences([1])[1]
    assert (found.experience.outcome, found.experience.tes) == (Outcome.FAILURE, 97.5)
    assert found.experience.evidence == "regressed at +1 h"
    assert found.damage is None
    store.close()
    connection = sqlite3.connect(path)
    assert [row[0] for row in connection.execute("SELECT outcome FROM outcome ORDER BY seq")] == ["success", "failure"]
    connection.close()


def test_an_amendment_of_nothing_and_one_borrowed_from_another_are_refused(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    store.append(experience(2), "2026-11-01T00:00:00.000000Z")
    store.amend("e-1", _amendment("v-1"))
    with pytest.raises(NotFound):
        store.amend("e-9", _amendment("v-2"))
    with pytest.raises(Refused, match="another experience"):
        store.amend("e-2", _amendment("v-1"))
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET objective = 1",
        "DELETE FROM event",
        "UPDATE outcome SET outcome = 'success'",
        "DELETE FROM outcome",
    ],
)
def test_the_past_is_not_rewritten_even_by_sql(path: Path, statement: str) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    store.close()
    with pytest.raises(sqlite3.IntegrityError):
        _raw(path, statement)


def test_tables_are_strict_with_foreign_keys_wal_and_full_sync(path: Path) -> None:
    store = Store(path)
    pragma = {
        name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "foreign_keys", "synchronous")
    }
    assert pragma == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}
    tables = {
        row[1]: row[5]
        for row in store._writer.execute("PRAGMA table_list")
        if row[0] == "main" and row[2] == "table" and not row[1].startswith("sqlite_")
    }
    facts = ("event", "objective", "vector", "context", "outcome", "confidence", "feedback", "standing")
    assert set(tables) >= {*facts, "rollup", "rollup_fact", "member", "retired", "meta"}
    assert set(tables.values()) == {1}
    with pytest.raises(sqlite3.IntegrityError):
        store._writer.execute("INSERT INTO context VALUES (99, 'a', 'b')")
    store.close()


def test_migrations_end_at_their_own_number_and_a_second_opening_keeps_the_rows(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    assert store.schema_version() == len(migrations())
    store.close()
    again = Store(path, durable=False)
    assert again.count() == 1
    again.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store(path, durable=False).close()
    _raw(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(Refused, match="schema 99"):
        Store(path)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    _raw(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(Refused, match="something else"):
        Store(path)
    assert path.read_bytes() == before


def test_a_failing_migration_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [(1, migrations()[0][1] + "\nCREATE TABLE meta (again TEXT);")]
    monkeypatch.setattr("services.memory.migrate.migrations", lambda: broken)
    with pytest.raises(Unavailable):
        Store(path, durable=False)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
    connection.close()


def test_a_full_disk_is_said_and_leaves_nothing_half_done(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ResourceExhausted, match="full"):
        for number in range(2, 50):
            store.append(experience(number, evidence="x" * 4000), "2026-11-01T00:00:00.000000Z")
    kept = store.count()
    store._writer.execute("PRAGMA max_page_count = 1000000")
    appended = store.append(experience("after"), "2026-11-01T00:00:00.000000Z")
    assert appended is not None
    assert appended.seq == kept + 1
    assert all(each.damage is None for each in store.newest(50, ""))
    store.close()


def test_a_read_only_store_is_unavailable_and_can_still_be_read(path: Path) -> None:
    store = Store(path, durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable, match="read-only"):
        store.append(experience(2), "2026-11-01T00:00:00.000000Z")
    assert store.count() == 1
    store.close()


def test_a_file_that_is_no_database_is_damaged(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 500)
    with pytest.raises(Damaged, match="calyx memory restore"):
        Store(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": " "}, "empty"),
        ({"objective": "x" * (MAX_OBJECTIVE + 1)}, "8,001 characters"),
        ({"objective": "rotate\x00the logs"}, "control character"),
        ({"id": ""}, "id is empty"),
        ({"tes": float("nan")}, "tes"),
        ({"tes": 100.1}, "tes"),
        ({"confidence": 1.5}, "confidence"),
        ({"files_changed": -1}, "files_changed"),
        ({"cost": {"cpu": float("inf")}}, "cost"),
        ({"context": {str(n): "v" for n in range(65)}}, "at most 64"),
    ],
)
def test_what_can_not_be_right_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check(experience(1, **changes))


WRITER = """
import sys
from pathlib import Path
from memory_fakes import experience
from services.memory.store import Store
store = Store(Path(sys.argv[1]))
for number in range(1, 100000):
    store.append(experience(f"k-{sys.argv[2]}-{number}"), "2026-11-01T00:00:00.000000Z")
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_every_acknowledged_row_outlives_a_killed_process(path: Path, after: int) -> None:
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2])])}
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(after)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged >= after:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().splitlines()
    acknowledged = max([acknowledged, *(int(line) for line in rest)])
    child.wait()
    child.stdout.close()
    store = Store(path)
    found = {each.experience.id for each in store.newest(10**6, "")}
    assert {f"e-k-{after}-{number}" for number in range(1, acknowledged + 1)} <= found
    assert all(each.damage is None for each in store.newest(10**6, ""))
    store.close()


def test_a_copy_from_before_is_migrated_forwards_like_the_real_file(path: Path, tmp_path: Path) -> None:
    Store(path, durable=False).close()
    copy = tmp_path / "copy.sqlite"
    shutil.copy(path, copy)
    store = Store(copy, durable=False)
    assert store.append(experience(1), "2026-11-01T00:00:00.000000Z") == Appended(seq=1, objective_key=1)
    store.close()
