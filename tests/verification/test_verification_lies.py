"""An agent that says more than it did, or did more than it says, is marked failed; an honest one beside others is not.

Sizes for CI; bench/lies.py has the full ones."""

import random
from collections import Counter

import pytest

from tests.verification import lies
from tests.verification.lie_world import Found


def run(case: lies.Case, seed: str, count: int) -> list[Found]:
    found = []
    for number in range(count):
        one, station = case(random.Random(f"{seed}/{number}"))
        station.close()
        found.append(one)
    return found


@pytest.mark.parametrize("kind", ["without", "half", "more"])
def test_a_lie_is_a_failure_told_to_the_ladder_every_time(kind: str) -> None:
    found = run(getattr(lies, kind), kind, 12)
    believed = [f"{number}: {each.task.tes_note}" for number, each in enumerate(found) if not each.failed]
    assert believed == []


def test_an_honest_agent_is_believed_whoever_else_is_at_work() -> None:
    found = run(lies.honest, "honest", 20)
    assert Counter(each.task.stability for each in found) == {1.0: 20}


def test_a_first_write_by_the_same_user_while_the_task_runs_counts_against_the_agent() -> None:
    """What can't be told apart is not believed; docs/critiques.md says so."""
    assert all(each.failed for each in run(lies.once_within, "once", 3))


@pytest.mark.parametrize("window", ["+1m", "+1h", "+24h"])
def test_what_breaks_later_reaches_the_ladder_in_the_pulse_that_finds_it(window: str) -> None:
    for number in range(4):
        told, station = lies.late(window)(random.Random(f"{window}/{number}"))
        station.close()
        assert told, number
