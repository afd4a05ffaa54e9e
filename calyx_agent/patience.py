"""Repeating a call while the station can't be reached."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from calyx_agent.client import AgentError

log = logging.getLogger("calyx_agent")

T = TypeVar("T")
LONGEST_PAUSE_SECONDS = 10.0


async def repeat(
    what: str,
    call: Callable[[], Awaitable[T]],
    *,
    sleep: Callable[[float], Awaitable[None]],
    until: Callable[[], bool] = lambda: False,
    seconds: float | None = None,
) -> T:
    """The call's answer. Made again, with jitter, after errors that pass, until `until()` or for `seconds` at most.

    Only for calls that may be repeated: reads, claims (an unheard one lapses), and answers of which the station
    keeps the first.
    """

    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning("%s: %s; trying again", what, state.outcome.exception())

    def give_up(state: RetryCallState) -> bool:
        return until() or (seconds is not None and (state.seconds_since_start or 0.0) > seconds)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, AgentError) and error.passing),
        wait=wait_random_exponential(multiplier=0.25, max=LONGEST_PAUSE_SECONDS),
        stop=give_up,
        sleep=sleep,
        before_sleep=say,
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("the last attempt returns or raises")
