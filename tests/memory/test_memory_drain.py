import asyncio
from collections.abc import Sequence

import pytest
from memory_fakes import experience

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, ResourceExhausted
from chassis.executor import ThreadExecutor
from services.memory.drain import BURST_ROWS, LONGEST_BURST_SECONDS, WINDOW_SECONDS, Drain
from services.memory.gather import Gather
from services.memory.memory import Memory
from services.memory.recall import Query


def test_a_trickle_is_embedded_at_once_and_a_burst_when_it_is_over() -> None:
    clock = VirtualClock()
    drain = Drain(1, clock)
    for _ in range(50):
        drain.wake(1)
        assert not drain.bursting
        clock.advance(0.05)
    drain.wake(BURST_ROWS + 1)
    assert drain.bursting
    clock.advance(2 * WINDOW_SECONDS)
    assert not drain.bursting


def test_a_burst_without_an_end_does_not_keep_embedding_away_for_ever() -> None:
    clock = VirtualClock()
    drain = Drain(1, clock)
    waited = 0.0
    drain.wake(BURST_ROWS + 1)
    while drain.bursting:
        clock.advance(0.25)
        waited += 0.25
        drain.wake(BURST_ROWS + 1)
        assert waited <= LONGEST_BURST_SECONDS
    assert waited == LONGEST_BURST_SECONDS
    clock.advance(10 * WINDOW_SECONDS)
    drain.wake(BURST_ROWS + 1)
    assert drain.bursting  # another one


def test_each_thread_has_its_step_and_stops_embedding_during_a_burst() -> None:
    clock = VirtualClock()
    drain = Drain(2, clock)
    calls: list[int] = []
    one, other = drain.periodics(lambda: calls.append(1) or 1)  # type: ignore[func-returns-value]  # for its effect
    one.step()
    assert calls == [1]
    assert other.rest is not None
    assert other.rest(0.0) is True  # there was something to do, so there may be more
    assert other.rest(0.0) is False
    drain.wake(BURST_ROWS + 1)
    other.step()
    assert calls == [1]


def test_a_row_is_acknowledged_before_it_is_embedded_and_recall_says_so(make_memory: object) -> None:
    woken: list[int] = []
    memory: Memory = make_memory(wake=woken.append)  # type: ignore[operator]  # the fixture's maker
    for number in range(1, 6):
        assert memory.record(experience(number, objective=f"objective {number}"))
    assert woken == [1] * 5
    found = memory.recall(Query(objective="objective 3"))
    assert (found.matches, found.pending, found.searched) == ((), 5, 0)
    assert memory.catch_up() == 5
    found = memory.recall(Query(objective="objective 3", limit=1))
    assert ([each.experience.id for each in found.matches], found.pending) == (["e-3"], 0)


# calls that gather


def test_what_comes_while_a_batch_is_under_way_is_the_next_one_and_each_has_its_own_answer() -> None:
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int | BaseException]:
        batches.append(list(items))
        return [InvalidInput("odd") if each % 2 else each * 10 for each in items]

    async def calls() -> list[int | BaseException]:
        gather: Gather[int, int] = Gather(work, executor, most=100)
        return await asyncio.gather(*(gather.run(each) for each in range(10)), return_exceptions=True)

    executor = ThreadExecutor("gather-test", threads=1)
    answers = asyncio.run(calls())
    executor.close()
    assert [each if isinstance(each, int) else type(each) for each in answers] == [
        InvalidInput if each % 2 else each * 10 for each in range(10)
    ]
    assert sorted(each for batch in batches for each in batch) == list(range(10))
    assert len(batches) <= 2


def test_too_many_waiting_are_refused_and_a_failing_batch_fails_each_of_its_callers() -> None:
    def work(items: Sequence[int]) -> list[int | BaseException]:
        raise OSError("the disk is gone")

    async def calls() -> list[int | BaseException]:
        gather: Gather[int, int] = Gather(work, executor, most=3)
        first = await asyncio.gather(*(gather.run(each) for each in range(5)), return_exceptions=True)
        with pytest.raises(OSError, match="gone"):
            await gather.run(1)  # room again
        return first

    executor = ThreadExecutor("gather-test", threads=1)
    answers = asyncio.run(calls())
    executor.close()
    assert [type(each) for each in answers] == [OSError] * 3 + [ResourceExhausted] * 2


def test_a_batch_of_good_and_bad_experiences_stores_the_good_ones(make_memory: object) -> None:
    memory: Memory = make_memory()  # type: ignore[operator]  # the fixture's maker
    memory.record(experience(1))
    answers = memory.record_all([experience(1), experience(2, tes=float("nan")), experience(3)])
    assert [each if isinstance(each, bool) else type(each) for each in answers] == [False, InvalidInput, True]
    assert {each.id for each in memory.newest(9, "")} == {"e-1", "e-3"}
