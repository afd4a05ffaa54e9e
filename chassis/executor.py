"""Where blocking work runs: threads beside the event loop, or inline on a virtual station."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

from chassis.errors import ResourceExhausted

P = ParamSpec("P")
T = TypeVar("T")


class Executor(Protocol):
    """Runs `fn(*args)` off the event loop and returns what it returns or raises what it raises."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


class ThreadExecutor:
    """A bounded pool of threads; the caller's context (deadline, caller's name) travels along."""

    def __init__(self, name: str, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: context.run(fn, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class BoundedExecutor:
    """Hands work on to `inner`, at most `most` pieces at once, waiting ones included; refuses the next at once.

    Give it to a servicer, and `inner` to what must answer meanwhile (health checks). Raises ResourceExhausted.
    """

    def __init__(self, inner: Executor, most: int) -> None:
        self._inner, self._most, self._under_way = inner, most, 0

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._under_way >= self._most:
            raise ResourceExhausted(
                f"{self._most} requests are under way or waiting; nothing was done with this one, try again in a second"
            )
        self._under_way += 1  # on the event loop's own thread: no lock
        try:
            return await self._inner.run(fn, *args, **kwargs)
        finally:
            self._under_way -= 1


class InlineExecutor:
    """Runs the work at once, in the caller. A servicer on it never suspends."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)
