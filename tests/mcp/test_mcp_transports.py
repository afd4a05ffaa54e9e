"""`calyx mcp` as a process: what goes over stdio, who gets in over HTTP, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_fake_station import TOKEN, FakeStation, gateway

from chassis.errors import InvalidInput
from cli.main import main
from cli.mcp.transports import loopback

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cli.main", "mcp"]
BEARER = {"authorization": f"Bearer {TOKEN}"}
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip


class Gateway:
    """The fake station's HTTP API on a free port, in a thread of its own."""

    def __init__(self) -> None:
        self.station = FakeStation()
        config = uvicorn.Config(gateway(self.station), port=0, log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: anyio.run(self._serve))
        self._thread.start()
        assert self._up.wait(20)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _serve(self) -> None:
        startup = self._server.startup

        async def told(sockets: Any = None) -> None:
            await startup(sockets)
            self._up.set()

        self._server.startup = told  # type: ignore[method-assign]  # uvicorn tells nobody when it listens
        await self._server.serve()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CALYX_URL": self.url,
            "CALYX_AGENT_TOKEN": TOKEN,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}",
        }

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="module")
def at() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


def test_over_stdio_the_whole_way_works_and_what_is_held_at_the_end_is_given_back(at: Gateway, tmp_path: Path) -> None:
    at.station.add("stdio-1")
    at.station.add("stdio-2")

    async def body() -> None:
        parameters = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=at.environment)
        with anyio.fail_after(30):
            async with Client(parameters) as client:
                assert len((await client.list_tools()).tools) == 9
                for task_id in ("stdio-1", "stdio-2"):
                    claimed = await client.call_tool("claim", {"task_id": task_id})
                    assert claimed.structured_content is not None and claimed.structured_content["claimed"] is True
                acked = await client.call_tool("ack", {"task_id": "stdio-1", "status": "no_work"})
                assert acked.structured_content is not None and acked.structured_content["recorded"] is True

    anyio.run(body)
    assert [at.station.tasks[each]["state"] for each in ("stdio-1", "stdio-2")] == ["no_work", "ready"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_it_gives_back_and_keeps_stdout_clean_and_the_token_to_itself(
    at: Gateway, number: signal.Signals
) -> None:
    at.station.add(f"signal-{number}")
    call = {"name": "claim", "arguments": {"task_id": f"signal-{number}"}}
    lines = []
    with subprocess.Popen(
        COMMAND, env=at.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for message in (
            INITIALIZE,
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
        ):
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            if "id" in message:
                lines.append(json.loads(process.stdout.readline()))
        assert lines[1]["result"]["structuredContent"]["claimed"] is True
        process.send_signal(number)
        assert process.wait(20) == -number
        assert process.stdout.read() == "", "nothing but the protocol goes to stdout"
        assert TOKEN not in process.stderr.read()
    assert at.station.tasks[f"signal-{number}"]["state"] == "ready"


def test_over_http_only_the_token_opens_and_only_for_this_host_and_a_claim_outlives_a_client(at: Gateway) -> None:
    modes = ("legacy", "2026-07-28")
    command = [*COMMAND, "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, env=at.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline().strip()
            assert line.startswith("calyx mcp: http://127.0.0.1:") and line.endswith("/mcp"), line
            url = line.removeprefix("calyx mcp: ")
            _only_the_token_opens(url)
            for mode in modes:
                at.station.add(f"http-{mode}")
                anyio.run(_claims, url, mode, f"http-{mode}")
                assert at.station.tasks[f"http-{mode}"]["state"] == "claimed", "a client's end is not the server's"
        finally:
            process.terminate()
        assert TOKEN not in process.stderr.read()
    assert [at.station.tasks[f"http-{mode}"]["state"] for mode in modes] == ["ready", "ready"]


def _only_the_token_opens(url: str) -> None:
    plain = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

    def status(headers: dict[str, str]) -> int:
        return httpx.post(url, json=INITIALIZE, headers=plain | headers, timeout=10).status_code

    assert status(BEARER) == 200
    assert status({}) == 401
    assert status({"authorization": "Bearer wrong"}) == 401
    assert status({"authorization": f"Basic {TOKEN}"}) == 401
    assert status(BEARER | {"host": "evil.example"}) == 421
    assert status(BEARER | {"host": "127.0.0.1.evil.example:80"}) == 421
    assert status(BEARER | {"origin": "http://evil.example"}) == 403
    assert status(BEARER | {"origin": url.removesuffix("/mcp")}) == 200
    refused = httpx.post(url, json=INITIALIZE, headers=plain, timeout=10)
    assert "www-authenticate" in refused.headers and TOKEN not in refused.text
    huge = httpx.post(url, content=b"[" + b" " * (1 << 20) + b"]", headers=plain | BEARER, timeout=10)
    assert huge.status_code == 413


async def _claims(url: str, mode: str, task_id: str) -> None:
    with anyio.fail_after(30):
        async with (
            httpx2.AsyncClient(headers=BEARER, timeout=20) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            claimed = await client.call_tool("claim", {"task_id": task_id})
            assert claimed.structured_content is not None and claimed.structured_content["claimed"] is True


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.168.1.4:80", ":4041", "127.0.0.1", "127.0.0.1:x", "[::]:1"])
def test_it_binds_to_loopback_only(address: str) -> None:
    with pytest.raises(InvalidInput, match="--http"):
        loopback(address)
    assert loopback("[::1]:4041") == ("::1", 4041)


def test_without_a_token_it_says_where_one_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CALYX_AGENT_TOKEN", raising=False)
    assert main(["mcp"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "calyx agent invite" in said.err
