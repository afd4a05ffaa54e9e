"""Live without reload: the overview as Server-Sent Events, only while somebody watches."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from chassis.errors import ResourceExhausted
from services.dashboard.web.context import Context

EVERY_SECONDS = 2.0
RETRY_MILLISECONDS = 2000
MAX_WATCHERS = 32


def events(at: Context) -> APIRouter:
    api = APIRouter()
    watchers = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal watchers
        watchers += 1
        try:
            yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
            while not at.stopping.is_set():
                started = at.clock.monotonic()
                shown = await at.board.overview()
                yield b"event: overview\ndata: " + shown.body + b"\n\n"
                rest = EVERY_SECONDS - (at.clock.monotonic() - started)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(at.stopping.wait(), max(0.1, rest))
        finally:
            watchers -= 1

    @api.get("/api/events")
    async def watch() -> StreamingResponse:
        if watchers >= MAX_WATCHERS:
            raise ResourceExhausted("too many pages watch at once; this one asks for /api/overview instead")
        return StreamingResponse(stream(), media_type="text/event-stream")

    return api
