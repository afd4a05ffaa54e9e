"""The client alone, and what a task does by itself."""

import asyncio
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from calyx.agent.v1 import agent_pb2
from google.protobuf import json_format
from station_fake import RPCS, FakeStation

from calyx_agent import AgentError, AsyncClient, Client, Stopped, Task, file_claim
from calyx_agent.artifacts import PIECE_BYTES, ArtifactError
from calyx_agent.holder import Usage, this_process
from chassis.exchange import artifacts as station_artifacts
from services.dashboard.agent_api import decode

SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "join": {"version": "1", "capabilities": ["a"]},
    "propose": {"domain": "d", "objective": "o", "idempotency_key": "k", "params": {"a": "b"}, "ttl": 1.5},
    "await_task": {"task_id": "t", "seen_state": "ready", "wait": 2},
    "claim": {"session": "s", "limit": 2, "wait": 0, "task_id": "t", "holder": this_process()},
    "heartbeat": {"session": "s", "task_id": "t", "epoch": "3", "cpu_percent": 1.5, "rss_bytes": 7, "progress": "p"},
    "check": {"session": "s", "task_id": "t", "epoch": 3},
    "ack": {"session": "s", "task_id": "t", "epoch": 3, "status": "done", "cost": {"a": 1}, "duration": 1e-7},
    "nack": {"session": "s", "task_id": "t", "epoch": 3, "delay": 5, "reason": "r"},
    "recall": {"text": "x", "limit": 3, "domain": "d", "min_cosine": 0.5},
    "report": {"text": "x", "task_id": "t"},
    "get_status": {},
    "put_artifact": {"artifact": "sha256:00:2", "offset": 1, "data": b"ab"},
    "get_artifact": {"artifact": "sha256:00:2", "task_id": "t", "offset": 3, "limit": 4},
}


def client(answer: Any) -> Client:
    return Client("http://127.0.0.1:1/", "secret-token", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("rpc", sorted(RPCS))
def test_every_call_of_the_contract_has_a_method_whose_body_the_contract_takes(rpc: str) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"said": rpc})

    assert getattr(client(answer), rpc)(**ARGUMENTS[rpc]) == {"said": rpc}

    async def awaited() -> Any:
        async with AsyncClient("http://127.0.0.1:1", "secret-token", transport=httpx.MockTransport(answer)) as asks:
            return await getattr(asks, rpc)(**ARGUMENTS[rpc])

    assert asyncio.run(awaited()) == {"said": rpc}
    assert seen[0].content == seen[1].content
    assert seen[0].url.path == f"/api/agent/v1/{rpc}"
    assert seen[0].headers["authorization"] == "Bearer secret-token"
    made = json_format.MessageToDict(decode(RPCS[rpc], seen[0].content), preserving_proto_field_name=True)
    assert set(ARGUMENTS[rpc]) - {"wait"} <= set(made), "nothing that was given is dropped"


def test_the_methods_are_the_contracts() -> None:
    assert set(RPCS.values()) == set(SERVICE.methods_by_name)


@pytest.mark.parametrize(
    ("answer", "code", "passing"),
    [
        (httpx.Response(409, json={"error": {"code": "LeaseLost", "message": "gone"}}), "LeaseLost", False),
        (httpx.Response(503, json={"error": {"code": "Unavailable", "message": "x"}}), "Unavailable", True),
        (httpx.Response(403, json={"error": "PermissionDenied", "reason": "Host"}), "PermissionDenied", False),
        (httpx.Response(502, text="<html>bad gateway</html>"), "Unavailable", True),
        (httpx.Response(503, text="Service Unavailable"), "Unavailable", True),
        (httpx.Response(404, text="<html>"), "Internal", False),
        (httpx.Response(200, text="hello"), "Internal", False),
        (httpx.Response(200, json=[1]), "Internal", False),
        (httpx.Response(400, json={"error": None}), "Internal", False),
    ],
)
def test_every_answer_is_a_dictionary_or_an_error_with_a_code(answer: httpx.Response, code: str, passing: bool) -> None:
    with pytest.raises(AgentError) as caught:
        client(lambda _request: answer).get_status()
    assert (caught.value.code, caught.value.passing) == (code, passing)
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code"), [(httpx.ConnectError("refused"), "Unavailable"), (httpx.ReadTimeout("late"), "DeadlineExceeded")]
)
def test_a_station_that_is_not_there_is_an_error_that_passes(error: Exception, code: str) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(AgentError) as caught:
        client(answer).get_status()
    assert (caught.value.code, caught.value.passing) == (code, True)


def test_address_and_token_come_from_the_environment_and_a_missing_token_says_where_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CALYX_URL", raising=False)
    monkeypatch.delenv("CALYX_AGENT_TOKEN", raising=False)
    with pytest.raises(AgentError, match="calyx agent invite"):
        Client()
    monkeypatch.setenv("CALYX_AGENT_TOKEN", "t")
    with Client() as asks:
        assert (asks.url, asks.local) == ("http://127.0.0.1:4040", True)
    monkeypatch.setenv("CALYX_URL", "https://station.example/")
    with Client() as asks:
        assert (asks.url, asks.local) == ("https://station.example", False)


# ---- what a task does by itself


def held(**more: Any) -> Task:
    claimed = {"manifest_json": json.dumps({"task_id": "t", "domain": "d", "procedure": "p"}), "epoch": "2"}
    return Task(claimed, loop=asyncio.get_running_loop(), **more)


async def allowed(_task: Task) -> dict[str, Any]:
    return {"allowed": True}


def test_a_throttle_makes_pauses_as_long_as_the_share_asks() -> None:
    async def main() -> None:
        used, slept = iter([0.0, 2.0, 3.0, 3.0, 5.0]), []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        task = held(ask=allowed, sleep=sleep, cpu_seconds=lambda: next(used))
        task.orders.take({"order": "ORDER_THROTTLE", "cpu_percent": 25.0})
        await task.apause()
        assert slept == [6.0], "2 s of CPU in 8 s are 25 %"
        task.orders.take({"order": "ORDER_GO_ON"})
        await task.apause()
        assert slept == [6.0]

    asyncio.run(main())


def test_a_stop_stays_a_stop_and_ends_a_sleep() -> None:
    async def main() -> None:
        task = held(ask=allowed)
        task.orders.take({"order": "ORDER_SLEEP", "reason": "backup"})
        waiting = asyncio.ensure_future(task.apause())
        await asyncio.sleep(0)
        assert not waiting.done()
        task.orders.take({"order": "ORDER_STOP", "reason": "cancelled"})
        with pytest.raises(Stopped, match="cancelled"):
            await waiting
        task.orders.take({"order": "ORDER_GO_ON"})
        assert task.stopped == "cancelled"

    asyncio.run(main())


def test_this_process_is_known_by_more_than_its_number(tmp_path: Path) -> None:
    holder = this_process()
    assert holder is not None
    assert len(holder["boot_id"]) == 36
    assert holder["start_ticks"] > 0
    assert this_process(tmp_path) is None, "without /proc nothing is claimed"
    assert Usage(tmp_path).sample()[1] is None
    assert (Usage().sample()[1] or 0) > 1_000_000


def test_a_claim_about_a_file_is_about_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert file_claim(tmp_path / "a")["expect"]["sha256"].startswith("e3b0c442")
    with pytest.raises(FileNotFoundError):
        file_claim(tmp_path / "b")


# ---- payloads


def test_a_file_is_handed_in_by_its_digest_and_fetched_in_a_task(tmp_path: Path) -> None:
    content = os.urandom(PIECE_BYTES + 12_345)
    (tmp_path / "big.bin").write_bytes(content)
    station = FakeStation(svf=tmp_path / "svf", unreachable=["put_artifact", "get_artifact"])
    name = asyncio.run(station.agent().aput(tmp_path / "big.bin"))
    assert PIECE_BYTES == station_artifacts.PIECE_BYTES, "said twice, since the package imports nothing of the station"
    assert name == f"sha256:{sha256(content).hexdigest()}:{len(content)}"
    assert station.calls.count("put_artifact") == 4, "lost, asked again how far it is, and two pieces"
    agent = station.agent()
    got: list[bytes] = []

    @agent.task("notes")
    def work(task: Task) -> None:
        got.append(task.fetch("data", tmp_path / "here").read_bytes())
        with pytest.raises(KeyError):
            task.fetch("other", tmp_path / "nothing")

    station.task(params={"data": name})
    asyncio.run(agent.arun(tasks=1))
    assert got == [content] and station.on_record["t-1"].status == "done"
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["big.bin", "here"]


@pytest.mark.parametrize("how", ["shorter", "other"])
def test_what_comes_damaged_is_never_the_file_that_was_asked_for(tmp_path: Path, how: str) -> None:
    (tmp_path / "big").write_bytes(b"hello world")
    station = FakeStation(svf=tmp_path / "svf")
    name = asyncio.run(station.client().upload(tmp_path / "big"))
    (kept,) = (each for each in (tmp_path / "svf").rglob("*") if each.is_file())
    (tmp_path / "there").write_bytes(b"before")

    async def damaged(_request: object) -> agent_pb2.GetArtifactResponse:
        return agent_pb2.GetArtifactResponse(data=b"" if how == "shorter" else kept.read_bytes()[::-1])

    station.get_artifact = damaged  # type: ignore[method-assign] # as a damaged disk would answer
    with pytest.raises(ArtifactError, match=r"ended after|another digest"):
        asyncio.run(station.client().download(name, tmp_path / "there", task_id="t-1"))
    with pytest.raises(ArtifactError, match="names no artifact"):
        asyncio.run(station.client().download("../x", tmp_path / "there", task_id="t-1"))
    assert (tmp_path / "there").read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".part")] == []
