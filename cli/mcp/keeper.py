"""The claims an agent holds, kept alive in the background, so that a slow model loses none.

One loop a claim sends its heartbeats and keeps the last order. It ends when the station says stop or lost, when the
task is acked, and when nobody has spoken about the task for `idle_seconds`: a model that went away must not hold it.
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from calyx_agent import AgentError, AsyncClient
from cli.mcp.answers import GO_ON, Json, Order, Task, lost, seconds

IDLE_SECONDS = 900.0
GIVE_BACK_SECONDS = 5.0
REMEMBERED = 32
_DEFAULT_EVERY = 5.0
_GONE = ("LeaseLost", "AlreadyAcked", "NotFound", "Unauthenticated", "PermissionDenied")

log = logging.getLogger("calyx.mcp")


@dataclass(slots=True, kw_only=True)
class Held:
    """One claim. `lock` keeps a heartbeat from crossing an ack; `quiet_seconds` counts from the last tool call."""

    task_id: str
    epoch: int
    manifest: Json
    task: Task
    since: float
    order: Order = GO_ON
    progress: str = ""
    quiet_seconds: float = 0.0
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Keeper:
    """Holds the claims of one session. `pause` waits that many seconds; tests give their own."""

    def __init__(
        self,
        station: AsyncClient,
        session: str,
        *,
        pause: Callable[[float], Awaitable[None]] = anyio.sleep,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._station, self.session = station, session
        self._pause, self._idle_seconds = pause, idle_seconds
        self._held: dict[str, Held] = {}
        self._gone: dict[str, Order] = {}
        self._group: TaskGroup | None = None
        self._hello: Json | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Beats while it is open; what is still held at the end is given back."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()
                await self.give_back_all("the MCP server was shut down before the task was acked")

    async def hello(self) -> Json:
        """Who the agent is here and how often to send heartbeats; asked once."""
        if self._hello is None:
            self._hello = await self._station.join(version="mcp", capabilities=["mcp"])
        return self._hello

    @property
    def every_seconds(self) -> float:
        """How often a heartbeat is sent; never less often than three times a lease."""
        said = self._hello or {}
        every = seconds(said.get("heartbeat_every")) or _DEFAULT_EVERY
        lease = seconds(said.get("lease"))
        return min(every, lease / 3) if lease else every

    def held(self) -> list[Held]:
        return list(self._held.values())

    def find(self, task_id: str) -> Held | Order:
        """The claim, counted as spoken of; or why there is none."""
        if (found := self._held.get(task_id)) is not None:
            found.quiet_seconds = 0.0
            return found
        return self._gone.get(task_id) or lost("this server holds no claim on it")

    async def claim(self, task_id: str, wait_seconds: float) -> tuple[Held | None, str]:
        """One task, or none and why. Not torn by a cancellation: what comes too late is given back at once."""
        await self.hello()
        with anyio.CancelScope(shield=True):
            answer = await self._station.claim(session=self.session, limit=1, wait=wait_seconds, task_id=task_id)
            claims = answer.get("claims") or []
            held = self._keep(claims[0]) if claims else None
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            if held is not None:
                await self._nack(held, "the client cancelled the call that claimed it")
            raise
        return held, str(answer.get("reason") or "")

    def _keep(self, claim: Json) -> Held:
        task = Task.of(claim.get("task") or {})
        manifest = json.loads(claim.get("manifest_json") or "{}")
        task_id = str(manifest.get("task_id") or task.task_id)
        held = Held(
            task_id=task_id, epoch=int(claim.get("epoch") or 0), manifest=manifest, task=task,
            since=anyio.current_time(),
        )  # fmt: skip
        self._held[task_id] = held
        self._gone.pop(task_id, None)
        if self._group is not None:
            self._group.start_soon(self._keep_alive, held)
        return held

    async def _keep_alive(self, held: Held) -> None:
        while self._held.get(held.task_id) is held:
            every = self.every_seconds
            await self._pause(every)
            held.quiet_seconds += every
            if held.quiet_seconds > self._idle_seconds:
                await self._nack(held, f"no call about it for {self._idle_seconds:.0f} s")
                return
            try:
                order = await self.beat(held)
            except AgentError as error:
                log.warning("heartbeat of %s: %s; it is tried again", held.task_id, error)
                continue
            if order.order in ("stop", "lost"):
                return

    async def beat(self, held: Held, *, cpu_percent: float | None = None, rss_bytes: int | None = None) -> Order:
        """One heartbeat. Raises AgentError when the station could not be asked; the claim is then kept as it is."""
        async with held.lock:
            if self._held.get(held.task_id) is not held:
                return self._gone.get(held.task_id) or lost("it is no longer held here")
            try:
                answer = await self._station.heartbeat(
                    session=self.session, task_id=held.task_id, epoch=held.epoch, progress=held.progress,
                    cpu_percent=cpu_percent, rss_bytes=rss_bytes,
                )  # fmt: skip
                held.order = Order.of(answer)
            except AgentError as error:
                if error.code not in _GONE:
                    raise
                held.order = lost(error.message)
            if held.order.order == "lost":
                self._drop(held, held.order)
            return held.order

    async def ack(self, held: Held, answer: Json) -> Json:
        """The one answer. The claim is let go of when it is on record or was lost, and kept when nobody answered."""
        async with held.lock:
            try:
                acked = await self._station.ack(
                    session=self.session, task_id=held.task_id, epoch=held.epoch,
                    duration=anyio.current_time() - held.since, **answer,
                )  # fmt: skip
            except AgentError as error:
                if error.code in _GONE:
                    self._drop(held, lost(error.message))
                raise
            self._drop(held, lost(f"it was acked {acked.get('status')} here"))
            return acked

    async def give_back(self, held: Held, reason: str) -> None:
        """For another try later. Raises AgentError."""
        async with held.lock:
            await self._station.nack(session=self.session, task_id=held.task_id, epoch=held.epoch, reason=reason)
            self._drop(held, lost(f"it was given back: {reason}"))

    async def give_back_all(self, reason: str) -> None:
        """Everything at once, in `GIVE_BACK_SECONDS` at most; what is not reached runs out by its lease."""
        with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
            async with anyio.create_task_group() as group:
                for held in self.held():
                    group.start_soon(self._nack, held, reason)

    async def _nack(self, held: Held, reason: str) -> None:
        why = f"no answer in {GIVE_BACK_SECONDS:g} s"
        with anyio.move_on_after(GIVE_BACK_SECONDS, shield=True):
            try:
                await self.give_back(held, reason)
                return
            except AgentError as error:
                why = error.message
        log.warning("%s could not be given back (%s); its lease runs out by itself", held.task_id, why)
        self._drop(held, lost(reason))

    def _drop(self, held: Held, why: Order) -> None:
        if self._held.get(held.task_id) is held:
            del self._held[held.task_id]
        self._gone[held.task_id] = why
        while len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
