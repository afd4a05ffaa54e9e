"""The tools against the real thing: the overseer over gRPC, behind the dashboard's HTTP gateway."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from calyx.cbo.v1 import cbo_pb2
from fastapi import FastAPI
from mcp import Client
from mcp_harness import Ticks

from calyx_agent import AsyncClient
from chassis.domains import Level
from cli.mcp.keeper import Keeper
from cli.mcp.server import station_server
from services.dashboard.agent_api import GrpcRelay, agent_api

sys.path.insert(0, str(Path(__file__).parent.parent / "cbo"))  # the overseer's own test station, with agents on it
from agent_station import Wire, domains_with, outside
from cbo_station import Station


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    station = Station(
        tmp_path / "station",
        domains=domains_with(outside("sorting", "scout"), outside("asking", "scout", rehearses=False)),
    )
    made = Wire(station)
    yield made
    made.close()
    station.cbo.close()


Call = Callable[..., Any]


def with_client(wire: Wire, body: Callable[[Call], Any], *, token: str = "") -> None:
    """Run `body` with a function that calls a tool of a server that is the agent `scout`."""

    async def main() -> None:
        assert wire.running is not None
        relay = GrpcRelay(f"127.0.0.1:{wire.running.port}")
        page = FastAPI()
        page.include_router(agent_api(relay, asyncio.Event()))
        transport = httpx.ASGITransport(page)
        with anyio.fail_after(30):
            async with AsyncClient("http://127.0.0.1", token or wire.tokens["scout"], transport=transport) as over:
                server = station_server(over, Keeper(over, "mcp-test", pause=Ticks().pause))
                async with Client(server, mode="legacy") as client:

                    async def call(tool: str, **arguments: Any) -> Any:
                        result = await client.call_tool(tool, arguments)
                        if result.is_error:
                            return getattr(result.content[0], "text", "")
                        return result.structured_content

                    await body(call)
            await relay.close()

    anyio.run(main)


def test_one_piece_of_work_from_status_to_ack_at_execute(wire: Wire) -> None:
    wire.station.cbo.desk.set_level("sorting", Level.EXECUTE, "trusted", 0, "operator")
    wire.agent("scout", ("sorting",))

    async def body(call: Call) -> None:
        status = await call("status")
        assert (status["agent"], [each["domain"] for each in status["domains"]]) == ("scout", ["sorting"])
        assert status["domains"][0]["level"] == "EXECUTE"
        task = (await call("propose", domain="sorting", objective="sort the inbox"))["task"]
        assert task["state"] == "ready", task
        claimed = await call("claim", task_id=task["task_id"])
        assert (claimed["mode"], claimed["epoch"]) == ("perform", 1)
        assert (await call("heartbeat", task_id=task["task_id"], progress="half"))["may_act"] is True
        claims = [{"kind": "absent", "target": "/srv/inbox/a", "expect": {}}]
        acked = await call("ack", task_id=task["task_id"], status="done", detail="sorted", claims=claims)
        assert (acked["status"], acked["recorded"]) == ("done", True)
        assert (await call("status"))["tasks"] == []
        ack = wire.station.exchange.get(task["task_id"]).ack
        assert ack is not None and (ack.agent, ack.detail) == ("scout", "sorted")
        await call("report", text="the inbox is sorted", task_id=task["task_id"])

    with_client(wire, body)


def test_at_guide_a_person_approves_and_the_tools_only_wait(wire: Wire) -> None:
    wire.agent("scout", ("asking",))
    person = wire.person()

    async def body(call: Call) -> None:
        task = (await call("propose", domain="asking", objective="ask first"))["task"]
        assert (task["state"], task["waits_for_person"]) == ("proposed", True)
        assert (await call("request_approval", task_id=task["task_id"], why="it is safe"))["asked"] is True
        waiting = await call("await_approval", task_id=task["task_id"], wait_seconds=1)
        assert waiting["answer"] == "waiting"
        assert "ready" not in (await call("claim", task_id=task["task_id"], wait_seconds=0))["next"].split(".")[1]
        person.ApproveTask(cbo_pb2.ApproveTaskRequest(id=task["task_id"]))
        got = await call("await_approval", task_id=task["task_id"], wait_seconds=10)
        assert got["answer"] == "approved", got
        claimed = await call("claim", task_id=got["run_task_id"])
        assert (claimed["claimed"], claimed["mode"]) == (True, "perform")
        assert (await call("ack", task_id=got["run_task_id"], status="no_work"))["recorded"] is True

    with_client(wire, body)


def test_a_rehearsal_with_its_plan_is_taken_by_the_overseer(wire: Wire) -> None:
    wire.agent("scout", ("sorting",))

    async def body(call: Call) -> None:
        task = (await call("propose", domain="sorting", objective="sort the inbox"))["task"]
        claimed = await call("claim", task_id=task["task_id"])
        assert claimed["mode"] == "rehearse"
        plan = [{"op": "create", "target": "/srv/inbox/b", "after_sha256": "1" * 64, "size_bytes": 3}]
        assert (await call("ack", task_id=task["task_id"], status="rehearsed", plan=plan))["recorded"] is True
        got = await call("await_approval", task_id=task["task_id"], wait_seconds=0)
        assert (got["answer"], got["task"]["state"]) == ("waiting", "rehearsed"), got

    with_client(wire, body)


def test_what_is_held_at_the_end_becomes_ready_again(wire: Wire) -> None:
    wire.station.cbo.desk.set_level("sorting", Level.EXECUTE, "trusted", 0, "operator")
    wire.agent("scout", ("sorting",))
    made: list[str] = []

    async def body(call: Call) -> None:
        made.append((await call("propose", domain="sorting", objective="sort"))["task"]["task_id"])
        assert (await call("claim"))["claimed"] is True

    with_client(wire, body)

    async def again(call: Call) -> None:
        claimed = await call("claim", task_id=made[0])
        assert (claimed["claimed"], claimed["epoch"]) == (True, 2)

    with_client(wire, again)


def test_a_foreign_domain_and_a_revoked_token_are_refused_in_one_line(wire: Wire) -> None:
    wire.agent("scout", ("sorting",))

    async def body(call: Call) -> None:
        refused = await call("propose", domain="log_rotation", objective="rotate")
        assert "PermissionDenied" in refused and "status lists them" in refused
        wire.station.cbo.agents.revoke("scout", "gone", "operator")
        refused = await call("status")
        assert "Unauthenticated" in refused and "calyx agent invite" in refused and "\n" not in refused

    with_client(wire, body)
