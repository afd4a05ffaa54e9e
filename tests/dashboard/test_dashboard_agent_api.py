"""The agent API over HTTP, before a real gRPC server that stands for the overseer."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from calyx.agent.v1 import agent_pb2, agent_pb2_grpc
from dashboard_fakes import PORT, bench
from google.protobuf.duration_pb2 import Duration

from chassis.errors import LeaseLost, Refused
from chassis.executor import InlineExecutor
from chassis.rpc.auth import Callers, caller
from chassis.rpc.server import Served, start_server
from services.dashboard.agent_api import MAX_WAITING_EACH, PATH, GrpcRelay, description
from services.dashboard.http import bind
from services.dashboard.web.app import create_app
from services.dashboard.web.guarding import MAX_AGENT_BODY_BYTES

TOKENS = {"scribe": "scribe-token", "operator": "operator-token"}
HOME = f"http://127.0.0.1:{PORT}"
SCRIBE = {"authorization": "Bearer scribe-token"}
ALLOW = {name: frozenset({"scribe"}) for name in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods_by_name}


@dataclass
class Overseer(agent_pb2_grpc.AgentServiceServicer):
    """Answers what the tests ask; a claim waits until `work` is set or its caller goes."""

    seen: list[tuple[str, Any]] = field(default_factory=list)
    work: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def Join(self, request: agent_pb2.JoinRequest, context: Any) -> agent_pb2.JoinResponse:
        self.seen.append((caller(), request))
        return agent_pb2.JoinResponse(agent=caller(), station_id="st-1", heartbeat_every=Duration(seconds=5))

    async def Claim(self, request: agent_pb2.ClaimRequest, context: Any) -> agent_pb2.ClaimResponse:
        self.seen.append((caller(), request))
        self.waiting.set()
        try:
            await self.work.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return agent_pb2.ClaimResponse(claims=[agent_pb2.Claimed(epoch=3, task=agent_pb2.AgentTask(task_id="t-1"))])

    async def Ack(self, request: agent_pb2.AckRequest, context: Any) -> agent_pb2.AckResponse:
        self.seen.append((caller(), request))
        raise LeaseLost("another holder has t-1 by now")

    async def Propose(self, request: agent_pb2.ProposeRequest, context: Any) -> agent_pb2.ProposeResponse:
        raise Refused("the kill switch is engaged")

    async def Report(self, request: agent_pb2.ReportRequest, context: Any) -> agent_pb2.ReportResponse:
        raise RuntimeError("the password is hunter2")


class Gateway:
    def __init__(self, app: Any, stopping: asyncio.Event, overseer: Overseer) -> None:
        self.app, self.stopping, self.overseer = app, stopping, overseer

    async def __call__(self, rpc: str, body: Any = None, headers: Any = SCRIBE, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
            return await client.post(f"{PATH}/{rpc}", content=content, headers=headers, **more)


def through(tmp_path: Path, script: Callable[[Gateway], Awaitable[None]]) -> None:
    """Run the script against a gateway whose overseer is a real server."""

    async def main() -> None:
        overseer = Overseer()  # type: ignore[abstract] # what it leaves out answers UNIMPLEMENTED
        served = Served(
            "calyx.agent.v1.AgentService", agent_pb2_grpc.add_AgentServiceServicer_to_server, overseer, ALLOW
        )
        server = await start_server(
            served=[served], callers=Callers.of_tokens(TOKENS), checks={}, executor=InlineExecutor()
        )
        relay = GrpcRelay(f"127.0.0.1:{server.port}")
        made = bench(tmp_path, agents=relay)
        try:
            await script(Gateway(create_app(made.at), made.at.stopping, overseer))
        finally:
            await relay.close()
            await server.stop()

    asyncio.run(main())


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_call_arrives_with_its_own_token_and_comes_back_in_the_contracts_names(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        answer = await gateway("join", {"version": "1.2", "capabilities": ["write"]})
        assert answer.status_code == 200
        assert answer.json() == {
            "agent": "scribe", "station_id": "st-1", "domains": [], "heartbeat_every": "5s",
        }  # fmt: skip
        who, request = gateway.overseer.seen[0]
        assert (who, request.version, list(request.capabilities)) == ("scribe", "1.2", ["write"])

    through(tmp_path, script)


@pytest.mark.parametrize(
    "headers",
    [{}, {"cookie": "calyx_x=y"}, {"authorization": "Basic abc"}, {"authorization": "Bearer "},
     {"authorization": b"Bearer \xe4"}],
)  # fmt: skip
def test_without_a_bearer_token_nothing_reaches_the_overseer(tmp_path: Path, headers: Any) -> None:
    async def script(gateway: Gateway) -> None:
        answer = await gateway("join", headers=headers)
        assert error(answer) == (401, "Unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert gateway.overseer.seen == []

    through(tmp_path, script)


def test_the_overseer_alone_judges_tokens(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        assert error(await gateway("join", headers={"authorization": "Bearer stolen"})) == (401, "Unauthenticated")
        assert error(await gateway("join", headers={"authorization": "Bearer operator-token"})) == (
            403, "PermissionDenied",
        )  # fmt: skip
        assert gateway.overseer.seen == []

    through(tmp_path, script)


def test_errors_keep_their_kind_and_no_unforeseen_ones_text_gets_out(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        lost = await gateway("ack", {"task_id": "t-1", "epoch": 3, "status": "done"})
        assert lost.status_code == 409
        assert lost.json() == {"error": {"code": "LeaseLost", "message": "another holder has t-1 by now"}}
        assert gateway.overseer.seen[0][1].epoch == 3, "numbers are taken as numbers and as strings"
        assert error(await gateway("propose", {"domain": "notes"})) == (409, "Refused")
        broken = await gateway("report", {"text": "x"})
        assert error(broken) == (500, "Internal")
        assert "hunter2" not in broken.text
        assert error(await gateway("approve_task", {})) == (404, "NotFound")
        assert error(await gateway("Join", {})) == (404, "NotFound")

    through(tmp_path, script)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"sesion": "a"}', 'no field named "sesion"'),
        (b'{"limit": "many"}', "limit"),
        (b'{"wait": 5}', "wait"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"\xff", "no JSON object"),
        (b'{"session": "\xff"}', "no JSON object"),
        (b'{"limit": 1, "limit": 2}', "duplicate key"),
        (b'{"a":' * 9000, "depth"),
        (b'{"session": "a"', "JSON"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong_in_one_line(tmp_path: Path, body: bytes, says: str) -> None:
    async def script(gateway: Gateway) -> None:
        answer = await gateway("claim", body)
        assert error(answer) == (400, "InvalidInput")
        message = answer.json()["error"]["message"]
        assert says in message
        assert "\n" not in message
        assert len(message) < 400
        assert gateway.overseer.seen == []

    through(tmp_path, script)


def test_a_body_may_be_large_but_not_endless(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        fits = json.dumps({"capabilities": ["x" * (MAX_AGENT_BODY_BYTES - 100)]}).encode()
        assert (await gateway("join", fits)).status_code == 200
        assert error(await gateway("join", b" " * (MAX_AGENT_BODY_BYTES + 1))) == (400, "InvalidInput")

    through(tmp_path, script)


def test_another_host_name_is_refused_here_too(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        assert error(await gateway("join", headers={**SCRIBE, "host": "evil.example"})) == (403, "PermissionDenied")
        assert gateway.overseer.seen == []

    through(tmp_path, script)


def test_a_page_elsewhere_has_no_use_for_it_but_its_origin_is_no_reason_to_refuse(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        answer = await gateway("join", headers={**SCRIBE, "origin": "https://elsewhere.example"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers

    through(tmp_path, script)


def test_a_claim_waits_and_carries_its_epoch(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        claim = asyncio.ensure_future(gateway("claim", {"session": "s", "wait": "30s"}))
        await gateway.overseer.waiting.wait()
        assert not claim.done()
        gateway.overseer.work.set()
        (claimed,) = (await claim).json()["claims"]
        assert (claimed["epoch"], claimed["task"]["task_id"], claimed["task"]["ended"]) == ("3", "t-1", False)
        assert "tes" not in claimed["task"], "unknown is unknown"

    through(tmp_path, script)


def test_who_hangs_up_claims_nothing(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        gone = asyncio.Event()
        messages: list[Any] = [{"type": "http.request", "body": b'{"wait": "30s"}', "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            return

        headers = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"authorization", b"Bearer scribe-token")]
        scope = {
            "type": "http", "method": "POST", "path": f"{PATH}/claim", "raw_path": b"", "query_string": b"",
            "headers": [*headers, (b"content-length", b"15")], "http_version": "1.1", "scheme": "http",
        }  # fmt: skip
        claim = asyncio.ensure_future(gateway.app(scope, receive, send))
        await gateway.overseer.waiting.wait()
        gone.set()
        await gateway.overseer.left.wait()
        await claim

    through(tmp_path, script)


def test_a_stop_ends_the_waiting_calls_at_once(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        claim = asyncio.ensure_future(gateway("claim", {"wait": "30s"}))
        await gateway.overseer.waiting.wait()
        gateway.stopping.set()
        assert error(await claim) == (503, "Unavailable")
        await gateway.overseer.left.wait()

    through(tmp_path, script)


def test_one_token_may_not_take_all_the_places_where_calls_wait(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        claims = [asyncio.ensure_future(gateway("claim", {"wait": "30s"})) for _ in range(MAX_WAITING_EACH + 1)]
        done, waiting = await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
        assert [error(each.result()) for each in done] == [(429, "ResourceExhausted")]
        assert (await gateway("join")).status_code == 200, "what does not wait still passes"
        gateway.overseer.work.set()
        assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}
        assert (await gateway("claim", {"wait": "30s"})).status_code == 200, "places are free again"

    through(tmp_path, script)


def test_a_silent_overseer_is_503(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        relay = GrpcRelay("127.0.0.1:1")
        app = create_app(bench(tmp_path / "other", agents=relay).at)
        assert error(await Gateway(app, gateway.stopping, gateway.overseer)("join")) == (503, "Unavailable")
        await relay.close()

    through(tmp_path, script)


def test_the_description_lists_every_call_with_its_fields(tmp_path: Path) -> None:
    async def script(gateway: Gateway) -> None:
        transport = httpx.ASGITransport(app=gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
            answer = await client.get(PATH)
        assert answer.json() == description()

    through(tmp_path, script)
    calls = description()["calls"]
    assert len(calls) == len(ALLOW)
    assert calls["claim"]["request"]["wait"] == 'seconds, as "1.5s"'
    assert calls["heartbeat"]["response"]["order"].startswith("ORDER_GO_ON | ORDER_THROTTLE")
    assert calls["claim"]["response"]["claims"][0]["task"]["params"] == {"<key>": "string"}


def test_answers_do_not_wait_for_delayed_acknowledgements() -> None:
    async def main() -> None:
        nodelay: list[int] = []
        listener = bind("127.0.0.1:0")

        class Look(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                nodelay.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        server = await asyncio.get_running_loop().create_server(Look, sock=listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await reader.read()
        writer.close()
        server.close()
        assert nodelay == [1]

    asyncio.run(main())
