"""What the task exchange does in a second, on the file system that it is given.

python bench/exchange.py [--root FOLDER] [--tasks 2000]
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

from chassis.clock import SystemClock
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Signer, Verifier, generate_key
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.exchange.port import Claim
from chassis.killswitch import KillSwitch

POOL = "bench"


def manifest(clock: SystemClock, task_id: str, **fields: object) -> Manifest:
    """About 0.5 KiB beside the grant."""
    now = clock.now()
    values: dict[str, object] = {
        "station_id": "st-bench", "task_id": TaskId(task_id), "owner": POOL, "issuer": "cbo", "domain": "bench",
        "procedure": "p", "created_at": now, "expires_at": now + timedelta(hours=1), "ttl_seconds": 3600.0,
        "objective": "x" * 60, **fields,
    }  # fmt: skip
    return Manifest(**values)  # type: ignore[arg-type] # a benchmark's own fields


def answer(clock: SystemClock, claim: Claim) -> Ack:
    now = clock.now()
    return Ack(
        task_id=claim.manifest.task_id, epoch=claim.epoch, agent=POOL, status="done", started_at=now, ended_at=now,
        duration_seconds=0.0,
    )  # fmt: skip


def open_exchange(root: Path) -> FilesExchange:
    """One process's view; `root` gets keys of its own when it has none."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "grant.key").exists():
        generate_key(root / "grant.key", root / "grant.pub")
    return FilesExchange(
        root / "svf", SystemClock(), Verifier.load(root / "grant.pub").valid, KillSwitch(root / "manual_shutdown.flag")
    )


def _work(root: Path, batch: int, up, told, room) -> None:  # type: ignore[no-untyped-def] # multiprocessing's own objects have no public types
    """Takes up to `batch` tasks at a time and answers them together, as the peers' workers prefetch."""
    exchange, clock = open_exchange(root), SystemClock()
    worker = exchange.join(POOL)
    up.release()
    while not told.is_set():
        claims = exchange.claim(POOL, worker, batch)
        if not claims:
            exchange.wait(POOL, 0.2)
            continue
        refused = exchange.ack_many([(claim, answer(clock, claim)) for claim in claims])
        if any(refused):
            raise RuntimeError(f"an ack was refused: {refused}")
        for _ in claims:
            room.release()


def measure(root: Path, workers: int, tasks: int, in_flight: int = 16) -> float:
    """Durable tasks a second: submit → claim → ack by `workers` processes, at most `in_flight` not yet acked."""
    exchange, clock, signer = open_exchange(root), SystemClock(), None
    signer = Signer.load(root / "grant.key")
    spawn = multiprocessing.get_context("spawn")
    up, told, room = spawn.Semaphore(0), spawn.Event(), spawn.Semaphore(in_flight)
    batch = max(1, in_flight // workers // 2)
    crew = [spawn.Process(target=_work, args=(root, batch, up, told, room), daemon=True) for _ in range(workers)]
    for each in crew:
        each.start()
    for _ in crew:
        up.acquire()
    run = f"{time.time_ns():x}"
    signed = [signer.sign(manifest(clock, f"t-{run}-{n:06d}")) for n in range(tasks)]
    try:
        began = time.monotonic()
        turn = iter(signed)
        lock = threading.Lock()

        def submit() -> None:
            while True:
                with lock:
                    task = next(turn, None)
                if task is None:
                    return
                room.acquire()
                exchange.submit(task)

        submitters = [threading.Thread(target=submit) for _ in range(4)]
        for one in submitters:
            one.start()
        for one in submitters:
            one.join()
        for _ in range(in_flight):
            room.acquire()
        elapsed = time.monotonic() - began
    finally:
        told.set()
        for each in crew:
            each.join(5)
    return tasks / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    for workers in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="calyx-exchange-", dir=options.root) as folder:
            print(f"{workers} workers: {measure(Path(folder), workers, options.tasks):8.0f} tasks/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
