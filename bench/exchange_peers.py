"""Our task exchange beside other task queues, durable, in one run: `python bench/exchange_peers.py [--rounds 5]`.

The same for all: tasks with 0.5 KiB that do nothing, 1, 2 and 4 worker processes, at most 16 tasks outstanding, the
time from the first submit until every task is done and acknowledged, on the same real file system, over loopback.
Every round runs each system once, in an order that rotates; the table shows medians. All run under one Python.
How each was set up, by its own documentation, and what was tried on a 4-core machine to be fair to it:

- ours: `bench/exchange.py`; what is submitted together (as many as there is room for just then, 5 on average) is
  signed together, signed and checked while the clock runs. One submitting thread did more than 2 or 4; a worker takes
  up to 16/(N + 1) at a time, so that a share is on its way while the workers work (10 % more than 16/N). 32 tasks go
  first, as for the others.
- huey, SQLite in WAL mode, `-k process`, polling every 1 to 10 ms, no results kept. `fsync=True` is synchronous=FULL;
  huey 3.5's default leaves SQLite's own, which is FULL too. It has no acknowledgement: a task is deleted when taken.
- Celery on Redis (AOF, appendfsync always): `acks_late` with `task_reject_on_worker_lost`, results ignored, prefetch
  16/N, no gossip, mingle or heartbeat. N solo workers did twice as much as one prefork worker with N children, and one
  submitting thread more than 4 or 16. An end is told before the acknowledgement, for which Celery has no signal; what
  Redis still holds as unacknowledged is waited for at the end.
- Dramatiq on Redis (AOF, appendfsync always): N processes of one thread did more than with its 8 threads; prefetch
  16/N; 4 submitting threads did more than 1 or 16. An end is told after the acknowledgement.
- NATS JetStream, one server, file storage, 1 replica, a work-queue stream and a durable pull consumer with explicit
  acknowledgement, `sync_interval: always` (default 2 min: shown apart). Workers fetch up to 16/N messages (16/N did
  more than 12/N and 8/N) and confirm their acknowledgements side by side (`ack_sync`); submits are awaited side by
  side. Unconfirmed acks were as quick.

Before each run the machine writes out what it holds (`sync`): else whoever comes after one that writes much (us)
waits for that one's writes as well. Within a run nobody is helped.

Nothing is deleted before the end: for minutes ext4 steps over inodes that were freed, one by one, so whoever makes
many files (we do, two a task) is slowed by what others deleted. Deleting each folder at once
took our figure from about 2,300 to 900 tasks/s at 2 workers and left the others, who append, as they were.

What each loses was measured in the design (kill -9 of a worker in mid-task; a power cut by copying the image of a
loop-mounted ext4); this script measures speed only.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / ".venv-bench"
TOO_LONG_SECONDS = 300
IN_MEMORY = {"tmpfs", "ramfs", "overlay"}


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row; `needs` is a program that has to be on PATH."""

    name: str
    title: str
    killed: str
    power_cut: str
    needs: str = ""


OURS = System(name="ours", title="Station Calyx, files", killed="redelivered, 0 lost, 0 double acks", power_cut="0")
PEERS = (
    System(name="huey-fsync", title="huey, SQLite fsync", killed="lost", power_cut="0"),
    System(name="huey-default", title="huey, SQLite default", killed="lost", power_cut="0 (3.5: synchronous FULL)"),
    System(
        name="celery", title="Celery, Redis AOF always", killed="redelivered after 90 s", power_cut="0",
        needs="redis-server",
    ),
    System(
        name="dramatiq", title="Dramatiq, Redis AOF always", killed="not within 100 s", power_cut="0",
        needs="redis-server",
    ),
    System(name="jetstream-always", title="JetStream R1, sync always", killed="redelivered", power_cut="0"),
    System(name="jetstream-default", title="JetStream R1, default", killed="redelivered", power_cut="all"),
)  # fmt: skip


def file_system(folder: Path) -> str:
    """Its type, of the mount that holds `folder`."""
    here, found = str(folder.resolve()), ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        at, kind = fields[4], fields[fields.index("-") + 1]
        if (here == at or here.startswith(at.rstrip("/") + "/")) and len(at) >= len(found[0]):
            found = (at, kind)
    return found[1]


def fsyncs_a_second(folder: Path, seconds: float = 1.0) -> float:
    """Bare: 512 bytes appended and fsynced, one after the other."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        number, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            number += 1
        return number / (time.perf_counter() - began)


def run(python: Path, name: str, root: Path, workers: int, tasks: int) -> float | None:
    """Tasks a second; None when it failed, with its reason on stderr."""
    os.sync()  # nobody's writes are left for the next one to wait for
    folder = Path(tempfile.mkdtemp(prefix=f"calyx-peer-{name}-", dir=root))
    command = [
        str(python), "-m", "bench.peers.run", name,
        "--folder", str(folder), "--workers", str(workers), "--tasks", str(tasks),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'protos' / 'gen'}"}
    try:
        done = subprocess.run(
            command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=TOO_LONG_SECONDS, check=False
        )
        if done.returncode == 0:
            return float(done.stdout.split()[-1])
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        why = f"not finished in {TOO_LONG_SECONDS} s"
    print(f"{name} at N = {workers}: {why}", file=sys.stderr)
    return None


def show(systems: list[System], workers: list[int], rates: dict[tuple[str, int], list[float]]) -> None:
    def median(name: str, n: int) -> float | None:
        found = rates.get((name, n))
        return statistics.median(found) if found else None

    print("\ntasks/s, median (lowest to highest)")
    print(f"{'':28}" + "".join(f"{f'N = {n}':>22}" for n in workers))
    for each in systems:
        cells = []
        for n in workers:
            found = rates.get((each.name, n))
            spread = f" ({min(found):,.0f}–{max(found):,.0f})" if found else ""
            cells.append(f"{f'{statistics.median(found):,.0f}{spread}' if found else 'failed':>22}")
        print(f"{each.title:28}" + "".join(cells))
    print("\nours as a multiple; what each loses")
    print(
        f"{'':28}"
        + "".join(f"{f'N = {n}':>8}" for n in workers)
        + f"  {'kill -9 in mid-task':36}power cut: acked, then lost"
    )
    for each in systems:
        cells = []
        for n in workers:
            mine, theirs = median(OURS.name, n), median(each.name, n)
            cells.append(f"{f'{mine / theirs:.2f}×' if mine and theirs else '?':>8}")
        print(f"{each.title:28}" + "".join(cells) + f"  {each.killed:36}{each.power_cut}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--root", type=Path, default=Path("/var/tmp"), help="a folder on a real file system")
    parser.add_argument("--only", nargs="+", default=[], help="names of systems beside ours")
    parser.add_argument("--venv", type=Path, default=VENV)
    asked = parser.parse_args()
    python = asked.venv / "bin" / "python"
    if not python.exists():
        print(
            "The peers are not installed: python3 -m venv .venv-bench && "
            ".venv-bench/bin/pip install --require-hashes -r requirements-bench.lock"
        )
        return 0
    kind = file_system(asked.root)
    if kind in IN_MEMORY:
        print(f"{asked.root} is on {kind}, where an fsync means little; choose another with --root", file=sys.stderr)
        return 2
    systems = [OURS]
    for peer in PEERS:
        if asked.only and peer.name not in asked.only:
            continue
        if peer.needs and not shutil.which(peer.needs):
            print(f"{peer.title}: skipped, {peer.needs} is not installed (apt-get install {peer.needs})")
            continue
        systems.append(peer)
    rates: dict[tuple[str, int], list[float]] = {}
    bare = []
    with tempfile.TemporaryDirectory(prefix="calyx-peers-", dir=asked.root) as name:
        for number in range(asked.rounds):
            bare.append(fsyncs_a_second(Path(name)))
            turn = number % len(systems)
            for n in asked.workers:
                for each in (*systems[turn:], *systems[:turn]):
                    rate = run(python, each.name, Path(name), n, asked.tasks)
                    if rate is not None:
                        rates.setdefault((each.name, n), []).append(rate)
    print(
        f"{asked.rounds} interleaved rounds of {asked.tasks} tasks on {kind}, {os.cpu_count()} cores; "
        f"bare append + fsync: {statistics.median(bare):,.0f}/s"
    )
    show(systems, asked.workers, rates)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
