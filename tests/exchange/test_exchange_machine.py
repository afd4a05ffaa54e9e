"""Random use of both adapters side by side: the same answers, and the promises kept after every step."""

import tempfile
from pathlib import Path

from exchange_world import FAST, LEASE, World, ack, task
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.clock import VirtualClock
from chassis.errors import CalyxError
from chassis.exchange.port import Swept

NAMES = [f"t{n}" for n in range(6)]
names = st.sampled_from(NAMES)
TERMINAL = {"done", "cancelled"}


class BothAdapters(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.clock = VirtualClock()
        self.worlds = [World(kind, Path(self.folder.name) / kind, self.clock) for kind in ("memory", "files")]
        self.claims: list[tuple] = []
        self.ended: dict[str, object] = {}
        self.acked: dict[str, int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    def both(self, act):
        """The same call on both; both must answer, or raise, the same."""
        answers = []
        for world in self.worlds:
            try:
                answers.append(act(world.exchange))
            except CalyxError as error:
                answers.append(type(error))
        assert _same(answers[0]) == _same(answers[1])
        return answers

    @rule(
        name=names, dependencies=st.lists(names, max_size=2), priority=st.sampled_from([0, 5, 9]), hold=st.booleans(),
        ttl=st.sampled_from([20.0, 200.0]), attempts=st.integers(1, 3), signed=st.integers(0, 9),
        undo=st.integers(0, 5),
    )  # fmt: skip
    def submit(self, name, dependencies, priority, hold, ttl, attempts, signed, undo) -> None:
        manifest = task(
            self.clock, name, sign=signed > 0, dependencies=tuple(dependencies), priority=priority, ttl_seconds=ttl,
            max_attempts=attempts, undo_of="" if undo else "old",
        )  # fmt: skip
        self.both(lambda exchange: exchange.submit(manifest, hold=hold))

    @rule(edges=st.lists(st.tuples(names, names), min_size=1, max_size=6))
    def submit_many(self, edges) -> None:
        wanted: dict[str, list[str]] = {}
        for name, dependency in edges:
            wanted.setdefault(name, []).append(dependency)
        manifests = [task(self.clock, name, dependencies=tuple(deps)) for name, deps in wanted.items()]
        self.both(lambda exchange: [_same(each) for each in exchange.submit_many(manifests)])

    @rule(name=names)
    def hold(self, name) -> None:
        self.both(lambda exchange: exchange.hold(name))

    @rule(name=names)
    def release(self, name) -> None:
        self.both(lambda exchange: exchange.release(name))

    @rule(name=names)
    def requeue(self, name) -> None:
        self.both(lambda exchange: exchange.requeue(name))

    @rule(name=names)
    def cancel(self, name) -> None:
        self.both(lambda exchange: exchange.cancel(name, "because"))

    @rule(worker=st.sampled_from(["w1", "w2"]), n=st.integers(1, 3))
    def claim(self, worker, n) -> None:
        one, other = self.both(lambda exchange: exchange.claim("governor", worker, n))
        for mine, theirs in zip(one, other, strict=True):
            live = [c for c, _ in self.claims if c.manifest.task_id == mine.manifest.task_id]
            assert not any(self.worlds[0].exchange.check(c) for c in live), "at most one live claim"
            assert not any(c.epoch >= mine.epoch for c in live), "every claim has a new epoch"
            self.claims.append((mine, theirs))

    @rule(name=names)
    def claim_that_one(self, name) -> None:
        one, other = self.both(lambda exchange: exchange.claim("governor", "w1", task_id=name))
        self.claims += zip(one, other, strict=True)

    @precondition(lambda self: len(self.claims) > 1)
    @rule(data=st.data(), status=st.sampled_from(["done", "failed"]))
    def ack_together(self, data, status) -> None:
        chosen = data.draw(
            st.lists(st.sampled_from(self.claims), max_size=3, unique_by=lambda c: c[0].manifest.task_id)
        )
        answers = [(mine, ack(self.clock, mine, status)) for mine, _ in chosen]
        told = self.both(lambda exchange: [type(each) for each in exchange.ack_many(answers)])[0]
        for (mine, _), refused in zip(chosen, told, strict=True):
            if refused is type(None):
                self.acked[mine.manifest.task_id] = self.acked.get(mine.manifest.task_id, 0) + 1

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), status=st.sampled_from(["done", "failed", "no_work", "cancelled"]))
    def ack(self, data, status) -> None:
        mine, _ = data.draw(st.sampled_from(self.claims))
        answers = self.both(lambda exchange: exchange.ack(mine, ack(self.clock, mine, status)))
        if answers[0] is None:
            self.acked[mine.manifest.task_id] = self.acked.get(mine.manifest.task_id, 0) + 1

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 5.0]))
    def nack(self, data, delay) -> None:
        mine, _ = data.draw(st.sampled_from(self.claims))
        self.both(lambda exchange: exchange.nack(mine, delay, "not now"))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def heartbeat(self, data) -> None:
        mine, _ = data.draw(st.sampled_from(self.claims))
        self.both(lambda exchange: exchange.heartbeat(mine))

    @rule(seconds=st.sampled_from([1.0, 6.0, LEASE, 100.0]))
    def time_passes(self, seconds) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.both(lambda exchange: exchange.sweep())

    @rule(engaged=st.booleans())
    def kill_switch(self, engaged) -> None:
        for world in self.worlds:
            if engaged:
                world.kill_switch.engage("test", "me", self.clock.now())
            else:
                world.kill_switch.release()

    @rule()
    def the_agents_process_restarts(self) -> None:
        """All state is in the folders; only the reaper's view of heartbeats starts anew, so both start anew."""
        self.worlds[1].exchange = self.worlds[1].open()
        self.worlds[0].exchange._leases = type(self.worlds[0].exchange._leases)(LEASE)

    @invariant()
    def both_say_the_same_of_every_task(self) -> None:
        for name in NAMES:
            one, other = (world.exchange.get(name) for world in self.worlds)
            assert one == other
            if name in self.ended:
                assert one == self.ended[name], "an end is an end"
            if one.state in TERMINAL:
                assert one.ack is not None
                self.ended[name] = one
            assert self.acked.get(name, 0) <= 1

    @invariant()
    def no_task_is_lost(self) -> None:
        one, other = (world.exchange.depth() for world in self.worlds)
        assert one == other
        known = sum(world.exchange.get(name).state != "unknown" for name in NAMES for world in self.worlds[:1])
        assert sum(one.values()) + len(self.ended) == known


def _same(answer):
    """Errors by their type, since the wording is each adapter's own; a sweep's work in any order."""
    if isinstance(answer, Swept):
        return tuple(sorted(getattr(answer, each)) for each in Swept.__slots__)
    return type(answer) if isinstance(answer, Exception) else answer


TestBothAdapters = BothAdapters.TestCase
TestBothAdapters.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
