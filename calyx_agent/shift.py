"""One run of an agent: from hello to the last answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from calyx_agent import files
from calyx_agent.answering import Functions, answer
from calyx_agent.client import AgentError, AsyncClient, Json
from calyx_agent.holder import Usage, this_process
from calyx_agent.patience import repeat
from calyx_agent.task import Task
from calyx_agent.work import Result

log = logging.getLogger("calyx_agent")

T = TypeVar("T")
ELSEWHERE_SECONDS = 5.0
"""For how long a task that no function here is for goes back; another process of this agent may have one."""
IDLE_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
"""How long a call about a task in hand is repeated while the station can't be reached."""
LEAVING = "the agent is ending"
LOST = frozenset({"LeaseLost", "NotFound", "AlreadyAcked", "Unauthenticated", "PermissionDenied"})
"""Answers to a heartbeat after which the task is nobody's business here any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How an agent works; see `Agent`."""

    name: str
    session: str
    version: str
    concurrency: int
    grace_seconds: float
    killed_when_stalled: bool
    state: Path
    sleep: Callable[[float], Awaitable[None]]


class Shift:
    """Used once. `leaving` ends it; `tasks`: it ends by itself once so many were answered."""

    def __init__(
        self,
        terms: Terms,
        functions: Mapping[str, Functions],
        client: AsyncClient,
        leaving: asyncio.Event,
        tasks: int | None = None,
    ) -> None:
        self._terms, self._functions, self._client = terms, functions, client
        self._leaving, self._left = leaving, tasks
        self._running: dict[asyncio.Task[None], Task] = {}
        self._holder = this_process() if client.local and terms.killed_when_stalled else None
        self._beat_seconds = 5.0
        self._station = ""

    async def work(self) -> None:
        """Raises AgentError when the station refuses this agent altogether (bad token, revoked)."""
        try:
            await self._join()
        except AgentError as error:
            if error.passing and self._leaving.is_set():
                return
            raise
        gone = asyncio.ensure_future(self._leaving.wait())
        try:
            while not gone.done() and self._left != 0:
                free = self._terms.concurrency - len(self._running)
                free = free if self._left is None else min(free, self._left - len(self._running))
                if free > 0:
                    await self._take(free, gone)
                else:
                    await asyncio.wait({gone, *self._running}, return_when=asyncio.FIRST_COMPLETED)
            await self._finish()
        finally:
            gone.cancel()
            for running, task in self._running.items():
                task.orders.leave(LEAVING)
                running.cancel()

    async def _join(self) -> None:
        domains = sorted(self._functions)
        hello = await self._repeat("join", lambda: self._client.join(version=self._terms.version, capabilities=domains))
        name, self._station = str(hello["agent"]), str(hello["station_id"])
        if self._terms.name and self._terms.name != name:
            raise AgentError("PermissionDenied", f"this token is {name}'s, not {self._terms.name}'s")
        await asyncio.to_thread(files.prune, self._terms.state / self._station, files.UNDO_KEPT_SECONDS)
        known = {each["domain"]: each for each in hello.get("domains", [])}
        for domain in domains:
            if domain not in known:
                log.warning("%s may not work in %s, or the station has no such domain yet", name, domain)
            elif known[domain].get("rehearses") and self._functions[domain].rehearse is None:
                log.warning("%s is rehearsed at GUIDE, but there is no rehearse function; it would fail", domain)
        self._beat_seconds = max(0.2, float(str(hello.get("heartbeat_every") or "5s").rstrip("s")))
        log.info("joined as %s (%s), domains: %s", name, self._terms.session, ", ".join(sorted(known)) or "none")

    async def _take(self, free: int, gone: "asyncio.Future[Any]") -> None:
        """Wait for work; start what comes. Leaving ends the wait: the station gives nothing to who has hung up."""
        began = asyncio.get_running_loop().time()
        asked = asyncio.ensure_future(
            self._repeat(
                "claim", lambda: self._client.claim(session=self._terms.session, limit=free, holder=self._holder)
            )
        )
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return
            claims = list(asked.result().get("claims", []))
        except AgentError as error:
            if error.passing and gone.done():
                return
            raise
        finally:
            asked.cancel()
        for claimed in claims:
            task = Task(
                claimed,
                loop=asyncio.get_running_loop(),
                ask=self._may,
                take=self._fetch,
                state=self._terms.state / self._station,
                sleep=self._terms.sleep,
            )
            running = asyncio.ensure_future(self._one(task))
            self._running[running] = task
            running.add_done_callback(self._ended)
        if not claims and asyncio.get_running_loop().time() - began < IDLE_SECONDS:
            # An answer that came at once (kill switch, say) must not become a loop that asks without a pause.
            await self._terms.sleep(IDLE_SECONDS)

    def _ended(self, running: "asyncio.Task[None]") -> None:
        task = self._running.pop(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            log.error("%s: %s", task.id, error, exc_info=error)

    async def _finish(self) -> None:
        """Let what runs end within the grace; then have it stop at its next check, and wait for that."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._terms.grace_seconds)
        for task in self._running.values():
            task.orders.leave(LEAVING)
        if self._running:
            await asyncio.wait(self._running)

    async def _one(self, task: Task) -> None:
        functions = self._functions.get(task.domain)
        if self._leaving.is_set():
            await self._give_back(task, 0.0, LEAVING)
            return
        if functions is None:
            await self._give_back(task, ELSEWHERE_SECONDS, f"no function for {task.domain} in this process")
            return
        log.info("%s: %s, %s%s", task.id, task.domain, task.procedure, " (rehearsal)" if task.rehearsal else "")
        began = asyncio.get_running_loop().time()
        beating = asyncio.ensure_future(self._beat(task))
        try:
            result = await answer(functions, task)
            if result is None:
                await self._give_back(task, 0.0, LEAVING)
            else:
                await self._ack(task, result, asyncio.get_running_loop().time() - began)
        finally:
            beating.cancel()

    async def _ack(self, task: Task, result: Result, seconds: float) -> None:
        """The one answer. Repeating the very same call is safe: the station keeps the first and says so."""
        if self._left is not None:
            self._left -= 1
        if task.orders.lost:
            log.warning("%s: no longer ours (%s); nothing was answered", task.id, task.stopped)
            return
        fields = result.to_ack(touched=task.touched)
        try:
            said = await self._repeat(
                f"ack of {task.id}",
                lambda: self._client.ack(**self._about(task), duration=seconds, **fields),
                until=lambda: task.orders.lost,
            )
        except AgentError as error:
            log.error("%s: the answer %s was not taken: %s", task.id, result.status, error)
            return
        log.info("%s: %s%s", task.id, said["status"], f", {result.detail}" if result.detail else "")

    async def _give_back(self, task: Task, delay: float, reason: str) -> None:
        try:
            await self._repeat(
                f"nack of {task.id}", lambda: self._client.nack(**self._about(task), delay=delay, reason=reason)
            )
        except AgentError as error:
            log.warning("%s: could not be given back (%s); its lease will run out", task.id, error)
        else:
            log.info("%s: given back, %s", task.id, reason)

    async def _beat(self, task: Task) -> None:
        usage = Usage()
        while not task.orders.lost:
            cpu_percent, rss_bytes = usage.sample()
            try:
                said = await self._client.heartbeat(
                    **self._about(task), cpu_percent=cpu_percent, rss_bytes=rss_bytes, progress=task.progress
                )
            except AgentError as error:
                if error.code in LOST:
                    said = {"order": "ORDER_LOST", "reason": error.message}
                else:
                    log.warning("%s: heartbeat: %s", task.id, error)
                    said = None
            if said is not None:
                task.orders.take(said)
            await self._terms.sleep(self._beat_seconds)

    async def _may(self, task: Task) -> Json:
        return await self._repeat(
            f"check of {task.id}", lambda: self._client.check(**self._about(task)), until=lambda: bool(task.stopped)
        )

    async def _fetch(self, task: Task, artifact: str, to: Path) -> None:
        await self._repeat(
            f"an artifact of {task.id}",
            lambda: self._client.download(artifact, to, task_id=task.id),
            until=lambda: bool(task.stopped),
        )

    def _about(self, task: Task) -> Json:
        return {"session": self._terms.session, "task_id": task.id, "epoch": task.epoch}

    async def _repeat(self, what: str, call: Callable[[], Awaitable[T]], until: Callable[[], bool] | None = None) -> T:
        """Without `until`: until the agent leaves; for a task in hand also no longer than its patience."""
        if until is None:
            return await repeat(what, call, sleep=self._terms.sleep, until=self._leaving.is_set)
        return await repeat(what, call, sleep=self._terms.sleep, until=until, seconds=PATIENCE_SECONDS)
