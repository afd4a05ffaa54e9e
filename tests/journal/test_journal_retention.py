"""What leaves the journal, when, and what may not: old tasks whole, large contents before, nothing that comes again."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))
from exchange_world import World

from chassis.agent import KEPT_FOR, build_agent
from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.domains import load_domains
from chassis.errors import LeaseLost, NotFound, Refused
from chassis.exchange.manifest import TaskId
from chassis.journal import Journal, consent_within, retention, targets
from chassis.journal.targets import Locks
from chassis.layout import DEPLOY, Layout
from chassis.worker import no_leases

DAY, ANY_SIZE = timedelta(days=1), 10**12


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, VirtualClock()
        self.data = root / "data"
        self.data.mkdir()
        self.journal = Journal(root / "journal", self.clock, consent_within([self.data]))

    def change(self, task: str, *, name: str = "a", epoch: int = 1) -> None:
        """Remove one file in a task, and let an hour pass."""
        (self.data / name).write_bytes(bytes(5000))
        with self.journal.session(task, epoch, lambda: None) as effects:
            effects.remove(self.data / name)
            effects.finish({"status": "done"})
        self.clock.advance(3600)

    def folder(self, task: str) -> Path:
        return self.root / "journal" / task

    def locks(self) -> list[Path]:
        return sorted((self.root / "journal" / ".locks").iterdir())


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_a_task_that_ended_long_ago_leaves_the_journal_and_its_undo_still_says_why(yard: Yard) -> None:
    yard.change("t1")
    yard.clock.advance(30 * 3600)
    yard.change("t2", name="b")
    assert yard.journal.prune(ANY_SIZE, DAY, dry_run=True) == ["t1"]
    assert yard.folder("t1").is_dir(), "only said"
    assert yard.journal.prune(ANY_SIZE, DAY) == ["t1"]
    assert not yard.folder("t1").exists()
    assert "dropped on" in yard.journal.can_undo("t1")[1]
    with pytest.raises(Refused, match=r"dropped on .* \(age\)"):
        yard.journal.undo("t1")
    with pytest.raises(NotFound, match="nothing was journaled"):
        yard.journal.undo("t3")
    ((task_id, reason),) = yard.journal.dropped()
    assert task_id == "t1"
    assert "(age)" in reason
    yard.journal.undo("t2")
    assert (yard.data / "b").read_bytes() == bytes(5000)
    assert yard.journal.prune(ANY_SIZE, DAY) == [], "nothing is dropped twice"


def test_the_records_of_what_is_too_large_stay_until_they_are_old_too(yard: Yard) -> None:
    yard.change("t1")
    assert yard.journal.prune(4000, DAY) == ["t1"]
    assert yard.journal.status("t1").outcome == {"status": "done"}, "so that it is answered, and not done again"
    yard.clock.advance(30 * 3600)
    assert yard.journal.prune(4000, DAY) == [], "it could not be undone before either"
    assert not yard.folder("t1").exists()
    assert "(size: " in yard.journal.can_undo("t1")[1], "as it was first"


def test_what_may_be_handed_out_again_keeps_its_records_however_old(yard: Yard) -> None:
    yard.change("t1")
    yard.clock.advance(30 * 3600)
    assert yard.journal.prune(ANY_SIZE, DAY, awaited=lambda task: task == "t1") == ["t1"]
    assert yard.journal.status("t1").outcome == {"status": "done"}
    assert not (yard.folder("t1") / "pre").exists()
    yard.journal.prune(ANY_SIZE, DAY)
    assert not yard.folder("t1").exists()


def test_nothing_that_is_under_way_leaves(yard: Yard) -> None:
    (yard.data / "a").write_bytes(b"x")
    with yard.journal.session("t1", 1, lambda: None) as effects:
        effects.remove(yard.data / "a")
        yard.clock.advance(10**7)
        assert yard.journal.prune(0, DAY) == []
        effects.finish({})
    yard.clock.advance(10**7)
    fd = os.open(yard.folder("t1") / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert yard.journal.prune(0, DAY) == []
    assert yard.folder("t1").is_dir(), "somebody works on it"
    os.close(fd)
    yard.journal.prune(0, DAY)
    assert not yard.folder("t1").exists()


def test_the_lock_of_a_target_goes_with_the_last_task_that_it_remembers(yard: Yard) -> None:
    yard.change("t1", name="x")
    yard.clock.advance(30 * 3600)
    yard.change("t2", name="x", epoch=3)
    yard.journal.prune(ANY_SIZE, DAY)
    assert not yard.folder("t1").exists()
    with pytest.raises(LeaseLost, match="epoch 3"), yard.journal._locks.held([yard.data / "x"], "t2", 2):
        pass
    yard.clock.advance(30 * 3600)
    yard.journal.prune(ANY_SIZE, DAY)
    assert yard.locks() == []


def test_what_a_crash_left_on_its_way_out_is_gone_after_the_next_pruning(yard: Yard) -> None:
    yard.change("t1")
    yard.clock.advance(30 * 3600)
    line = b'{"at":"2026-01-01T00:00:00.000000Z","reason":"before the crash","task_id":"t1"}'
    retention._remember(yard.root / "journal" / ".dropped.jsonl", line)  # written down, and not moved yet
    left = yard.root / "journal" / ".leaving" / "t0"
    left.mkdir(parents=True)
    (left / "records.jsonl").write_bytes(b"half of it")
    assert yard.journal.prune(ANY_SIZE, DAY) == ["t1"]
    assert not yard.folder("t1").exists()
    assert not left.parent.exists()
    assert [task_id for task_id, _ in yard.journal.dropped()] == ["t1"]


def test_what_is_remembered_of_tasks_that_left_has_a_bound(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "GONE_BYTES", 2000)
    for number in range(40):
        yard.change(f"t{number:02}", name=f"f{number}")
    yard.clock.advance(30 * 3600)
    assert len(yard.journal.prune(ANY_SIZE, DAY)) == 40
    assert (yard.root / "journal" / ".dropped.jsonl").stat().st_size < 2500
    remembered = [task_id for task_id, _ in yard.journal.dropped()]
    assert remembered == [f"t{number:02}" for number in range(40 - len(remembered), 40)]
    assert len(remembered) >= 5


def between(monkeypatch: pytest.MonkeyPatch, lock: Path, act: Callable[[], None]) -> None:
    """Once, after this lock's file has been opened and before it is locked."""
    real, acts, inode = targets._flocked, [act], lock.stat().st_ino

    def flocked(fd: int, how: int) -> bool:
        while acts and os.fstat(fd).st_ino == inode:
            acts.pop()()
        return real(fd, how)

    monkeypatch.setattr(targets, "_flocked", flocked)


def held_by_somebody(locks: Locks, target: Path) -> bool:
    with locks._path(target).open() as file:
        return not targets._flocked(file.fileno(), fcntl.LOCK_EX)


def test_who_opened_a_lock_before_it_was_forgotten_holds_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, target = Locks(tmp_path, VirtualClock()), Path("/target")
    with locks.held([target], "t1", 1):
        locks.forget([target], lambda _: True)
        assert held_by_somebody(locks, target), "a lock that is held is not forgotten"
    for path in tmp_path.iterdir():
        if path != locks._path(target):
            path.unlink()
    between(monkeypatch, locks._path(target), lambda: locks.forget([target], lambda _: True))
    with locks._locked(locks._path(target), fcntl.LOCK_EX):
        assert held_by_somebody(locks, target)


def test_a_lock_that_was_forgotten_and_made_anew_meanwhile_is_not_forgotten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, target = Locks(tmp_path, VirtualClock()), Path("/target")
    with locks.held([target], "t1", 1):
        pass
    with contextlib.ExitStack() as stack:

        def anew() -> None:
            locks.forget([target], lambda _: True)
            stack.enter_context(locks.held([target], "t2", 1))

        between(monkeypatch, locks._path(target), anew)
        locks.forget([target], lambda _: True)
        assert held_by_somebody(locks, target)


def test_one_agent_bounds_the_journal_of_all_and_spares_what_the_exchange_may_hand_out(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    layout, target = Layout(tmp_path), tmp_path / "reports" / "a"
    target.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(layout.journal, world.clock, consent_within([target.parent]))
    for task_id in ("t-1", "t-2"):
        target.write_bytes(b"x")
        with journal.session(task_id, 1, lambda: None) as effects:
            effects.remove(target)
            effects.finish({"status": "done"})
    world.exchange.submit(world.task("t-2", owner="cbo"))
    assert world.exchange.get(TaskId("t-2")).state == "ready"
    agents = {
        name: build_agent(
            name, [], layout=layout, exchange=world.exchange, verifier=lambda _: True, kill_switch=world.kill_switch,
            domains=load_domains(DEPLOY / "domains").values(), clock=world.clock,
            audit=Audit(layout.audit(name), world.clock, name), leases=no_leases, station_id="st-1",
            heartbeat_seconds=None,
        )
        for name in ("guardian", "governor")
    }  # fmt: skip
    world.clock.advance(KEPT_FOR.total_seconds() + 1)
    agents["guardian"].step()
    assert (layout.journal / "t-1").is_dir()
    agents["governor"].step()
    assert not (layout.journal / "t-1").exists()
    assert journal.status("t-2").outcome == {"status": "done"}
