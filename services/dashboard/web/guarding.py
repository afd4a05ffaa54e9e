"""What holds for every request: a Host of ours, a bounded body, strict headers, a count."""

import json
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.canonical import Json
from chassis.errors import CalyxError, InvalidInput, PermissionDenied
from services.dashboard import agent_api
from services.dashboard.web.problems import problem

MAX_BODY_BYTES = 64 * 1024
MAX_AGENT_BODY_BYTES = 1024 * 1024
"""An agent's ack carries its plan and its effects."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Json = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Set on every answer unless a route has set its own."""


class Guard:
    """ASGI around the app; it never buffers, so that event streams pass through."""

    def __init__(self, app: ASGIApp, host_ok: Callable[[str], bool], count: Callable[[str, int], None]) -> None:
        self._app, self._host_ok, self._count = app, host_ok, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            agents = scope["path"].startswith(f"{agent_api.PATH}/")
            refusal = self._refusal(scope["headers"], MAX_AGENT_BODY_BYTES if agents else MAX_BODY_BYTES)
            if refusal is None:
                await self._app(scope, receive, send_guarded)
            else:
                await _answer(*(agent_api.refusal if agents else problem)(refusal), send_guarded)
        finally:
            self._count(getattr(scope.get("route"), "path", "unmatched"), status)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]], largest: int) -> CalyxError | None:
        """Why this request goes no further, if it does not."""
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._host_ok(hosts[0]):
            return PermissionDenied("this page is not served under that name (Host header)")
        given = dict(headers)
        length = given.get(b"content-length", b"0")
        if b"transfer-encoding" in given or not length.isdigit():
            return InvalidInput("send the body with a Content-Length")
        if int(length) > largest:
            return InvalidInput(f"the body is larger than {largest} bytes")
        return None


async def _answer(status: int, body: Json, send: Send) -> None:
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
