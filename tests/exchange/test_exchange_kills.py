"""Processes that die in mid-submit and in mid-ack, by a planted crash at each primitive and by real kills."""

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exchange_world import PRIVATE, PUBLIC, World

from chassis.canonical import canonical_json
from chassis.errors import AlreadyAcked, Duplicate, InvalidInput, LeaseLost
from chassis.exchange import custody, files
from tests.crash import Crash, crash_in


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("files", tmp_path)


def ready(world: World, name: str) -> Path:
    return world.root / "svf" / "ready" / "governor" / "p5" / f"{name}.e1.ready"


@pytest.mark.parametrize("left", [b"", b'{"svf_version":"2', None])
def test_a_record_that_a_killed_submit_left_is_no_task_and_its_id_is_free(world: World, left: bytes | None) -> None:
    record = world.root / "svf" / "tasks" / "a.json"
    record.write_bytes(canonical_json(world.task("a").to_json()) if left is None else left)
    assert world.exchange.get("a").state == "unknown"
    with pytest.raises(InvalidInput, match="depends on a, which nobody knows"):
        world.exchange.submit(world.task("b", dependencies=("a",)))
    answers = world.exchange.submit_many([world.task("b", dependencies=("a",)), world.task("a")])
    assert [each.state for each in answers] == ["waiting", "ready"]
    assert world.claim().manifest.task_id == "a"


def test_the_id_of_a_task_that_was_handed_out_again_is_never_free(world: World) -> None:
    world.exchange.submit(world.task("a"))
    world.exchange.nack(world.claim(), 0.0, "not now")
    ready(world, "a").with_name("a.e2.ready").unlink()  # by another hand; its record is all there is
    with pytest.raises(Duplicate):
        world.exchange.submit(world.task("a"))


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_where_a_record_would_be_refuses_that_id_alone(world: World, kind: str) -> None:
    record = world.root / "svf" / "tasks" / "a.json"
    record.symlink_to("/etc/passwd") if kind == "link" else record.mkdir()
    answers = world.exchange.submit_many([world.task("a"), world.task("b")])
    assert isinstance(answers[0], Duplicate)
    assert answers[1].state == "ready"


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("name", ["write_new", "link"])
def test_a_submit_killed_anywhere_is_repeated_without_loss_or_double(world: World, monkeypatch, name, at) -> None:
    tasks = [world.task("a"), world.task("b", dependencies=("a",))]
    crash_in(monkeypatch, files, name, at)
    with contextlib.suppress(Crash):
        world.exchange.submit_many(tasks)
    monkeypatch.undo()
    world.exchange = world.open()
    world.exchange.submit_many(tasks)
    assert world.exchange.depth() == {"held": 0, "waiting": 1, "ready": 1, "claimed": 0, "dead": 0}
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    world.exchange.sweep()
    assert world.claim().manifest.task_id == "b"


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("name", ["write_new", "move_into", "fsync_dir"])
def test_an_ack_killed_anywhere_is_there_once_or_the_task_comes_back(world: World, monkeypatch, name, at) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    crash_in(monkeypatch, custody, name, at)
    with contextlib.suppress(Crash):
        world.exchange.ack(claim, world.ack(claim, detail="first"))
    monkeypatch.undo()
    world.exchange = world.open()
    world.stale()
    world.clock.advance(1)
    world.exchange.sweep()
    if world.exchange.get("a").state != "done":
        again = world.claim(worker="w2")
        assert again.epoch == 2
        world.exchange.ack(again, world.ack(again, detail="second"))
        with pytest.raises((LeaseLost, AlreadyAcked)):
            world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.get("a").state == "done"
    assert len(list((world.root / "svf" / "done").rglob("*.done"))) == 1
    assert not list((world.root / "svf" / "claimed").rglob("*.*")), "nothing is left beside"


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from datetime import UTC, datetime, timedelta
from chassis.clock import SystemClock
from chassis.errors import CalyxError
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Signer, Verifier
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.killswitch import KillSwitch
root, boot = Path(sys.argv[1]), int(sys.argv[5])
signer, verifier, clock = Signer.load(Path(sys.argv[2])), Verifier.load(Path(sys.argv[3])), SystemClock()
exchange = FilesExchange(root / "svf", clock, verifier.valid, KillSwitch(root / "flag"), 60)
submitted, acked = (open(root / name, "a", buffering=1) for name in ("submitted", "acked"))
worker = exchange.join("governor")
print("up", flush=True)
n = 0
while True:
    now = clock.now()
    batch = [Manifest(station_id="st", task_id=TaskId(f"t-{boot}-{n}-{i}"), owner="governor", issuer="cbo",
        domain="d", procedure="p", created_at=now, expires_at=now + timedelta(hours=1), ttl_seconds=3600,
        max_attempts=99) for i in range(3)]
    n += 1
    for receipt in exchange.submit_many([signer.sign(m) for m in batch]):
        submitted.write(receipt.task_id + "\\n")
    for claim in exchange.claim("governor", worker, 4):
        exchange.heartbeat(claim)
        exchange.ack(claim, Ack(task_id=claim.manifest.task_id, epoch=claim.epoch, agent="g", status="done",
            started_at=now, ended_at=now, duration_seconds=0.0))
        acked.write(claim.manifest.task_id + "\\n")
"""


def test_thirty_real_kills_lose_nothing_double_nothing_and_free_every_claim(world: World) -> None:
    root, rng = world.root, random.Random(20261123)
    here = str(Path(__file__).parents[2])
    for boot in range(30):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(root), str(PRIVATE), str(PUBLIC), here, str(boot)],
            stdout=subprocess.PIPE, cwd=here,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        until = time.monotonic() + rng.uniform(0.0, 0.03)
        while time.monotonic() < until:
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    exchange = world.open()
    worker = exchange.join("governor")
    assert worker == "governor-000001", "each boot took its dead forerunner's slot"
    assert exchange.depth()["claimed"] == 0, "no claim outlives its process"
    exchange.sweep()
    told = {name: (root / name).read_text().split() for name in ("submitted", "acked")}
    assert len(told["acked"]) == len(set(told["acked"])), "at most one ack of each task was taken"
    for name in told["acked"]:
        assert exchange.get(name).state == "done", "what was acked stays acked"
    for name in told["submitted"]:
        assert exchange.get(name).state in ("ready", "done"), "what was submitted is there"
    done = [p.name for p in (root / "svf" / "done").rglob("*.done")]
    assert len({name.rsplit(".e", 1)[0] for name in done}) == len(done), "each task ended once"
    assert len(done) == len(list((root / "svf" / "acks").rglob("*.json"))), "and has its ack"
    left = 0
    while claims := exchange.claim("governor", worker, 50):
        left += len(claims)
        for claim in claims:
            exchange.ack(claim, world.ack(claim))
    assert exchange.depth() == {"held": 0, "waiting": 0, "ready": 0, "claimed": 0, "dead": 0}
    assert left + len(done) >= len(set(told["submitted"])) > 0
