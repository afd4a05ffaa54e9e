"""A stalled holder is ended before its task goes to another, and nobody else ever is."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from exchange_world import LEASE, World

from chassis.errors import LeaseLost
from chassis.exchange import holders
from chassis.exchange.holders import end, holder_of, read_holder
from chassis.exchange.port import Holder


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("files", tmp_path)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def holder(process: subprocess.Popen[bytes]) -> Holder:
    found = holder_of(process.pid)
    assert found is not None
    return found


def test_a_stopped_local_holder_is_killed_before_its_task_is_ready_again(world: World, child) -> None:
    world.exchange.submit(world.task("a"))
    (claim,) = world.exchange.claim("governor", "agent.1", holder=holder(child))
    child.send_signal(signal.SIGSTOP)
    assert world.stale().requeued == ("a",)
    assert child.wait() == -signal.SIGKILL
    assert not world.exchange.check(claim)
    assert not list((world.root / "svf" / "claimed").rglob("a.*")), "its record goes with the claim"


def test_a_beating_holder_is_left_alone_and_its_record_goes_with_the_ack(world: World, child) -> None:
    world.exchange.submit(world.task("a"))
    (claim,) = world.exchange.claim("governor", "agent.1", holder=holder(child))
    beside = world.root / "svf" / "claimed" / "agent.1" / "a.e1.holder"
    assert read_holder(beside) == holder(child)
    for _ in range(3):
        world.exchange.heartbeat(claim)
        world.exchange.sweep()
        world.clock.advance(LEASE)
    assert child.poll() is None
    world.exchange.ack(claim, world.ack(claim))
    assert not beside.exists()


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}, {"pid_namespace": 1}])
def test_a_holder_that_is_not_this_very_process_is_only_fenced(world: World, child, change: dict[str, object]) -> None:
    world.exchange.submit(world.task("a"))
    (claim,) = world.exchange.claim("governor", "agent.1", holder=replace(holder(child), **change))
    child.send_signal(signal.SIGSTOP)
    assert world.stale().requeued == ("a",)
    child.send_signal(signal.SIGCONT)
    assert child.poll() is None
    assert not world.exchange.check(claim), "awake again, it is fenced"
    with pytest.raises(LeaseLost):
        world.exchange.ack(claim, world.ack(claim))


def test_neither_we_nor_those_above_us_are_ever_killed(world: World) -> None:
    for pid in (os.getpid(), os.getppid(), 1):
        found = holder_of(pid)
        assert found is None or end(found)
    world.exchange.submit(world.task("a"))
    worker = world.exchange.join("governor")
    world.claim(worker=worker)
    slot = json.loads((world.root / "svf" / "workers" / f"{worker}.lock").read_bytes())
    assert slot == asdict(holder_of(os.getpid()))
    assert world.stale().requeued == ("a",)


def test_a_holder_that_will_not_die_keeps_its_task_until_it_has(world: World, child, monkeypatch) -> None:
    world.exchange.submit(world.task("a"))
    world.exchange.claim("governor", "agent.1", holder=holder(child))
    monkeypatch.setattr(holders, "GONE_WITHIN_SECONDS", 0)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    assert world.stale().requeued == ()
    monkeypatch.undo()
    assert world.exchange.sweep().requeued == ("a",)
    assert child.wait() == -signal.SIGKILL


def test_one_who_has_very_many_files_open_kills_all_the_same(child, monkeypatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this machine allows no more open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))

    def high(pid: int) -> int:
        fd = opened(pid)
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 1024)
        finally:
            os.close(fd)

    opened = os.pidfd_open
    monkeypatch.setattr(os, "pidfd_open", high)
    try:
        assert end(holder(child))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert child.wait() == -signal.SIGKILL


def test_a_process_that_is_gone_needs_no_killing(child) -> None:
    gone = holder(child)
    child.kill()
    child.wait()
    assert end(gone)
    assert holder_of(gone.pid) is None


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{", b'{"pid": 1}', b'{"pid":-1,"start_ticks":1,"boot_id":"x","pid_namespace":1}',
             b'{"pid":true,"start_ticks":1,"boot_id":"x","pid_namespace":1}',
             b'{"pid":1,"start_ticks":"1","boot_id":"x","pid_namespace":1}', b"[" * 4000],
)  # fmt: skip
def test_what_is_no_holder_record_kills_nobody(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "holder").write_bytes(said)
    assert read_holder(tmp_path / "holder") is None
    assert read_holder(tmp_path / "absent") is None
    (tmp_path / "link").symlink_to("/proc/self/status")
    assert read_holder(tmp_path / "link") is None
