import sqlite3
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from memory_fakes import HashEmbedder, experience

from chassis.canonical import canonical_json, digest, sha256_hex
from chassis.clock import iso
from chassis.errors import CalyxError, Damaged, Refused, ResourceExhausted, Unavailable
from services.memory.experience import Experience, first_finding
from services.memory.migrate import APPLICATION_ID
from services.memory.queries import migrations
from services.memory.store import Store
from tests.full_disk import full_disk

AT = "2026-11-01T00:00:00.000000Z"
EMBEDDER = HashEmbedder()


def _insert(connection: sqlite3.Connection, each: Experience, vector: bytes | None) -> None:
    """A row as the first schema had it: the digest covers the vector."""
    model, dimension = (EMBEDDER.model_sha256, EMBEDDER.dimension) if vector else (None, None)
    row: dict[str, Any] = {
        name: getattr(each, name)
        for name in ("id", "station_id", "namespace", "origin", "kind", "objective", "domain", "procedure", "task_id",
                     "pulse_id")
    }  # fmt: skip
    row |= {"occurred_at": iso(each.occurred_at), "recorded_at": AT}
    sealed = digest(
        {
            **row,
            "context": dict(each.context),
            "predicted": each.confidence,
            "vector_sha256": sha256_hex(vector) if vector else None,
            "model_sha256": model,
            "dimension": dimension,
        }
    )
    row |= {"vector": vector, "model_sha256": model, "dimension": dimension, "digest": sealed}
    names = ", ".join(row)
    seq = connection.execute(
        f"INSERT INTO event ({names}) VALUES ({', '.join(':' + name for name in row)})", row
    ).lastrowid
    connection.executemany("INSERT INTO context VALUES (?, ?, ?)", [(seq, *fact) for fact in each.context.items()])
    if each.confidence is not None:
        connection.execute("INSERT INTO confidence VALUES (?, ?)", (seq, each.confidence))
    first = first_finding(each, AT)
    connection.execute(
        "INSERT INTO outcome VALUES (NULL, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
        (seq, first.outcome.value, first.tes, first.duration_seconds, first.files_changed,
         canonical_json(dict(first.cost)).decode(), first.evidence, AT, first.digest(each.id)),
    )  # fmt: skip


def first_schema(path: Path) -> None:
    """Six rows, two of one objective, one without a vector, one damaged; an amendment's worth of feedback."""
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(migrations()[0][1])
    for number in range(1, 7):
        each = experience(number, objective=f"objective {min(number, 5)}", confidence=None if number == 2 else 0.5)
        vector = EMBEDDER.embed([each.objective])[0].astype("<f4").tobytes()
        _insert(connection, each, None if number == 3 else vector)
    connection.execute("DROP TRIGGER event_facts_stay")
    connection.execute("UPDATE event SET domain = 'changed behind its back' WHERE seq = 4")
    connection.execute("INSERT INTO feedback VALUES (NULL, 2, 1, 'q', 'operator', ?)", (AT,))
    connection.execute("INSERT INTO feedback VALUES (NULL, 2, 0, 'q', 'operator', ?)", (AT,))
    connection.execute("INSERT INTO meta VALUES ('verified_at', ?)", (AT,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "memory" / "experience.sqlite"
    first_schema(path)
    return path


def left_behind(path: Path) -> list[str]:
    return sorted(each.name for each in (path.parent / "backups").glob("*"))


def test_a_file_of_the_first_schema_keeps_rows_vectors_outcomes_feedback_and_its_damage(path: Path) -> None:
    before = path.read_bytes()
    store = Store(path, durable=False)
    found = store.experiences(range(1, 7))
    assert {seq for seq, each in found.items() if each.damage} == {4}
    for number in (1, 2, 3, 5, 6):
        told = experience(number, objective=f"objective {min(number, 5)}", confidence=None if number == 2 else 0.5)
        assert found[number].experience == told
    keys = {text: key for key, text in store.objectives(range(1, 9)).items()}
    assert sorted(keys) == [f"objective {number}" for number in range(1, 6)]
    vectors = store.vectors(EMBEDDER.model_sha256, list(keys.values()))
    expected = {
        keys[text]: EMBEDDER.embed([text])[0].tobytes() for text in ("objective 1", "objective 2", "objective 5")
    }
    assert vectors == expected  # the third had none, the fourth's row can't be believed
    connection = store.snapshot()
    judged = [tuple(row) for row in connection.execute("SELECT seq, event, verdict FROM feedback ORDER BY seq")]
    assert judged == [(1, 2, "useful"), (2, 2, "useless")]
    connection.close()
    assert store.meta("verified_at") == AT
    appended = store.append(experience(7), AT)
    assert appended is not None
    assert appended.seq == 7
    store.close()
    kept = path.parent / "backups" / f"experience-before-schema-{len(migrations())}.sqlite"
    assert left_behind(path) == [kept.name]
    copy = sqlite3.connect(kept)
    assert copy.execute("PRAGMA user_version").fetchone()[0] == 1
    assert copy.execute("SELECT count(*) FROM event").fetchone()[0] == 6
    copy.close()
    assert before != path.read_bytes()
    Store(path, durable=False).close()
    assert left_behind(path) == [kept.name]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("CREATE TABLE event (again TEXT);", Unavailable),
        ("DELETE FROM context WHERE event = 2;", Refused),
        ("UPDATE meta SET value = 'never';", Refused),
        ("INSERT INTO confidence VALUES (99, 0.5);", Refused),
        ("DROP TRIGGER event_stays_as_is; UPDATE event SET digest = 'x' WHERE seq = 1;", Refused),
    ],
)
def test_a_migration_that_fails_on_the_copy_never_touches_the_real_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[CalyxError]
) -> None:
    steps = migrations()
    steps[-1] = (steps[-1][0], steps[-1][1] + "\n" + script)
    for module in ("migrate", "proof"):
        monkeypatch.setattr(f"services.memory.{module}.migrations", lambda: steps)
    before = path.read_bytes()
    with pytest.raises(error):
        Store(path, durable=False)
    assert path.read_bytes() == before
    assert left_behind(path) == []


def test_a_damaged_file_is_not_migrated(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO confidence VALUES (99, 0.5)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Damaged, match="restore a backup"):
        Store(path, durable=False)
    assert path.read_bytes() == before


def test_a_disk_that_is_full_while_copying_is_said_and_the_old_file_stays(path: Path) -> None:
    before = path.read_bytes()
    with (
        full_disk(40_000),
        pytest.raises((ResourceExhausted, Unavailable), match="copy the store before"),
    ):
        Store(path, durable=False)
    assert path.read_bytes() == before
    assert left_behind(path) == []


def test_too_little_room_is_said_before_anything_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("services.memory.proof.shutil.disk_usage", lambda _: usage(1, 1, 1000))
    before = path.read_bytes()
    with pytest.raises(ResourceExhausted, match="free some space and start again"):
        Store(path, durable=False)
    assert path.read_bytes() == before


def test_a_folder_that_takes_no_copy_is_said_and_the_old_file_stays(path: Path) -> None:
    (path.parent / "backups").write_text("in the way")
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="backups"):
        Store(path, durable=False)
    assert path.read_bytes() == before
