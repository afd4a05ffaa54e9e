"""What a kill leaves, between any two statements of the upkeep, and of real processes. More: bench/memory_kills.py."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock
from services.memory.compact import Compacted, Terms
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.members import check_members
from services.memory.memory import Memory
from services.memory.queries import migrations
from services.memory.retention import rules_of
from services.memory.store import Store

REPO = Path(__file__).resolve().parents[2]
ROWS = [
    experience(1), experience(2), experience(3), experience(4, context={"site": "there"}),
    experience(5, outcome=Outcome.FAILURE), experience(6, outcome=Outcome.NO_WORK, tes=None),
    experience(7, objective="compress the archive"), experience(8, objective="compress the archive", confidence=None),
    experience(9, kind="passing", objective="said in passing"), experience(10, kind="passing"),
]  # fmt: skip
TERMS = Terms(rules=rules_of({"passing/*": 10}))


def opened(folder: Path, days: float) -> tuple[Memory, Store]:
    clock, embedder = VirtualClock(START + timedelta(days=days)), HashEmbedder()
    store = Store(folder / "experience.sqlite", durable=False)
    audit = Audit(folder / "audit.jsonl", clock, "memory")
    index = ExactIndex(embedder.dimension)
    return Memory(store=store, embedder=embedder, index=index, clock=clock, audit=audit, terms=TERMS), store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with everything recorded, closed."""
    memory, _ = opened(tmp_path / "memory", days=1)
    for each in ROWS:
        memory.record(each)
    memory.close()
    return tmp_path / "memory"


def images(home: Path, days: float, work: Callable[[Memory], object]) -> Iterator[Path]:
    """What the disk would hold after a kill right before each statement of `work`."""
    memory, store = opened(home, days)
    folder = home.with_name("images")
    taken: list[Path] = []

    def take(statement: str) -> None:
        image = folder / str(len(taken))
        image.mkdir(parents=True)
        for name in ("experience.sqlite", "experience.sqlite-wal"):
            shutil.copy(home / name, image / name)
        taken.append(image)

    store._writer.set_trace_callback(take)
    work(memory)
    store._writer.set_trace_callback(None)
    memory.close()
    yield from taken


def holds(memory: Memory, store: Store) -> None:
    assert memory.upkeep.verify().damages == ()
    memory.upkeep.check()
    with closing(store.snapshot()) as connection:
        assert check_members(connection) == []
        homes = {row["id"]: (row["seq"], row["home"]) for row in connection.execute("SELECT * FROM sealed_event")}
    assert sorted(homes) == sorted(each.id for each in ROWS)
    for each in ROWS:
        seq, home = homes[each.id]
        assert memory.record(each) is False
        if home == "retired":
            assert each.kind == "passing"
            continue
        found = store.experiences([seq])[seq]
        assert found.damage is None
        assert replace(found.experience, outcome=each.outcome, evidence=each.evidence) == each


def test_a_kill_between_any_two_statements_of_a_compaction_leaves_the_store_right_and_the_next_one_goes_on(
    home: Path,
) -> None:
    done: list[Compacted] = []
    count = 0
    for image in images(home, 60, lambda memory: done.append(memory.upkeep.compact(dry_run=False))):
        memory, store = opened(image, days=61)
        holds(memory, store)
        again = memory.upkeep.compact(dry_run=False)
        assert (again.kept, again.rollups) == (done[0].kept, done[0].rollups)
        if count % 5 == 0:
            holds(memory, store)
        with closing(store.snapshot()) as connection:
            assert connection.execute("SELECT text FROM objective WHERE text LIKE '%passing%'").fetchall() == []
        memory.close()
        count += 1
    assert (done[0].merged, done[0].kept, done[0].rollups, done[0].retired) == (5, 3, 2, 2)
    assert count > 60


def test_a_kill_between_any_two_statements_of_a_late_finding_leaves_member_or_row(home: Path) -> None:
    memory, _ = opened(home, 60)
    memory.upkeep.compact(dry_run=False)
    memory.close()
    late = ("e-2", Outcome.FAILURE, "regressed", "late")
    homes = set()
    for image in images(home, 61, lambda memory: memory.amend(*late)):
        memory, store = opened(image, days=62)
        holds(memory, store)
        found = store.experiences([2])[2]
        homes.add((found.rolled_up, found.experience.outcome))
        memory.amend(*late)
        holds(memory, store)
        assert store.experiences([2])[2].experience.outcome is Outcome.FAILURE
        memory.close()
    assert homes == {(True, Outcome.SUCCESS)}  # until the commit it is a member, and nothing in between


def test_a_kill_between_any_two_statements_of_the_first_opening_needs_no_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "memory"
    taken: list[Path] = []
    real = sqlite3.connect

    def take(statement: str) -> None:
        taken.append(tmp_path / f"image-{len(taken)}")
        shutil.copytree(home, taken[-1], ignore=shutil.ignore_patterns("*-shm"))

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **options)
        connection.set_trace_callback(take)
        return connection

    with monkeypatch.context() as traced:
        traced.setattr(sqlite3, "connect", connect)
        Store(home / "experience.sqlite", durable=False).close()
    taken.append(tmp_path / "hot")  # killed within a statement: SQLite has to roll back first
    (tmp_path / "half").mkdir()
    with closing(real(tmp_path / "half" / "experience.sqlite", isolation_level=None)) as half:
        half.execute("PRAGMA cache_size = 1")
        half.execute("BEGIN")
        half.execute("CREATE TABLE event (x)")
        half.executemany("INSERT INTO event VALUES (?)", [("x" * 3_000,)] * 100)
        shutil.copytree(tmp_path / "half", taken[-1])
    assert (taken[-1] / "experience.sqlite-journal").stat().st_size > 0
    for image in taken:
        store = Store(image / "experience.sqlite", durable=False)
        assert (store.count(), store.schema_version()) == (0, len(migrations()))
        store.close()


def test_eight_kills_of_real_processes_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "bench" / "memory_kills.py"), "--kills", "8", "--service", "0", "--no-fsync"]
    ran = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "held"
    with closing(sqlite3.connect(tmp_path / "driver" / "memory" / "experience.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM member").fetchone()[0] > 0
