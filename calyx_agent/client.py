"""The station's agent API over HTTP: one method per call, plain dictionaries back (proto JSON, snake_case).

`Client` blocks, `AsyncClient` is awaited; both have the same methods. Durations are seconds. Nothing is retried
here: `calyx_agent.Agent` does that, because only it knows which calls may be repeated.
"""

import asyncio
import base64
import json
import os
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from calyx_agent import artifacts

DEFAULT_URL = "http://127.0.0.1:4040"
PATH = "/api/agent/v1/"
ANSWER_SECONDS = 15.0
"""How long an answer may take beyond what the call itself waits."""
MAX_WAIT_SECONDS = 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Json = dict[str, Any]
Answer = TypeVar("Answer")


class AgentError(Exception):
    """The station said no, or could not be asked.

    `code` is one of the station's: InvalidInput, NotFound, Duplicate, Refused, LeaseLost, AlreadyAcked,
    Unauthenticated, PermissionDenied, ResourceExhausted, Unavailable, DeadlineExceeded, Internal, …
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later without anybody changing anything."""
        return self.code in ("Unavailable", "DeadlineExceeded", "ResourceExhausted")


class _Calls(Generic[Answer]):
    """Every call of calyx.agent.v1.AgentService, said once for both clients."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self.url = (url or os.environ.get("CALYX_URL") or DEFAULT_URL).rstrip("/")
        self._token = token or os.environ.get("CALYX_AGENT_TOKEN", "")
        if not self._token:
            raise AgentError("Unauthenticated", "no token: set CALYX_AGENT_TOKEN to what `calyx agent invite` printed")
        self.local = urlsplit(self.url).hostname in _LOOPBACK

    def _options(self) -> Json:
        # A proxy in the environment has no business on loopback, nor with its token.
        return {
            "base_url": self.url + PATH,
            "headers": {"authorization": f"Bearer {self._token}", "content-type": "application/json"},
            "trust_env": not self.local,
        }

    def call(self, rpc: str, body: Mapping[str, Any], wait_seconds: float = 0.0) -> Answer:
        """One call by its name in snake_case, as it is in the contract. Raises AgentError."""
        raise NotImplementedError

    def join(self, *, version: str = "", capabilities: Sequence[str] = ()) -> Answer:
        """Say hello: {agent, station_id, domains, lease, heartbeat_every}."""
        return self.call("join", {"version": version, "capabilities": list(capabilities)})

    def propose(
        self,
        *,
        domain: str,
        objective: str,
        idempotency_key: str,
        procedure: str = "",
        params: Mapping[str, str] | None = None,
        ttl: float | None = None,
    ) -> Answer:
        """Ask for a task: {task}. The same key gives the same task."""
        body: Json = {
            "domain": domain,
            "objective": objective,
            "idempotency_key": idempotency_key,
            "procedure": procedure,
            "params": dict(params or {}),
        }
        return self.call("propose", _with(body, ttl=ttl))

    def await_task(self, *, task_id: str, seen_state: str = "", wait: float = MAX_WAIT_SECONDS) -> Answer:
        """{task}, as soon as its state is not `seen_state`, at the latest after `wait` (at most 30)."""
        return self.call("await_task", _with({"task_id": task_id, "seen_state": seen_state}, wait=wait), wait)

    def claim(
        self,
        *,
        session: str,
        limit: int = 1,
        wait: float = MAX_WAIT_SECONDS,
        task_id: str = "",
        holder: Mapping[str, Any] | None = None,
    ) -> Answer:
        """{claims: [{manifest_json, epoch, task}], reason}; waits at most 30 s for one."""
        body: Json = {"session": session, "limit": limit, "task_id": task_id}
        if holder is not None:
            body["holder"] = dict(holder)
        return self.call("claim", _with(body, wait=wait), wait)

    def heartbeat(
        self,
        *,
        session: str,
        task_id: str,
        epoch: int | str,
        cpu_percent: float | None = None,
        rss_bytes: int | None = None,
        progress: str = "",
    ) -> Answer:
        """{order: ORDER_GO_ON | ORDER_THROTTLE | ORDER_SLEEP | ORDER_STOP | ORDER_LOST, reason, until, cpu_percent}."""
        body: Json = {"session": session, "task_id": task_id, "epoch": epoch, "progress": progress}
        if cpu_percent is not None:
            body["cpu_percent"] = cpu_percent
        if rss_bytes is not None:
            body["rss_bytes"] = rss_bytes
        return self.call("heartbeat", body)

    def check(self, *, session: str, task_id: str, epoch: int | str) -> Answer:
        """May the effect happen now? {allowed, reason}."""
        return self.call("check", {"session": session, "task_id": task_id, "epoch": epoch})

    def ack(
        self,
        *,
        session: str,
        task_id: str,
        epoch: int | str,
        status: str,
        detail: str = "",
        files_changed: int = 0,
        plan_json: str = "",
        plan_digest: str = "",
        effects_json: str = "",
        claims_json: str = "",
        cost: Mapping[str, float] | None = None,
        applied: bool = False,
        reverted: bool = False,
        duration: float | None = None,
    ) -> Answer:
        """The one answer: {status, recorded}. `status`: rehearsed, done, no_work, failed, cancelled or undone."""
        body: Json = {
            "session": session,
            "task_id": task_id,
            "epoch": epoch,
            "status": status,
            "detail": detail,
            "files_changed": files_changed,
            "plan_json": plan_json,
            "plan_digest": plan_digest,
            "effects_json": effects_json,
            "claims_json": claims_json,
            "cost": dict(cost or {}),
            "applied": applied,
            "reverted": reverted,
        }
        return self.call("ack", _with(body, duration=duration))

    def nack(
        self, *, session: str, task_id: str, epoch: int | str, delay: float | None = None, reason: str = ""
    ) -> Answer:
        """Give it back: {}."""
        body = {"session": session, "task_id": task_id, "epoch": epoch, "reason": reason}
        return self.call("nack", _with(body, delay=delay))

    def recall(self, *, text: str, limit: int = 5, domain: str = "", min_cosine: float | None = None) -> Answer:
        """{matches}, most similar first."""
        body: Json = {"text": text, "limit": limit, "domain": domain}
        if min_cosine is not None:
            body["min_cosine"] = min_cosine
        return self.call("recall", body)

    def report(self, *, text: str, task_id: str = "") -> Answer:
        """Tell the station something, at most 2,000 characters: {}."""
        return self.call("report", {"text": text, "task_id": task_id})

    def put_artifact(self, *, artifact: str, offset: int, data: bytes) -> Answer:
        """Take in a piece: {received, complete}. `upload` does all of it."""
        body = {"artifact": artifact, "offset": offset, "data": base64.b64encode(data).decode()}
        return self.call("put_artifact", body)

    def get_artifact(self, *, artifact: str, task_id: str, offset: int, limit: int) -> Answer:
        """A piece of what this task names: {data}, base64. `download` does all of it."""
        body = {"artifact": artifact, "task_id": task_id, "offset": offset, "limit": limit}
        return self.call("get_artifact", body)

    def get_status(self) -> Answer:
        """{station_id, kill_switch, kill_switch_why, last_pulse, last_pulse_age_seconds, domains, tasks}."""
        return self.call("get_status", {})


class Client(_Calls[Json]):
    """Blocking; safe for several threads. `url` and `token` default to CALYX_URL and CALYX_AGENT_TOKEN."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        super().__init__(url, token)
        self._http = httpx.Client(transport=transport, **self._options())

    def call(self, rpc: str, body: Mapping[str, Any], wait_seconds: float = 0.0) -> Json:
        try:
            answer = self._http.post(rpc, content=_encoded(body), timeout=wait_seconds + ANSWER_SECONDS)
        except httpx.TransportError as error:
            raise _unreached(self.url, error) from error
        return _decoded(answer)

    def upload(self, source: Path) -> str:
        """Hand in a file, or go on where an earlier try ended: the name that a task's params give it.

        Raises AgentError, OSError, ArtifactError (the file changed meanwhile).
        """
        calls = artifacts.uploading(source, artifacts.name_of(source))
        return artifacts.drive(calls, lambda asked: self.put_artifact(**asked))

    def download(self, artifact: str, to: Path, *, task_id: str) -> None:
        """Have what one of your tasks names as the file `to`, its digest checked.

        Raises AgentError, OSError, ArtifactError (it is damaged).
        """
        artifacts.drive(
            artifacts.downloading(artifact, to, task_id), lambda asked: _piece(self.get_artifact(**asked))
        )  # fmt: skip

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls[Coroutine[Any, Any, Json]]):
    """For one event loop; each method is awaited."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(url, token)
        self._http = httpx.AsyncClient(transport=transport, **self._options())

    async def call(self, rpc: str, body: Mapping[str, Any], wait_seconds: float = 0.0) -> Json:
        try:
            answer = await self._http.post(rpc, content=_encoded(body), timeout=wait_seconds + ANSWER_SECONDS)
        except httpx.TransportError as error:
            raise _unreached(self.url, error) from error
        return _decoded(answer)

    async def upload(self, source: Path) -> str:
        """As `Client.upload`."""
        name = await asyncio.to_thread(artifacts.name_of, source)
        return await artifacts.adrive(artifacts.uploading(source, name), lambda asked: self.put_artifact(**asked))

    async def download(self, artifact: str, to: Path, *, task_id: str) -> None:
        """As `Client.download`."""

        async def ask(asked: Json) -> Json:
            return _piece(await self.get_artifact(**asked))

        await artifacts.adrive(artifacts.downloading(artifact, to, task_id), ask)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _with(body: Json, **seconds: float | None) -> Json:
    """Durations as proto JSON writes them."""
    return body | {name: f"{max(0.0, value):.9f}s" for name, value in seconds.items() if value is not None}


def _piece(answer: Json) -> Json:
    return {"data": base64.b64decode(answer["data"])}


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def _decoded(answer: httpx.Response) -> Json:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        raise AgentError(str(error.get("code", "Internal")), str(error.get("message", "")))
    if isinstance(body, dict) and isinstance(error, str):  # the page's own refusals (Host, size)
        raise AgentError(error, str(body.get("reason", "")))
    code = "Unavailable" if answer.status_code in (502, 503, 504) else "Internal"
    raise AgentError(code, f"HTTP {answer.status_code} and no answer of the station's; is CALYX_URL right?")


def _unreached(url: str, error: httpx.TransportError) -> AgentError:
    if isinstance(error, httpx.TimeoutException):
        return AgentError("DeadlineExceeded", f"{url} did not answer in time")
    why = str(error) or type(error).__name__
    return AgentError("Unavailable", f"{url} can't be reached ({why}); is the station up?")
