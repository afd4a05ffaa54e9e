"""An agent around plain functions, before a station in memory."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from calyx.agent.v1 import agent_pb2
from station_fake import FakeStation, Order

from calyx_agent import AgentError, Change, Plan, Result, Task
from calyx_agent.shift import IDLE_SECONDS
from chassis import work
from chassis.errors import LeaseLost, Unauthenticated


def run(agent: Any, tasks: int = 1) -> None:
    asyncio.run(agent.arun(tasks=tasks))


def test_a_function_does_the_task_and_its_result_is_the_answer(tmp_path: Path) -> None:
    station = FakeStation()
    station.task(params={"file": str(tmp_path / "note")})
    agent = station.agent("scribe")

    @agent.task("notes")
    def write(task: Task) -> Result:
        path, text = Path(task.params["file"]), b"hello"
        change = Change.write(path, text)
        task.check()
        path.write_bytes(text)
        return task.done("written", changes=[change], cost={"bytes": 5})

    run(agent)
    ack = station.on_record["t-1"]
    assert (ack.status, ack.detail, ack.files_changed, ack.applied) == ("done", "written", 1, True)
    assert dict(ack.cost) == {"bytes": 5.0}
    (effect,), (claim,) = json.loads(ack.effects_json), json.loads(ack.claims_json)
    assert (effect["op"], effect["before_sha256"], effect["size_bytes"]) == ("create", None, 5)
    assert claim == {
        "kind": "file_digest", "target": str(tmp_path / "note"), "expect": {"sha256": effect["after_sha256"]},
    }  # fmt: skip
    assert station.calls.count("check") == 1
    assert ack.session.startswith("py-")


def test_coroutines_work_as_functions_do() -> None:
    station = FakeStation()
    station.task("t-1")
    station.task("t-2")
    agent = station.agent(concurrency=2)
    both = asyncio.Event()
    seen: list[str] = []

    @agent.task("notes")
    async def write(task: Task) -> None:
        seen.append(task.id)
        if len(seen) == 2:
            both.set()
        await both.wait()
        await task.acheck()

    run(agent, tasks=2)
    assert {each.status for each in station.on_record.values()} == {"done"}
    assert sorted(station.on_record) == ["t-1", "t-2"]


def test_nothing_to_do_and_a_failure_are_said_as_such() -> None:
    station = FakeStation()
    station.task("t-1", params={"how": "nothing"})
    station.task("t-2", params={"how": "raise"})
    station.task("t-3", params={"how": "raise after check"})
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> Result:
        if task.params["how"] == "nothing":
            return task.no_work("all tidy")
        if task.params["how"] == "raise after check":
            task.check()
        raise ValueError("x" * 5000)

    run(agent, tasks=3)
    nothing, raised, halfway = (station.on_record[f"t-{n}"] for n in (1, 2, 3))
    assert (nothing.status, nothing.detail) == ("no_work", "all tidy")
    assert (raised.status, raised.applied) == ("failed", False)
    assert raised.detail.startswith("ValueError: xxx")
    assert len(raised.detail) == 500
    assert (halfway.status, halfway.applied) == ("failed", True), "what was allowed may have happened"


def test_a_stop_order_raises_at_the_next_check_and_the_task_is_cancelled() -> None:
    station = FakeStation(orders=[(Order.ORDER_GO_ON, ""), (Order.ORDER_STOP, "stopped by the kill switch: fire")])
    station.task()
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> None:
        while True:
            task.pause()

    run(agent)
    ack = station.on_record["t-1"]
    assert (ack.status, ack.detail, ack.applied) == ("cancelled", "stopped by the kill switch: fire", False)


def test_a_check_that_is_answered_no_prevents_the_effect(tmp_path: Path) -> None:
    station = FakeStation(forbidden="stopped by the kill switch: fire")
    station.task()
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> None:
        task.check()
        (tmp_path / "effect").touch()

    run(agent)
    assert station.on_record["t-1"].status == "cancelled"
    assert station.on_record["t-1"].detail == "stopped by the kill switch: fire"
    assert not (tmp_path / "effect").exists()


def test_a_sleep_order_holds_the_task_until_the_station_says_go_on() -> None:
    station = FakeStation(
        orders=[(Order.ORDER_SLEEP, "backup")] * 5 + [(Order.ORDER_GO_ON, "")]  # one a heartbeat
    )
    station.task()
    agent = station.agent()
    beats: list[int] = []

    @agent.task("notes")
    async def write(task: Task) -> None:
        await task.orders.changed()
        assert task.orders.asleep == "backup"
        await task.apause()
        beats.append(station.calls.count("heartbeat"))

    run(agent)
    assert beats[0] >= 6


@pytest.mark.parametrize("how", ["order", "error"])
def test_a_lost_claim_is_never_answered(how: str) -> None:
    station = FakeStation(orders=[(Order.ORDER_LOST, "another has it")] if how == "order" else [])
    if how == "error":
        station.refusals["heartbeat"] = LeaseLost("another has it")
    station.task()
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> None:
        while True:
            task.pause()

    run(agent)
    assert station.on_record == {}
    assert station.nacks == []


def test_a_station_that_restarts_delays_an_agent_and_doubles_nothing() -> None:
    station = FakeStation(unreachable=["join", "join", "claim", "check", "ack", "ack"], unheard=["ack"])
    station.task()
    agent = station.agent()
    done: list[str] = []

    @agent.task("notes")
    def write(task: Task) -> Result:
        task.check()
        done.append(task.id)
        return task.done("once")

    run(agent)
    assert done == ["t-1"]
    assert station.on_record["t-1"].detail == "once"
    assert station.calls.count("ack") == 4, "two never arrived, one was not heard; all said the same"


def test_a_task_for_another_function_goes_back_with_the_reason() -> None:
    station = FakeStation()
    station.task("t-1", domain="pictures")
    station.task("t-2")
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> None: ...

    run(agent)
    assert [(each.task_id, each.reason) for each in station.nacks] == [
        ("t-1", "no function for pictures in this process")
    ]
    assert station.nacks[0].delay.seconds == 5
    assert list(station.on_record) == ["t-2"]


def test_who_leaves_lets_a_task_end_or_gives_back_what_has_changed_nothing() -> None:
    async def main(touch: bool) -> FakeStation:
        station = FakeStation()
        station.task()
        agent = station.agent(grace_seconds=0.0)
        leaving = asyncio.Event()

        @agent.task("notes")
        async def write(task: Task) -> None:
            if touch:
                await task.acheck()
            leaving.set()
            while not task.stopped:
                await asyncio.sleep(0)
            await task.acheck()

        await agent.arun(leaving=leaving)
        return station

    untouched = asyncio.run(main(touch=False))
    assert [each.reason for each in untouched.nacks] == ["the agent is ending"]
    assert untouched.on_record == {}
    halfway = asyncio.run(main(touch=True))
    assert halfway.nacks == []
    assert (halfway.on_record["t-1"].status, halfway.on_record["t-1"].applied) == ("failed", True)


def test_leaving_ends_an_idle_agent_at_once_also_while_the_station_is_away() -> None:
    async def main(station: FakeStation) -> None:
        agent, leaving = station.agent(), asyncio.Event()

        @agent.task("notes")
        def write(task: Task) -> None: ...

        working = asyncio.ensure_future(agent.arun(leaving=leaving))
        while len(station.calls) < 5:
            await asyncio.sleep(0)
        leaving.set()
        await working

    asyncio.run(main(FakeStation()))
    asyncio.run(main(FakeStation(unreachable=["join"] * 1000)))
    asyncio.run(main(FakeStation(unreachable=["claim"] * 1000)))


def test_a_station_that_answers_at_once_is_not_asked_without_a_pause() -> None:
    async def main() -> None:
        station = FakeStation()
        agent, leaving = station.agent(), asyncio.Event()

        @agent.task("notes")
        def write(task: Task) -> None: ...

        working = asyncio.ensure_future(agent.arun(leaving=leaving))
        while station.calls.count("claim") < 4:
            await asyncio.sleep(0)
        leaving.set()
        await working
        assert station.slept.count(IDLE_SECONDS) >= 3

    asyncio.run(main())


def test_a_rehearsal_answers_with_the_plan_and_the_stations_own_digest(tmp_path: Path) -> None:
    station = FakeStation()
    station.task("t-1", level="GUIDE", rehearsal=True)
    agent = station.agent()
    performed: list[str] = []

    def rehearse(task: Task) -> Plan:
        return Plan(changes=[Change.write(tmp_path / "é", b"new")], notes="one file")

    @agent.task("notes", rehearse=rehearse)
    def write(task: Task) -> None:
        performed.append(task.id)

    run(agent)
    ack = station.on_record["t-1"]
    assert (ack.status, ack.applied, performed) == ("rehearsed", False, [])
    plan = json.loads(ack.plan_json)
    ours = work.Plan(changes=tuple(work.Change(**each) for each in plan["changes"]))
    assert ack.plan_digest == ours.digest, "a person approves what the station computes"

    station.task("t-2", level="GUIDE", rehearsal_of="t-1", plan_digest=ack.plan_digest, approval="a")
    run(agent)
    assert (station.on_record["t-2"].status, performed) == ("done", ["t-2"])

    (tmp_path / "é").write_bytes(b"changed meanwhile")
    station.task("t-3", level="GUIDE", rehearsal_of="t-1", plan_digest=ack.plan_digest, approval="a")
    run(agent)
    assert station.on_record["t-3"].status == "failed"
    assert "no longer matches" in station.on_record["t-3"].detail
    assert performed == ["t-2"]


def test_what_an_agent_cannot_do_it_says() -> None:
    station = FakeStation()
    station.task("t-1", rehearsal=True)
    station.task("t-2", undo_of="t-0")
    station.task("t-3", plan_digest="abc")
    agent = station.agent()

    @agent.task("notes")
    def write(task: Task) -> None: ...

    run(agent, tasks=3)
    assert {each.status for each in station.on_record.values()} == {"failed"}
    assert "rehearses: false" in station.on_record["t-1"].detail
    assert "no undo" in station.on_record["t-2"].detail


def test_an_undo_goes_to_its_own_function_and_a_dry_run_to_none() -> None:
    station = FakeStation()
    station.task("t-1", undo_of="t-0", params={"dry_run": "true"})
    station.task("t-2", undo_of="t-0")
    undone: list[str] = []

    def undo(task: Task) -> Result:
        undone.append(task.undo_of)
        return task.done("put back")

    agent = station.agent()

    @agent.task("notes", undo=undo)
    def write(task: Task) -> None:
        raise AssertionError("an undo is no work")

    run(agent, tasks=2)
    assert undone == ["t-0"]
    assert station.on_record["t-1"].status == "undone"
    assert (station.on_record["t-2"].status, station.on_record["t-2"].detail) == ("undone", "put back")


def test_a_wrong_name_or_a_bad_token_ends_it_with_the_reason() -> None:
    station = FakeStation()
    agent = station.agent("painter")

    @agent.task("notes")
    def write(task: Task) -> None: ...

    with pytest.raises(AgentError, match="scribe's, not painter's"):
        run(agent)
    station.refusals["claim"] = Unauthenticated("revoked: no longer needed")
    again = station.agent()
    again.task("notes")(write)
    with pytest.raises(AgentError, match="revoked"):
        run(again)


def test_the_blocking_check_in_a_coroutine_is_refused_rather_than_a_deadlock() -> None:
    station = FakeStation()
    station.task()
    agent = station.agent()

    @agent.task("notes")
    async def write(task: Task) -> None:
        task.check()

    run(agent)
    assert "await task.acheck()" in station.on_record["t-1"].detail


def test_ordinary_functions_run_beside_the_heartbeats() -> None:
    station = FakeStation()
    station.task()
    agent = station.agent()
    beating = threading.Event()

    async def heartbeat(request: agent_pb2.HeartbeatRequest) -> agent_pb2.HeartbeatResponse:
        if station.calls.count("heartbeat") >= 3:
            beating.set()
        return agent_pb2.HeartbeatResponse(order=Order.ORDER_GO_ON)

    station.heartbeat = heartbeat  # type: ignore[method-assign] # to see it from another thread

    @agent.task("notes")
    def write(task: Task) -> None:
        assert beating.wait(10)

    run(agent)
    assert station.on_record["t-1"].status == "done"


def test_a_proposal_is_asked_for_again_with_its_key_and_waited_for_across_restarts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    station = FakeStation(unreachable=["propose", "await_task"], unheard=["await_task"])
    agent = station.agent()
    steps = iter(["claimed", "rehearsed", "approved"])

    def person(task: agent_pb2.AgentTask) -> None:
        step = next(steps)
        if step == "approved":
            task.approved_as = "t-k-2"
            station.tasks["t-k-2"] = agent_pb2.AgentTask(task_id="t-k-2", state="ready", level=3)  # type: ignore[arg-type] # GUIDE
        else:
            task.state, task.waits_for_person, task.ended = step, step == "rehearsed", step == "rehearsed"

    station.person = person
    first = agent.propose("notes", "tidy up", key="k")
    assert "t-k: ready" in capsys.readouterr().err
    assert agent.propose("notes", "tidy up", key="k")["task_id"] == first["task_id"]
    approved = agent.await_approval(first["task_id"])
    assert (approved["task_id"], approved["state"]) == ("t-k-2", "ready")


def test_a_rejection_ends_the_wait_and_so_does_the_end_of_what_was_approved() -> None:
    station = FakeStation()
    station.tasks["t-1"] = agent_pb2.AgentTask(task_id="t-1", state="rejected", reason="not today", ended=True)
    assert station.agent().await_approval("t-1")["reason"] == "not today"
    station.tasks["t-2"] = agent_pb2.AgentTask(task_id="t-2", state="rehearsed", ended=True, approved_as="t-3")
    station.tasks["t-3"] = agent_pb2.AgentTask(task_id="t-3", state="done", ended=True)
    assert station.agent().await_end("t-2")["state"] == "done"
