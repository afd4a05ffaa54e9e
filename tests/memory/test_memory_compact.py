"""Compaction and retention: nothing that is asked changes its answer, and nothing acknowledged is forgotten."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock, iso
from chassis.errors import InvalidInput, Refused, Unavailable
from services.memory.compact import Compacted, Terms
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.members import EVIDENCE_DROPPED, check_members
from services.memory.memory import Memory
from services.memory.nightly import RETRY_SECONDS, SETTLE_SECONDS, Nightly, due
from services.memory.recall import Query
from services.memory.retention import Rule, rule_for, rules_of
from services.memory.store import Store
from services.memory.upkeep import Upkeep

WORDS = ("rotate", "compress", "archive", "report", "clean", "check")
LATER = timedelta(days=60)
JUDGED = """INSERT INTO feedback (event, verdict, query, task_id, caller, recorded_at)
VALUES (?, 'useful', '', '', 'cbo', '2026-11-01T00:00:00.000000Z')"""


class World:
    """A memory on a virtual clock, with its upkeep on given terms."""

    def __init__(self, folder: Path, terms: Terms | None = None) -> None:
        self.clock = VirtualClock(START)
        self.audit = Audit(folder / "audit.jsonl", self.clock, "memory")
        self.folder = folder
        self.open(terms)

    def open(self, terms: Terms | None = None) -> None:
        embedder = HashEmbedder()
        self.store = Store(self.folder / "memory" / "experience.sqlite", durable=False)
        self.memory = Memory(
            store=self.store,
            embedder=embedder,
            index=ExactIndex(embedder.dimension),
            clock=self.clock,
            audit=self.audit,
        )
        self.upkeep = Upkeep(store=self.store, shelf=self.memory.shelf, clock=self.clock, audit=self.audit, terms=terms)

    def reopen(self, terms: Terms | None = None) -> None:
        self.memory.close()
        self.open(terms)

    def pass_time(self, span: timedelta) -> None:
        self.clock.advance(span.total_seconds())

    def count(self, table: str) -> int:
        with closing(self.store.snapshot()) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def damages(self) -> list[tuple[str, str]]:
        with closing(self.store.snapshot()) as connection:
            return check_members(connection)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.memory.close()


def fill(world: World, count: int, seed: int = 1) -> list[str]:
    """Mostly alike, some of it not routine; amended and judged here and there. Returns the ids."""
    rng = random.Random(seed)
    ids = []
    for number in range(1, count + 1):
        outcome = rng.choices(list(Outcome), weights=(80, 8, 2, 10))[0]
        words = f"{rng.choice(WORDS)} the {rng.choice(('logs', 'disk', 'journal'))}"
        each = experience(
            number,
            objective=words if rng.random() < 0.97 else f"{words} number {number}",
            namespace=rng.choices(("default", "other"), weights=(9, 1))[0],
            kind=rng.choices(("task", "incident", "analysis"), weights=(94, 3, 3))[0],
            domain=rng.choice(("log_rotation", "cleanup")),
            procedure=rng.choice(("gzip-6", "xz")),
            context={"site": rng.choice(("here", "there")), "level": "EXECUTE"},
            outcome=outcome,
            tes=None if outcome in (Outcome.UNKNOWN, Outcome.NO_WORK) else round(rng.uniform(40, 100), 1),
            confidence=rng.choice((None, 0.25, 0.8)),
            duration_seconds=rng.choice((None, 1.5, 200.0)),
            files_changed=rng.choice((None, 0, 3)),
            cost=rng.choice(({}, {"cpu_seconds": 0.5, "bytes_saved": 7.0})),
        )
        world.memory.record(each)
        ids.append(each.id)
        world.clock.advance(60.0)
    for place in range(0, count, 50):
        world.memory.amend(ids[place], Outcome.FAILURE, "regressed", f"late-{place}")
    return ids


def queries() -> list[Query]:
    """Every combination of what one may ask for."""
    asked = []
    for words in ("rotate the logs", "compress the disk", "archive the journal", "report the logs", "check the disk"):
        base = Query(objective=words, limit=50)
        asked += [base, replace(base, namespace="other"), replace(base, domain="cleanup"), replace(base, limit=1)]
        asked += [replace(base, procedure="xz"), replace(base, near=True), replace(base, min_cosine=0.95)]
        asked += [replace(base, since=START + timedelta(hours=hours)) for hours in (0, 7, 19, 33)]
        asked += [replace(base, context={"site": site}) for site in ("here", "there", "nowhere")]
        asked += [
            replace(base, context={"site": "here", "level": "EXECUTE"}, domain="log_rotation", procedure="gzip-6")
        ]
        asked += [replace(base, until=START + timedelta(hours=hours)) for hours in (9, 27)]
        asked += [replace(base, outcome=outcome) for outcome in Outcome]
    return asked


def answers(memory: Memory, ask: list[Query]) -> list[Any]:
    """What recall says, but for the evidence, which a roll-up does not keep."""
    said = []
    for query in ask:
        found = memory.recall(query)
        matches = [replace(each, experience=replace(each.experience, evidence=""), why="") for each in found.matches]
        said.append(replace(found, matches=tuple(matches)))
    return said


def test_nothing_that_the_planner_would_have_used_changes_its_answer(world: World) -> None:
    ids = fill(world, 2_000)
    world.pass_time(LATER)
    before = answers(world.memory, queries())
    done = world.upkeep.compact(dry_run=False)
    assert done.merged > 1_200
    assert done.rollups < done.merged / 5
    assert done.merged + done.kept == len(ids)
    assert (world.count("member"), world.count("event")) == (done.merged, done.kept)
    assert answers(world.memory, queries()) == before
    world.reopen()
    assert answers(world.memory, queries()) == before
    assert sum(bool(each.matches) for each in before) > 30
    assert world.damages() == []


def test_only_final_routine_of_before_is_rolled_up(world: World) -> None:
    kinds = [
        experience(1), experience(2), experience(3, outcome=Outcome.NO_WORK, tes=None),
        experience(4, outcome=Outcome.NO_WORK, tes=None), experience(5, outcome=Outcome.FAILURE),
        experience(6, outcome=Outcome.FAILURE), experience(7, kind="incident"), experience(8, kind="incident"),
        experience(9), experience(10), experience(11, objective="once only"),
        experience(12, context={"site": "there"}),
    ]  # fmt: skip
    for each in kinds:
        world.memory.record(each)
    world.memory.amend("e-9", Outcome.SUCCESS, "held", "late-9")
    with world.store.transaction("judge") as connection:
        connection.execute(JUDGED, (10,))
    world.pass_time(timedelta(days=29))
    assert world.upkeep.compact(dry_run=False).merged == 0
    world.memory.record(experience(13))
    world.pass_time(timedelta(days=2))
    assert world.upkeep.compact(dry_run=False) == Compacted(merged=4, kept=9, rollups=2, retired=0, freed_bytes=0)
    with closing(world.store.snapshot()) as connection:
        assert [row[0] for row in connection.execute("SELECT seq FROM member ORDER BY seq")] == [1, 2, 3, 4]
    world.pass_time(timedelta(days=30))
    again = world.upkeep.compact(dry_run=False)
    assert (again.merged, again.rollups) == (1, 2)  # a latecomer joins the roll-up that is there


def test_a_dry_run_says_what_is_then_done_and_does_nothing(world: World) -> None:
    fill(world, 400)
    world.pass_time(LATER)
    world.reopen(Terms(rules=rules_of({"task/no_work": 10, "task/failure": 90})))
    said = world.upkeep.compact(dry_run=True)
    assert (world.count("member"), world.count("retired"), said.freed_bytes) == (0, 0, None)
    done = world.upkeep.compact(dry_run=False)
    assert (done.merged, done.kept, done.rollups, done.retired) == (said.merged, said.kept, said.rollups, said.retired)
    assert done.merged > 100
    assert done.retired > 20


def test_a_repeat_of_a_rolled_up_experience_is_still_a_repeat(world: World) -> None:
    for number in (1, 2, 3):
        world.memory.record(experience(number))
    world.pass_time(LATER)
    world.upkeep.compact(dry_run=False)
    assert world.count("member") == 3
    assert world.memory.record(experience(2)) is False
    assert world.store.count() == 3


def test_a_late_finding_makes_a_member_a_row_again_with_its_number_and_id(world: World) -> None:
    for number in (1, 2, 3):
        world.memory.record(experience(number))
    was = world.store.experiences([2])[2]
    world.pass_time(LATER)
    world.upkeep.compact(dry_run=False)
    now = world.store.experiences([2])[2]
    assert now.rolled_up
    assert replace(now, rolled_up=False, experience=replace(now.experience, evidence=was.experience.evidence)) == was
    assert world.memory.amend("e-2", Outcome.FAILURE, "regressed", "late") is True
    assert world.memory.amend("e-2", Outcome.FAILURE, "regressed", "late") is False
    back = world.store.experiences([2])[2]
    assert (back.rolled_up, back.damage, back.experience.outcome) == (False, None, Outcome.FAILURE)
    assert (back.experience.tes, back.experience.evidence, back.recorded_at) == (97.5, "regressed", was.recorded_at)
    summary = world.memory.recall(Query(objective="rotate the logs")).summaries[0]
    assert (summary.successes, summary.failures) == (2, 1)
    with closing(world.store.snapshot()) as connection:
        first = connection.execute("SELECT seq, evidence FROM outcome WHERE event = 2 ORDER BY seq").fetchone()
        assert tuple(first) == (2, EVIDENCE_DROPPED)
        assert connection.execute("SELECT count(*) FROM meta WHERE key = 'root_changed:2026-11-01'").fetchone()[0] == 1
    assert world.damages() == []
    assert world.upkeep.compact(dry_run=False).merged == 0  # amended, so it stays a row


def test_a_changed_member_roll_up_or_tombstone_is_named(world: World) -> None:
    for number in (1, 2, 3, 4):
        world.memory.record(experience(number, outcome=Outcome.NO_WORK if number > 3 else Outcome.SUCCESS, tes=None))
    world.pass_time(LATER)
    world.reopen(Terms(rules=rules_of({"*/no_work": 1})))
    world.upkeep.compact(dry_run=False)
    assert world.damages() == []
    changes = (
        ("member_stays_as_is", "UPDATE member SET tes = 1.0 WHERE seq = 1", "member e-1 (row 1)"),
        ("member_stays_as_is", "UPDATE member SET outcome_digest = 'x' WHERE seq = 2", "member e-2 (row 2)"),
        ("rollup_stays_as_is", "UPDATE rollup SET procedure = 'xz'", "member e-3 (row 3)"),
        ("rollup_stays_as_is", "UPDATE rollup_fact SET value = 'there'", "roll-up 1"),
        ("retired_stays_as_is", "UPDATE retired SET policy = ''", "retired e-4 (row 4)"),
    )
    for trigger, statement, named in changes:
        with closing(sqlite3.connect(world.store.path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute(f"DROP TRIGGER {trigger}")
            connection.execute(statement)
            assert named in [what for what, _ in check_members(connection)]
            connection.execute("ROLLBACK")
    assert world.damages() == []


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM member", "UPDATE member SET tes = 1", "UPDATE rollup SET kind = ''", "DELETE FROM retired"],
)
def test_members_and_tombstones_stay_as_they_are(world: World, statement: str) -> None:
    for number in (1, 2, 3):
        world.memory.record(experience(number, outcome=Outcome.NO_WORK if number > 2 else Outcome.SUCCESS))
    world.pass_time(LATER)
    world.reopen(Terms(rules=rules_of({"*/no_work": 1})))
    world.upkeep.compact(dry_run=False)
    with closing(sqlite3.connect(world.store.path)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


def test_a_damaged_row_is_not_laundered_into_a_roll_up(world: World) -> None:
    for number in (1, 2, 3):
        world.memory.record(experience(number))
    with closing(sqlite3.connect(world.store.path)) as connection:
        connection.execute("DROP TRIGGER event_stays_as_is")
        connection.execute("UPDATE event SET pulse_id = 'bp-999999999' WHERE seq = 2")
        connection.commit()
    world.pass_time(LATER)
    assert world.upkeep.compact(dry_run=False).merged == 2
    assert world.store.experiences([2])[2].damage is not None


def test_recording_goes_on_while_it_is_compacted(world: World) -> None:
    fill(world, 600)
    world.pass_time(LATER)
    stop, recorded = threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            world.memory.record(experience(f"w-{number}"))
            recorded.append(f"e-w-{number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = world.upkeep.compact(dry_run=False)
        found = world.upkeep.rebuild_index()
    finally:
        stop.set()
        writer.join()
    assert done.merged > 300
    assert len(recorded) > 5
    assert found >= 600
    assert world.store.count() == 600 + len(recorded) == len(world.memory.shelf.catalog)
    assert world.memory.recall(Query(objective="rotate the logs")).pending == 0
    world.upkeep.check()
    assert world.damages() == []


def test_what_is_recorded_and_amended_during_a_rebuild_is_there_after_it(world: World) -> None:
    world.memory.record(experience(1))
    index = world.memory.shelf.index
    built = index.rebuild

    def rebuild(batches: Any) -> None:
        rest = iter(batches)
        first = next(rest)
        world.memory.record(experience(2))
        world.memory.record(experience(3, objective="compress the archive"))
        world.memory.amend("e-1", Outcome.FAILURE, "regressed", "late")
        built(each for part in ([first], rest) for each in part)

    index.rebuild = rebuild  # type: ignore[method-assign]  # something happens in the middle of it
    assert world.upkeep.rebuild_index() == 3
    assert {each.experience.id for each in world.memory.recall(Query(objective="rotate the logs")).matches} == {
        "e-1",
        "e-2",
    }
    assert world.memory.recall(Query(objective="compress the archive")).pending == 0
    summary = world.memory.recall(Query(objective="rotate the logs")).summaries[0]
    assert (summary.successes, summary.failures) == (1, 1)
    world.upkeep.check()


# retention


def test_nothing_is_retired_unless_a_rule_says_so(world: World) -> None:
    for number in (1, 2):
        world.memory.record(experience(number, outcome=Outcome.FAILURE))
    world.pass_time(timedelta(days=4_000))
    assert world.upkeep.compact(dry_run=False) == Compacted(merged=0, kept=2, rollups=0, retired=0, freed_bytes=0)


def test_what_a_rule_ends_leaves_its_id_its_digests_and_the_reason(world: World) -> None:
    for number in (1, 2, 3):
        world.memory.record(experience(number))
    world.memory.record(experience(4, outcome=Outcome.FAILURE, objective="something secret"))
    with closing(world.store.snapshot()) as connection:
        sealed = [
            tuple(row) for row in connection.execute("SELECT seq, recorded_at, digest FROM sealed_event ORDER BY 1")
        ]
        ends = [tuple(row) for row in connection.execute("SELECT seq, event, digest FROM sealed_outcome ORDER BY 1")]
    world.pass_time(timedelta(days=40))
    world.upkeep.compact(dry_run=False)
    assert world.count("member") == 3
    world.memory.record(experience(5))
    world.reopen(Terms(rules=rules_of({"task/success": 35, "*/failure": 10})))
    done = world.upkeep.compact(dry_run=False)
    assert (done.retired, done.kept, done.rollups) == (4, 1, 0)
    with closing(world.store.snapshot()) as connection:
        now = [tuple(row) for row in connection.execute("SELECT seq, recorded_at, digest FROM sealed_event ORDER BY 1")]
        assert now[:4] == sealed
        ended = [tuple(row) for row in connection.execute("SELECT seq, event, digest FROM sealed_outcome ORDER BY 1")]
        assert ended[:4] == ends
        told = connection.execute("SELECT policy, retired_at FROM retired WHERE id = 'e-4'").fetchone()
        assert tuple(told) == ("*/failure: 10 days", iso(world.clock.now()))
        texts = [row[0] for row in connection.execute("SELECT text FROM objective")]
    assert texts == ["rotate the logs"]  # nothing of it is left but its name
    assert world.memory.record(experience(4)) is False
    with pytest.raises(Refused, match=r"retired at .* by the policy '\*/failure: 10 days'"):
        world.memory.amend("e-4", Outcome.SUCCESS, "", "late")
    found = world.memory.recall(Query(objective="rotate the logs"))
    assert ([each.experience.id for each in found.matches], found.searched) == (["e-5"], 1)
    world.upkeep.check()
    assert world.damages() == []
    lines = (world.folder / "audit.jsonl").read_text()
    assert '"due":{"*/failure: 10 days":1,"task/success: 35 days":3}' in lines


def test_judged_experiences_outlive_every_rule(world: World) -> None:
    for number in (1, 2):
        world.memory.record(experience(number, outcome=Outcome.FAILURE))
    with world.store.transaction("judge") as connection:
        connection.execute(JUDGED, (1,))
    world.pass_time(LATER)
    world.reopen(Terms(rules=rules_of({"*/*": 1})))
    assert world.upkeep.compact(dry_run=False).retired == 1
    assert set(world.store.experiences([1, 2])) == {1}


@pytest.mark.parametrize("wrong", [{"task": 3}, {"task/": 3}, {"task/sucess": 3}, {"task/success": 0}, {"/success": 3}])
def test_a_retention_that_is_no_rule_is_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="retention"):
        rules_of(wrong)


@given(st.sampled_from(("task", "analysis")), st.sampled_from(list(Outcome)), st.permutations(range(4)))
def test_the_rule_that_says_most_counts_whatever_the_order(kind: str, outcome: Outcome, order: list[int]) -> None:
    rules = [
        Rule(kind="*", outcome="*", days=1), Rule(kind="*", outcome="success", days=2),
        Rule(kind="task", outcome="*", days=3), Rule(kind="task", outcome="success", days=4),
    ]  # fmt: skip
    said = rule_for([rules[place] for place in order], kind, outcome.value)
    assert said is not None
    assert said.days == 1 + (outcome is Outcome.SUCCESS) + 2 * (kind == "task")


# the night


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "last", "is_due"),
    [
        (at(5, 12), None, True),
        (at(5, 12), at(5, 3, 1), False),
        (at(6, 2, 59), at(5, 3, 1), False),
        (at(6, 3), at(5, 3, 1), True),
        (at(9, 18), at(5, 3, 1), True),  # off at night: as soon as it is on
        (at(6, 2), at(5, 2, 59), True),
        (at(5, 12), at(7, 12), True),  # the clock went back
    ],
)
def test_a_night_is_due_once_after_its_hour_has_come(now: datetime, last: datetime | None, is_due: bool) -> None:
    assert due(now, last, 3).due is is_due
    assert due(now, now, 3).due is False


def test_a_night_compacts_backs_up_and_makes_the_index_anew(world: World) -> None:
    for number in (1, 2):
        world.memory.record(experience(number))
    world.pass_time(LATER)
    backups = world.folder / "backups"
    backups.mkdir()
    left = backups / ".experience-20260101T000000000000Z.sqlite.tmp"
    left.write_bytes(b"half of one")
    night = Nightly(
        upkeep=world.upkeep, store=world.store, clock=world.clock, audit=world.audit, backups=backups, hour=3
    )
    night.step()
    assert world.store.meta("compacted_at") is None  # the first minutes after a start are left alone
    world.clock.advance(SETTLE_SECONDS)
    night.step()
    now = world.store.meta("compacted_at")
    assert now is not None
    assert now == world.store.meta("backed_up_at") == world.store.meta("nightly_at")
    assert sorted(path.suffix for path in backups.iterdir()) == [".sha256", ".sqlite"]
    assert world.count("member") == 2
    world.clock.advance(RETRY_SECONDS)
    night.step()
    assert world.store.meta("compacted_at") == now  # once a night


def test_a_part_of_a_night_that_fails_costs_not_the_others_and_is_tried_again(world: World) -> None:
    world.memory.record(experience(1))
    backups = world.folder / "backups"
    backups.write_bytes(b"a file where a folder belongs")
    night = Nightly(
        upkeep=world.upkeep, store=world.store, clock=world.clock, audit=world.audit, backups=backups, hour=3
    )
    world.clock.advance(SETTLE_SECONDS)
    night.step()
    assert world.store.meta("compacted_at") is not None
    assert (world.store.meta("backed_up_at"), world.store.meta("nightly_at")) == (None, None)
    assert '"failed":["backup"]' in (world.folder / "audit.jsonl").read_text()
    backups.unlink()
    night.step()
    assert world.store.meta("backed_up_at") is None
    world.clock.advance(RETRY_SECONDS)
    night.step()
    assert world.store.meta("nightly_at") is not None


def test_two_compactions_at_once_are_refused(world: World) -> None:
    with world.upkeep._compacting, pytest.raises(Unavailable, match="under way"):
        world.upkeep.compact(dry_run=True)


def test_a_store_that_could_not_shrink_is_written_anew_once_and_gives_pages_back(tmp_path: Path) -> None:
    path = tmp_path / "memory" / "experience.sqlite"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE gone (x)")
        connection.execute("DROP TABLE gone")
        connection.commit()
    world = World(tmp_path)
    long: Callable[[int], Any] = lambda number: experience(number, evidence="long " * 500)  # noqa: E731 — one line
    for number in range(1, 201):
        world.memory.record(long(number))
    world.pass_time(LATER)
    first = world.upkeep.compact(dry_run=False)
    assert (first.merged, first.freed_bytes) != (200, 0)
    for number in range(201, 401):
        world.memory.record(long(number))
    world.pass_time(LATER)
    second = world.upkeep.compact(dry_run=False)
    assert second.freed_bytes is not None
    assert second.freed_bytes > 200_000
    with closing(world.store.snapshot()) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
    world.memory.close()
