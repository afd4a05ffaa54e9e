"""Claims are kept alive behind a slow model's back, and never longer than they should be."""

from collections.abc import Callable

import anyio
import pytest
from mcp_fake_station import FakeStation, InProcess
from mcp_harness import Desk, Ticks, desk

from cli.mcp.answers import Order
from cli.mcp.keeper import Keeper

Session = Callable[..., None]


def test_a_silent_model_loses_no_lease(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        for times in range(1, 8):
            await at.beat(times)
        assert at.ticks.waits[0] == 5.0, "as often as the station asks for"
        assert (await at.ok("ack", task_id="t-1", status="done"))["recorded"] is True

    session(body)


def test_a_claim_whose_answer_was_lost_can_be_asked_for_again(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        first = await at.ok("claim")
        assert [each["task_id"] for each in (await at.ok("status"))["held"]] == ["t-1"]
        assert await at.ok("claim", task_id="t-1") == first
        assert len(at.station.made("claim")) == 1

    session(body)


def test_heartbeats_end_with_the_ack(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        at.station.add("t-2")
        await at.ok("claim", task_id="t-1")
        await at.ok("ack", task_id="t-1", status="no_work")
        await at.ok("claim", task_id="t-2")
        await at.beat(1)
        assert [body["task_id"] for body in at.station.made("heartbeat")] == ["t-2"]

    session(body)


@pytest.mark.parametrize(
    ("order", "expected", "next_step"),
    [
        ({"order": "ORDER_STOP", "reason": "cancelled"}, "stop", "ack cancelled"),
        ({"order": "ORDER_LOST", "reason": "redelivered"}, "lost", "ack nothing"),
        ({"order": "ORDER_DANCE"}, "stop", "ack cancelled"),
    ],
)
def test_the_background_falls_silent_when_the_order_is_stop_or_lost(
    session: Session, order: dict[str, str], expected: str, next_step: str
) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        at.station.orders["t-1"] = order
        await at.beat(1)
        at.ticks.tick()
        at.station.add("t-2")
        await at.ok("claim", task_id="t-2")
        await at.beat(2)
        assert [body["task_id"] for body in at.station.made("heartbeat")] == ["t-1", "t-2"]
        beaten = await at.ok("heartbeat", task_id="t-1")
        assert (beaten["order"], beaten["may_act"]) == (expected, False)
        assert next_step in beaten["next"]

    session(body)


def test_after_stop_the_task_can_still_be_acked_cancelled_and_after_lost_it_cannot(session: Session) -> None:
    async def body(at: Desk) -> None:
        for task_id, order in (("t-1", "ORDER_STOP"), ("t-2", "ORDER_LOST")):
            at.station.add(task_id)
            await at.ok("claim", task_id=task_id)
            at.station.orders[task_id] = {"order": order, "reason": "a person said so"}
            await at.ok("heartbeat", task_id=task_id)
        assert [(each["task_id"], each["order"]) for each in (await at.ok("status"))["held"]] == [("t-1", "stop")]
        assert (await at.ok("ack", task_id="t-1", status="cancelled"))["recorded"] is True
        assert "a person said so" in await at.error("ack", task_id="t-2", status="done")
        assert "t-2" not in at.station.acks

    session(body)


def test_throttle_and_sleep_are_told_and_the_claim_lives_on(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        at.station.orders["t-1"] = {"order": "ORDER_THROTTLE", "reason": "busy", "cpu_percent": 20.0}
        beaten = await at.ok("heartbeat", task_id="t-1")
        assert (beaten["order"], beaten["may_act"], beaten["cpu_percent"]) == ("throttle", True, 20.0)
        at.station.orders["t-1"] = {"order": "ORDER_SLEEP", "reason": "RAM", "until": "2026-11-23T10:00:00Z"}
        beaten = await at.ok("heartbeat", task_id="t-1")
        assert (beaten["order"], beaten["may_act"], beaten["until"]) == ("sleep", False, "2026-11-23T10:00:00Z")
        await at.beat(3)
        at.station.orders.clear()
        await at.beat(4)
        assert (await at.ok("heartbeat", task_id="t-1"))["may_act"] is True

    session(body)


def test_no_change_is_allowed_once_the_station_says_so_at_the_check(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        at.station.kill_switch = "stop everything"
        beaten = await at.ok("heartbeat", task_id="t-1")
        assert beaten["may_act"] is False and beaten["may_act_reason"] == "stop everything"

    session(body)


def test_a_station_that_is_away_for_a_while_costs_no_claim(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        at.station.down = True
        await at.beat(1)
        assert "Unavailable" in await at.error("heartbeat", task_id="t-1")
        assert "Unavailable" in await at.error("ack", task_id="t-1", status="done")
        at.station.down = False
        await at.beat(3)
        assert (await at.ok("ack", task_id="t-1", status="done"))["recorded"] is True

    session(body)


def test_a_model_that_went_away_holds_nothing_for_ever(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        await at.beat(1)
        await at.ok("heartbeat", task_id="t-1")
        await at.beat(3)
        await at.beat(4)
        at.ticks.tick()
        await at.station.until_made("nack", 1)
        assert "no call about it for 10 s" in at.station.made("nack")[0]["reason"]
        assert "given back" in await at.error("ack", task_id="t-1", status="done")

    session(body, idle_seconds=10.0)


def test_a_task_can_be_given_back_when_nothing_was_done(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        assert "something was changed" in await at.error("ack", task_id="t-1", status="give_back", applied=True)
        acked = await at.ok("ack", task_id="t-1", status="give_back", detail="I lack the tool for it")
        assert (acked["status"], acked["recorded"]) == ("given_back", False)
        assert at.station.tasks["t-1"]["state"] == "ready" and at.station.acks == {}

    session(body)


def test_the_second_ack_changes_nothing_and_says_so(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        await at.ok("claim")
        at.station.acks["t-1"] = {"status": "expired"}
        acked = await at.ok("ack", task_id="t-1", status="done")
        assert (acked["status"], acked["recorded"]) == ("expired", False)
        assert "earlier ack stands" in acked["next"]

    session(body)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_at_the_end_of_the_session_what_was_not_acked_is_given_back(mode: str) -> None:
    async def main() -> FakeStation:
        async with desk(mode) as at:
            for task_id in ("t-1", "t-2", "t-3"):
                at.station.add(task_id)
                await at.ok("claim", task_id=task_id)
            await at.ok("ack", task_id="t-2", status="done")
        return at.station

    station = anyio.run(main)
    assert sorted(body["task_id"] for body in station.made("nack")) == ["t-1", "t-3"]
    assert {task_id: task["state"] for task_id, task in station.tasks.items()} == {
        "t-1": "ready", "t-2": "done", "t-3": "ready",
    }  # fmt: skip


def test_a_client_that_cancels_its_call_holds_nothing(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        reached, go_on = anyio.Event(), anyio.Event()

        async def slow() -> None:
            reached.set()
            await go_on.wait()

        at.station.at_claim = slow
        async with anyio.create_task_group() as group:
            group.start_soon(at.client.call_tool, "claim", {})
            await reached.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()  # the server has heard of it
            go_on.set()
        await at.station.until_made("nack", 1)
        at.station.at_claim = None
        assert (await at.ok("status"))["held"] == []
        assert at.station.tasks["t-1"]["state"] == "ready"

    session(body)


def test_a_claim_that_arrives_after_its_call_was_cancelled_is_given_back_at_once() -> None:
    async def main() -> FakeStation:
        station, ticks = FakeStation(), Ticks()
        station.add("t-1")
        async with InProcess(station) as over:
            keeper = Keeper(over, "mcp-test", pause=ticks.pause)
            reached, go_on = anyio.Event(), anyio.Event()

            async def slow() -> None:
                reached.set()
                await go_on.wait()

            station.at_claim = slow
            async with anyio.create_task_group() as group:
                group.start_soon(keeper.claim, "", 5.0)
                await reached.wait()
                group.cancel_scope.cancel()
                go_on.set()
            assert keeper.held() == []
        return station

    station = anyio.run(main)
    assert [body["task_id"] for body in station.made("nack")] == ["t-1"]
    assert station.tasks["t-1"]["state"] == "ready"


def test_an_order_that_is_not_understood_is_never_worked_past() -> None:
    for unknown in ({}, {"order": "ORDER_UNSPECIFIED"}, {"order": 7}):
        assert Order.of(unknown).order == "stop"
