"""The overview as it is now, asked for at most about once a second however many watch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from chassis.canonical import Json, canonical_json
from chassis.clock import Clock
from chassis.executor import Executor
from services.dashboard.answers import Answers
from services.dashboard.overview import Own, assemble

FRESH_SECONDS = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One overview: the document, its bytes, and when it was put together (monotonic)."""

    document: Json
    body: bytes
    at: float


async def together(jobs: Iterable[Awaitable[None]]) -> None:
    """All at once: one slow service delays nobody else's answer beyond its own deadline."""
    await asyncio.gather(*jobs)


async def in_turn(jobs: Iterable[Awaitable[None]]) -> None:
    """One after the other, without a running loop: on the virtual station."""
    for job in jobs:
        await job


class Board:
    """Nobody asks, nothing happens: peers are asked only when an overview is wanted."""

    def __init__(
        self,
        answers: Answers,
        own: Callable[[], Own],
        clock: Clock,
        executor: Executor,
        gather: Callable[[Iterable[Awaitable[None]]], Awaitable[None]] = together,
    ) -> None:
        self._answers, self._own, self._clock, self._executor, self._gather = answers, own, clock, executor, gather
        self._lock = asyncio.Lock()
        self._shown: Shown | None = None

    async def overview(self) -> Shown:
        async with self._lock:
            if self._shown is None or self._clock.monotonic() - self._shown.at >= FRESH_SECONDS:
                await self._gather([self._executor.run(self._answers.ask, peer) for peer in self._answers.peers])
                self._shown = await self._executor.run(self._assemble)
            return self._shown

    def changed(self) -> None:
        """A person did something: the next overview asks everybody anew."""
        self._answers.forget_ages()
        self._shown = None

    def _assemble(self) -> Shown:
        at = self._clock.monotonic()
        document = assemble(self._answers.snapshot(), self._own(), now=self._clock.now(), monotonic=at)
        return Shown(document=document, body=canonical_json(document), at=at)
