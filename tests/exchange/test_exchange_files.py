"""What only the folder has: hostile files, crashes at every line, real kills, restarts, torn ends."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from exchange_world import LEASE, VERIFIER, World, task

from chassis.canonical import canonical_json
from chassis.errors import Duplicate, Refused, ResourceExhausted, Unavailable
from chassis.exchange import custody, files, moves
from chassis.exchange.files import FilesExchange


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("files", tmp_path)


def ready(world: World, name: str) -> Path:
    return world.root / "svf" / "ready" / "governor" / "p5" / f"{name}.e1.ready"


def test_the_layout_is_the_documented_one(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    world.exchange.submit(world.task("c"), hold=True)
    svf = world.root / "svf"
    assert ready(world, "a").is_file()
    assert (svf / "waiting" / "b.waiting").is_file()
    assert (svf / "held" / "c.e1.held").is_file()
    claim = world.claim()
    world.exchange.heartbeat(claim)
    assert {p.name for p in (svf / "claimed" / "w1").iterdir()} == {"a.e1.claimed", "a.e1.hb"}
    world.exchange.ack(claim, world.ack(claim))
    assert (svf / "done" / "20260101" / "a.e1.done").is_file()
    assert list((svf / "acks").glob("??/a.json"))
    assert list((svf / "claimed" / "w1").iterdir()) == []
    assert [p.name for p in (svf / "tmp").iterdir()] == [".lock"]


def _plant(folder: Path, kind: str, world: World) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    good = canonical_json(world.task("victim").to_json())
    odd = {**world.task("odd").to_json(), "artifacts": ["x"], "params": {"a": 1}}
    {
        "fifo": lambda: os.mkfifo(folder / "fifo.e1.ready"),
        "link": lambda: (folder / "link.e1.ready").symlink_to("/etc/passwd"),
        "folder": lambda: (folder / "folder.e1.ready").mkdir(),
        "name": lambda: (folder / "x y;rm -rf.ready").write_bytes(good),
        "bytes": lambda: (folder / "bytes.e1.ready").write_bytes(b"\xff\x00{"),
        "deep": lambda: (folder / "deep.e1.ready").write_bytes(b"[" * 100_000),
        "huge": lambda: (folder / "huge.e1.ready").write_bytes(b" " * 300_000),
        "empty": lambda: (folder / "empty.e1.ready").write_bytes(b""),
        "odd": lambda: (folder / "odd.e1.ready").write_bytes(canonical_json(odd)),
        "other": lambda: (folder / "victim2.e1.ready").write_bytes(good),
        "nan": lambda: (folder / "nan.e1.ready").write_bytes(good.replace(b"600.0", b"NaN").replace(b"victim", b"nan")),
        "unsigned": lambda: (folder / "u.e1.ready").write_bytes(
            canonical_json(world.task("u", sign=False).to_json())
        ),
        "epoch": lambda: (folder / "e.e99999999999.ready").write_bytes(good),
        "unicode": lambda: (folder / os.fsdecode(b"\xff\xfe.e1.ready")).write_bytes(good),
    }[kind]()  # fmt: skip


KINDS = (
    "fifo", "link", "folder", "name", "bytes", "deep", "huge", "empty", "odd", "other", "nan", "unsigned", "epoch",
    "unicode",
)  # fmt: skip


@pytest.mark.parametrize("by", ["claim", "sweep"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_hostile_hand_drops_in_is_set_aside_with_a_reason_and_stops_nothing(
    world: World, kind: str, by: str
) -> None:
    _plant(ready(world, "x").parent, kind, world)
    world.exchange.submit(world.task("zz-good"))
    if by == "sweep":
        assert len(world.exchange.sweep().quarantined) == 1
    assert [c.manifest.task_id for c in world.exchange.claim("governor", "w1", 5)] == ["zz-good"]
    dead = {p.name for p in (world.root / "svf" / "dead").iterdir()}
    assert len([name for name in dead if name.endswith(".reason.json")]) == 1
    assert len(dead) == 2
    reason = json.loads(next((world.root / "svf" / "dead").glob("*.reason.json")).read_bytes())["reason"]
    assert reason


FORGED = {
    "bytes": b"\xff\x00{",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "status": {"status": "splendid"},
    "nan": {"duration_seconds": float("nan")},
    "claims": {"claims": ["x"]},
    "effects": {"effects": [[]]},
    "epoch": {"epoch": "1"},
    "other agent": {"agent": "guardian"},
    "other task": {"task_id": "b"},
    "undone": {"status": "undone"},
    "rehearsed": {"status": "rehearsed"},
    "by the exchange": {"agent": "exchange"},
    "not answered": {},
}


def _forge(world: World, claim, kind: str) -> Path:
    how = FORGED[kind]
    if isinstance(how, dict):
        how = json.dumps({**world.ack(claim).to_json(), **how}).encode()
    ack = world.root / "svf" / "acks" / hashlib.sha256(b"a").hexdigest()[:2] / "a.json"
    ack.parent.mkdir(exist_ok=True)
    ack.write_bytes(how)
    return ack


@pytest.mark.parametrize("kind", FORGED)
def test_an_ack_that_nobody_can_have_given_fails_the_task_and_stops_nothing(world: World, kind: str) -> None:
    world.exchange.submit_many([world.task("a"), world.task("next", dependencies=("a",))])
    claim = world.claim()
    _forge(world, claim, kind)
    if kind != "not answered":
        done = world.root / "svf" / "done" / "20260101"
        done.mkdir(parents=True)
        (done / "a.e1.done").write_bytes(b"forged too")
    view = world.exchange.get("a")
    assert view.ack is not None and (view.ack.status, view.ack.agent) == ("failed", "exchange")
    assert "not believed" in view.reason
    world.exchange.sweep()
    assert world.exchange.get("next").ack.status == "failed"


def test_a_forged_ack_that_is_a_link_or_a_folder_fails_the_task_too(world: World) -> None:
    world.exchange.submit(world.task("a"))
    path = _forge(world, world.claim(), "not answered")
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert world.exchange.get("a").ack.status == "failed"
    path.unlink()
    path.mkdir()
    assert world.exchange.get("a").ack.status == "failed"


@pytest.mark.parametrize("kind", FORGED)
def test_the_holders_own_ack_counts_whatever_lay_there_before(world: World, kind: str) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    _forge(world, claim, kind)
    mine = world.ack(claim, detail="what I did")
    world.exchange.ack(claim, mine)
    assert world.exchange.get("a").ack == mine
    assert any("did not hold" in p.read_text() for p in (world.root / "svf" / "dead").glob("*.reason.json"))


def test_a_copy_of_a_signed_task_is_never_run_again(world: World) -> None:
    world.exchange.submit(world.task("a"))
    copy = ready(world, "a").read_bytes()
    claim = world.claim()
    ready(world, "a").write_bytes(copy)
    assert world.exchange.claim("governor", "w2") == [], "not while it is being worked on"
    assert world.exchange.check(claim)
    world.exchange.ack(claim, world.ack(claim))
    for epoch in (1, 2):
        ready(world, "a").with_name(f"a.e{epoch}.ready").write_bytes(copy)
        assert world.exchange.claim("governor", "w2") == [], "not after it has ended"
    assert world.exchange.get("a").ack.epoch == 1


def test_a_task_under_another_pool_or_priority_than_its_own_is_not_handed_out(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b")])
    for name, pool, priority in (("a", "guardian", "p5"), ("b", "governor", "p9")):
        folder = world.root / "svf" / "ready" / pool / priority
        folder.mkdir(parents=True)
        ready(world, name).rename(folder / f"{name}.e1.ready")
        assert world.exchange.claim(pool, "w1") == []


def test_a_station_restored_from_a_copy_keeps_its_tasks(world: World, tmp_path: Path) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    shutil.copytree(tmp_path / "svf", tmp_path / "copy" / "svf")  # hard links become files of their own
    restored = World("files", tmp_path / "copy", world.clock)
    claim = restored.claim()
    answers = restored.exchange.submit_many([restored.task("a"), restored.task("b")])
    assert [type(each) for each in answers] == [Duplicate] * 2, "no file has two names here, yet both are tasks"
    restored.exchange.ack(claim, restored.ack(claim))
    restored.exchange.sweep()
    assert restored.claim().manifest.task_id == "b"
    with pytest.raises(Duplicate):
        restored.exchange.submit(restored.task("a"))


def test_a_task_whose_record_was_lost_in_a_power_cut_is_still_itself(world: World) -> None:
    world.exchange.submit(world.task("a"))
    (world.root / "svf" / "tasks" / "a.json").unlink()
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.get("a").state == "done"


def test_a_missing_key_means_nothing_is_handed_out(world: World, tmp_path: Path) -> None:
    from chassis.exchange.grants import Verifier

    world.exchange.submit(world.task("a"))
    blind = Verifier.load(tmp_path / "nowhere.pub")
    exchange = FilesExchange(tmp_path / "svf", world.clock, blind.valid, world.kill_switch, LEASE)
    with pytest.raises(Unavailable):
        exchange.claim("governor", "w1")
    assert world.exchange.get("a").state == "ready", "not among the dead"


def test_a_full_disk_at_submit_publishes_nothing_and_says_so(world: World, monkeypatch) -> None:
    def full(path: Path, data: bytes, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_new", full)
    with pytest.raises(ResourceExhausted):
        world.exchange.submit(world.task("a"))
    monkeypatch.undo()
    assert world.exchange.get("a").state == "unknown"
    assert world.exchange.submit(world.task("a")).state == "ready"


def test_a_full_disk_at_ack_leaves_the_claim_and_the_ack_can_be_repeated(world: World, monkeypatch) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()

    def full(path: Path, data: bytes, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(custody, "write_new", full)
    with pytest.raises(OSError, match="No space"):
        world.exchange.ack(claim, world.ack(claim))
    monkeypatch.undo()
    assert world.exchange.check(claim)
    world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.get("a").state == "done"


def test_a_network_file_system_is_refused_by_name(world: World, tmp_path: Path, monkeypatch) -> None:
    device = tmp_path.stat().st_dev
    line = f"1 1 {os.major(device)}:{os.minor(device)} / /x rw - nfs4 server:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    with pytest.raises(Refused, match="nfs4"):
        moves.refuse_network_file_system(tmp_path)


def test_without_renameat2_a_move_still_never_replaces(world: World, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(moves, "_renameat2", None)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    with pytest.raises(FileExistsError):
        moves.move(one, two)
    with pytest.raises(FileNotFoundError):
        moves.move(tmp_path / "none", tmp_path / "three")
    moves.move(one, tmp_path / "three")
    assert (two.read_text(), (tmp_path / "three").read_text(), one.exists()) == ("2", "1", False)


def test_pauses_survive_a_restart_of_the_reaper(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=10))
    world.kill_switch.engage("x", "me", world.clock.now())
    world.exchange.sweep()
    world.clock.advance(1000)
    world.exchange = world.open()
    world.kill_switch.release()
    world.exchange.sweep()
    world.clock.advance(9)
    assert world.claim().manifest.task_id == "a"


def test_a_claim_on_an_empty_pool_looks_at_one_folder(world: World, monkeypatch) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    world.exchange.sweep()
    looked: list[object] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or real(path))
    assert world.exchange.claim("governor", "w1") == []
    assert len(looked) == 1


def test_a_task_signed_with_another_key_is_refused(tmp_path: Path, world: World) -> None:
    from chassis.exchange.grants import Signer, generate_key

    generate_key(tmp_path / "other.key", tmp_path / "other.pub")
    assert (tmp_path / "other.key").stat().st_mode & 0o777 == 0o600
    forged = Signer.load(tmp_path / "other.key").sign(task(world.clock, "a", sign=False))
    assert not VERIFIER.valid(forged)
    assert not VERIFIER.valid(forged.with_grant("not base64 ä"))
    world.exchange.submit(forged)
    assert world.exchange.claim("governor", "w1") == []
