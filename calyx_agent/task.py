"""One task in an agent's hands: what is asked, whether it may go on, and how to answer it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from calyx_agent import files
from calyx_agent.client import Json
from calyx_agent.work import Change, Plan, Result


class Stopped(Exception):
    """Go no further: cancelled, the kill switch, the claim is lost, or the agent itself ends. Let it pass through."""


class Orders:
    """What the station said last, by heartbeat; it holds until the station says something else.

    A sleep or throttle therefore outlasts a station that can't be reached: in doubt, no effect.
    """

    def __init__(self) -> None:
        self.stop = ""
        self.lost = False
        self.leaving = False
        self.asleep = ""
        self.cpu_percent: float | None = None
        self._changed = asyncio.Event()

    def take(self, answer: Mapping[str, Any]) -> None:
        """One HeartbeatResponse. A stop stays a stop."""
        order, reason = str(answer.get("order", "")), str(answer.get("reason", ""))
        self.asleep = (reason or "a sleep lease") if order == "ORDER_SLEEP" else ""
        self.cpu_percent = float(answer.get("cpu_percent", 0.0)) if order == "ORDER_THROTTLE" else None
        if order in ("ORDER_STOP", "ORDER_LOST") and not self.stop:
            self.stop = reason or ("the claim is lost" if order == "ORDER_LOST" else "stopped by the station")
        self.lost = self.lost or order == "ORDER_LOST"
        self._tell()

    def leave(self, reason: str) -> None:
        """The agent itself ends."""
        if not self.stop:
            self.stop, self.leaving = reason, True
        self._tell()

    async def changed(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Task:
    """Methods that wait have two names: `check()` in ordinary functions, `await acheck()` in coroutines.

    `pause()` is for long work: call it wherever there is time to wait. It returns at once unless the station wants
    less: under a sleep it waits until that ends, under a throttle it waits long enough that the process stays under
    the given percentage of one core since the last call. `check()` does the same and then asks the station whether
    an effect may happen now; call it right before each. Both raise `Stopped`.
    """

    def __init__(
        self,
        claimed: Mapping[str, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[["Task"], Awaitable[Json]],
        take: Callable[["Task", str, Path], Awaitable[None]] | None = None,
        state: Path = Path(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        cpu_seconds: Callable[[], float] = time.process_time,
    ) -> None:
        self.manifest: Json = json.loads(claimed["manifest_json"])
        self.epoch = int(claimed["epoch"])
        self.id: str = self.manifest["task_id"]
        self.domain: str = self.manifest["domain"]
        self.procedure: str = self.manifest["procedure"]
        self.objective: str = self.manifest.get("objective", "")
        self.params: dict[str, str] = dict(self.manifest.get("params", {}))
        self.level: str = self.manifest.get("level", "")
        self.rehearsal: bool = bool(self.manifest.get("rehearsal"))
        self.plan_digest: str = self.manifest.get("plan_digest", "")
        self.undo_of: str = self.manifest.get("undo_of", "")
        """The task to undo, if this is an undo."""
        self.progress = ""
        """In words; goes out with the next heartbeat."""
        self.touched = False
        """Whether the station has allowed an effect of it."""
        self.reverted = False
        """Whether everything it had changed has been put back after a failure."""
        self.orders = Orders()
        self._loop, self._ask, self._sleep, self._cpu_seconds = loop, ask, sleep, cpu_seconds
        self._take = take
        self._state = state
        self._cpu_before = cpu_seconds()

    @property
    def stopped(self) -> str:
        """Why it is to stop; empty: it may go on."""
        return self.orders.stop

    async def apause(self) -> None:
        while self.orders.asleep and not self.orders.stop:
            await self.orders.changed()
        self._raise_if_stopped()
        used = self._cpu_seconds() - self._cpu_before
        if (percent := self.orders.cpu_percent) is not None and used > 0:
            rest = used * (100.0 / max(1.0, percent) - 1.0)
            await self._sleep(max(0.0, rest))
            self._raise_if_stopped()
        self._cpu_before = self._cpu_seconds()

    async def acheck(self) -> None:
        await self.apause()
        answer = await self._ask(self)
        self._raise_if_stopped()
        if not answer.get("allowed"):
            raise Stopped(str(answer.get("reason", "")) or "the station does not allow it now")
        self.touched = True

    async def afetch(self, param: str, to: Path) -> Path:
        assert self._take is not None  # a task of a shift
        await self._take(self, self.params[param], to)
        return to

    def fetch(self, param: str, to: Path) -> Path:
        """The payload that this param names, as the file `to`, its digest checked. KeyError: no such param."""
        self._wait(self.afetch(param, to))
        return to

    def pause(self) -> None:
        self._wait(self.apause())

    def check(self) -> None:
        self._wait(self.acheck())

    def plan(self, writes: files.Writes, notes: str = "") -> Plan:
        """For `rehearse`: what `apply` would do, with copies that a prober can look at (beside the targets)."""
        made = files.rehearse(self.id, writes) if self.rehearsal else Plan(changes=files.changes_of(writes))
        return Plan(changes=made.changes, claims=made.claims, notes=notes)

    def apply(self, writes: files.Writes, detail: str = "") -> Result:
        """Make each file hold these bytes (None: remove it), a `check` before each, pre-images kept for `restore`.

        For ordinary functions; in a coroutine, call it through `asyncio.to_thread`.
        """
        try:
            changes = files.Journal(self._state / self.id).apply(writes, self.check)
        except files.Unreverted:
            raise
        except BaseException:
            self.reverted = self.touched
            raise
        return self.done(detail, changes=changes) if changes else self.no_work(detail)

    def restore(self) -> Result:
        """For `undo`: put back what `apply` changed in the task `undo_of`; fails, untouched, on drift."""
        journal = files.Journal(self._state / self.undo_of)
        self.check()
        try:
            return self.done("put back", changes=journal.restore())
        except files.Drifted as drifted:
            return self.failed(str(drifted), applied=False)

    def done(
        self,
        detail: str = "",
        *,
        changes: Sequence[Change] = (),
        files_changed: int | None = None,
        claims: Sequence[Mapping[str, Any]] = (),
        cost: Mapping[str, float] | None = None,
    ) -> Result:
        """It is done (or, for an undo, undone). Each change carries its claim; `claims` are further ones."""
        return Result(
            status="undone" if self.undo_of else "done",
            detail=detail,
            changes=changes,
            files_changed=files_changed,
            claims=claims,
            cost=cost or {},
        )

    def no_work(self, detail: str = "") -> Result:
        """There was nothing to do."""
        return Result(status="no_work", detail=detail)

    def failed(self, detail: str, *, applied: bool | None = None, reverted: bool = False) -> Result:
        """It did not work. Without `applied`, whatever the station had allowed counts as applied."""
        return Result(status="failed", detail=detail, applied=applied, reverted=reverted)

    def _raise_if_stopped(self) -> None:
        if self.orders.stop:
            raise Stopped(self.orders.stop)

    def _wait(self, awaited: Coroutine[Any, Any, object]) -> None:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            awaited.close()
            raise RuntimeError("in a coroutine write `await task.acheck()`, `task.apause()` or `task.afetch(…)`")
        asyncio.run_coroutine_threadsafe(awaited, self._loop).result()
