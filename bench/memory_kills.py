"""Kill -9 a memory at seeded places during writes, compaction, retention, backup and index rebuild; look what is left.

    python bench/memory_kills.py [--kills 200] [--service 20] [--seed 1] [--folder DIR] [--no-fsync]

A child process holds a real Memory with store, redo log and upkeep: three threads record and amend, one looks after the
memory all the time. It is killed by one of four kinds of fault: right before the n-th SQL statement of a phase, right
before the n-th change to a file (open to write, rename, remove) of a phase, some milliseconds into a phase (inside of
VACUUM INTO, of a commit), or at any time. Every acknowledgement is written to a file outside first. Each child checks,
before it goes on, what the one before left: no manual step, verify finds nothing, and every acknowledged experience is
there with all its facts, as a row, as a member of a roll-up, or, where the policy of this run ended it, as a tombstone.
`--service`: of the kills, so many are of a real `python -m services.memory` over gRPC with the packaged model.
Exits 1 when the promise did not hold.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported, as the service has it
REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "memory"), str(REPO / "bench")]

import structlog  # noqa: E402  (the path comes first)
from memory_fakes import HashEmbedder, experience  # noqa: E402

from chassis.audit import Audit  # noqa: E402
from chassis.clock import SystemClock, iso  # noqa: E402
from chassis.errors import Refused  # noqa: E402
from services.memory.coarse import CoarseIndex  # noqa: E402
from services.memory.compact import Terms  # noqa: E402
from services.memory.experience import Experience, Outcome  # noqa: E402
from services.memory.memory import Memory  # noqa: E402
from services.memory.redo import RedoLog  # noqa: E402
from services.memory.retention import Rule  # noqa: E402
from services.memory.store import Store  # noqa: E402

PHASES = ("open", "write", "compact", "backup", "rebuild")
"""`compact` covers retention and giving pages back; writes go on in all but `open`."""

PATIENCE_SECONDS = 3.0
"""A fault that was not reached by then becomes a kill at any time."""

STATEMENTS = {"open": 60, "write": 400, "compact": 1500, "backup": 60, "rebuild": 60}
CHANGES = {"open": 12, "write": 40, "compact": 40, "backup": 12, "rebuild": 12}
"""How far into a phase a fault may lie."""

WRITERS = 3
ROWS_PER_WRITER = 60

AMENDED = "SELECT amendment_id, substr(id, 3) FROM outcome JOIN event ON event.seq = event WHERE amendment_id NOT NULL"

clock = SystemClock()


def made(number: int) -> Experience:
    """The number-th experience of the run: mostly routine that agrees with others, some that the policy ends."""
    rng = random.Random(number)
    kind = rng.choices(("task", "passing", "incident"), weights=(85, 10, 5))[0]
    return experience(
        number % 100_000,
        id=f"e-{number}",
        kind=kind,
        objective=f"{rng.choice(('rotate', 'compress', 'check'))} the {rng.choice(('logs', 'disk', 'journal'))}"
        + (f" of host {number}" if rng.random() < 0.1 else ""),
        procedure=rng.choice(("gzip-6", "xz")),
        outcome=rng.choices(list(Outcome), weights=(80, 8, 2, 10))[0],
        tes=rng.choice((None, 71.5, 97.5)),
        cost=rng.choice(({}, {"cpu_seconds": 0.5})),
    )


# What runs in the child


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`kind` sql, file: before the `at`-th of them in `phase`; ms: `at` milliseconds into it; any: not armed."""

    kind: str
    phase: str
    at: int


class Armed:
    """Counts what happens in the phase it is set for, and kills this process at the place it is set to."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._count, self.phase = fault, 0, ""
        real = sqlite3.connect

        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = real(*args, **options)
            connection.set_trace_callback(lambda _: self._happened("sql"))
            return connection

        setattr(sqlite3, "connect", connect)  # noqa: B010  (a plain assignment would have to match its overloads)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir", "os.truncate") or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            self._happened("file")

    def _happened(self, kind: str) -> None:
        if kind == self._fault.kind and self.phase == self._fault.phase:
            self._count += 1
            if self._count >= self._fault.at:
                os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, phase
        timer = None
        if self._fault.kind == "ms" and phase == self._fault.phase:
            timer = threading.Timer(self._fault.at / 1000, os.kill, (os.getpid(), signal.SIGKILL))
            timer.start()
        try:
            yield
        finally:
            self.phase = before
            if timer is not None:
                timer.cancel()


class Acks:
    """What this process was told is durable; each line is one write, so that a kill tears none."""

    def __init__(self, folder: Path, name: str) -> None:
        self._fd = os.open(folder / f"{name}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def told(self, *fields: Any) -> None:
        os.write(self._fd, json.dumps(fields).encode() + b"\n")


def acknowledged(folder: Path) -> tuple[set[int], dict[str, str]]:
    """(numbers of experiences, amendments by id with their experience's)."""
    rows: set[int] = set()
    amendments: dict[str, str] = {}
    for path in sorted(folder.glob("*.acks")):
        for line in path.read_text().splitlines():
            kind, *fields = json.loads(line)
            if kind == "row":
                rows.add(fields[0])
            else:
                amendments[fields[1]] = fields[0]
    return rows, amendments


def opened(folder: Path, durable: bool) -> tuple[Memory, Store]:
    home = folder / "memory"
    embedder = HashEmbedder()
    store = Store(home / "experience.sqlite", durable=durable, redo=RedoLog(home / "redo", durable=durable))
    ended = (Rule(kind="passing", outcome="*", days=0),)
    memory = Memory(
        store=store,
        embedder=embedder,
        index=CoarseIndex(embedder.dimension, lambda keys: store.vectors(embedder.model_sha256, keys)),
        clock=clock,
        audit=Audit(folder / "audit.jsonl", clock, "memory"),
        terms=Terms(older_than=timedelta(0), rules=ended),
    )
    return memory, store


def look(folder: Path, memory: Memory, store: Store) -> list[str]:
    """What does not hold."""
    while memory.catch_up():
        pass
    wrong = [f"{each.what}: {each.why}" for each in memory.upkeep.verify().damages]
    try:
        memory.upkeep.check()
    except Exception as error:
        wrong.append(f"health: {error}")
    rows, amendments = acknowledged(folder)
    with closing(store.snapshot()) as connection:
        homes = {row["id"]: (row["seq"], row["home"]) for row in connection.execute("SELECT * FROM sealed_event")}
        there = {row[0]: f"e-{row[1]}" for row in connection.execute(AMENDED)}
    # An amendment, of which nobody may have been told, changes how it ended; a roll-up keeps no evidence; what the
    # policy ended leaves its name.
    amended = set(there.values())
    for number in rows:
        wanted = made(number)
        seq, home = homes.get(wanted.id, (0, ""))
        if not home:
            wrong.append(f"{wanted.id} was acknowledged and is gone")
        elif home == "retired":
            if wanted.kind != "passing":
                wrong.append(f"{wanted.id} was retired without a rule for it")
        else:
            found = store.experiences([seq])[seq].experience
            same = replace(found, evidence=wanted.evidence)
            if wanted.id in amended:
                same = replace(same, outcome=wanted.outcome)
            if same != wanted:
                wrong.append(f"{wanted.id} is not what was recorded: {same}")
    for amendment, event in amendments.items():
        if amendment not in there and homes.get(event, (0, ""))[1] != "retired":
            wrong.append(f"amendment {amendment} of {event} was acknowledged and is gone")
    if len(homes) != len(memory.shelf.catalog) + sum(home == "retired" for _, home in homes.values()):
        wrong.append("recall's catalog has another number of rows than the store")
    return wrong


def child(folder: Path, generation: int, fault: Fault, durable: bool) -> None:
    armed = Armed(fault)
    with armed.during("open"):
        memory, store = opened(folder, durable)
        leftovers = [path.name for path in (folder / "memory" / "backups").glob(".*")]
    wrong = look(folder, memory, store)
    with closing(store.snapshot()) as connection:
        homes = dict(connection.execute("SELECT home, count(*) FROM sealed_event GROUP BY home").fetchall())
    said = {"wrong": wrong[:20], "homes": homes, "leftovers": leftovers}
    print(json.dumps(said), flush=True)
    if wrong or fault.kind == "none":
        memory.close()
        return
    first, known = (generation + 1) * 1_000, sorted(acknowledged(folder)[0])

    def write(writer: int) -> None:
        acks, rng = Acks(folder, f"{generation}-{writer}"), random.Random(first + writer)
        for count in range(ROWS_PER_WRITER):
            number = first + writer * ROWS_PER_WRITER + count
            memory.record(made(number))
            acks.told("row", number)
            if rng.random() < 0.1:
                event = f"e-{rng.choice(known or [number])}"
                with contextlib.suppress(Refused):  # it was retired: then nothing is acknowledged
                    memory.amend(event, Outcome.FAILURE, "regressed", f"a-{number}")
                    acks.told("amendment", event, f"a-{number}")

    def keep() -> None:
        while True:
            with armed.during("compact"):
                memory.upkeep.compact(dry_run=False)
            with armed.during("backup"):
                memory.upkeep.backup(folder / "memory" / "backups")
            with armed.during("rebuild"):
                memory.upkeep.rebuild_index()

    with armed.during("write"):
        threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(WRITERS)]
        keeper = threading.Thread(target=keep, daemon=True)
        for each in threads:
            each.start()
        if fault.phase != "write":
            keeper.start()
        for each in threads:
            each.join()
        if fault.phase == "write":
            keeper.start()
        threading.Event().wait()  # until the fault, or the parent, ends this


# The parent


def drawn(rng: random.Random, number: int) -> Fault:
    phase = PHASES[number % len(PHASES)]
    kind = rng.choices(("sql", "file", "ms", "any"), weights=(5, 2, 2, 1))[0]
    if kind == "file" and phase == "write":
        kind = "sql"  # records open no file once the redo log is
    at = {"sql": STATEMENTS[phase], "file": CHANGES[phase], "ms": 60, "any": 800}[kind]
    return Fault(kind=kind, phase=phase, at=rng.randrange(1, at))


def one(folder: Path, generation: int, fault: Fault, durable: bool) -> tuple[dict[str, Any] | None, bool]:
    """(what the child found before it was killed, None if it was killed before it could look; fault reached)."""
    spec = json.dumps([str(folder), generation, fault.kind, fault.phase, fault.at, durable])
    with (folder / "children.log").open("ab") as log:
        command = [sys.executable, __file__, "--child", spec]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        said = json.loads(line) if line else None
        reached = False
        if fault.kind != "none" and not (said and said["wrong"]):
            wait = fault.at / 1000 if fault.kind == "any" else PATIENCE_SECONDS
            try:
                process.wait(wait)
                reached = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                reached = fault.kind == "any"
        status = process.wait(60)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"the child of generation {generation} ended by itself with {status} ({fault})")
    return said, reached


def run(folder: Path, kills: int, seed: int, durable: bool) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    reached: collections.Counter[str] = collections.Counter()
    leftovers = 0
    began = time.monotonic()
    for number in range(kills):
        fault = drawn(rng, number)
        said, hit = one(folder, number, fault, durable)
        reached[f"{fault.phase}/{fault.kind if hit else 'any'}"] += 1
        leftovers += len(said["leftovers"]) if said else 0
        if said and said["wrong"]:
            print(f"after {number} kills it did not hold:", *said["wrong"], sep="\n  ")
            return 1
    said, _ = one(folder, kills, Fault(kind="none", phase="", at=0), durable)
    assert said is not None  # nobody killed it
    left = [path.name for path in (folder / "memory" / "backups").glob(".*")]
    with contextlib.closing(sqlite3.connect(folder / "memory" / "experience.sqlite")) as connection:
        amendments = connection.execute("SELECT count(*) FROM outcome WHERE amendment_id NOT NULL").fetchone()[0]
    rows, told = acknowledged(folder)
    print(f"{kills} kills in {time.monotonic() - began:.0f} s, seed {seed}; by phase and kind of fault:")
    for name, count in sorted(reached.items()):
        print(f"  {name:16} {count}")
    print(f"{len(rows)} experiences and {len(told)} amendments acknowledged; found: {said['homes']}, {amendments}")
    print(f"half-written backups found at starts: {leftovers}; the next backup removes them, {len(left)} left now")
    for each in said["wrong"]:
        print(f"  WRONG: {each}")
    print("held" if not said["wrong"] else "DID NOT HOLD")
    return bool(said["wrong"])


# The real service


def run_service(folder: Path, kills: int, seed: int) -> int:
    """Calls over gRPC, SIGKILL at any time; old rows are put in beforehand, so that there is something to roll up."""
    from calyx.memory.v1 import memory_pb2 as pb
    from calyx.memory.v1 import memory_pb2_grpc
    from record import serving

    from chassis.errors import CalyxError
    from chassis.identity import load_token
    from chassis.layout import Layout
    from chassis.rpc.client import open_channel
    from services.memory.wire import experience_to_wire

    rng, wrong = random.Random(seed), 0
    old = iso(clock.now() - timedelta(days=90))
    for generation in range(kills + 1):
        home = folder / "memory"
        store = Store(home / "experience.sqlite", redo=RedoLog(home / "redo"))
        acks = Acks(folder, f"old-{generation}")
        for number in range(generation * 1_000, generation * 1_000 + 100 * (generation < kills)):
            store.append(made(number), old)
            acks.told("row", number)
        store.close()
        with serving(folder) as (address, token, process):
            operator = load_token(Layout(folder).secrets, "operator")
            with open_channel(address, operator, timeout_seconds=60) as channel:
                stub = memory_pb2_grpc.MemoryServiceStub(channel)
                verdict = stub.Verify(pb.VerifyRequest(), timeout=60)
                wrong += len(verdict.damages)
                for each in verdict.damages:
                    print(f"  WRONG after {generation} kills: {each.what}: {each.why}")
            if generation == kills:
                break

            def call(name: str, use: Callable[[Any], None], token: str = token, address: str = address) -> None:
                with open_channel(address, token, timeout_seconds=20) as channel, contextlib.suppress(CalyxError):
                    use(memory_pb2_grpc.MemoryServiceStub(channel))

            def write(stub: Any, generation: int = generation) -> None:
                mine = Acks(folder, f"new-{generation}")
                for number in range(generation * 1_000 + 200, generation * 1_000 + 1_000):
                    stub.RecordExperience(pb.RecordExperienceRequest(experience=experience_to_wire(made(number))))
                    mine.told("row", number)

            def keep(stub: Any) -> None:
                while True:
                    stub.Compact(pb.CompactRequest(), timeout=20)
                    stub.Backup(pb.BackupRequest(), timeout=20)
                    stub.RebuildIndex(pb.RebuildIndexRequest(), timeout=20)

            threads = [
                threading.Thread(target=call, args=("write", write), daemon=True),
                threading.Thread(target=call, args=("keep", keep, operator), daemon=True),
            ]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.0, 1.5))
            process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
    store = Store(folder / "memory" / "experience.sqlite", redo=RedoLog(folder / "memory" / "redo"))
    rows, _ = acknowledged(folder)
    with closing(store.snapshot()) as connection:
        homes = {row["id"]: row["home"] for row in connection.execute("SELECT * FROM sealed_event")}
    lost = sorted(f"e-{number}" for number in rows if f"e-{number}" not in homes)
    store.close()
    counts = dict(collections.Counter(homes.values()))
    print(f"service: {kills} kills, {len(rows)} experiences acknowledged, found {counts}; lost {lost}, damages {wrong}")
    return bool(lost or wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--service", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-fsync", action="store_true")
    parser.add_argument("--child")
    terms = parser.parse_args()
    if terms.child:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        folder, generation, kind, phase, at, durable = json.loads(terms.child)
        child(Path(folder), generation, Fault(kind=kind, phase=phase, at=at), durable)
        return 0
    with contextlib.ExitStack() as until_done:
        folder = terms.folder or Path(until_done.enter_context(tempfile.TemporaryDirectory()))
        service = min(terms.service, terms.kills)
        failed = run(folder / "driver", terms.kills - service, terms.seed, not terms.no_fsync)
        return failed or (run_service(folder / "service", service, terms.seed) if service else 0)


if __name__ == "__main__":
    sys.exit(main())
