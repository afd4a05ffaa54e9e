"""Where two things happen at once, the clock goes back, or there is nothing at all."""

import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock, iso
from chassis.errors import InvalidInput, Unavailable
from services.memory.backup import KEPT, backups
from services.memory.catalog import Standing
from services.memory.compact import Terms
from services.memory.embedding import Vectors
from services.memory.exact import ExactIndex
from services.memory.feedback import Verdict
from services.memory.memory import DRAIN, Memory
from services.memory.nightly import SETTLE_SECONDS, Nightly
from services.memory.recall import Query
from services.memory.redo import Entry, RedoLog, Spoilt
from services.memory.roots import SETTLED
from services.memory.store import Store
from services.memory.succession import Successor

ASKED = Query(objective="rotate the logs")
DAY = timedelta(days=1)


class SetClock(VirtualClock):
    """Its time of day can be set, also back; its monotonic time goes on as it is."""

    set_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.set_by


class World:
    """A memory with a log on a clock of its own, which may also go back."""

    def __init__(
        self, folder: Path, embedder: Any = None, *, index: Any = None, beside: bool = False, successor: Any = None
    ) -> None:
        self.folder, self.clock = folder / "memory", SetClock(START)
        self.audit = Audit(folder / "audit.jsonl", self.clock, "memory")
        embedder = embedder or HashEmbedder()
        self.store = Store(
            self.folder / "experience.sqlite", durable=False, redo=RedoLog(self.folder / "redo", durable=False)
        )
        self.memory = Memory(
            store=self.store,
            embedder=embedder,
            index=ExactIndex(embedder.dimension) if index is None else index,
            clock=self.clock,
            audit=self.audit,
            wake=(lambda rows: None) if beside else None,
            successor=successor,
            terms=Terms(older_than=DAY),
        )

    def set_clock(self, span: timedelta) -> None:
        self.clock.set_by += span

    def judge(self, name: str, verdict: Verdict, task: str) -> Standing:
        judged = self.memory.trust.judge(name, verdict, query="", cosine=None, task_id=task, caller="cbo")
        return judged.standing

    def close(self) -> None:
        self.memory.close()


class Choking(HashEmbedder):
    """Gives no vector for one word."""

    def embed(self, texts: Any) -> Vectors:
        made = super().embed(texts)
        made[["poison" in text for text in texts]] = np.nan
        return made


# while something else goes on


def test_while_a_backlog_drains_every_acknowledged_row_is_either_searched_or_pending(tmp_path: Path) -> None:
    world, done = World(tmp_path, beside=True), threading.Event()
    acknowledged = [0]

    def write() -> None:
        for number in range(1, 151):
            world.memory.record(experience(number, objective=f"objective number {number % 70}"))
            acknowledged[0] = number
        done.set()

    def drain() -> None:
        while not done.is_set() or world.memory.shelf.pending:
            world.memory.catch_up()

    threads = [threading.Thread(target=each) for each in (write, drain)]
    for each in threads:
        each.start()
    looks = 0
    while any(each.is_alive() for each in threads):
        before = acknowledged[0]
        found = world.memory.recall(ASKED)
        assert before <= found.searched + found.pending <= acknowledged[0] + 1
        looks += 1
    for each in threads:
        each.join()
    assert looks > 0
    found = world.memory.recall(ASKED)
    assert (found.searched, found.pending) == (150, 0)
    world.memory.upkeep.check()
    world.close()


def test_a_recall_that_a_restore_overtakes_answers_from_what_it_began_with(tmp_path: Path) -> None:
    class Overtaken(HashEmbedder):
        world: World | None = None

        def embed(self, texts: Any) -> Vectors:
            if self.world is not None:
                world, self.world = self.world, None
                world.memory.upkeep.restore(None, dry_run=False)
            return super().embed(texts)

    embedder = Overtaken()
    world = World(tmp_path, embedder)
    for number in range(1, 6):
        world.memory.record(experience(number, objective=f"objective number {number}"))
    asked = Query(objective="objective number 3", limit=1)
    before = world.memory.recall(asked)
    embedder.world = world
    assert world.memory.recall(asked) == before == world.memory.recall(asked)
    assert world.memory.record(experience(6)) is True
    assert world.memory.upkeep.verify().ok
    world.close()


def test_a_restore_and_a_compaction_never_meet(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.memory.upkeep._alone(), pytest.raises(Unavailable, match="try again"):
        world.memory.upkeep.restore(None, dry_run=False)
    assert world.memory.upkeep.restore(None, dry_run=True).lost == ()
    world.close()


def test_a_model_changes_in_the_middle_of_a_burst_and_every_row_is_found_by_the_new_one(tmp_path: Path) -> None:
    old, new = HashEmbedder(salt="old"), HashEmbedder(salt="new")
    successor = Successor(embedder=new, open_index=lambda: ExactIndex(64))
    world = World(tmp_path, old, beside=True, successor=successor)

    def burst(worker: int) -> None:
        for number in range(60):
            world.memory.record(experience(f"{worker}-{number}", objective=f"objective {number} of worker {worker}"))

    threads = [threading.Thread(target=burst, args=(worker,)) for worker in range(3)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        world.memory.catch_up()
        found = world.memory.recall(Query(objective="objective 1 of worker 1"))
        assert all(each.cosine > 0.8 for each in found.matches)
    while world.memory.catch_up():
        pass
    assert world.memory.shelf.embedder is new
    for worker in range(3):
        found = world.memory.recall(Query(objective=f"objective 7 of worker {worker}", limit=1))
        assert [each.experience.id for each in found.matches] == [f"e-{worker}-7"]
    assert world.memory.stats().pending == 0
    assert world.memory.upkeep.verify().ok
    world.close()


def test_what_no_model_can_embed_keeps_nobody_waiting_however_much_of_it_there_is(tmp_path: Path) -> None:
    world = World(tmp_path, Choking(), beside=True)
    for number in range(DRAIN + 6):
        world.memory.record(experience(number, objective=f"poison number {number}"))
    world.memory.record(experience("good"))
    with structlog.testing.capture_logs():
        assert world.memory.catch_up() == 0
        assert world.memory.catch_up() == 1
    found = world.memory.recall(ASKED)
    assert ([each.experience.id for each in found.matches], found.pending) == (["e-good"], DRAIN + 6)
    world.close()


def test_a_new_model_takes_over_also_where_the_old_one_has_no_vector_for_a_text(tmp_path: Path) -> None:
    new = HashEmbedder(salt="new")
    successor = Successor(embedder=new, open_index=lambda: ExactIndex(64))
    world = World(tmp_path, Choking(), beside=True, successor=successor)
    world.memory.record(experience(1, objective="poison"))
    with structlog.testing.capture_logs():
        while world.memory.shelf.embedder is not new:
            assert world.memory.catch_up() > 0
    assert [each.experience.id for each in world.memory.recall(Query(objective="poison")).matches] == ["e-1"]
    world.close()


def test_a_verify_that_a_change_of_model_overtakes_finds_no_damage(tmp_path: Path) -> None:
    class Overtaken(ExactIndex):
        world: World | None = None

        def vectors(self, keys: Any) -> dict[int, bytes]:
            while self.world is not None and self.world.memory.catch_up():
                pass
            return super().vectors(keys)

    old, new, index = HashEmbedder(salt="old"), HashEmbedder(salt="new"), Overtaken(64)
    successor = Successor(embedder=new, open_index=lambda: ExactIndex(64))
    world = World(tmp_path, old, index=index, beside=True, successor=successor)
    for number in range(9):
        world.memory.record(experience(number, objective=f"objective number {number}"))
    assert world.memory.catch_up() == 9
    index.world = world
    assert world.memory.upkeep.verify().damages == ()
    assert world.memory.shelf.embedder is new
    world.close()


# the same thing twice, and what is said of a member


def test_an_id_twice_in_one_batch_is_recorded_once_by_the_first_that_can_be(tmp_path: Path) -> None:
    world = World(tmp_path)
    twice = [experience(1), experience(1, objective="another"), experience(2, tes=-1.0), experience(2)]
    answers = world.memory.record_all(twice)
    assert [each if isinstance(each, bool) else type(each) for each in answers] == [True, False, InvalidInput, True]
    assert [each.objective for each in world.memory.newest(9, "")] == ["rotate the logs"] * 2
    assert world.store.redo is not None
    assert world.store.redo.last == 2
    world.close()


def test_a_rolled_up_experience_is_judged_evicted_and_reinstated_like_any_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(1, 4):
        world.memory.record(experience(number))
    world.set_clock(3 * DAY)
    assert world.memory.upkeep.compact(dry_run=False).merged == 3
    stands = [world.judge("e-2", Verdict.HARMFUL, f"t-{number}") for number in range(4)]
    assert stands[-1] is Standing.EVICTED
    assert world.store.experiences([2])[2].rolled_up
    assert world.memory.recall(ASKED).evicted == 1
    assert world.memory.upkeep.compact(dry_run=False).merged == 0
    assert world.memory.upkeep.verify().ok
    world.close()
    again = World(tmp_path)
    assert again.memory.recall(ASKED).evicted == 1
    again.memory.trust.stand("e-2", Standing.VALID, because_of="", reason="", caller="operator")
    assert again.memory.recall(ASKED).evicted == 0
    again.close()


def test_a_row_that_is_taken_out_of_use_is_not_pending_any_more(tmp_path: Path) -> None:
    world = World(tmp_path, beside=True)
    world.memory.record(experience(1))
    world.memory.record(experience(2))
    world.memory.record(experience(3, objective="something else"))
    with world.memory.shelf.change:
        world.memory.shelf.forget([1, 3])
    assert world.memory.stats().pending == 1
    assert world.memory.catch_up() == 1
    assert (world.memory.catch_up(), world.memory.stats().pending) == (0, 0)
    world.memory.upkeep.check()
    world.close()


# a clock that goes back


def test_what_is_recorded_on_a_day_that_was_signed_is_no_damage_and_the_day_is_signed_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.memory.record(experience(1))
    world.set_clock(DAY + SETTLED)
    world.memory.upkeep.integrity.close_days()
    signed = world.store.meta("root:2026-11-01")
    world.set_clock(-timedelta(hours=2))
    world.memory.record(experience(2))
    assert {each.what for each in world.memory.upkeep.verify().damages} <= {"root of 2026-11-01"}  # there is no key
    assert not [each for each in world.memory.upkeep.verify().damages if "not what was signed" in each.why]
    world.set_clock(timedelta(hours=3))
    world.memory.upkeep.integrity.close_days()
    anew = world.store.meta("root:2026-11-01")
    assert anew is not None
    assert anew != signed
    assert "the clock was set back" in anew
    assert not [each for each in world.memory.upkeep.verify().damages if "not what was signed" in each.why]
    world.close()


def test_a_day_is_not_signed_while_its_last_rows_may_be_on_their_way(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.memory.record(experience(1))
    world.set_clock(DAY)
    world.memory.upkeep.integrity.close_days()
    assert world.store.meta("root:2026-11-01") is None
    world.set_clock(SETTLED)
    world.memory.upkeep.integrity.close_days()
    assert world.store.meta("root:2026-11-01") is not None
    world.close()


def test_harm_after_a_reinstatement_counts_also_if_the_clock_was_set_back_in_between(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.memory.record(experience(1))
    for number in range(4):
        world.judge("e-1", Verdict.HARMFUL, f"t-{number}")
    world.memory.trust.stand("e-1", Standing.VALID, because_of="", reason="looked into", caller="operator")
    world.set_clock(-timedelta(hours=5))
    assert world.judge("e-1", Verdict.HARMFUL, "t-5") is Standing.VALID  # what was said before counts no more
    assert world.memory.trust.harm(1) == 1
    assert [world.judge("e-1", Verdict.HARMFUL, f"t-{number}") for number in (6, 7, 8)][-1] is Standing.EVICTED
    world.close()


def test_a_backup_outlives_older_ones_whose_names_are_of_a_later_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    folder = world.folder / "backups"
    for _ in range(KEPT):
        world.memory.upkeep.backup(folder)
        world.set_clock(DAY)
    world.memory.record(experience(1))
    world.set_clock(-100 * DAY)
    made = world.memory.upkeep.backup(folder)
    assert made.path in backups(folder)
    assert len(backups(folder)) == KEPT
    assert world.memory.upkeep.verify().backups == KEPT
    world.close()


# nothing at all, and disks that take nothing


def test_an_empty_namespace_is_the_default_one_for_a_question_and_none_for_an_experience(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.memory.record(experience(1))
    world.memory.record(experience(2, namespace="other"))
    assert world.memory.recall(Query(objective="rotate the logs", namespace="")).searched == 1
    with pytest.raises(InvalidInput, match="namespace is empty"):
        world.memory.record(experience(3, namespace=""))
    world.close()


def test_a_memory_of_nothing_can_be_asked_verified_compacted_backed_up_restored_and_opened_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    for _ in range(2):
        upkeep = world.memory.upkeep
        found = world.memory.recall(ASKED)
        assert (found.matches, found.summaries, found.searched, found.pending) == ((), (), 0, 0)
        assert (world.memory.catch_up(), world.memory.newest(9, ""), world.memory.record_all([])) == (0, [], [])
        assert upkeep.compact(dry_run=False).kept == 0
        upkeep.backup(world.folder / "backups")
        assert upkeep.restore(None, dry_run=False).lost == ()
        upkeep.integrity.close_days()
        assert upkeep.rebuild_index() == 0
        assert upkeep.verify().ok
        upkeep.check()
        world.close()
        world = World(tmp_path)
    world.close()


def test_a_night_on_a_disk_that_can_only_be_read_says_what_failed_and_recall_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in (1, 2):
        world.memory.record(experience(number))
    night = Nightly(
        upkeep=world.memory.upkeep, store=world.store, clock=world.clock, audit=world.audit,
        backups=world.folder / "backups", hour=3,
    )  # fmt: skip
    (world.folder / "backups").touch()
    world.store._writer.execute("PRAGMA query_only = ON")
    world.set_clock(3 * DAY)
    world.clock.advance(SETTLE_SECONDS)
    with structlog.testing.capture_logs():
        night.step()
    assert '"failed":["compaction","backup"]' in (tmp_path / "audit.jsonl").read_text()
    assert world.store.meta("nightly_at") is None
    assert len(world.memory.recall(ASKED).matches) == 2
    world.close()


def test_a_night_whose_end_can_not_be_noted_says_so_and_is_done_again(tmp_path: Path) -> None:
    class Deaf(Store):
        def set_meta(self, key: str, value: str) -> None:
            if key == "nightly_at":
                raise Unavailable("the disk went read-only")
            super().set_meta(key, value)

    world = World(tmp_path)
    world.close()
    clock = VirtualClock(START)
    store = Deaf(world.folder / "experience.sqlite", durable=False)
    audit = Audit(tmp_path / "audit.jsonl", clock, "memory")
    memory = Memory(store=store, embedder=HashEmbedder(), index=ExactIndex(64), clock=clock, audit=audit)
    night = Nightly(
        upkeep=memory.upkeep, store=store, clock=clock, audit=audit, backups=world.folder / "backups", hour=3
    )
    clock.advance(SETTLE_SECONDS)
    with structlog.testing.capture_logs():
        night.step()
    assert '"failed":["its end"]' in (tmp_path / "audit.jsonl").read_text()
    memory.close()


@pytest.mark.parametrize("left", [b"", bytes(500)])
def test_a_segment_that_was_begun_and_never_written_holds_nothing_up(tmp_path: Path, left: bytes) -> None:
    log = RedoLog(tmp_path, durable=False, segment_bytes=100)
    begun = tmp_path / "000000000002.jsonl"
    with log.written([b'{"a":1}']):
        pass
    begun.write_bytes(left)  # the disk went read-only before it could be taken away again
    with log.written([b'{"a":2}']) as number:
        assert number == 2
    log.close()
    (tmp_path / "000000000003.jsonl").write_bytes(left)  # and once more, right before a kill
    log = RedoLog(tmp_path, durable=False, segment_bytes=100)
    assert log.last == 2
    with log.written([b'{"a":3}']):
        pass
    assert [each.body["a"] if isinstance(each, Entry) else each for each in log.read()] == [1, 2, 3]
    log.close()


def test_a_segment_that_lost_all_its_bytes_is_named_with_the_numbers_it_held(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.close()
    log = RedoLog(tmp_path / "log", durable=False, segment_bytes=100)
    for number in range(1, 4):
        with log.written([b'{"a":%d}' % number]):
            pass
    (tmp_path / "log" / "000000000002.jsonl").write_bytes(b"")
    found = list(log.read())
    assert [(each.first, each.last) for each in found if isinstance(each, Spoilt)] == [(2, 2)]
    assert [each.number for each in found if isinstance(each, Entry)] == [1, 3]
    log.close()


def test_times_are_written_so_that_their_order_is_that_of_their_text() -> None:
    moments = [START + timedelta(microseconds=each) for each in (0, 1, 10, 999_999, 1_000_000)]
    assert sorted(map(iso, moments)) == list(map(iso, moments))
