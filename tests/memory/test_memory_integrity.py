import hashlib
import random
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from damage_world import KINDS, Trial, fill, flip, open_memory, told, trial
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.layout import Layout
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.feedback import Verdict
from services.memory.frames import check_wal
from services.memory.memory import Memory
from services.memory.merkle import EMPTY, Tree, leaf_hash, node_hash
from services.memory.roots import SETTLED
from services.memory.signet import root_keys
from services.memory.store import Store
from services.memory.succession import Successor

SEEDS = range(3)


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + _root(leaves[:k]) + _root(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_tree_is_that_of_the_rfc_for_any_number_of_leaves(leaves: list[bytes]) -> None:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    assert tree.root() == _root(leaves)
    assert tree.leaves == len(leaves)


def test_the_rfcs_own_vector_and_that_a_node_can_not_pass_for_a_leaf() -> None:
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert node_hash(b"a" * 32, b"b" * 32) != leaf_hash(b"a" * 32 + b"b" * 32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "station"
    fill(folder)
    return folder


def test_a_flip_that_leaves_rows_without_their_number_is_found(made: Path, tmp_path: Path) -> None:
    done = trial(made, tmp_path / "station", "leaf page", 70)  # as bench/damage.py met it
    assert done.found or done.harmless, done
    assert done.whole, done


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_flipped_byte_is_found_or_changes_nothing_and_the_restore_brings_everything_back(
    made: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    done = trial(made, tmp_path / "station", kind, seed)
    assert done.found or done.harmless
    assert done.whole, done
    assert done.lost == ()  # the redo log or the backup holds each of them
    if kind in ("row", "backup", "redo log"):
        assert done.found


@pytest.mark.parametrize("kind", ["row", "leaf page", "interior page", "overflow page", "header"])
def test_without_any_other_copy_every_row_that_holds_comes_back_and_the_others_are_listed(
    made: Path, tmp_path: Path, kind: str
) -> None:
    found: list[Trial] = [trial(made, tmp_path / str(seed), kind, seed, alone=True) for seed in (1, 2)]
    assert all(each.whole and (each.found or each.harmless) for each in found), found
    if kind == "row":
        assert all(len(each.lost) == 1 for each in found)


def test_a_damaged_row_is_quarantined_and_stays_so_after_a_restart(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "station"
    fill(folder)
    _change(folder, "UPDATE confidence SET predicted = 0.5 WHERE event = 7")
    memory = open_memory(folder)
    (damage,) = memory.upkeep.verify().damages
    assert (damage.what, damage.done) == ("event e-7 (row 7)", "quarantined: left out of recall, kept where it is")
    assert 7 not in memory.shelf.catalog.rows()["seq"]
    memory.upkeep.rebuild_index()
    assert 7 not in memory.shelf.catalog.rows()["seq"]
    memory.close()
    again = open_memory(folder)
    assert 7 not in again.shelf.catalog.rows()["seq"]
    assert [each.what for each in again.upkeep.integrity.quarantine.held] == ["event e-7 (row 7)"]
    again.upkeep.restore(None, dry_run=False)
    assert 7 in again.shelf.catalog.rows()["seq"]
    assert again.upkeep.integrity.quarantine.held == ()
    assert again.upkeep.verify().ok
    again.close()


def test_a_damaged_vector_and_an_altered_index_are_made_anew_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "station"
    fill(folder)
    _change(folder, "UPDATE vector SET vector = zeroblob(256) WHERE objective = 3")
    memory = open_memory(folder)
    memory.catch_up()
    index = memory.shelf.index
    assert isinstance(index, ExactIndex)
    place = index._table.place[5]
    index._table._chunks[0][place] *= np.float32(-1)
    named = {each.what: each.done for each in memory.upkeep.verify().damages}
    assert named["vector 5"] == "made anew"
    assert memory.upkeep.verify().ok
    assert memory.shelf.pending == 0
    memory.close()


def test_a_damaged_backup_is_set_aside_and_a_restore_takes_the_one_before(tmp_path: Path) -> None:
    memory, clock = _timed(tmp_path)
    for number in (1, 2):
        memory.record(experience(number))
        memory.upkeep.backup(tmp_path / "memory" / "backups")
        clock.advance(60)
    older, newest = sorted((tmp_path / "memory" / "backups").glob("*.sqlite"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    (damage,) = memory.upkeep.verify().damages
    assert damage.what == f"backup {newest.name}"
    assert newest.with_name(f"{newest.name}.damaged").exists()
    verdict = memory.upkeep.verify()
    assert (verdict.ok, verdict.backups) == (True, 1)
    assert memory.upkeep.restore(None, dry_run=True).backup == older.name
    memory.close()


def test_a_day_that_is_over_is_signed_and_what_is_changed_in_it_later_shows(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    found_station(layout, VirtualClock(START), CountedIds())
    memory, clock = _timed(tmp_path, signed=True)
    memory.record(experience(1))
    memory.trust.judge("e-1", Verdict.USEFUL, query="rotate the logs", cosine=None, task_id="", caller="operator")
    memory.upkeep.integrity.close_days()
    assert memory.upkeep.verify().roots == 0  # the day is not over
    clock.advance((timedelta(days=1) + SETTLED).total_seconds())
    memory.upkeep.integrity.close_days()
    memory.record(experience(2))
    memory.amend("e-1", Outcome.FAILURE, "later", "later-1")
    verdict = memory.upkeep.verify()
    assert (verdict.ok, verdict.roots) == (True, 1), verdict.damages
    _change(tmp_path, "DROP TRIGGER feedback_stays_as_is", "UPDATE feedback SET query = 'rotate the dogs'")
    (damage,) = [each for each in memory.upkeep.verify().damages if each.what.startswith("root")]
    assert "not what was signed" in damage.why
    memory.close()


def test_without_the_key_a_root_is_kept_unsigned_and_that_is_said(tmp_path: Path) -> None:
    memory, clock = _timed(tmp_path)
    memory.record(experience(1))
    clock.advance((timedelta(days=1) + SETTLED).total_seconds())
    memory.upkeep.integrity.close_days()
    (damage,) = memory.upkeep.verify().damages
    assert damage.what == "root of 2026-11-01"
    assert "no key to sign with" in damage.why
    memory.close()


def test_a_root_written_anew_without_the_key_does_not_count(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    found_station(layout, VirtualClock(START), CountedIds())
    memory, clock = _timed(tmp_path, signed=True)
    memory.record(experience(1))
    clock.advance((timedelta(days=1) + SETTLED).total_seconds())
    memory.upkeep.integrity.close_days()
    changed = "replace(value, 'payload\":\"eyJ', 'payload\":\"eyK')"
    _change(tmp_path, f"UPDATE meta SET value = {changed} WHERE key LIKE 'root:%'")
    assert [each.what for each in memory.upkeep.verify().damages] == ["root of 2026-11-01"]
    memory.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_flip_in_the_log_of_the_running_store_is_found_and_a_copy_is_kept(tmp_path: Path, seed: int) -> None:
    memory, _ = _timed(tmp_path)
    for number in range(1, 30):
        memory.record(experience(number, objective=f"objective number {number}"))
    before = told(memory)
    wal = tmp_path / "memory" / "experience.sqlite-wal"
    chance = random.Random(seed)
    flip(wal, chance.randrange(wal.stat().st_size), chance)
    verdict = memory.upkeep.verify()
    assert "experience.sqlite-wal" in {each.what for each in verdict.damages}
    assert list((tmp_path / "memory" / "quarantine").glob("experience.sqlite-wal.*"))
    memory.upkeep.restore(None, dry_run=False)
    assert told(memory) == before
    assert memory.upkeep.verify().ok
    memory.close()


def test_a_torn_end_of_the_log_is_no_fault_and_a_hole_before_a_commit_is(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    for _ in range(20):
        connection.execute("INSERT INTO t VALUES (randomblob(3000))")
    whole = path.with_name("a.sqlite-wal").read_bytes()
    log = tmp_path / "log"
    for cut in (1, 100, 4000, 5000):
        log.write_bytes(whole[:-cut])
        assert check_wal(log).fault == ""
    log.write_bytes(whole[:9000] + b"\x00\x01\x02\x03" + whole[9004:])
    assert "frame 3" in check_wal(log).fault
    log.write_bytes(b"\x00" + whole[1:])
    assert "header" in check_wal(log).fault
    connection.close()


def test_a_judgement_that_is_not_as_it_was_acknowledged_is_found_the_same_day(tmp_path: Path) -> None:
    fill(tmp_path)
    memory = open_memory(tmp_path)
    memory.trust.judge("e-3", Verdict.USEFUL, query="rotate the logs", cosine=0.9, task_id="", caller="operator")
    assert memory.upkeep.verify().ok
    _change(tmp_path, "DROP TRIGGER feedback_stays_as_is", "UPDATE feedback SET verdict = 'harmful'")
    damages = memory.upkeep.verify().damages
    assert [each.what for each in damages] == ["feedback row 1 of e-3"]
    memory.close()


def _timed(folder: Path, *, signed: bool = False) -> tuple[Memory, VirtualClock]:
    """A memory on a clock of its own; with the station's key, or without one."""
    clock, layout = VirtualClock(START), Layout(folder)
    memory = Memory(
        store=Store(folder / "memory" / "experience.sqlite", durable=False),
        embedder=HashEmbedder(),
        index=ExactIndex(64),
        clock=clock,
        audit=Audit(folder / "audit.jsonl", clock, "memory"),
        keys=root_keys(layout.secrets / "memory.key", layout.keys / "memory.pub") if signed else None,
    )
    return memory, clock


def _change(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "memory" / "experience.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_change_of_model_in_the_middle_of_a_verify_is_no_damage(tmp_path: Path) -> None:
    """The old index is closed soon after the swap: what a verify then misses in it was never missing."""

    class Retired(ExactIndex):
        """Is being made anew at the first look, and ends its service during the second."""

        def vectors(self, keys: Sequence[int]) -> dict[int, bytes]:
            looks.append(len(keys))
            if len(looks) == 1:
                return {}
            while memory.catch_up():
                pass
            return super().vectors(keys)

    clock, looks = VirtualClock(START), list[int]()

    def opened(successor: Successor | None) -> Memory:
        return Memory(
            store=Store(tmp_path / "experience.sqlite", durable=False),
            embedder=HashEmbedder(salt="old"),
            index=Retired(64) if successor else ExactIndex(64),
            clock=clock,
            audit=Audit(tmp_path / "audit.jsonl", clock, "memory"),
            wake=lambda rows: None,
            successor=successor,
        )

    memory = opened(None)
    memory.record_all([experience(number, objective=f"objective {number}") for number in range(20)])
    while memory.catch_up():
        pass
    memory.close()
    memory = opened(Successor(embedder=HashEmbedder(salt="new"), open_index=lambda: ExactIndex(64)))
    verdict = memory.upkeep.verify()
    assert not isinstance(memory.shelf.index, Retired)
    assert {each.what for each in verdict.damages} == set() and verdict.vectors == 20
    memory.close()
