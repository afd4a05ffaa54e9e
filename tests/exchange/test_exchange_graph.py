"""Graphs and crowds, small here; in full size in bench/exchange.py."""

import os
from pathlib import Path

import pytest
from exchange_world import World

from chassis.exchange import cursor, rules


@pytest.fixture(params=["memory", "files"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


def test_a_layered_graph_completes_in_order_without_a_sweep(world: World) -> None:
    width, layers = 10, 12
    tasks = [
        world.task(f"g-{layer:02d}-{n}", dependencies=[f"g-{layer - 1:02d}-{k}" for k in range(width)] if layer else [])
        for layer in range(layers)
        for n in range(width)
    ]
    world.exchange.submit_many(tasks)
    done: list[str] = []
    while claims := world.exchange.claim("governor", "w1", 3):
        for claim in reversed(claims):
            world.exchange.ack(claim, world.ack(claim))
            done.append(claim.manifest.task_id)
    assert len(done) == width * layers
    assert [name[:4] for name in done] == sorted(name[:4] for name in done)


def test_a_lost_mark_leaves_its_task_to_the_next_sweep(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    (mark,) = (tmp_path / "svf" / "awaited").rglob("b")
    mark.unlink()
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.get("b").state == "waiting"
    assert world.exchange.sweep().released == ("b",)
    assert list((tmp_path / "svf" / "awaited").iterdir()) == []


def test_marks_of_a_hostile_hand_stop_nothing(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    awaited = tmp_path / "svf" / "awaited" / "a"
    (awaited / "folder").mkdir()
    os.mkfifo(awaited / "fifo")
    (awaited / "link").symlink_to("/etc/passwd")
    (awaited / "never").touch()
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    assert world.claim().manifest.task_id == "b"
    world.exchange.sweep()


def test_a_large_cycle_is_named_shortly(world: World) -> None:
    answers = world.exchange.submit_many(
        [world.task(f"c{n:04d}", sign=False, dependencies=(f"c{(n + 1) % 3000:04d}",)) for n in range(3000)]
    )
    assert "c0000 → c0001" in str(answers[1500])
    assert "(2977 more)" in str(answers[1500])
    assert len(str(answers[1500])) < 400
    assert world.exchange.depth()["waiting"] == 0


def test_a_crowd_is_listed_once_and_each_task_is_claimed_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cursor, "FEW", 4)
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task(f"t{n:02d}") for n in range(40)])
    crowd, listed = str(tmp_path / "svf" / "ready" / "governor" / "p5"), []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or real(path))
    first = [world.claim().manifest.task_id for _ in range(30)]
    assert listed.count(crowd) == 1
    world.exchange.submit(world.task("t00-late"))
    world.exchange.submit(world.task("urgent", priority=9))
    assert world.claim().manifest.task_id == "urgent", "a higher priority never waits for the crowd"
    rest = []
    while claims := world.exchange.claim("governor", "w1", 5):
        rest += [claim.manifest.task_id for claim in claims]
    assert sorted([*first, *rest]) == sorted([*(f"t{n:02d}" for n in range(40)), "t00-late"])


def test_the_reasons_of_a_batch_name_what_is_missing_and_what_hangs_on_it(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    batch = [world.task("a", dependencies=("lost",)), world.task("b", dependencies=("a", "a")), world.task("c")]
    admitted = rules.admit(batch, lambda _: False)
    assert admitted.order == (2,)
    assert "depends on lost, which nobody knows" in str(admitted.refused[0])
    assert str(admitted.refused[1]) == "task b depends on a, which was refused"
