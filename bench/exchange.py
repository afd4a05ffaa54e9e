"""What the task exchange does in a second, on the file system that it is given.

python bench/exchange.py [--root FOLDER] [--tasks 3000] [--ready 100000]

Tasks a second, fsyncs a task, the time from submit to start, claims among very many, a large graph. The peers are
in exchange_peers.py.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
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


def measure(root: Path, workers: int, tasks: int, in_flight: int = 16, warm: int = 32) -> float:
    """Durable tasks a second: submit → claim → ack by `workers` processes, at most `in_flight` not yet acked.

    `warm` tasks go first, as for the peers, so that folders and logs are open. Each worker takes its share, one share
    being left for what is just being submitted: with 16 / N at once all of them would lie with the workers. What is
    submitted together is signed together, inside the time, since only then it shows how much that is.
    """
    os.sync()  # what was written before is not in its way
    exchange, clock = open_exchange(root), SystemClock()
    signer = Signer.load(root / "grant.key")
    spawn = multiprocessing.get_context("spawn")
    up, told, room = spawn.Semaphore(0), spawn.Event(), spawn.Semaphore(in_flight)
    batch = max(1, in_flight // (workers + 1))
    crew = [spawn.Process(target=_work, args=(root, batch, up, told, room), daemon=True) for _ in range(workers)]
    for each in crew:
        each.start()
    for _ in crew:
        up.acquire()
    run = f"{time.time_ns():x}"
    planned = [manifest(clock, f"t-{run}-{n:06d}") for n in range(warm + tasks)]

    def turn(tasks: list[Manifest]) -> None:
        at = 0
        while at < len(tasks):  # as many at a time as there is room for: those who wait share a round
            room.acquire()
            count = 1
            while at + count < len(tasks) and room.acquire(block=False):
                count += 1
            for told_of in exchange.submit_many(signer.sign_many(tasks[at : at + count])):
                if isinstance(told_of, Exception):
                    raise told_of
            at += count
        for _ in range(in_flight):
            room.acquire()
        for _ in range(in_flight):
            room.release()

    try:
        turn(planned[:warm])
        began = time.monotonic()
        turn(planned[warm:])
        elapsed = time.monotonic() - began
    finally:
        told.set()
        for each in crew:
            each.join(5)
    return tasks / elapsed


def fsync_rate(folder: Path, rounds: int = 500) -> float:
    """What the disk gives: a block of an existing file written and made durable, times a second."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.write(fd, bytes(1 << 20))
        os.fsync(fd)
        began = time.monotonic()
        for n in range(rounds):
            os.pwrite(fd, b"x" * 512, n * 1024)
            os.fdatasync(fd)
        return rounds / (time.monotonic() - began)
    finally:
        os.close(fd)


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """How often this process asks the disk to be durable, in the block."""
    made, real = [0], {name: getattr(os, name) for name in ("fsync", "fdatasync")}

    def counting(call: Callable[[int], None]) -> Callable[[int], None]:
        def counted_call(fd: int) -> None:
            made[0] += 1
            call(fd)

        return counted_call

    for name, call in real.items():
        setattr(os, name, counting(call))
    try:
        yield made
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def sync_wait(folder: Path, times: int = 300, a_second: float = 100.0) -> float:
    """What the disk alone takes, p99 in ms: so many bytes as a submit promises, written and made durable."""
    fd = os.open(folder / "paced", os.O_RDWR | os.O_CREAT, 0o644)
    waits: list[float] = []
    try:
        os.write(fd, bytes(times * 1024))
        os.fsync(fd)
        for n in range(times):
            time.sleep(1 / a_second)
            began = time.monotonic()
            os.pwrite(fd, b"x" * 640, n * 1024)
            os.fdatasync(fd)
            waits.append(time.monotonic() - began)
    finally:
        os.close(fd)
    return sorted(waits)[int(times * 0.99)] * 1000


def syncs_a_task(root: Path, tasks: int = 300) -> float:
    """One task after the other, submit → claim → ack: nothing is shared."""
    exchange, clock = open_exchange(root), SystemClock()
    signer = Signer.load(root / "grant.key")
    signed = [signer.sign(manifest(clock, f"s-{n:06d}")) for n in range(tasks)]
    with counted() as made:
        for each in signed:
            exchange.submit(each)
            (claim,) = exchange.claim(POOL, "one", 1)
            exchange.ack(claim, answer(clock, claim))
    return made[0] / tasks


def batch_gain(root: Path, tasks: int = 1000) -> float:
    """The submit side of `submit_many` of 50 against single submits, times as fast: more than one log's worth each."""
    exchange, clock, signer = open_exchange(root), SystemClock(), Signer.load(root / "grant.key")
    seconds: list[float] = []
    for size in (1, 50):
        signed = [signer.sign(manifest(clock, f"b{size}-{n:06d}")) for n in range(tasks)]
        began = time.monotonic()
        for at in range(0, tasks, size):
            exchange.submit_many(signed[at : at + size])
        seconds.append(time.monotonic() - began)
    return seconds[0] / seconds[1]


def _started(root: Path, tasks: int, up, starts) -> None:  # type: ignore[no-untyped-def] # as above
    exchange, clock = open_exchange(root), SystemClock()
    worker = exchange.join(POOL)
    up.release()
    done = 0
    while done < tasks:
        claims = exchange.claim(POOL, worker, 1)
        if not claims:
            exchange.wait(POOL, 1.0)
        for claim in claims:
            starts.put((claim.manifest.task_id, time.monotonic()))
            exchange.ack(claim, answer(clock, claim))
            done += 1


def start_latency(root: Path, tasks: int = 1000, a_second: float = 100.0) -> tuple[float, float]:
    """Median and p99, in ms, from the call of submit to the start in another process.

    The disk has settled before: a log that is full in between is retired by `syncfs`, which otherwise writes out what
    all that came before has left (0.6 s instead of 0.03 s beside the submits, after some 36,000 files).
    """
    os.sync()
    exchange, clock, signer = open_exchange(root), SystemClock(), Signer.load(root / "grant.key")
    spawn = multiprocessing.get_context("spawn")
    up, starts = spawn.Semaphore(0), spawn.Queue()
    worker = spawn.Process(target=_started, args=(root, tasks, up, starts), daemon=True)
    worker.start()
    up.acquire()
    signed = [signer.sign(manifest(clock, f"l-{n:06d}")) for n in range(tasks)]
    called: dict[str, float] = {}
    due = time.monotonic()
    for each in signed:
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / a_second
        called[each.task_id] = time.monotonic()
        exchange.submit(each)
    waits = sorted(at - called[task_id] for task_id, at in (starts.get(timeout=30) for _ in range(tasks)))
    worker.join(10)
    return statistics.median(waits) * 1000, waits[int(tasks * 0.99)] * 1000


def crowd(root: Path, tasks: int) -> tuple[float, float]:
    """With so many ready: the first claim (which lists them) and the p99 of the next 1,000, in ms."""
    exchange, clock, signer = open_exchange(root), SystemClock(), Signer.load(root / "grant.key")
    for at in range(0, tasks, 1000):
        exchange.submit_many([signer.sign(manifest(clock, f"c-{n:06d}")) for n in range(at, min(tasks, at + 1000))])
    times: list[float] = []
    for _ in range(1001):
        began = time.monotonic()
        exchange.claim(POOL, "crowd", 1)
        times.append(time.monotonic() - began)
    return times[0] * 1000, sorted(times[1:])[990] * 1000


def graph(root: Path, layers: int = 100, width: int = 100, edges: int = 3) -> tuple[float, float, float]:
    """Seconds to submit a layered graph, to work it off in order, and to refuse a cycle of as many tasks."""
    exchange, clock, signer = open_exchange(root), SystemClock(), Signer.load(root / "grant.key")
    tasks = [
        signer.sign(
            manifest(
                clock, f"g-{layer:03d}-{n:03d}",
                dependencies=tuple(f"g-{layer - 1:03d}-{(n + k) % width:03d}" for k in range(edges)) if layer else (),
            )
        )
        for layer in range(layers)
        for n in range(width)
    ]  # fmt: skip
    began = time.monotonic()
    wrong = [each for each in exchange.submit_many(tasks) if isinstance(each, Exception)]
    submitted = time.monotonic() - began
    began, done = time.monotonic(), set[str]()
    while claims := exchange.claim(POOL, "graph", 8):
        wrong += [each for each in exchange.ack_many([(c, answer(clock, c)) for c in claims]) if each is not None]
        for claim in claims:
            if not done.issuperset(claim.manifest.dependencies):
                raise RuntimeError(f"{claim.manifest.task_id} came before what it depends on")
        done |= {claim.manifest.task_id for claim in claims}
    worked = time.monotonic() - began
    if wrong or len(done) != len(tasks):
        raise RuntimeError(f"{len(done)} of {len(tasks)} done; {wrong[:1]}")
    count = layers * width
    cycle = [manifest(clock, f"y-{n}", dependencies=(f"y-{(n + 1) % count}",)) for n in range(count)]
    began = time.monotonic()
    answers = exchange.submit_many(cycle)
    refused = time.monotonic() - began
    if "→" not in str(answers[0]):
        raise RuntimeError("the cycle was not named")
    return submitted, worked, refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="a folder on the file system to measure; not one in memory")
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ready", type=int, default=100_000)
    options = parser.parse_args()
    # Nothing is deleted before the end: ext4 is slow to make files for minutes after many were deleted.
    with tempfile.TemporaryDirectory(prefix="calyx-exchange-", dir=options.root) as name:
        base = Path(name)
        bare = fsync_rate(base)
        print(f"write + fdatasync, bare       {bare:9.0f} /s")
        print(f"fsyncs a task, one by one     {syncs_a_task(base / 'syncs'):9.2f}")
        for workers in (1, 2, 4):
            rates = [measure(base / f"w{workers}-{n}", workers, options.tasks) for n in range(options.rounds)]
            print(f"tasks, {workers} workers, median     {statistics.median(rates):9.0f} /s")
        gains = [batch_gain(base / f"batch-{n}") for n in range(options.rounds)]
        print(
            f"submit_many(50) : single      {statistics.median(gains):9.1f} times ({min(gains):.1f}–{max(gains):.1f})"
        )
        median, p99 = start_latency(base / "latency")
        print(f"submit to start at 100/s      {p99:9.2f} ms p99, {median:.2f} ms median")
        print(f"write + fdatasync at 100/s    {sync_wait(base):9.2f} ms p99, bare, right after")
        cold, warm = crowd(base / "crowd", options.ready)
        print(f"claim among {options.ready:<6,} ready     {warm:9.2f} ms p99, the first {cold:.0f} ms")
        submitted, worked, refused = graph(base / "graph")
        print(f"graph of 10,000 tasks         {worked:9.1f} s in order, submitted in {submitted:.1f} s")
        print(f"cycle of 10,000 refused in    {refused:9.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
