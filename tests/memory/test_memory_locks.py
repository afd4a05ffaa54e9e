"""The order of locks that services/memory/__init__.py writes down, held against every path at once."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.errors import Unavailable
from services.memory import verify
from services.memory.catalog import Standing
from services.memory.compact import Terms
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.feedback import Verdict
from services.memory.memory import Memory
from services.memory.recall import Query
from services.memory.redo import RedoLog
from services.memory.store import Store
from services.memory.succession import Successor

ORDER = (
    "_compacting", "_backing_up", "_verifying", "_judging", "_turn", "_rebuilding", "_queueing", "change",
    "_write_lock", "_read_lock", "redo",
)  # fmt: skip
"""Waiting in Commits begins with `_queueing`, so it stands right above `change`."""


class Watch:
    """Which lock was taken while which was held, and what of it is out of order."""

    def __init__(self) -> None:
        self.pairs: set[tuple[str, str]] = set()
        self.held = threading.local()

    def over(self, name: str, lock: Any) -> Any:
        return Watched(self, name, lock)

    @property
    def faults(self) -> set[tuple[str, str]]:
        return {(held, taken) for held, taken in self.pairs if ORDER.index(held) >= ORDER.index(taken)}


class Watched:
    def __init__(self, watch: Watch, name: str, lock: Any) -> None:
        self._watch, self._name, self._lock = watch, name, lock

    def acquire(self, blocking: bool = True) -> bool:
        stack: list[str] = self._watch.held.__dict__.setdefault("stack", [])
        if self._name not in stack and blocking:  # taken again, or only tried: nobody waits
            self._watch.pairs |= {(held, self._name) for held in stack}
        taken = bool(self._lock.acquire(blocking=blocking))
        if taken:
            stack.append(self._name)
        return taken

    def release(self) -> None:
        self._watch.held.stack.remove(self._name)
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def watched(memory: Memory, store: Store) -> Watch:
    watch = Watch()
    commits, upkeep = store._commits, memory.upkeep
    change: Any = watch.over("change", store.change)
    store.change = memory.shelf.change = commits._change = change
    writing: Any = watch.over("_write_lock", store._write_lock)
    store._write_lock = commits._writing = writing
    owners: tuple[tuple[Any, str], ...] = (
        (upkeep, "_compacting"), (upkeep, "_backing_up"), (upkeep.integrity, "_verifying"), (memory.trust, "_judging"),
        (memory._succession, "_turn"), (memory.shelf, "_rebuilding"), (commits, "_queueing"), (store, "_read_lock"),
    )  # fmt: skip
    for owner, name in owners:
        setattr(owner, name, watch.over(name, getattr(owner, name)))
    redo: Any = store.redo
    redo._lock = watch.over("redo", redo._lock)
    return watch


def test_every_path_takes_locks_in_the_order_that_is_written_down_and_none_waits_for_ever(tmp_path: Path) -> None:
    folder, clock = tmp_path / "memory", VirtualClock(START)
    store = Store(folder / "experience.sqlite", durable=False, redo=RedoLog(folder / "redo", durable=False))
    memory = Memory(
        store=store,
        embedder=HashEmbedder(salt="old"),
        index=ExactIndex(64),
        clock=clock,
        audit=Audit(tmp_path / "audit.jsonl", clock, "memory"),
        wake=lambda rows: None,
        successor=Successor(embedder=HashEmbedder(salt="new"), open_index=lambda: ExactIndex(64)),
        terms=Terms(older_than=timedelta(hours=1)),
    )
    for number in range(60):
        memory.record(experience(number, objective=f"objective {number % 20}"))
    clock.advance(timedelta(days=2).total_seconds())
    watch, upkeep, trust = watched(memory, store), memory.upkeep, memory.trust
    said: list[verify.Verdict] = []
    verdicts = (Verdict.HARMFUL, Verdict.USEFUL, Verdict.WITHDRAWN)

    def judge(turn: int) -> None:
        trust.judge(f"e-{turn}", verdicts[turn % 3], query="", cosine=None, task_id=f"t-{turn}", caller="cbo")
        trust.stand(f"e-{turn}", Standing.INVALIDATED, because_of="", reason="wrong", caller="operator")

    def back_up(turn: int) -> None:
        clock.advance(1)  # so that each has a name of its own
        upkeep.backup(folder / "backups")

    def write(turn: int) -> None:
        memory.record_all([experience(f"{turn}-{place}", objective=f"late {turn}") for place in range(5)])
        memory.amend(f"e-{turn + 10}", Outcome.FAILURE, "regressed", f"later-{turn}")

    paths: tuple[Callable[[int], object], ...] = (
        write,
        judge,
        lambda turn: memory.catch_up(),
        lambda turn: (memory.recall(Query(objective=f"objective {turn}", context={"site": "here"})), memory.stats()),
        lambda turn: upkeep.compact(dry_run=turn % 3 == 0),
        back_up,
        lambda turn: said.append(upkeep.verify()),
        lambda turn: upkeep.rebuild_index(),
        lambda turn: upkeep.restore(None, dry_run=turn % 2 == 0),
        lambda turn: upkeep.integrity.close_days(),
        lambda turn: upkeep.check(),
    )
    failed: list[BaseException] = []

    def go(path: Callable[[int], object]) -> None:
        for turn in range(6):
            try:
                path(turn)
            except Unavailable:
                continue  # refused beside another one; that it is said is tested elsewhere
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=go, args=(path,), daemon=True) for path in paths]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not [each for each in threads if each.is_alive()]
    assert failed == []
    assert watch.faults == set()
    assert {("_verifying", "change"), ("_rebuilding", "change"), ("change", "_write_lock")} <= watch.pairs
    while memory.catch_up():
        pass
    said.append(upkeep.verify())
    found = {each.what for verdict in said for each in verdict.damages}
    assert found <= {"root of 2026-11-01"}  # there is no key to sign with
    memory.close()
