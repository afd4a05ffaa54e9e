"""The disk is full at every single write: nothing is lost or twice, and the same call works once there is room.

Each call that writes, makes, links, renames or syncs is made to fail in turn, alone or with all that follow.
"""

import ctypes
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from exchange_world import FAST, LEASE, World

from chassis.errors import AlreadyAcked, CalyxError, Duplicate, LeaseLost
from chassis.exchange import commits, moves
from chassis.exchange.manifest import TaskId
from chassis.exchange.port import Claim, Receipt

DAY = 86_400.0


@dataclass
class Full:
    """The `at`-th writing call fails, and with `on` all after it."""

    at: int
    on: bool
    calls: int = 0

    def hits(self) -> bool:
        self.calls += 1
        return self.calls - 1 == self.at or (self.on and self.calls - 1 > self.at)


@contextmanager
def full_disk(full: Full) -> Iterator[None]:
    real = {name: getattr(os, name) for name in ("write", "pwrite", "fsync", "fdatasync", "mkdir", "link", "open")}
    real |= {name: getattr(os, name) for name in ("rename", "replace")}

    def failing(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            creates = name != "open" or (args[1] & os.O_CREAT and not os.path.lexists(args[0]))
            if creates and full.hits():
                if name == "write" and len(args[1]) > 1:
                    real["write"](args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", args[0] if name == "open" else None)
            return real[name](*args, **kwargs)

        return call

    renameat2, syncfs = moves._renameat2, commits.sync_file_system

    def rename(*args: Any) -> int:
        if full.hits():
            ctypes.set_errno(errno.ENOSPC)
            return -1
        return int(renameat2(*args))

    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs():
        for name in real:
            patch.setattr(os, name, failing(name))
        patch.setattr(moves, "_renameat2", rename)
        patch.setattr(commits._libc, "syncfs", lambda fd: -1 if full.hits() else 0, raising=False)
        yield
    assert syncfs is commits.sync_file_system


@dataclass
class Case:
    """A world before the call, and the call."""

    world: World
    claims: list[Claim] = field(default_factory=list)
    submitted: set[str] = field(default_factory=set)
    acked: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def put(self, *names: str, **fields: Any) -> None:
        for answer in self.world.exchange.submit_many([self.world.task(name, **fields) for name in names]):
            assert isinstance(answer, Receipt)
        self.submitted |= set(names)

    def take(self, n: int = 1) -> None:
        self.claims += self.world.exchange.claim("governor", "w1", n)

    def submit(self) -> None:
        w = self.world
        for answer in w.exchange.submit_many([w.task("a"), w.task("b", dependencies=("a",)), w.task("c")]):
            if isinstance(answer, Exception) and not isinstance(answer, Duplicate):
                raise answer
        self.submitted |= {"a", "b", "c"}

    def submit_one(self) -> None:
        with suppress(Duplicate):
            self.world.exchange.submit(self.world.task("a"))
        self.submitted.add("a")

    def ack(self) -> None:
        (claim,) = self.claims
        with suppress(AlreadyAcked):
            self.world.exchange.ack(claim, self.world.ack(claim, detail="mine"))
        self.acked[claim.manifest.task_id] = "mine"

    def nack(self) -> None:
        (claim,) = self.claims
        with suppress(LeaseLost):
            self.world.exchange.nack(claim, 5, "later")

    def sweep(self) -> None:
        self.world.exchange.sweep()


def submitting(case: Case) -> Callable[[], Any]:
    return case.submit


def submitting_one(case: Case) -> Callable[[], Any]:
    return case.submit_one


def claiming(case: Case) -> Callable[[], Any]:
    case.put("a", "b")
    return lambda: case.take(2)


def beating(case: Case) -> Callable[[], Any]:
    case.put("a")
    case.take()
    return lambda: case.world.exchange.heartbeat(case.claims[0])


def acking(case: Case) -> Callable[[], Any]:
    case.put("a")
    case.put("b", dependencies=("a",))
    case.take()
    return case.ack


def giving_back(case: Case) -> Callable[[], Any]:
    case.put("a")
    case.take()
    return case.nack


def holding(case: Case) -> Callable[[], Any]:
    case.put("a")
    return lambda: case.world.exchange.hold(TaskId("a"))


def releasing(case: Case) -> Callable[[], Any]:
    case.put("a")
    case.world.exchange.hold(TaskId("a"))
    return lambda: case.world.exchange.release(TaskId("a"))


def requeueing(case: Case) -> Callable[[], Any]:
    case.put("a", max_attempts=1)
    case.take()
    case.nack()
    return lambda: case.world.exchange.requeue(TaskId("a"))


def burying(case: Case) -> Callable[[], Any]:
    case.put("a", max_attempts=1)
    case.take()
    return case.nack


def cancelling(case: Case) -> Callable[[], Any]:
    case.put("a", "b")
    case.take()
    case.cancelled |= {"a", "b"}
    return lambda: [case.world.exchange.cancel(TaskId(name), "no") for name in ("a", "b")]


def sweeping_a_lost_lease(case: Case) -> Callable[[], Any]:
    case.put("a")
    case.take()
    case.sweep()
    case.world.clock.advance(LEASE)
    return case.sweep


def sweeping_an_expired_task(case: Case) -> Callable[[], Any]:
    case.put("a", ttl_seconds=5)
    case.put("b", dependencies=("a",))
    case.world.clock.advance(6)
    return case.sweep


def sweeping_a_stray(case: Case) -> Callable[[], Any]:
    case.put("a")
    folder = case.world.root / "svf" / "ready" / "governor" / "p5"
    (folder / "x.e1.ready").write_bytes(b"\xff")
    return case.sweep


def joining(case: Case) -> Callable[[], Any]:
    case.put("a")
    worker = case.world.exchange.join("governor")
    case.world.exchange.claim("governor", worker)
    case.world.exchange.leave(worker)
    return lambda: case.world.exchange.join("governor")


def compacting(case: Case) -> Callable[[], Any]:
    case.put("a", "b", ttl_seconds=90 * DAY)
    for name in ("a", "b"):
        case.take()
        assert case.claims[-1].manifest.task_id == name
        case.world.exchange.ack(case.claims[-1], case.world.ack(case.claims[-1], detail="mine"))
        case.acked[name] = "mine"
        case.world.clock.advance(40 * DAY)
        if name == "a":
            case.world.exchange.compact(timedelta(days=1), timedelta(days=90))

    def compact() -> None:
        case.world.exchange.compact(timedelta(days=1), timedelta(days=90))

    return compact


CASES = (
    submitting, submitting_one, claiming, beating, acking, giving_back, holding, releasing, requeueing, burying,
    cancelling, sweeping_a_lost_lease, sweeping_an_expired_task, sweeping_a_stray, joining, compacting,
)  # fmt: skip


@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_full_disk_at_any_write_loses_nothing_and_the_call_works_again(
    case: Callable[[Case], Callable[[], Any]], on: bool
) -> None:
    at, passed = 0, False
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        while not passed:
            it = Case(World("files", Path(folder) / str(at)))
            call = case(it)
            full = Full(at, on)
            with full_disk(full):
                try:
                    call()
                except (CalyxError, OSError) as error:
                    assert str(error), "it says why"
            passed = full.calls <= at
            try:
                call()
            except LeaseLost:
                assert case in (beating, giving_back, burying)
            _all_ends_once(it, at)
            at += 1
    assert at > 1 or case is holding


def _all_ends_once(it: Case, at: int) -> None:
    """A station that starts anew now brings every task to its one end."""
    world = it.world
    exchange = world.exchange = world.open()
    for name in ("a", "b", "c"):
        exchange.release(TaskId(name))
        exchange.requeue(TaskId(name))
    for _ in range(8):
        exchange.sweep()
        world.clock.advance(LEASE)
        for claim in exchange.claim("governor", "w9", 9):
            ours = exchange.check(claim)
            assert claim.manifest.task_id not in it.acked, at
            assert not ours or claim.manifest.task_id not in it.cancelled, at
            exchange.ack(claim, world.ack(claim, "done" if ours else "cancelled", detail="after"))
    for name in it.submitted:
        view = exchange.get(TaskId(name))
        assert view.ack is not None, (at, view)
        assert view.reason == it.acked.get(name, view.reason), at
        with pytest.raises(Duplicate):
            exchange.submit(world.task(name))
    assert not any(exchange.depth().values()), at
    done = [path.name.split(".")[0] for path in (world.root / "svf" / "done").rglob("*.done")]
    assert len(done) == len(set(done)), at
    left = [path.name for path in (world.root / "svf" / "claimed").rglob("*.*") if path.is_file()]
    assert left == [], at
    assert [path.name for path in (world.root / "svf" / "tmp").iterdir()] == [".lock"], at
