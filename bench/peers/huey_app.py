"""What huey's consumer loads. It has no acknowledgement: a task is deleted when a worker takes it."""

import os
from typing import Any

from huey import SqliteHuey  # type: ignore[import-not-found,import-untyped,unused-ignore] # only in .venv-bench; it ships no types

from bench.peers.window import tell

queue: Any = SqliteHuey(
    "bench",
    filename=os.environ["BENCH_STORE"],
    fsync=True if os.environ["BENCH_FSYNC"] == "1" else None,
    results=False,
)


@queue.task()  # type: ignore[untyped-decorator,unused-ignore] # huey ships no types
def work(number: int, payload: str) -> None:
    tell(number)
