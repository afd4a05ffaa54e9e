import asyncio
import threading
from collections.abc import Iterator

import pytest
from rpc_harness import CboServicer, MemoryServicer, Side, Wire, served

from chassis.executor import InlineExecutor, ThreadExecutor
from chassis.rpc.local import LocalChannel


@pytest.fixture
def wire() -> Iterator[Wire]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    executor = ThreadExecutor("test", 4)
    wire = Wire(loop, executor, MemoryServicer(executor), CboServicer())
    try:
        yield wire
    finally:
        for channel in wire.channels:
            channel.close()
        wire.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        executor.close()


@pytest.fixture(params=["wire", "local"])
def side(request: pytest.FixtureRequest) -> Side:
    """The same contract over the network and in one process."""
    if request.param == "wire":
        wire: Wire = request.getfixturevalue("wire")
        wire.start()
        return Side(wire.channel(), wire.memory, wire.cbo, wire.channel)
    memory, cbo = MemoryServicer(InlineExecutor()), CboServicer()
    registry: dict[str, object] = {each.full_name: each for each in served(memory, cbo)}
    return Side(LocalChannel(registry, "operator"), memory, cbo, lambda caller: LocalChannel(registry, caller))
