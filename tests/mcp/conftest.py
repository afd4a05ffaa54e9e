"""Each test of a session runs in both eras of the protocol: the handshake, and 2026-07-28 without one."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp_harness import Desk, desk

Session = Callable[[Desk], Awaitable[None]]


@pytest.fixture(params=["legacy", "2026-07-28"])
def session(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs one test's coroutine on a desk, once for each era of the protocol."""

    def run(body: Session, **settings: Any) -> None:
        async def main() -> None:
            with anyio.fail_after(15):
                async with desk(request.param, **settings) as at:
                    await body(at)

        anyio.run(main)

    return run
