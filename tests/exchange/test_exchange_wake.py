"""Waiting instead of asking: what arrives wakes, what does not arrive costs nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from exchange_world import World

from chassis.agent import VAIN_WAKES, Agent
from chassis.clock import SystemClock, VirtualClock
from chassis.errors import InvalidInput
from chassis.exchange import wake
from chassis.journal import Journal, consent_within
from chassis.periodic import Periodic, PeriodicThreads

LONG = 60.0


@pytest.fixture(params=["memory", "files"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> World:
    monkeypatch.setattr(wake, "RESCAN_SECONDS", LONG)  # without the safety net
    return World(request.param, tmp_path)


def test_whoever_waits_is_woken_by_a_submit_a_release_and_a_return(world: World) -> None:
    with ThreadPoolExecutor(1) as pool:
        world.exchange.submit(world.task("b"), hold=True)
        for act in (
            lambda: world.exchange.submit(world.task("a")),
            lambda: world.exchange.release("b"),
            lambda: world.exchange.submit(world.task("c", priority=9)),
        ):
            waiting = pool.submit(world.exchange.wait, "governor", LONG)
            act()
            assert waiting.result()
            claim = world.claim()
            world.exchange.ack(claim, world.ack(claim))
            world.exchange.sweep()  # which takes the empty folders away
        world.exchange.submit(world.task("d"))
        claim = world.claim()
        waiting = pool.submit(world.exchange.wait, "governor", LONG)
        world.exchange.nack(claim, 0, "not now")
        assert waiting.result()


def test_several_wait_for_pools_of_their_own(world: World) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = [pool.submit(world.exchange.wait, "governor", LONG) for _ in range(2)]
        other = pool.submit(world.exchange.wait, "guardian", LONG)
        world.exchange.submit(world.task("a"))
        assert all(each.result() for each in first)
        assert not other.done()
        world.exchange.submit(world.task("g", owner="guardian"))
        assert other.result()


def test_nothing_comes_and_the_wait_is_over(world: World) -> None:
    assert not world.exchange.wait("governor", 0.01)
    assert not world.exchange.wait("governor", -1)


def test_without_inotify_the_rescan_finds_it(tmp_path: Path, monkeypatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(wake, "INotify", none_left)
    world = World("files", tmp_path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.exchange.wait, "governor", LONG)
        world.exchange.submit(world.task("a"))
        assert waiting.result()
    with pytest.raises(InvalidInput):
        world.exchange.wait("../x", 0)


class Hand:
    """A worker that has something to do `answers` times."""

    def __init__(self) -> None:
        self.answers, self.steps = 0, 0

    def step(self) -> int:
        self.steps += 1
        return self.answers

    def drill(self) -> dict[str, str | None]:
        return {}

    def wait(self, _seconds: float) -> bool:
        return True


def test_what_is_ready_but_not_for_now_wakes_an_agent_a_few_times_only(tmp_path: Path) -> None:
    hand, clock = Hand(), VirtualClock()
    agent = Agent(hand, Journal(tmp_path, clock, consent_within([])), clock, prunes=False)  # type: ignore[arg-type] # a stand-in for the worker
    for _ in range(VAIN_WAKES):
        agent.step()
        assert agent.rest(0.25)
    agent.step()
    assert not agent.rest(0.25)
    assert clock.monotonic() == 0.25, "it only rested"
    hand.answers = 1
    agent.step()
    assert agent.rest(0.25)


def test_a_thread_that_rests_steps_as_soon_as_it_is_woken_and_still_stops() -> None:
    stepped, woken, again = threading.Event(), threading.Event(), threading.Event()
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        (again if len(steps) > 1 else stepped).set()

    threads = PeriodicThreads(
        [Periodic(name="agent", every_seconds=3600.0, step=step, rest=lambda seconds: woken.wait(min(seconds, 0.01)))],
        SystemClock(),
    )
    threads.start()
    assert stepped.wait(LONG)
    woken.set()
    assert again.wait(LONG)
    woken.clear()
    threads.stop()
