"""A memory service of its own with a given number of experiences, measured from outside over its RPC."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from bench.speed.corpus import Corpus
from chassis.clock import SystemClock
from chassis.errors import CalyxError
from chassis.identity import found_station, load_token
from chassis.ids import RandomIds
from chassis.layout import Layout
from chassis.rpc.client import open_channel
from services.memory.experience import Experience, Outcome
from services.memory.queries import migrations
from services.memory.store import Store

REPO = Path(__file__).resolve().parents[2]
TWENTIETH = 20
"""So many domains, sites and shares of the time: each filter below lets 5 % through."""

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=30)
OUTCOMES = (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Milliseconds, seconds and MiB. `starts`: process start to the first answered recall, in order."""

    starts: list[float]
    rss_after_start: float
    rss_peak: float
    rss_after: float
    milliseconds: dict[str, list[float]]
    matches: dict[str, int]


def experience(number: int, text: str) -> Experience:
    kind = number * 7919  # spreads the kinds over texts that lie beside each other
    return Experience(
        id=f"e-{number:08d}",
        station_id="bench",
        namespace="default",
        origin="cbo",
        kind="task",
        objective=text,
        domain=f"domain-{kind % TWENTIETH:02d}",
        procedure=f"procedure-{kind % 3}",
        task_id="",
        pulse_id="",
        occurred_at=BEGIN + number * STEP,
        outcome=OUTCOMES[kind % len(OUTCOMES)],
        context={"site": f"site-{(kind // TWENTIETH) % TWENTIETH:02d}"},
        tes=80.0,
        duration_seconds=1.5,
        confidence=0.5,
    )


def filled(corpus: Corpus, model_sha256: str, cache: Path) -> Path:
    """A store with the corpus, through the service's own store code (without fsync); kept in the cache."""
    size, version = len(corpus.texts), len(migrations())
    made = cache / f"store-{size}-schema{version}-{model_sha256[:12]}" / "experience.sqlite"
    if made.exists():
        return made
    making = made.parent.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    store = Store(making / made.name, durable=False)
    began = time.monotonic()
    keys = []
    for number, text in enumerate(corpus.texts):
        appended = store.append(experience(number, text), "2026-11-01T00:00:00.000000Z")
        assert appended is not None
        keys.append(appended.objective_key)
        if number % 50_000 == 49_999:
            told(f"{number + 1} of {size} rows stored, {(number + 1) / (time.monotonic() - began):.0f}/s")
    for first in range(0, size, 10_000):
        part = range(first, min(first + 10_000, size))
        store.add_vectors(
            model_sha256, [(keys[place], corpus.texts[place], corpus.vectors[place].tobytes()) for place in part]
        )
    store.close()
    making.rename(made.parent)
    return made


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Any, subprocess.Popen[bytes], float]]:
    """(stub as the CBO, process, seconds from its start to its first answer); ended at the end."""
    layout = Layout(folder)
    found_station(layout, SystemClock(), RandomIds())
    port, metrics = _free_port(), _free_port()
    environment = {
        **os.environ,
        "CALYX_STATION_DIR": str(folder),
        "CALYX_MEMORY_LISTEN": f"127.0.0.1:{port}",
        "CALYX_MEMORY_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "CALYX_MEMORY_CACHED_TEXTS": "0",  # each recall embeds its text
        "PYTHONPATH": f"{REPO}:{REPO / 'protos' / 'gen'}",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where it is installed: modules are compiled once
    log = (folder / "memory.out").open("ab")
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.memory"], cwd=REPO, env=environment, stdout=log, stderr=log
    )
    try:
        _wait_for_port(port, process, began)
        with open_channel(f"127.0.0.1:{port}", load_token(layout.secrets, "cbo"), timeout_seconds=10) as channel:
            stub = memory_pb2_grpc.MemoryServiceStub(channel)
            while True:
                try:
                    stub.Recall(pb.RecallRequest(objective="is anybody there"), timeout=5)
                    break
                except CalyxError:
                    if process.poll() is not None or time.monotonic() - began > 300:
                        raise
                    time.sleep(0.005)
            yield stub, process, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def measure(store: Path, corpus: Corpus, folder: Path, starts: int, queries: int) -> Figures:
    """Start it `starts` times, then ask every query.

    The very first start is not counted: it folds the model and signs the days of a store that it never saw before.
    """
    (folder / "memory").mkdir(parents=True)
    target = folder / "memory" / store.name
    shutil.copyfile(store, target)
    with serving(folder) as (_, process, _):
        settle(process.pid)
    took = []
    for _ in range(starts - 1):
        with serving(folder) as (_, _, seconds):
            took.append(seconds)
    with serving(folder) as (stub, process, seconds):
        took.append(seconds)
        told(f"started in {', '.join(f'{each:.2f}' for each in took)} s")
        rss = _mib(process.pid, "VmRSS")
        since = Timestamp()
        since.FromDatetime(BEGIN + len(corpus.texts) * (TWENTIETH - 1) // TWENTIETH * STEP)
        kinds: Mapping[str, Callable[[str], pb.RecallRequest]] = {
            "no filter": lambda text: pb.RecallRequest(objective=text),
            "domain": lambda text: pb.RecallRequest(objective=text, domain="domain-07"),
            "context": lambda text: pb.RecallRequest(objective=text, context={"site": "site-03"}),
            "since": lambda text: pb.RecallRequest(objective=text, since=since),
        }
        milliseconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        matches = dict.fromkeys(kinds, 0)
        for text in corpus.queries[:20]:  # warm
            for ask in kinds.values():
                stub.Recall(ask(text))
        for text in corpus.queries[:queries]:  # side by side, so that what else the machine does falls on all alike
            for kind, ask in kinds.items():
                request = ask(text)
                began = time.perf_counter()
                answer = stub.Recall(request)
                milliseconds[kind].append((time.perf_counter() - began) * 1000)
                matches[kind] += len(answer.matches)
        return Figures(
            starts=took,
            rss_after_start=rss,
            rss_peak=_mib(process.pid, "VmHWM"),
            rss_after=_mib(process.pid, "VmRSS"),
            milliseconds=milliseconds,
            matches=matches,
        )


def _wait_for_port(port: int, process: subprocess.Popen[bytes], began: float) -> None:
    """Until somebody listens: a channel that finds nobody pauses up to a second, which is not its time."""
    while process.poll() is None and time.monotonic() - began < 300:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)


def settle(pid: int) -> None:
    """Wait until the process does next to nothing: less than a tenth of a core for two seconds."""
    began = time.monotonic()
    quiet = 0
    while quiet < 2 and time.monotonic() - began < 600:
        before = _cpu_seconds(pid)
        time.sleep(1)
        quiet = quiet + 1 if _cpu_seconds(pid) - before < 0.1 else 0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
