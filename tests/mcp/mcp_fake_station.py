"""A station that speaks calyx.agent.v1 in one process: rules of the contract, no clock, answers at once."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from calyx_agent import AgentError, AsyncClient

Json = dict[str, Any]
TOKEN = "test-token-of-tidy"
DIGEST = "0" * 64


class FakeStation:
    """One agent, `tidy`, with the domain `tidy_files`. Tests put tasks in and read what was called."""

    def __init__(self) -> None:
        self.tasks: dict[str, Json] = {}
        self.manifests: dict[str, Json] = {}
        self.epochs: dict[str, int] = {}
        self.acks: dict[str, Json] = {}
        self.reports: list[Json] = []
        self.calls: list[tuple[str, Json]] = []
        self.orders: dict[str, Json] = {}
        self.kill_switch = ""
        self.down = False
        self.at_await: Callable[[str], None] = lambda task_id: None
        self.at_claim: Callable[[], Awaitable[None]] | None = None
        self._called = anyio.Event()

    def add(
        self, task_id: str, *, state: str = "ready", manifest: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        self.tasks[task_id] = {
            "task_id": task_id,
            "domain": "tidy_files",
            "procedure": "sort",
            "objective": "sort the inbox",
            "params": {"folder": "/srv/inbox"},
            "state": state,
            "reason": "",
            "waits_for_person": False,
            "ended": False,
            "approved_as": "",
            "level": "LEVEL_GUIDE",
            **more,
        }
        self.manifests[task_id] = {
            "svf_version": "2.0",
            "task_id": task_id,
            "domain": "tidy_files",
            "expires_at": "2026-11-23T12:00:00.000000Z",
            **(manifest or {}),
        }

    def made(self, rpc: str) -> list[Json]:
        return [body for name, body in self.calls if name == rpc]

    async def until_made(self, rpc: str, times: int) -> None:
        """Returns once `rpc` was called that often."""
        with anyio.fail_after(10):
            while len(self.made(rpc)) < times:
                await self._called.wait()

    async def answer(self, rpc: str, body: Json) -> Json:
        self.calls.append((rpc, body))
        self._called.set()
        self._called = anyio.Event()
        if self.down:
            raise AgentError("Unavailable", "http://station can't be reached\n(refused); is the station up?")
        if rpc == "claim" and self.at_claim is not None:
            await self.at_claim()
        reply: Json = getattr(self, f"rpc_{rpc}")(body)
        return reply

    def rpc_join(self, _: Json) -> Json:
        return {"agent": "tidy", "station_id": "st-1", "lease": "30s", "heartbeat_every": "5s", "domains": []}

    def rpc_get_status(self, _: Json) -> Json:
        return {
            "station_id": "st-1",
            "kill_switch": bool(self.kill_switch),
            "kill_switch_why": self.kill_switch,
            "last_pulse": "bp-000000001",
            "last_pulse_age_seconds": 2.5,
            "domains": [
                {
                    "domain": "tidy_files", "title": "Tidy files", "level": "LEVEL_GUIDE", "procedures": ["sort"],
                    "paths": ["/srv/inbox"], "effects": "reversible", "ttl": "600s", "rehearses": True,
                }
            ],
            "tasks": [task for task in self.tasks.values() if not task["ended"]],
        }  # fmt: skip

    def rpc_recall(self, body: Json) -> Json:
        match = {
            "id": "e-1", "cosine": 0.91, "objective": body["text"], "domain": "tidy_files", "procedure": "sort",
            "outcome": "done", "tes": 0.8, "at": "2026-11-22T10:00:00Z",
        }  # fmt: skip
        return {"matches": [match][: body["limit"]]}

    def rpc_propose(self, body: Json) -> Json:
        if body["domain"] != "tidy_files":
            raise AgentError("PermissionDenied", f"{body['domain']} is not a domain of tidy's")
        task_id = f"p-{body['idempotency_key'][:12].lower()}"
        if task_id not in self.tasks:
            self.add(task_id, objective=body["objective"], params=body["params"])
        return {"task": self.tasks[task_id]}

    def rpc_await_task(self, body: Json) -> Json:
        self.at_await(body["task_id"])
        return {"task": self._task(body)}

    def rpc_claim(self, body: Json) -> Json:
        if self.kill_switch:
            return {"claims": [], "reason": f"kill switch: {self.kill_switch}"}
        for task_id, task in self.tasks.items():
            if task["state"] == "ready" and body["task_id"] in ("", task_id):
                task["state"] = "claimed"
                self.epochs[task_id] = self.epochs.get(task_id, 0) + 1
                manifest = json.dumps(self.manifests[task_id])
                return {"claims": [{"manifest_json": manifest, "epoch": str(self.epochs[task_id]), "task": dict(task)}]}
        return {"claims": [], "reason": ""}

    def rpc_heartbeat(self, body: Json) -> Json:
        if not self._ours(body):
            return {"order": "ORDER_LOST", "reason": "the lease ran out"}
        return self.orders.get(body["task_id"], {"order": "ORDER_GO_ON", "reason": ""})

    def rpc_check(self, body: Json) -> Json:
        if self.kill_switch:
            return {"allowed": False, "reason": self.kill_switch}
        return {"allowed": self._ours(body), "reason": "" if self._ours(body) else "the lease ran out"}

    def rpc_ack(self, body: Json) -> Json:
        task_id = body["task_id"]
        if (first := self.acks.get(task_id)) is not None:
            return {"status": first["status"], "recorded": False}
        if not self._ours(body):
            raise AgentError("LeaseLost", f"{task_id} is in other hands")
        self.acks[task_id] = body
        self.tasks[task_id] |= {"state": body["status"], "ended": body["status"] != "rehearsed"}
        return {"status": body["status"], "recorded": True}

    def rpc_nack(self, body: Json) -> Json:
        if not self._ours(body):
            raise AgentError("LeaseLost", f"{body['task_id']} is in other hands")
        self.tasks[body["task_id"]]["state"] = "ready"
        return {}

    def rpc_report(self, body: Json) -> Json:
        self.reports.append(body)
        return {}

    def _ours(self, body: Json) -> bool:
        task_id = body["task_id"]
        return self._task(body)["state"] == "claimed" and int(body["epoch"]) == self.epochs.get(task_id)

    def _task(self, body: Json) -> Json:
        if body["task_id"] not in self.tasks:
            raise AgentError("NotFound", f"there is no task {body['task_id']!r} of tidy's")
        return self.tasks[body["task_id"]]


class InProcess(AsyncClient):
    """The client, straight into the fake."""

    def __init__(self, station: FakeStation) -> None:
        super().__init__("http://station", TOKEN)
        self._fake = station

    async def call(self, rpc: str, body: Mapping[str, Any], wait_seconds: float = 0.0) -> Json:
        return await self._fake.answer(rpc, dict(body))


def gateway(station: FakeStation) -> Starlette:
    """The dashboard's agent API over the fake, with its token."""

    async def call(request: Request) -> JSONResponse:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": {"code": "Unauthenticated", "message": "unknown token"}}, 401)
        try:
            return JSONResponse(await station.answer(request.path_params["rpc"], await request.json()))
        except AgentError as error:
            return JSONResponse({"error": {"code": error.code, "message": error.message}}, 409)

    return Starlette(routes=[Route("/api/agent/v1/{rpc}", call, methods=["POST"])])
