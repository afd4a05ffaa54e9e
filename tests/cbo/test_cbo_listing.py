"""What `ListTasks` finds, and that no question reads the whole table."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cbo_station import Station

from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import InvalidInput
from chassis.exchange.manifest import TaskId
from services.cbo import history, listing
from services.cbo.store import Store
from services.cbo.tasks import Move, State, Task

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    kept = Store(tmp_path, durable=False)
    for number, (domain, state, objective) in enumerate(
        (
            ("log_rotation", "ready", "rotate the logs of the web server"),
            ("log_rotation", "done", "rotate old logs"),
            ("diagnostics", "ready", 'look at the "web" server'),
            ("diagnostics", "proposed", "look at the disk"),
        )
    ):
        kept.add_task(_task(number, domain, state, objective))  # type: ignore[arg-type] # a tuple's text is no Literal
    yield kept
    kept.close()


def _task(number: int, domain: str, state: State, objective: str) -> Task:
    return Task(
        id=TaskId(f"t-{number}"), domain=domain, procedure="p", owner="governor", state=state, level=Level.EXECUTE,
        created_at=NOW + timedelta(seconds=number), objective=objective, dispatched_at=NOW,
    )  # fmt: skip


def _found(store: Store, **asked: str) -> list[str]:
    return [task.id for task in listing.tasks(store, limit=10, **asked)]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["t-3", "t-2", "t-1", "t-0"]),
        ({"state": "ready"}, ["t-2", "t-0"]),
        ({"domain": "log_rotation"}, ["t-1", "t-0"]),
        ({"domain": "log_rotation", "state": "done"}, ["t-1"]),
        ({"query": "web server"}, ["t-2", "t-0"]),
        ({"query": "SERVER web"}, ["t-2", "t-0"]),
        ({"query": "serv"}, []),
        ({"query": "logs", "state": "done"}, ["t-1"]),
        ({"query": "look", "domain": "diagnostics", "state": "proposed"}, ["t-3"]),
        ({"query": "rotation"}, ["t-1", "t-0"]),
        ({"query": "done"}, []),
        ({"query": "disk NOT logs"}, []),
        ({"query": '"web" -- OR )'}, []),
    ],
)
def test_every_filter_and_word_narrows_and_the_newest_come_first(
    store: Store, asked: dict[str, str], found: list[str]
) -> None:
    assert _found(store, **asked) == found


def test_a_query_without_a_word_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInput, match="no word"):
        _found(store, query="-- *")


def test_the_reason_and_the_new_state_can_be_found_once_they_are_known(store: Store) -> None:
    ended = Move(state="dead", attempt=3, why="its holder was killed thrice")
    assert store.move_task(store.task("t-0"), ended, NOW)
    assert _found(store, query="killed") == ["t-0"]
    assert _found(store, query="rotate", state="dead") == ["t-0"]
    assert _found(store, query="rotate", state="ready") == []


def test_counts_follow_every_change_of_state(store: Store) -> None:
    assert store.counts() == {"ready": 2, "done": 1, "proposed": 1}
    assert not store.add_task(_task(0, "log_rotation", "ready", "again"))
    assert store.move_task(store.task("t-0"), Move(state="claimed", attempt=1), NOW)
    assert store.counts() == {"ready": 1, "claimed": 1, "done": 1, "proposed": 1}


@pytest.mark.parametrize("name", ["tasks_newest", "tasks_by_state", "tasks_by_domain", "tasks_by_both", "tasks_ready"])
def test_no_question_reads_the_whole_table(store: Store, name: str) -> None:
    sql = store._sql[name]
    plan = [str(row[3]) for row in store._db.execute(f"EXPLAIN QUERY PLAN {sql}", ["x"] * sql.count("?"))]
    assert not any(step.startswith("SCAN task") and "INDEX" not in step for step in plan), plan
    assert not any(step == "USE TEMP B-TREE FOR ORDER BY" for step in plan), plan


def test_what_changed_meanwhile_is_found_by_its_time(store: Store) -> None:
    sql = store._sql["targets_meanwhile"]
    plan = [str(row[3]) for row in store._db.execute(f"EXPLAIN QUERY PLAN {sql}", ["x", "x"])]
    assert any("task_target_ended" in step for step in plan), plan
    assert not any("task_by_state" in step or step.startswith("SCAN t ") for step in plan), plan


def test_what_is_derived_can_be_made_anew(store: Store) -> None:
    store._db.execute("INSERT INTO task_text (task_text) VALUES ('delete-all')")
    assert _found(store, query="logs") == []
    store._db.execute("INSERT INTO task_text (task_text) VALUES ('rebuild')")
    assert _found(store, query="logs") == ["t-1", "t-0"]


STAYS: tuple[State, ...] = ("held", "proposed", "waiting", "ready", "claimed", "rehearsed", "dead")
GOES: tuple[State, ...] = ("done", "failed", "expired", "cancelled", "rejected", "undone")


def test_what_ended_long_ago_goes_with_all_of_it_and_what_somebody_may_still_answer_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, durable=False)
    for number, state in enumerate(STAYS + GOES):
        store.add_task(_task(number, "log_rotation", state, f"{state} work"))
    old, late = _task(20, "log_rotation", "done", "pending look"), _task(21, "log_rotation", "done", "being undone")
    undo = replace(_task(22, "log_rotation", "claimed", "undo it"), undo_of=late.id)
    approved = replace(_task(23, "log_rotation", "rehearsed", "answered plan"), approved_as="t-24")
    young = replace(_task(24, "log_rotation", "ready", "young work"), created_at=NOW)
    for each in (old, late, undo, approved, young):
        store.add_task(each)
    ended = {"ended_at": iso(NOW + timedelta(days=2)), "effects": [{"target": "/var/log/a"}]}
    assert store.move_task(store.task("t-24"), Move(state="done", attempt=1, why="", ack=ended), NOW)
    store.run("verification_insert", old.id, "1h", iso(NOW), "pending", None, "guardian", "")
    for name in ("t-7", old.id):
        store.run("target_insert", f"/{name}", iso(NOW), name)
        store.run("alias_insert", f"again-{name}", name)
    store.run("verification_insert", "t-7", "1h", iso(NOW), "confirmed", iso(NOW), "guardian", "")
    for at in (NOW, NOW + timedelta(seconds=1)):
        store.run("ladder_entry_insert", "log_rotation", iso(at), "{}")
    later = NOW + timedelta(days=1)
    store.run("gate_entry_insert", iso(NOW), "t-7", "{}")
    assert store.forget_tasks(later) == 0, "the gates' log speaks of that time"
    store.run("gate_entries_forget", iso(later), 1)
    assert [store.forget_tasks(later, limit=4) for _ in range(3)] == [4, 3, 0]
    assert {task.state for task in listing.tasks(store, limit=50)} == {*STAYS, "done"}
    assert {task.id for task in listing.tasks(store, limit=50, state="done")} == {"t-20", "t-21", "t-24"}
    assert store.counts()["done"] == 3
    assert "cancelled" not in store.counts()
    assert _found(store, query="expired") == []
    left = {table: store.value(f"SELECT count(*) FROM {table}") for table in ("verification", "proposal_alias")}
    assert left == {"verification": 1, "proposal_alias": 1}
    assert {row[0] for row in store.rows("targets_of", "t-7")} == set()
    assert {row[0] for row in store.rows("targets_of", old.id)} == {f"/{old.id}"}
    assert store.value("SELECT min(number) FROM ladder_entry") == 2, "the newest stays, so that numbers go on"
    store.close()


def test_the_station_forgets_what_left_its_archive_and_gives_no_id_out_again(station: Station) -> None:
    station.pulse(12)
    store, options = station.cbo.bridge.store, station.cbo.bridge.options
    done = {task.id for task in listing.tasks(store, limit=50, state="done")}
    station.clock.advance((options.keep_tasks + options.keep_archive - timedelta(hours=1)).total_seconds())
    station.pulse(3)  # the looks that were due
    station.cbo.compact()
    kept = {task.id for task in listing.tasks(store, limit=50)}
    assert done
    assert done <= kept
    station.clock.advance(timedelta(hours=2).total_seconds())
    history.forget(store, station.clock.now())  # as it is once the oldest pulse records go
    station.cbo.compact()
    assert done.isdisjoint(task.id for task in listing.tasks(store, limit=50))
    station.pulse(2)
    assert done.isdisjoint(task.id for task in listing.tasks(store, limit=50))
