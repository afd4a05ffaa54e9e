"""How long `calyx task list --last 50` takes, the whole command, with 1,000,000 finished tasks in cbo.sqlite.

    python bench/task_list.py [--tasks 1000000] [--runs 10] [--root /var/tmp]

Founds a station, fills its cbo.sqlite, starts only its CBO (the other services are away) and times the command by the
wall clock, from fork to exit, and beside it what the parts of that time are: the interpreter, the imports, the CBO's
answer. Byte code is cached, as an installed package has it (PYTHONDONTWRITEBYTECODE alone costs about 100 ms).
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from chassis.atomic import write_json
from chassis.canonical import Json
from chassis.clock import SystemClock, iso
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from chassis.identity import found_station
from chassis.ids import RandomIds
from chassis.layout import Layout
from services.cbo.rows import task_to_row
from services.cbo.store import Store
from services.cbo.tasks import State, Task

REPO = Path(__file__).resolve().parents[1]
PORT, METRICS = "50954", "50955"
DOMAINS = ("log_rotation", "metrics_summary", "diagnostics", "cleanup", "web_deploy", "mail_digest")
STATES: tuple[State, ...] = ("done",) * 90 + ("rehearsed",) * 4 + ("failed",) * 3 + ("expired",) * 2 + ("cancelled",)
NOUNS = ("web", "mail", "database", "archive", "cache", "build", "report", "backup", "gateway", "queue")
VERBS = ("rotate", "summarise", "look after", "clean", "compress", "check")
LISTS: Sequence[Sequence[str]] = (
    ("--last", "50"),
    ("--last", "50", "--state", "failed"),
    ("--last", "50", "--state", "dead"),
    ("--last", "50", "--domain", "cleanup", "--state", "cancelled"),
    ("--last", "50", "--query", "logs server"),
    ("--last", "50", "--query", "logs of the mail server 777777"),
    ("--last", "50", "--query", "logs", "--state", "dead"),
)
PARTS = {
    "interpreter": "pass",
    "+ typer": "import typer",
    "+ grpc, protobuf and our stubs": "import typer, calyx.cbo.v1.cbo_pb2_grpc",
    "+ the command's own modules": (
        "import typer, calyx.cbo.v1.cbo_pb2_grpc, cli.main, cli.tasks, cli.reach, chassis.rpc.client"
    ),
}


def tasks(number: int, seed: int) -> Iterator[Json]:
    """Rows of finished tasks, the newest a minute old; one a second before it."""
    draw, last = random.Random(seed), datetime.now(UTC) - timedelta(minutes=1)
    for n in range(number):
        at = last - timedelta(seconds=number - n)
        domain, state = draw.choice(DOMAINS), draw.choice(STATES)
        words = f"{draw.choice(VERBS)} the logs of the {draw.choice(NOUNS)} server {n}"
        ack: dict[str, Any] = {
            "status": state, "detail": f"{draw.randrange(40)} files", "agent": "governor", "duration_seconds": 1.5,
            "started_at": iso(at), "ended_at": iso(at),
            "effects": [{"kind": "file", "target": f"/srv/{domain}/{n % 97}.log", "bytes": draw.randrange(10_000)}],
        }  # fmt: skip
        yield task_to_row(
            Task(
                id=TaskId(f"t-be4c11-{n:09d}-1"), domain=domain, procedure="gzip-6", owner="governor", state=state,
                level=Level.EXECUTE, created_at=at, objective=words, attempt=1, dispatched_at=at, ended_at=at,
                gates=({"gate": "policy", "answer": "go", "reason": "allowed by policy 7"},), prediction=0.93,
                pulse_id=f"bp-{n // 4:09d}", scored=True, tes=97.5, remembered=True, ack=ack,
                why="" if state == "done" else f"{state}: the probe saw something else",
            )
        )  # fmt: skip


def fill(layout: Layout, number: int) -> float:
    """Seconds. Through the store, so that every migration and trigger is the real one."""
    began = time.perf_counter()
    store = Store(layout.root / "cbo", durable=False)
    rows = tasks(number, seed=3)
    while batch := [row for _, row in zip(range(20_000), rows, strict=False)]:
        with store.transaction():
            store._db.executemany(store._sql["task_insert"], batch)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    return time.perf_counter() - began


def timed(command: Sequence[str], environment: dict[str, str], runs: int) -> list[float]:
    """Milliseconds of wall time of each run, the first left out."""
    took = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, env=environment, cwd=REPO, capture_output=True, check=True)
        took.append((time.perf_counter() - began) * 1000)
    return took[1:]


def show(name: str, took: Sequence[float]) -> None:
    print(f"{name:66}{statistics.median(took):7.0f} ms median {min(took):5.0f} best {max(took):5.0f} worst")


def answering(layout: Layout, station: dict[str, str], runs: int) -> list[float]:
    """Milliseconds of the CBO's answer alone, over one open channel."""
    code = (
        "import sys, time, json\nfrom pathlib import Path\nfrom cli.reach import Reach\n"
        "from calyx.cbo.v1 import cbo_pb2 as pb\n"
        f"cbo = Reach(Path({str(layout.root)!r})).cbo()\ntook = []\n"
        f"for _ in range({runs + 1}):\n"
        "    began = time.perf_counter()\n    cbo.ListTasks(pb.ListTasksRequest(limit=50))\n"
        "    took.append((time.perf_counter() - began) * 1000)\nprint(json.dumps(took))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=station, cwd=REPO, capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout)
    return found[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp"), help="a folder with 3 GB of room")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="calyx-task-list-", dir=asked.root))
    layout = Layout(folder / "station")
    found_station(layout, SystemClock(), RandomIds())
    for each in (layout.svf, layout.endpoints.parent):
        each.mkdir(parents=True, exist_ok=True)
    write_json(layout.endpoints, {"services": {"cbo": {"grpc": f"127.0.0.1:{PORT}"}}})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "PYTHONPATH": f"{REPO}:{REPO / 'protos' / 'gen'}",
        "PYTHONPYCACHEPREFIX": str(folder / "byte-code"),
        "CALYX_STATION_DIR": str(layout.root),
    }
    service = environment | {
        "CALYX_CBO_LISTEN": f"127.0.0.1:{PORT}",
        "CALYX_CBO_METRICS_LISTEN": f"127.0.0.1:{METRICS}",
        "CALYX_CBO_PULSE_INTERVAL_SECONDS": "3600",
    }
    took = fill(layout, asked.tasks)
    size = (layout.root / "cbo" / "cbo.sqlite").stat().st_size / 1e6
    print(f"{asked.tasks:,} finished tasks, cbo.sqlite {size:,.0f} MB, filled in {took:.0f} s")
    calyx = [sys.executable, "-m", "cli.main", "--station", str(layout.root)]
    with (folder / "cbo.log").open("wb") as log:
        cbo = subprocess.Popen([sys.executable, "-m", "services.cbo"], env=service, cwd=REPO, stdout=log, stderr=log)
        try:
            give_up = time.monotonic() + 120
            while subprocess.run([*calyx, "task", "list"], env=environment, cwd=REPO, capture_output=True).returncode:
                if cbo.poll() is not None or time.monotonic() > give_up:
                    print((folder / "cbo.log").read_text()[-2000:], file=sys.stderr)
                    return 1
            for arguments in LISTS:
                show(
                    f"calyx task list {' '.join(arguments)}",
                    timed([*calyx, "task", "list", *arguments], environment, asked.runs),
                )
            for name, code in PARTS.items():
                show(name, timed([sys.executable, "-c", code], environment, asked.runs))
            show("the CBO's answer, channel open", answering(layout, environment, asked.runs))
        finally:
            cbo.terminate()
            cbo.wait(30)
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
