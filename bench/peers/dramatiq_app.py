"""What Dramatiq's workers load. An end is told after the acknowledgement, which its middleware sees."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.window import tell


class Ends(dramatiq.Middleware):
    def after_ack(self, broker: Any, message: Any) -> None:
        tell(message.args[0])


broker: Any = RedisBroker(url=os.environ["BENCH_STORE"])  # type: ignore[no-untyped-call,unused-ignore] # untyped there
broker.add_middleware(Ends())
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def work(number: int, payload: str) -> None:
    """Nothing: the queue is what is measured."""
