"""Many claimed at once, and many who claim: nobody is passed over, nothing forged gets through among the genuine."""

import errno
import os
from pathlib import Path

import pytest
from exchange_world import World

from chassis.exchange import custody
from chassis.exchange.cursor import Cursor
from chassis.exchange.moves import move_into


def test_forged_tasks_among_those_claimed_at_once_are_set_aside_and_the_rest_is_handed_out(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    for n in range(12):
        world.exchange.submit(world.task(f"t-{n:02}", sign=n % 4 != 0))
    claims = world.exchange.claim("governor", "w1", 8)
    assert [c.manifest.task_id for c in claims] == [f"t-{n:02}" for n in range(11) if n % 4]
    assert [world.exchange.get(f"t-{n:02}").state for n in (0, 4, 8)] == ["dead"] * 3


def test_a_claimer_who_was_too_late_goes_on_in_the_middle_and_still_finds_all(tmp_path: Path) -> None:
    for n in range(10):
        (tmp_path / f"n{n}").touch()
    cursor = Cursor(str(tmp_path))
    names = cursor.names()
    assert next(names) == "n0"
    cursor.skip()
    assert [*names] == ["n5", "n6", "n7", "n8", "n9", "n1", "n2", "n3", "n4"]


def test_who_loses_one_race_does_not_run_it_again_for_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another claimer takes the first eight in the moment in which this one has listed them."""
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task(f"t-{n:02}") for n in range(16)])
    other = world.open()
    tried: list[str] = []

    def moving(source: str, target: str) -> str:
        if not tried:
            tried.append(source)
            assert len(other.claim("governor", "w2", 8)) == 8
        elif "/w1/" in target:
            tried.append(source)
        return move_into(source, target)

    monkeypatch.setattr(custody, "move_into", moving)
    mine = world.exchange.claim("governor", "w1", 8)
    assert {c.manifest.task_id for c in mine} == {f"t-{n:02}" for n in range(8, 16)}
    assert len(tried) == 9, "one lost race, and eight claims"


def test_no_ack_is_there_before_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task(f"t-{n}") for n in range(8)])
    claims = world.exchange.claim("governor", "w1", 8)
    seen: list[int] = []
    real = os.fdatasync

    def syncing(fd: int) -> None:
        seen.append(len(list((tmp_path / "svf" / "acks").glob("*/*.json"))))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", syncing)
    assert world.exchange.ack_many([(c, world.ack(c)) for c in claims]) == [None] * 8
    assert seen == [0]
    assert len(list((tmp_path / "svf" / "acks").glob("*/*.json"))) == 8


def test_acks_that_the_disk_did_not_take_are_refused_all_together_and_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task(f"t-{n}") for n in range(8)])
    claims = world.exchange.claim("governor", "w1", 8)

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "the disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        refused = world.exchange.ack_many([(c, world.ack(c)) for c in claims])
    assert all(isinstance(each, OSError) for each in refused)
    assert all(world.exchange.check(c) for c in claims), "still held"
    assert {world.exchange.get(c.manifest.task_id).state for c in claims} == {"claimed"}
    assert world.exchange.ack_many([(c, world.ack(c)) for c in claims]) == [None] * 8
    assert {world.exchange.get(c.manifest.task_id).state for c in claims} == {"done"}


def test_acks_whose_folder_could_not_be_made_are_told_and_the_others_are_given(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    world.exchange.submit_many([world.task(f"t-{n}") for n in range(8)])
    claims = world.exchange.claim("governor", "w1", 8)
    in_the_way = Path(world.exchange._folder.ack("t-3")).parent  # type: ignore[attr-defined] # only the files adapter has one
    in_the_way.touch()
    refused = world.exchange.ack_many([(c, world.ack(c)) for c in claims])
    assert [n for n, each in enumerate(refused) if each is not None] == [3]
    in_the_way.unlink()
    world.exchange.sweep()
    assert {world.exchange.get(f"t-{n}").state for n in range(8)} == {"done"}, "it had passed the fence"
