"""One run of one peer: `python -m bench.peers.run NAME --folder F --workers N --tasks T` prints tasks a second.

Runs under .venv-bench; how each is set up, and why, is in `bench/exchange_peers.py`.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.peers import servers
from bench.peers.window import PAYLOAD, ends, measure, running

BIN = Path(sys.executable).parent


def huey(folder: Path, workers: int, tasks: int, in_flight: int, *, fsync: bool) -> float:
    os.environ.update(BENCH_STORE=str(folder / "huey.db"), BENCH_FSYNC=str(int(fsync)))
    with ends(folder) as told:
        from bench.peers.huey_app import queue, work

        command = [
            sys.executable, str(BIN / "huey_consumer"), "bench.peers.huey_app.queue",
            "-w", str(workers), "-k", "process", "-d", "0.001", "-m", "0.01", "-n", "-q",
        ]  # fmt: skip
        with running(command, folder / "workers.log"):
            return measure(
                told, lambda number: work(number, PAYLOAD), lambda: queue.storage.queue_size() == 0,
                tasks=tasks, in_flight=in_flight, submitters=4,
            )  # fmt: skip


def celery(folder: Path, workers: int, tasks: int, in_flight: int) -> float:
    with ends(folder) as told, servers.redis(folder) as url, contextlib.ExitStack() as crew:
        os.environ.update(BENCH_STORE=url, BENCH_PREFETCH=str(max(1, in_flight // workers)))
        import redis as client

        from bench.peers.celery_app import work

        for number in range(workers):
            command = [
                sys.executable, "-m", "celery", "-A", "bench.peers.celery_app", "worker", "--pool", "solo",
                "--hostname", f"w{number}@bench", "--loglevel", "ERROR",
                "--without-gossip", "--without-mingle", "--without-heartbeat",
            ]  # fmt: skip
            crew.enter_context(running(command, folder / "workers.log"))
        store = client.Redis.from_url(url)

        def settled() -> bool:
            return not store.llen("celery") and not store.hlen("unacked")

        return measure(
            told, lambda number: work.delay(number, PAYLOAD), settled,
            tasks=tasks, in_flight=in_flight, submitters=1, warm=max(32, 16 * workers),
        )  # fmt: skip


def dramatiq(folder: Path, workers: int, tasks: int, in_flight: int) -> float:
    with ends(folder) as told, servers.redis(folder) as url:
        os.environ.update(BENCH_STORE=url, dramatiq_queue_prefetch=str(max(1, in_flight // workers)))
        import redis as client

        from bench.peers.dramatiq_app import work

        command = [
            sys.executable, "-m", "dramatiq", "bench.peers.dramatiq_app", "--processes", str(workers),
            "--threads", "1", "--skip-logging",
        ]  # fmt: skip
        store = client.Redis.from_url(url)
        with running(command, folder / "workers.log"):
            return measure(
                told, lambda number: work.send(number, PAYLOAD),
                lambda: not store.hlen("dramatiq:default.msgs"),
                tasks=tasks, in_flight=in_flight, submitters=4,
            )  # fmt: skip


def jetstream(folder: Path, workers: int, tasks: int, in_flight: int, *, sync: str) -> float:
    from bench.peers import jetstream as peer

    with ends(folder) as told, servers.nats(folder, sync) as url, contextlib.ExitStack() as crew:
        os.environ["BENCH_STORE"] = url
        asyncio.run(peer.prepare(url))
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            batch = str(max(1, in_flight // workers))
            command = [sys.executable, "-m", "bench.peers.jetstream", batch]
            crew.enter_context(running(command, log))
        while any(b"up" not in (folder / f"worker-{number}.log").read_bytes() for number in range(workers)):
            time.sleep(0.02)
        return asyncio.run(peer.measure(url, told, tasks=tasks, in_flight=in_flight))


def ours(folder: Path, workers: int, tasks: int, in_flight: int) -> float:
    from bench.exchange import measure as measure_ours

    return measure_ours(folder, workers, tasks, in_flight)


KINDS: dict[str, Callable[[Path, int, int, int], float]] = {
    "ours": ours,
    "huey-fsync": partial(huey, fsync=True),
    "huey-default": partial(huey, fsync=False),
    "celery": celery,
    "dramatiq": dramatiq,
    "jetstream-always": partial(jetstream, sync="always"),
    "jetstream-default": partial(jetstream, sync='"2m"'),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=16)
    asked = parser.parse_args()
    print(f"{KINDS[asked.name](asked.folder, asked.workers, asked.tasks, asked.in_flight):.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
