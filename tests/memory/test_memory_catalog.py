"""The catalog as columns, and how it is read from the store."""

import math
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_fakes import START, HashEmbedder, experience

from services.memory.catalog import Catalog, Facts, Standing, having, objectives_of
from services.memory.coarse import CoarseIndex
from services.memory.experience import Outcome
from services.memory.memory import Memory
from services.memory.queries import SQL
from services.memory.recall import Query
from services.memory.scan import BATCH, scanning
from services.memory.store import Store


def facts(seq: int, objective: int, **changes: object) -> Facts:
    row = Facts(
        seq=seq,
        objective=objective,
        namespace="default",
        domain="d",
        procedure="p",
        outcome=Outcome.SUCCESS,
        standing=Standing.VALID,
        occurred=float(seq),
        tes=math.nan,
    )
    return row._replace(**changes)  # type: ignore[arg-type]  # fields by name


def test_rows_keep_their_order_and_a_reader_its_view_while_thousands_are_added() -> None:
    catalog = Catalog()
    catalog.add(facts(1, 7))
    before = catalog.rows()
    for seq in range(2, 3002):
        catalog.add(facts(seq, seq % 5, domain=f"d-{seq % 3}"))
    assert len(before) == 1
    assert before["objective"].tolist() == [7]
    rows = catalog.rows()
    assert rows["seq"].tolist() == list(range(1, 3002))
    assert rows[rows["objective"] == 7]["seq"].tolist() == [1]
    keep = catalog.select(rows, namespace="default", domain="d-2")
    assert rows[keep]["seq"].tolist() == [seq for seq in range(2, 3002) if seq % 3 == 2]
    assert catalog.select(rows, namespace="nowhere").any() is np.False_


def test_a_number_that_does_not_follow_is_refused() -> None:
    catalog = Catalog()
    catalog.add(facts(5, 1))
    for seq in (5, 4):
        with pytest.raises(ValueError, match="follow"):
            catalog.add(facts(seq, 1))
    assert len(catalog) == 1


def test_objectives_and_rows_are_found_both_ways() -> None:
    catalog = Catalog()
    for seq, objective in enumerate([3, 900, 3, 12], start=1):
        catalog.add(facts(seq, objective))
    rows = catalog.rows()
    assert having(rows, [3, 12, 5_000_000, -1]).tolist() == [True, False, True, True]
    assert objectives_of(rows, np.array([True, True, True, False])).tolist() == [3, 900]
    named = catalog.select(rows, namespace="default", among=np.array([2, 4, 77]))
    assert named.tolist() == [False, True, False, True]
    assert having(Catalog().rows(), [1]).tolist() == []


def test_the_scan_takes_the_last_outcome_and_the_first_score_and_names_rows_that_it_cannot_read(
    make_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    memory = make_memory()
    for number in range(1, 7):
        memory.record(experience(number, tes=90.0 + number))
    memory.amend("e-2", Outcome.FAILURE, "gone", "v-1")
    memory.amend("e-2", Outcome.UNKNOWN, "who knows", "v-2")
    memory.close()
    path = tmp_path / "memory" / "experience.sqlite"
    with sqlite3.connect(path) as damaged:
        damaged.execute("PRAGMA ignore_check_constraints = ON")
        for (guard,) in damaged.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            damaged.execute(f"DROP TRIGGER {guard}")
        damaged.execute("UPDATE event SET occurred_at = 'yesterday' WHERE seq = 3")
        damaged.execute("UPDATE event SET occurred_at = '2026-13-01T00:00:00.000000Z' WHERE seq = 4")
        damaged.execute("UPDATE outcome SET outcome = 'splendid' WHERE event = 5")
    damaged.close()
    store = Store(path, durable=False)
    with scanning(store) as scan:
        rows = scan.catalog().rows()
        assert sorted(scan.unusable) == [3, 4, 5]
    store.close()
    assert rows["seq"].tolist() == [1, 2, 6]
    assert rows["tes"].tolist() == [91.0, 92.0, 96.0]
    outcomes = tuple(Outcome)
    assert [outcomes[code] for code in rows["outcome"]] == [Outcome.SUCCESS, Outcome.UNKNOWN, Outcome.SUCCESS]
    assert rows["occurred"].tolist() == [START.timestamp() + 60 * number for number in (1, 2, 6)]


def test_a_store_larger_than_a_batch_is_read_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "experience.sqlite", durable=False)
    store.append(experience(1), "2026-11-01T00:00:00.000000Z")
    store.close()
    count = BATCH + 3
    with sqlite3.connect(tmp_path / "experience.sqlite") as more:  # rows of its own kind; digests do not matter here
        more.execute(
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO event SELECT i, 'e-' || i, station_id, namespace, origin, kind, objective, domain, procedure, "
            "task_id, pulse_id, occurred_at, recorded_at, digest FROM event, n WHERE seq = 1",
            (count,),
        )
        more.execute(
            "INSERT INTO outcome (event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence, "
            "recorded_at, digest) SELECT event.seq, NULL, 'failure', 50.0, NULL, NULL, '{}', '', recorded_at, '' "
            "FROM event WHERE seq > 1"
        )
    more.close()
    store = Store(tmp_path / "experience.sqlite", durable=False)
    with scanning(store) as scan:
        rows = scan.catalog().rows()
        assert scan.unusable == []
    store.close()
    assert rows["seq"].tolist() == list(range(1, count + 1))
    assert set(rows["tes"].tolist()) == {97.5, 50.0}


NAMES = ("seq", "namespace", "domain", "procedure", "objective", "occurred")


def shown(catalog: Catalog, columns: Any) -> list[tuple[Any, ...]]:
    words = {"namespace": catalog.namespaces, "domain": catalog.domains, "procedure": catalog.procedures}
    told = [
        [words[name].words[code] for code in columns[name]] if name in words else columns[name].tolist()
        for name in NAMES
    ]
    return list(zip(*told, strict=True))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event SET seq = seq",  # none
        "UPDATE event SET domain = 'a' || char(30) || 'b' WHERE seq = 7",
        "UPDATE event SET domain = 'a' || char(31) || 'b' WHERE seq = 7",
        "UPDATE event SET procedure = 'nul' || char(0) || char(10) || 'x,y' WHERE seq = 7",
        "UPDATE event SET occurred_at = substr(occurred_at, 2) WHERE seq = 7;"
        "UPDATE event SET occurred_at = occurred_at || '0' WHERE seq = 8",
        "UPDATE event SET occurred_at = replace(occurred_at, '-', 'x') WHERE seq = 9",
        "UPDATE event SET occurred_at = '' WHERE seq = 30",
        "PRAGMA foreign_keys = OFF; DELETE FROM event WHERE seq IN (1, 12, 30)",
    ],
)
def test_columns_read_as_texts_are_those_read_row_by_row_whatever_a_row_holds(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "experience.sqlite"
    store = Store(path, durable=False)
    for number in range(1, 31):
        changes = {"domain": f"d-{number % 4}", "procedure": "prüfen, ja" if number % 3 else "p", "namespace": "n"}
        store.append(experience(number, objective=f"objective {number % 11}", **changes), "2026-03-01T00:00:00.000000Z")
    store.close()
    with sqlite3.connect(path) as raw:
        for (guard,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {guard}")
        raw.executescript(damage)
    raw.close()
    store, one_by_one = Store(path, durable=False), Catalog()
    with scanning(store) as scan:
        catalog = scan.catalog()
        rows = scan._connection.execute(SQL["scan_events"]).fetchall()
        columns = scan._columns(one_by_one, rows)
    store.close()
    fast, slow = shown(catalog, catalog.rows()), shown(one_by_one, columns)
    assert fast == slow
    assert len(fast) >= 27


def test_a_memory_on_eight_bits_recalls_what_one_on_exact_numbers_does(
    make_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    words = ["rotate", "compress", "delete", "archive", "count", "the", "old", "new", "logs", "reports", "of", "mail"]
    draw = np.random.default_rng(5)
    memory, embedder = make_memory(), HashEmbedder()
    for number in range(1, 200):
        objective = " ".join(draw.choice(words, size=5))
        memory.record(experience(number, objective=objective, context={"site": f"s-{number % 3}"}))
    queries = [
        Query(objective=" ".join(draw.choice(words, size=5)), context=context)
        for context in ({}, {"site": "s-1"}, {"site": "s-1", "none": "such"})
        for _ in range(20)
    ]
    expected = [memory.recall(query) for query in queries]
    memory.close()
    truth = Store(tmp_path / "memory" / "experience.sqlite", durable=False)
    index = CoarseIndex(embedder.dimension, partial(truth.vectors, embedder.model_sha256))
    again = make_memory(index=index)
    assert [again.recall(query) for query in queries] == expected
    assert any(each.matches for each in expected)
    truth.close()
