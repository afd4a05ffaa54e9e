"""Whatever lies in any folder of the exchange: it is set aside or passed over, and everything else goes on."""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from exchange_world import FAST, LEASE, World

from chassis.canonical import canonical_json
from chassis.errors import CalyxError
from chassis.exchange.manifest import Manifest, TaskId

DAY = 86_400.0
HUGE_BYTES = 1 << 30


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=FAST) as folder, structlog.testing.capture_logs():
        yield World("files", Path(folder))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE_BYTES)


def foreign(path: Path) -> None:
    path.write_bytes(b"{}")
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    path.chmod(0)


def device(path: Path) -> None:
    if os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: endless
    else:
        path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path, World], None]] = {
    "link": lambda path, world: path.symlink_to(world.root / "secret"),
    "folderlink": lambda path, world: path.symlink_to(world.root / "outside"),
    "dangling": lambda path, _: path.symlink_to("nowhere"),
    "loop": lambda path, _: path.symlink_to(path.name),
    "fifo": lambda path, _: os.mkfifo(path),
    "device": lambda path, _: device(path),
    "folder": lambda path, _: path.mkdir(),
    "full-folder": lambda path, _: (path / "x").mkdir(parents=True),
    "huge": lambda path, _: sparse(path),
    "bytes": lambda path, _: path.write_bytes(b"\xff\xfe\x00{") and None,
    "deep": lambda path, _: path.write_bytes(b"[" * 200_000) and None,
    "deep-object": lambda path, _: path.write_bytes(b'{"a":' * 50_000) and None,
    "number": lambda path, _: path.write_bytes(b"9" * 5_000) and None,
    "empty": lambda path, _: path.write_bytes(b"") and None,
    "foreign": lambda path, _: foreign(path),
}


PLACES: dict[str, Callable[[str], str]] = {
    "a ready task": lambda name: f"ready/governor/p5/{name}.e1.ready",
    "a priority": lambda name: f"ready/governor/{name}",
    "a pool": lambda name: f"ready/{name}",
    "a pool's priority": lambda name: f"ready/{name}/p5",
    "a waiting task": lambda name: f"waiting/{name}.waiting",
    "a delayed task": lambda name: f"waiting/{name}.e2.later",
    "a held task": lambda name: f"held/{name}.e1.held",
    "a worker": lambda name: f"claimed/{name}",
    "a claimed task": lambda name: f"claimed/w9/{name}.e1.claimed",
    "a heartbeat": lambda name: f"claimed/w9/{name}.e1.hb",
    "a holder": lambda name: f"claimed/w9/{name}.e1.holder",
    "an ack to come": lambda name: f"claimed/w9/{name}.e1.ack",
    "a day": lambda name: f"done/{name}",
    "an early day": lambda name: f"done/0000{sorted(KINDS).index(name):04d}",
    "a done task": lambda name: f"done/20260101/{name}.e1.done",
    "a task's record": lambda name: f"tasks/{name}.json",
    "a shelf of acks": lambda name: f"acks/{name}",
    "an ack": lambda name: f"acks/{hashlib.sha256(name.encode()).hexdigest()[:2]}/{name}.json",
    "a task's epochs": lambda name: f"epochs/{name}",
    "an epoch": lambda name: f"epochs/{name}/e2",
    "a dead task": lambda name: f"dead/{name}.e1.quarantine",
    "a dead one's reason": lambda name: f"dead/{name}.e1.reason.json",
    "a cancel mark": lambda name: f"cancel/{name}",
    "a worker's lock": lambda name: f"workers/{name}.lock",
    "a slot": lambda name: f"workers/governor-{sorted(KINDS).index(name) + 1:06d}.lock",
    "a log": lambda name: f"log/{name}.000001.log",
    "a staged task": lambda name: f"tmp/{name}.tmp",
    "a mark of who waits": lambda name: f"awaited/{name}",
    "one who waits": lambda name: f"awaited/good/{name}",
    "an artifact": lambda name: f"artifacts/sha256/{name}",
    "a segment": lambda name: f"archive/9999{sorted(KINDS).index(name):04d}.jsonl",
    "a list of ids": lambda name: f"archive/0001{sorted(KINDS).index(name):04d}.ids",
    "what is removed": lambda name: f"archive/removing/{name}",
}


def plant(world: World, place: str, kinds: list[str]) -> None:
    for kind in kinds:
        path = world.root / "svf" / PLACES[place](kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](path, world)


def everything_goes_on(world: World, names: list[str]) -> None:
    """A station starts here, and a good task goes all its ways."""
    exchange = world.exchange = world.open()
    exchange.sweep()
    worker = exchange.join("governor")
    exchange.submit_many([world.task("good"), world.task("after", dependencies=("good",)), world.task("odd")])
    exchange.submit(world.task("held"), hold=True)
    claims = {}
    while taken := exchange.claim("governor", worker, 5):
        claims |= {claim.manifest.task_id: claim for claim in taken}
    exchange.heartbeat(claims["good"])
    assert exchange.check(claims["good"])
    exchange.ack(claims["good"], world.ack(claims["good"]))
    exchange.nack(claims["odd"], 0, "again")
    for name in ("held", "good", *names):
        exchange.get(TaskId(name))
        if name not in ("held", "good"):
            for act in (exchange.hold, exchange.release, exchange.requeue):
                assert not act(TaskId(name))
            exchange.cancel(TaskId(name), "who are you")
    assert exchange.release(TaskId("held"))
    for _ in range(3):
        exchange.sweep()
        world.clock.advance(LEASE)
        for claim in exchange.claim("governor", worker, 9):
            assert claim.manifest.task_id in ("after", "odd", "held")
            exchange.ack(claim, world.ack(claim))
    states = {name: exchange.get(TaskId(name)).state for name in ("good", "after", "odd", "held")}
    assert set(states.values()) == {"done"}
    exchange.tasks(["held", "waiting", "ready", "claimed", "dead", "done", "cancelled"])
    live = exchange.depth()
    assert live["ready"] == live["held"] == live["waiting"] == live["claimed"] == 0
    world.clock.advance(3 * DAY)
    exchange.compact(timedelta(days=1), timedelta(days=90))
    exchange.compact(timedelta(days=1), timedelta(days=90))
    assert all(exchange.get(TaskId(name)).state == "done" for name in states)
    assert (world.root / "secret").read_text() == "secret"
    assert [path.name for path in (world.root / "outside").iterdir()] == ["theirs"]


def prepare(world: World) -> None:
    (world.root / "secret").write_text("secret")
    (world.root / "outside").mkdir()
    (world.root / "outside" / "theirs").write_text("theirs")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_hostile_in_any_place_stops_the_exchange_or_is_believed(world: World, place: str) -> None:
    prepare(world)
    plant(world, place, list(KINDS))
    everything_goes_on(world, list(KINDS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["paused.json", "index.sqlite"])
def test_what_the_exchange_keeps_for_itself_may_be_anything(world: World, name: str, kind: str) -> None:
    prepare(world)
    (world.root / "svf" / name).unlink(missing_ok=True)
    KINDS[kind](world.root / "svf" / name, world)
    everything_goes_on(world, [])


IDS = ["../../secret", "a/../../b", "/etc/passwd", "..", ".", "", "A", "a" * 121, "a\x00b", "a\nb", "ä", "-rf", "{}"]


@pytest.mark.parametrize("made", IDS)
def test_an_id_that_is_a_path_is_no_id(world: World, made: str) -> None:
    prepare(world)
    body = {**world.task("good").to_json(), "task_id": made}
    folder = world.root / "svf" / "ready" / "governor" / "p5"
    folder.mkdir(parents=True)
    (folder / "x.e1.ready").write_bytes(canonical_json(body))
    for act in (world.exchange.hold, world.exchange.release, world.exchange.requeue):
        assert not act(TaskId(made))
    assert not world.exchange.cancel(TaskId(made), "x")
    assert world.exchange.get(TaskId(made)).state == "unknown"
    with pytest.raises(CalyxError):
        world.exchange.claim(made, "w1")
    with pytest.raises(CalyxError):
        world.exchange.claim("governor", made)
    everything_goes_on(world, [])
    assert any("not a manifest" in p.read_text() for p in (world.root / "svf" / "dead").glob("*.reason.json"))


@pytest.mark.parametrize("kind", ["files", "memory"])
@pytest.mark.parametrize("grant", ["none", "another task's", "garbage"])
def test_a_manifest_straight_into_ready_without_a_valid_grant_is_quarantined(
    tmp_path: Path, kind: str, grant: str
) -> None:
    """In memory there is no folder to drop it into: submitting it past the CBO is what comes nearest."""
    world = World(kind, tmp_path)
    made = world.task("forged", sign=False)
    if grant != "none":
        made = made.with_grant("AAAA" if grant == "garbage" else world.task("other").grant)
    if kind == "files":
        folder = tmp_path / "svf" / "ready" / "governor" / "p5"
        folder.mkdir(parents=True)
        (folder / "forged.e1.ready").write_bytes(canonical_json(made.to_json()))
    else:
        world.exchange.submit(made)
    world.exchange.submit(world.task("good"))
    assert [claim.manifest.task_id for claim in world.exchange.claim("governor", "w1", 9)] == ["good"]
    if kind == "files":
        (reason,) = (tmp_path / "svf" / "dead").glob("*.reason.json")
        assert "no valid grant" in json.loads(reason.read_bytes())["reason"]
    else:
        view = world.exchange.get(TaskId("forged"))
        assert (view.state, view.reason) == ("dead", "no valid grant")


TIMES = {
    "year 1": datetime(1, 1, 2, tzinfo=UTC),
    "1970": datetime(1970, 1, 1, tzinfo=UTC),
    "year 9999": datetime(9999, 12, 30, tzinfo=UTC),
}


@pytest.mark.parametrize("kind", ["files", "memory"])
@pytest.mark.parametrize("when", TIMES)
def test_clocks_that_are_far_off_harm_nobody_else(tmp_path: Path, kind: str, when: str) -> None:
    world, off = World(kind, tmp_path), TIMES[when]
    ttl = timedelta(seconds=600) if off.year < 9999 else timedelta(0)

    def made(name: str, **fields: Any) -> Manifest:
        return world.task(name, created_at=off, expires_at=off + ttl, **fields)

    world.exchange.submit_many([made("off"), world.task("good"), world.task("next", dependencies=("good",))])
    claims = {claim.manifest.task_id: claim for claim in world.exchange.claim("governor", "w1", 9)}
    wrong = world.ack(claims["good"])
    world.exchange.ack(claims["good"], type(wrong)(**{**_fields(wrong), "started_at": off, "ended_at": off}))
    if "off" in claims:
        world.exchange.ack(claims["off"], world.ack(claims["off"]))
    else:
        view = world.exchange.get(TaskId("off"))
        assert view.ack is not None and view.ack.status == "expired"
    world.exchange.sweep()
    claim = world.claim()
    assert claim.manifest.task_id == "next"
    if kind == "files":
        for path in (tmp_path / "svf").rglob("*"):
            os.utime(path, (0, 2**40), follow_symlinks=False)
    world.exchange.heartbeat(claim)
    world.exchange.ack(claim, world.ack(claim))
    world.clock.advance(3 * DAY)
    world.exchange.compact(timedelta(days=1), timedelta(days=90))
    assert all(world.exchange.get(TaskId(name)).state == "done" for name in ("off", "good", "next"))


def _fields(ack: Any) -> dict[str, Any]:
    return {name: getattr(ack, name) for name in ack.__dataclass_fields__}
