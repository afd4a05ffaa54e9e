"""One contract, both adapters."""

from collections.abc import Iterator

import pytest
from exchange_world import LEASE, World

from chassis.errors import AlreadyAcked, Duplicate, InvalidInput, LeaseLost
from chassis.exchange.port import Receipt


@pytest.fixture(params=["memory", "files"])
def world(request: pytest.FixtureRequest, tmp_path) -> Iterator[World]:
    yield World(request.param, tmp_path)


def test_a_submitted_task_is_ready_and_a_second_submit_changes_nothing(world: World) -> None:
    first = world.task("bp-1-1")
    assert world.exchange.submit(first).state == "ready"
    with pytest.raises(Duplicate):
        world.exchange.submit(world.task("bp-1-1", priority=9))
    view = world.exchange.get("bp-1-1")
    assert (view.state, view.epoch, view.manifest, view.ack) == ("ready", 1, first, None)


def test_an_id_stays_taken_after_its_task_has_ended(world: World) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    with pytest.raises(Duplicate):
        world.exchange.submit(world.task("a"))


def test_a_task_nobody_submitted_is_unknown(world: World) -> None:
    assert world.exchange.get("never").state == "unknown"
    assert not world.exchange.cancel("never", "x")
    assert not world.exchange.hold("never")
    assert not world.exchange.requeue("never")


def test_claims_come_by_priority_then_by_id_and_only_to_their_owner(world: World) -> None:
    for name, priority in (("b", 5), ("a", 5), ("c", 9), ("d", 0)):
        world.exchange.submit(world.task(name, priority=priority))
    world.exchange.submit(world.task("other", owner="guardian", priority=9))
    claimed = [claim.manifest.task_id for claim in world.exchange.claim("governor", "w1", 10)]
    assert claimed == ["c", "a", "b", "d"]
    assert world.exchange.claim("governor", "w2", 10) == []
    assert world.exchange.claim("guardian", "g", 1)[0].manifest.task_id == "other"


def test_a_held_task_is_claimed_only_after_its_release(world: World) -> None:
    assert world.exchange.submit(world.task("a"), hold=True).state == "held"
    assert world.exchange.claim("governor", "w1") == []
    assert world.exchange.release("a")
    assert not world.exchange.release("a")
    assert world.claim().manifest.task_id == "a"
    assert not world.exchange.hold("a"), "a claimed task can't be held"


def test_a_ready_task_can_be_held_again(world: World) -> None:
    world.exchange.submit(world.task("a"))
    assert world.exchange.hold("a")
    assert world.exchange.get("a").state == "held"
    assert world.exchange.claim("governor", "w1") == []


def test_a_task_is_acked_once_and_the_ack_is_kept_word_for_word(world: World) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    answer = world.ack(
        claim, detail="rotated", files_changed=2, effects=({"op": "create", "target": "/x"},), cost={"cpu_s": 0.1}
    )
    world.exchange.ack(claim, answer)
    assert world.exchange.get("a").ack == answer
    assert world.exchange.get("a").state == "done"
    with pytest.raises(AlreadyAcked):
        world.exchange.ack(claim, world.ack(claim, "failed"))
    assert world.exchange.get("a").ack == answer
    assert not world.exchange.check(claim)


def test_an_ack_for_another_task_than_the_claim_is_refused(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b")])
    first, second = world.exchange.claim("governor", "w1", 2)
    with pytest.raises(InvalidInput):
        world.exchange.ack(first, world.ack(second))


def test_a_holder_whose_heartbeat_stops_loses_the_task_and_can_no_longer_ack(world: World) -> None:
    world.exchange.submit(world.task("a"))
    lost = world.claim()
    swept = world.stale()
    assert swept.requeued == ("a",)
    assert not world.exchange.check(lost)
    with pytest.raises(LeaseLost):
        world.exchange.heartbeat(lost)
    with pytest.raises(LeaseLost):
        world.exchange.ack(lost, world.ack(lost))
    with pytest.raises(LeaseLost):
        world.exchange.nack(lost, 0, "too late")
    assert world.exchange.claim("governor", "w2") == [], "the back-off comes first"
    world.clock.advance(1)
    assert world.exchange.sweep().released == ("a",)
    again = world.claim(worker="w2")
    assert again.epoch == 2
    world.exchange.ack(again, world.ack(again))
    assert world.exchange.get("a").ack.epoch == 2


def test_a_beating_holder_keeps_the_task_however_long_it_takes(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=60))
    claim = world.claim()
    for _ in range(20):
        world.exchange.sweep()
        world.clock.advance(LEASE - 1)
        world.exchange.heartbeat(claim)
    assert world.exchange.sweep().requeued == ()
    assert world.exchange.check(claim)


def test_a_task_given_back_is_ready_after_its_delay_at_the_next_epoch(world: World) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    world.exchange.nack(claim, 10, "asleep")
    assert world.exchange.get("a").state == "waiting"
    world.clock.advance(9)
    assert world.exchange.sweep().released == ()
    world.clock.advance(1)
    assert world.exchange.sweep().released == ("a",)
    assert world.claim().epoch == 2
    with pytest.raises(LeaseLost):
        world.exchange.ack(claim, world.ack(claim))


def test_a_task_given_back_without_delay_is_ready_at_once(world: World) -> None:
    world.exchange.submit(world.task("a"))
    world.exchange.nack(world.claim(), 0, "not now")
    assert world.claim().epoch == 2


def test_past_its_last_attempt_a_task_is_dead_with_the_reason_and_can_be_requeued(world: World) -> None:
    world.exchange.submit(world.task("a", max_attempts=2))
    world.exchange.nack(world.claim(), 0, "disk says no")
    world.exchange.nack(world.claim(), 0, "disk says no")
    view = world.exchange.get("a")
    assert view.state == "dead"
    assert "disk says no" in view.reason
    assert world.exchange.claim("governor", "w1") == []
    assert [v.task_id for v in world.exchange.tasks(["dead"])] == ["a"]
    assert world.exchange.requeue("a")
    assert not world.exchange.requeue("a")
    claim = world.claim()
    assert claim.epoch == 3
    world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.get("a").state == "done"


def test_cancelling_what_nobody_holds_ends_it_with_a_cancelled_ack(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    world.exchange.submit(world.task("c"), hold=True)
    for task_id in ("b", "a", "c"):
        assert world.exchange.cancel(task_id, "changed my mind")
        view = world.exchange.get(task_id)
        assert (view.state, view.ack.status, view.ack.detail) == ("cancelled", "cancelled", "changed my mind")
        assert not world.exchange.cancel(task_id, "again")
    assert world.exchange.claim("governor", "w1") == []


def test_cancelling_a_claimed_task_is_told_to_its_holder(world: World) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    assert world.exchange.check(claim)
    assert world.exchange.cancel("a", "stop")
    assert not world.exchange.check(claim)
    world.exchange.heartbeat(claim)
    world.exchange.ack(claim, world.ack(claim, "cancelled"))
    assert world.exchange.get("a").state == "cancelled"


def test_a_cancelled_task_whose_holder_died_is_not_redelivered(world: World) -> None:
    world.exchange.submit(world.task("a"))
    world.claim()
    world.exchange.cancel("a", "stop")
    world.stale()
    assert world.exchange.get("a").ack.status == "cancelled"


def test_an_expired_task_is_answered_at_the_sweep(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=10))
    world.clock.advance(10)
    assert world.exchange.sweep().expired == ("a",)
    assert world.exchange.get("a").ack.status == "expired"


def test_an_expired_task_is_answered_at_the_claim(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=10))
    world.clock.advance(11)
    assert world.exchange.claim("governor", "w1") == []
    assert world.exchange.get("a").ack.status == "expired"


def test_ttls_stand_still_under_the_kill_switch(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=10))
    world.clock.advance(5)
    world.kill_switch.engage("test", "me", world.clock.now())
    world.exchange.sweep()
    world.clock.advance(100)
    assert world.exchange.sweep().expired == ()
    world.kill_switch.release()
    world.exchange.sweep()
    world.clock.advance(4)
    assert world.exchange.sweep().expired == (), "5 + 4 of its 10 seconds are used"
    world.clock.advance(1)
    assert world.exchange.sweep().expired == ("a",)


def test_under_the_kill_switch_only_undo_tasks_are_handed_out(world: World) -> None:
    world.exchange.submit(world.task("a", priority=9))
    world.exchange.submit(world.task("u", undo_of="old"))
    world.kill_switch.engage("test", "me", world.clock.now())
    assert [c.manifest.task_id for c in world.exchange.claim("governor", "w1", 5)] == ["u"]
    world.kill_switch.release()
    assert world.claim().manifest.task_id == "a"


def test_a_dependant_waits_for_a_good_ack(world: World) -> None:
    answers = world.exchange.submit_many([world.task("b", dependencies=("a",)), world.task("a")])
    assert [a.state for a in answers if isinstance(a, Receipt)] == ["waiting", "ready"]
    claim = world.claim()
    assert claim.manifest.task_id == "a"
    assert world.exchange.sweep().released == ()
    world.exchange.ack(claim, world.ack(claim, "no_work"))
    assert world.claim().manifest.task_id == "b", "the ack itself lets it go on"
    assert world.exchange.sweep().released == ()


@pytest.mark.parametrize("bad", ["failed", "expired", "cancelled"])
def test_a_failed_dependency_fails_its_dependants_naming_it(world: World, bad: str) -> None:
    world.exchange.submit_many(
        [world.task("a"), world.task("b", dependencies=("a",)), world.task("c", dependencies=("b",))]
    )
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim, bad))
    world.exchange.sweep()
    world.exchange.sweep()
    assert "dependency a ended" in world.exchange.get("b").ack.detail
    assert "dependency b ended failed" in world.exchange.get("c").ack.detail
    assert world.exchange.get("c").ack.status == "failed"


def test_unknown_dependencies_cycles_and_doubles_are_refused_and_the_rest_goes_through(world: World) -> None:
    answers = world.exchange.submit_many(
        [
            world.task("x", dependencies=("y",)),
            world.task("y", dependencies=("x",)),
            world.task("self", dependencies=("self",)),
            world.task("lost", dependencies=("nowhere",)),
            world.task("good"),
            world.task("good"),
        ]
    )
    assert [type(a).__name__ for a in answers] == [
        "InvalidInput", "InvalidInput", "InvalidInput", "InvalidInput", "Receipt", "Duplicate",
    ]  # fmt: skip
    assert "cycle" in str(answers[0])
    assert "nowhere" in str(answers[3])
    assert world.exchange.get("x").state == "unknown"
    assert world.exchange.get("good").state == "ready"


def test_a_manifest_beyond_the_size_limit_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput):
        world.exchange.submit(world.task("big", params={"x": "y" * 300_000}))


@pytest.mark.parametrize("how", ["claim", "sweep"])
def test_a_task_without_a_valid_grant_is_quarantined_and_stops_nothing(world: World, how: str) -> None:
    world.exchange.submit(world.task("a", sign=False))
    world.exchange.submit(world.task("b").with_grant(world.task("c").grant))
    world.exchange.submit(world.task("d"))
    if how == "sweep":
        assert world.exchange.sweep().quarantined == ("a", "b")
    assert [c.manifest.task_id for c in world.exchange.claim("governor", "w1", 5)] == ["d"]
    for name in ("a", "b"):
        assert (world.exchange.get(name).state, world.exchange.get(name).reason) == ("dead", "no valid grant")
        assert not world.exchange.requeue(name), "no grant, no way back"


def test_depth_counts_what_is_alive_and_what_is_dead(world: World) -> None:
    world.exchange.submit_many(
        [world.task(n) for n in ("a", "b", "c")] + [world.task("w", dependencies=("c",)), world.task("q", priority=9)]
    )
    world.exchange.submit(world.task("h"), hold=True)
    world.exchange.claim("governor", "w1", 1)
    assert world.exchange.depth() == {"held": 1, "waiting": 1, "ready": 3, "claimed": 1, "dead": 0}
    assert [v.task_id for v in world.exchange.tasks(["waiting", "held"])] == ["h", "w"]


def test_the_next_boot_of_an_agent_gets_back_what_its_dead_one_held_and_never_a_living_ones(world: World) -> None:
    worker = world.exchange.join("governor")
    world.exchange.submit(world.task("a"))
    claim = world.claim(worker=worker)
    second = world.exchange.join("governor")
    assert second != worker
    assert world.exchange.check(claim), "a living worker keeps its claim"
    world.exchange.leave(worker)
    assert world.exchange.join("governor-x") != worker
    assert world.exchange.check(claim), "another agent's boot takes nothing"
    world.exchange.join("governor")
    assert not world.exchange.check(claim)
    assert world.claim(worker=second).epoch == 2


def test_a_task_can_be_claimed_by_name_and_only_by_its_pool(world: World) -> None:
    world.exchange.submit_many([world.task("a", priority=9), world.task("b")])
    assert world.exchange.claim("guardian", "w1", task_id="b") == []
    assert [c.manifest.task_id for c in world.exchange.claim("governor", "w1", task_id="b")] == ["b"]
    assert world.exchange.claim("governor", "w1", task_id="b") == []
    assert world.exchange.claim("governor", "w1", task_id="never") == []
    world.kill_switch.engage("test", "me", world.clock.now())
    assert world.exchange.claim("governor", "w1", task_id="a") == []


def test_waiting_ends_at_once_where_something_is_ready_and_says_no_where_nothing_comes(world: World) -> None:
    assert not world.exchange.wait("governor", 0.0)
    world.exchange.submit(world.task("a"))
    assert world.exchange.wait("governor", 60.0)
    assert not world.exchange.wait("guardian", 0.0)


def test_a_watch_tells_each_change_once_until_all_have_ended(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    steps = iter([lambda: world.claim(), lambda: None, lambda: world.exchange.cancel("b", "no"), world.stale])

    def pause() -> bool:
        step = next(steps, None)
        return step is not None and (step(), True)[1]

    told = [(view.task_id, view.state) for view in world.exchange.watch(["a", "b"], pause)]
    assert told == [("a", "ready"), ("b", "waiting"), ("a", "claimed"), ("b", "cancelled"), ("a", "waiting")]
    assert [view.state for view in world.exchange.watch(["b"], lambda: True)] == ["cancelled"]


def test_a_task_goes_on_with_the_last_of_its_dependencies_and_not_before(world: World) -> None:
    world.exchange.submit_many([world.task(n) for n in "abc"] + [world.task("z", dependencies=("a", "b", "c"))])
    held = {claim.manifest.task_id: claim for claim in world.exchange.claim("governor", "w1", 3)}
    for name in "cab":
        assert world.exchange.get("z").state == "waiting"
        world.exchange.ack(held[name], world.ack(held[name]))
    assert world.exchange.get("z").state == "ready"


def test_a_task_submitted_after_its_dependency_has_ended_is_placed_at_once(world: World) -> None:
    world.exchange.submit_many([world.task("good"), world.task("bad")])
    for claim, status in zip(world.exchange.claim("governor", "w1", 2), ("failed", "done"), strict=True):
        world.exchange.ack(claim, world.ack(claim, status))
    world.exchange.submit_many([world.task("x", dependencies=("good",)), world.task("y", dependencies=("bad",))])
    assert world.exchange.get("x").state == "ready"
    assert world.exchange.get("y").ack.detail == "dependency bad ended failed; this task was not run"


def test_a_long_chain_fails_to_its_end_with_its_first(world: World) -> None:
    chain = [world.task(f"t{n:04d}", dependencies=(f"t{n - 1:04d}",) if n else ()) for n in range(300)]
    world.exchange.submit_many(chain)
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim, "failed"))
    assert world.exchange.get("t0299").ack.status == "failed"
    assert world.exchange.depth()["waiting"] == 0


def test_a_cycle_is_refused_by_name_and_what_depends_on_it_is_told_so(world: World) -> None:
    edges = {"a": "b", "b": "c", "c": "a", "x": "a"}
    answers = world.exchange.submit_many([world.task(name, dependencies=(to,)) for name, to in edges.items()])
    assert all("a → b → c → a" in str(each) for each in answers[:3])
    assert str(answers[3]) == "task x depends on a, which was refused"


def test_answers_given_together_are_each_taken_on_their_own_terms(world: World) -> None:
    world.exchange.submit_many([world.task(n) for n in ("a", "b", "c")] + [world.task("d", dependencies=("a", "c"))])
    a, b, c = world.exchange.claim("governor", "w1", 3)
    world.exchange.nack(b, 0, "not mine any more")
    refused = world.exchange.ack_many([(x, world.ack(y)) for x, y in ((a, a), (b, b), (c, c), (a, b))])
    assert [type(each).__name__ for each in refused] == [
        "NoneType",
        "LeaseLost",
        "NoneType",
        "InvalidInput",
    ]
    assert [world.exchange.get(n).state for n in "abcd"] == ["done", "ready", "done", "ready"]
    assert world.exchange.ack_many([]) == []
