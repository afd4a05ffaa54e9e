"""The agent API over HTTP/JSON: each call goes to the overseer with the caller's own token, which it alone judges.

Nothing is certified, repeated or remembered here. A cookie counts for nothing, so no page can act through a browser.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol, TypeVar

import grpc
from calyx.agent.v1 import agent_pb2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from google.protobuf import json_format, message_factory
from google.protobuf.message import Message

from chassis.canonical import Json, sha256_hex
from chassis.errors import CalyxError, InvalidInput, NotFound, ResourceExhausted, Unauthenticated, Unavailable
from chassis.rpc.auth import SCHEME
from chassis.rpc.status import DETAILS_KEY, WireError, from_wire
from services.dashboard.web.problems import HTTP_STATUS

T = TypeVar("T")

PATH = "/api/agent/v1"
DOCS = "docs/runbooks/join-as-an-agent.md"
ANSWER_SECONDS = 15.0
"""What an answer may take beyond what the call itself waits."""
MAX_WAIT_SECONDS = 30.0
MAX_WAITING, MAX_WAITING_EACH = 128, 16
"""Calls that may wait at once, in all and with one token: fewer than uvicorn's connections, so that heartbeats pass."""
MAX_DEPTH = 20

_SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"]
_DURATION, _TIMESTAMP = "google.protobuf.Duration", "google.protobuf.Timestamp"


class Relay(Protocol):
    """The way to the overseer: method in CamelCase, the Authorization header as it came, seconds. Raises CalyxError."""

    async def __call__(self, method: str, request: Message, authorization: str, timeout: float) -> Message: ...


class GrpcRelay:
    """One channel, opened at the first call because it belongs to the loop that runs then."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    async def __call__(self, method: str, request: Message, authorization: str, timeout: float) -> Message:
        if self._channel is None:
            options = [
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.enable_http_proxy", 0),  # a proxy in the environment has no business on loopback
            ]
            self._channel = grpc.aio.insecure_channel(self._address, options=options)
        described = _SERVICE.methods_by_name[method]
        call: Any = self._channel.unary_unary(
            f"/{_SERVICE.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(described.output_type).FromString,
        )
        try:
            answer: Message = await call(request, timeout=timeout, metadata=(("authorization", authorization),))
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b"")
            known = details if isinstance(details, bytes) else b""
            raise from_wire(WireError(code=error.code(), message=error.details() or "", details=known)) from error
        return answer

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


def agent_api(relay: Relay, stopping: asyncio.Event) -> APIRouter:
    """POST /api/agent/v1/<call>, and a description of all of them at /api/agent/v1."""
    api = APIRouter()
    methods = {snake(name): name for name in _SERVICE.methods_by_name}
    about, waits = description(), _Waits()

    @api.get(PATH)
    async def describe() -> Json:
        return about

    @api.post(PATH + "/{rpc}", responses={"default": {"description": '{"error": {"code", "message"}}'}})
    async def call(request: Request, rpc: str) -> JSONResponse:
        try:
            authorization = _bearer(request.headers.get("authorization", ""))
            if rpc not in methods:
                raise NotFound(f"there is no call {rpc[:60]!r}; GET {PATH} lists them")
            asked = decode(methods[rpc], await request.body())
            wait = _wait_seconds(asked)
            async with waits.one(authorization, wait):
                going = relay(methods[rpc], asked, authorization, wait + ANSWER_SECONDS)
                answer = await _while_wanted(going, request, stopping)
            return JSONResponse(encode(answer))
        except CalyxError as error:
            status, body = refusal(error)
            headers = {"www-authenticate": "Bearer"} if status == 401 else None
            return JSONResponse(body, status_code=status, headers=headers)

    return api


def refusal(error: CalyxError) -> tuple[int, Json]:
    """(HTTP status, body)."""
    return HTTP_STATUS[error.status], {"error": {"code": error.reason, "message": error.message}}


def decode(method: str, body: bytes) -> Message:
    """The request of this method. Raises InvalidInput with what is wrong in one line."""
    request = message_factory.GetMessageClass(_SERVICE.methods_by_name[method].input_type)()
    if body and not body.lstrip().startswith(b"{"):
        raise InvalidInput(f"the body is no JSON object; GET {PATH} lists each call's fields")
    try:
        json_format.Parse(body or b"{}", request, max_recursion_depth=MAX_DEPTH)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if isinstance(error, json_format.ParseError) else "the body is no JSON object"
        first = " ".join(said.partition(" Available Fields")[0].split())[:300].rstrip(".")
        raise InvalidInput(f"{first}; GET {PATH} lists each call's fields") from error
    return request


def encode(message: Message) -> Json:
    """Proto JSON in the contract's own names; every field is there, unset optionals are left out."""
    made: Json = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return made


def snake(name: str) -> str:
    """AwaitTask → await_task."""
    return re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower()


def description() -> Json:
    """Every call with its fields, for programs (and people with curl)."""
    return {
        "api": _SERVICE.full_name,
        "call": f"POST {PATH}/<name> with a JSON object as body",
        "authorization": "Bearer <token>; `calyx agent invite NAME --domain D` shows it once",
        "error": {"error": {"code": "string", "message": "string"}},
        "docs": DOCS,
        "calls": {
            snake(name): {"request": _fields(method.input_type), "response": _fields(method.output_type)}
            for name, method in sorted(_SERVICE.methods_by_name.items())
        },
    }


def _fields(message: Any) -> Json:
    return {field.name: _kind(field) for field in message.fields}


def _kind(field: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"<key>": _kind(field.message_type.fields_by_name["value"])}
    one: Any = {
        field.TYPE_STRING: "string",
        field.TYPE_BOOL: "bool",
        field.TYPE_INT32: "integer",
        field.TYPE_INT64: "integer, as a string",
        field.TYPE_DOUBLE: "number",
    }.get(field.type, "")
    if field.enum_type is not None:
        one = " | ".join(each.name for each in field.enum_type.values if each.number)
    elif field.message_type is not None:
        times = {_DURATION: 'seconds, as "1.5s"', _TIMESTAMP: "time, ISO 8601"}
        one = times.get(field.message_type.full_name) or _fields(field.message_type)
    return [one] if field.is_repeated else one


def _bearer(header: str) -> str:
    if not header.startswith(SCHEME) or not header.removeprefix(SCHEME).strip():
        raise Unauthenticated(
            "send the header 'Authorization: Bearer <token>' with the token that `calyx agent invite` printed"
        )
    if not (header.isascii() and header.isprintable()):
        raise Unauthenticated("this token belongs to nobody on this station")
    return header


def _wait_seconds(request: Message) -> float:
    if "wait" not in request.DESCRIPTOR.fields_by_name:
        return 0.0
    wait: Any = getattr(request, "wait")  # noqa: B009 — two of the eleven messages have it
    seconds: float = wait.seconds + wait.nanos / 1e9
    return min(MAX_WAIT_SECONDS, max(0.0, seconds))


class _Waits:
    """How many calls wait now, in all and by token (its digest; the token itself is not kept)."""

    def __init__(self) -> None:
        self._by: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def one(self, authorization: str, wait_seconds: float) -> AsyncIterator[None]:
        if not wait_seconds:
            yield
            return
        who = sha256_hex(authorization.encode())
        if self._by[who] >= MAX_WAITING_EACH or self._by.total() >= MAX_WAITING:
            raise ResourceExhausted("too many calls wait at once; end one, or ask again in a second")
        self._by[who] += 1
        try:
            yield
        finally:
            self._by[who] -= 1
            if not self._by[who]:
                del self._by[who]


async def _while_wanted(going: Awaitable[T], request: Request, stopping: asyncio.Event) -> T:
    """The answer, unless the caller hangs up (a claim nobody hears of helps nobody) or the station stops."""
    answer = asyncio.ensure_future(going)
    ends = [asyncio.ensure_future(_hung_up(request)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait([answer, *ends], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise Unavailable("the station's page is stopping; call again in a moment")
    finally:
        for each in (answer, *ends):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError, CalyxError):
            await answer


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
