"""What Celery's workers load: acknowledged late, given back when a worker dies, no results kept."""

import os
from typing import Any

from celery import Celery  # type: ignore[import-not-found,import-untyped,unused-ignore] # only in .venv-bench; it ships no types

from bench.peers.window import tell

app: Any = Celery("bench", broker=os.environ["BENCH_STORE"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=16,
)


@app.task  # type: ignore[untyped-decorator] # Celery ships no types
def work(number: int, payload: str) -> None:
    tell(number)
