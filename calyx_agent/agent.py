"""An agent around plain functions: does the tasks of its domains, proposes, waits for approval."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from calyx_agent.answering import Functions, Rehearse, Work
from calyx_agent.client import MAX_WAIT_SECONDS, AsyncClient, Json
from calyx_agent.patience import repeat
from calyx_agent.shift import PATIENCE_SECONDS, Shift, Terms

F = TypeVar("F", bound=Work)


class Agent:
    """One process of an outside agent. `name` is checked against the token's; url and token as for `Client`.

    A function gets a `Task` and returns `task.done(…)`, `task.no_work(…)`, `task.failed(…)` or None (done). What it
    raises is a failed task. Ordinary functions run in threads, coroutines in the loop, where they must not block.
    SIGTERM (under `run`): claims no more, gives running tasks `grace_seconds`, then stops them at their next check.
    On the station's own machine a process that stalls is killed before its task goes to another, as nobody can
    know what a stalled one does when it wakes; `killed_when_stalled=False` leaves that out. `state` is where
    `Task.apply` keeps what it needs to undo (default: calyx-agent in XDG_STATE_HOME).
    """

    def __init__(
        self,
        name: str = "",
        *,
        url: str | None = None,
        token: str | None = None,
        version: str = "",
        concurrency: int = 1,
        grace_seconds: float = 10.0,
        killed_when_stalled: bool = True,
        state: Path | None = None,
        connect: Callable[[], AsyncClient] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._terms = Terms(
            name=name,
            session=f"py-{secrets.token_hex(4)}",
            version=version,
            concurrency=max(1, min(16, concurrency)),
            grace_seconds=grace_seconds,
            killed_when_stalled=killed_when_stalled,
            state=state or _state_folder(),
            sleep=sleep,
        )
        self._connect = connect or (lambda: AsyncClient(url, token))
        self._functions: dict[str, Functions] = {}

    def task(self, domain: str, *, rehearse: Rehearse | None = None, undo: Work | None = None) -> Callable[[F], F]:
        """Decorator: this function does the tasks of `domain`.

        `rehearse` returns a Plan and changes nothing (level GUIDE of a domain that rehearses); an approved task runs
        only if a new rehearsal gives the approved plan again. `undo` reverses the task `task.undo_of`.
        """

        def keep(work: F) -> F:
            if domain in self._functions:
                raise ValueError(f"{domain} has a function already")
            self._functions[domain] = Functions(work=work, rehearse=rehearse, undo=undo)
            return work

        return keep

    def run(self, *, tasks: int | None = None) -> None:
        """Work until SIGTERM or SIGINT, or until `tasks` have been answered. Raises AgentError for a bad token."""
        _log_to_terminal()

        async def main() -> None:
            leaving = asyncio.Event()
            with _signals(leaving):
                await self.arun(tasks=tasks, leaving=leaving)

        asyncio.run(main())

    async def arun(self, *, tasks: int | None = None, leaving: asyncio.Event | None = None) -> None:
        """As `run`, in a loop of your own; set `leaving` to end it."""
        if not self._functions:
            raise ValueError("this agent has no functions; decorate one with @agent.task(domain)")
        async with self._connect() as client:
            await Shift(self._terms, self._functions, client, leaving or asyncio.Event(), tasks).work()

    def propose(
        self,
        domain: str,
        objective: str,
        *,
        key: str,
        params: Mapping[str, str] | None = None,
        procedure: str = "",
        ttl: float | None = None,
    ) -> Json:
        """Ask for a task and print its id; the same `key` gives the same task, however often it is run again."""
        return asyncio.run(self.apropose(domain, objective, key=key, params=params, procedure=procedure, ttl=ttl))

    async def apropose(
        self,
        domain: str,
        objective: str,
        *,
        key: str,
        params: Mapping[str, str] | None = None,
        procedure: str = "",
        ttl: float | None = None,
    ) -> Json:
        """`propose` in a coroutine. Returns the AgentTask; a refusal says why in `reason`."""
        async with self._connect() as client:
            answer = await repeat(
                "propose",
                lambda: client.propose(
                    domain=domain, objective=objective, idempotency_key=key, procedure=procedure, params=params, ttl=ttl
                ),
                sleep=self._terms.sleep,
            )
        task: Json = answer["task"]
        sys.stderr.write(f"{task['task_id']}: {task['state']}{', ' + task['reason'] if task['reason'] else ''}\n")
        return task

    def put(self, source: Path) -> str:
        """Hand in a file too large for params: the name to give a task in them, where `Task.fetch` takes it."""
        return asyncio.run(self.aput(source))

    async def aput(self, source: Path) -> str:
        """`put` in a coroutine."""
        async with self._connect() as client:
            return await repeat(
                f"handing in {source.name}", lambda: client.upload(source), sleep=self._terms.sleep,
                seconds=PATIENCE_SECONDS,
            )  # fmt: skip

    def await_approval(self, task_id: str) -> Json:
        """Wait, for days if need be, until a person has answered or nobody needs to; the AgentTask then.

        After a yes it is the task that was made of it. A station that restarts meanwhile does not matter.
        """
        return asyncio.run(self.aawait_approval(task_id))

    async def aawait_approval(self, task_id: str) -> Json:
        """`await_approval` in a coroutine."""
        return await self._await(
            task_id,
            lambda task, approved: approved or (task["level"] == "LEVEL_EXECUTE" and task["state"] != "held"),
        )

    def await_end(self, task_id: str) -> Json:
        """Wait until the task, or the one that an approval made of it, has ended; the AgentTask then."""
        return asyncio.run(self.aawait_end(task_id))

    async def aawait_end(self, task_id: str) -> Json:
        """`await_end` in a coroutine."""
        return await self._await(task_id, lambda _task, _approved: False)

    async def _await(self, task_id: str, enough: Callable[[Json, bool], bool]) -> Json:
        seen, approved = "", False
        async with self._connect() as client:
            while True:
                look = partial(client.await_task, task_id=task_id, seen_state=seen, wait=MAX_WAIT_SECONDS)
                task: Json = (await repeat(f"waiting for {task_id}", look, sleep=self._terms.sleep))["task"]
                if task["approved_as"]:
                    task_id, seen, approved = task["approved_as"], "", True
                elif enough(task, approved) or (task["ended"] and not task["waits_for_person"]):
                    return task
                else:
                    seen = task["state"]


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "calyx-agent"


def _log_to_terminal() -> None:
    """Only where the program has set up no logging of its own."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each heartbeat says nothing


@contextlib.contextmanager
def _signals(leaving: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event, where signals can be had (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, leaving.set)
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)
