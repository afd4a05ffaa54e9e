"""Calls that wait for the disk together: while one batch is being made durable, the next one gathers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from chassis.errors import ResourceExhausted
from chassis.executor import Executor

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gather(Generic[Item, Answer]):
    """`work` gets all that came meanwhile and answers each, or with what it is to raise; one batch at a time.

    Lives on one event loop. At most `most` wait; the next is refused with ResourceExhausted.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Answer | BaseException]], executor: Executor, most: int
    ) -> None:
        self._work, self._executor, self._most = work, executor, most
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._draining: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Answer:
        if len(self._waiting) >= self._most:
            raise ResourceExhausted(f"{self._most} are waiting to be stored; nothing was done with this one, try again")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    answers = await self._executor.run(self._work, [item for item, _ in batch])
                except Exception as error:  # whatever it is, each caller gets it
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # its caller went away
                        continue
                    if isinstance(answer, BaseException):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._draining = None
