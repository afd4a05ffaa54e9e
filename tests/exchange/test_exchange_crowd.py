"""Many claimed at once, and many who claim: nobody is passed over, nothing forged gets through among the genuine."""

from pathlib import Path

import pytest
from exchange_world import World, task

from chassis.exchange import custody
from chassis.exchange.cursor import Cursor
from chassis.exchange.moves import move_into
from chassis.exchange.verdicts import ALONE, Verdicts


@pytest.mark.parametrize("many", [1, ALONE, ALONE + 1, 64])
def test_each_verdict_is_that_of_its_own_manifest_however_many_are_checked_together(many: int, tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    manifests = [task(world.clock, f"t-{n}", level="GUIDE" if n % 3 else "EXECUTE") for n in range(many)]
    verdicts = Verdicts(lambda manifest: manifest.level == "GUIDE")
    for _ in range(20):
        assert verdicts(manifests) == [n % 3 != 0 for n in range(many)]


def test_a_check_that_breaks_is_told_and_counts_for_nobody(tmp_path: Path) -> None:
    world = World("memory", tmp_path)

    def broken(_manifest: object) -> bool:
        raise OSError("the key can't be read")

    with pytest.raises(OSError, match="the key"):
        Verdicts(broken)([task(world.clock, f"t-{n}") for n in range(8)])


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
