"""Kill and stop every kind of process of an exchange, and judge the recorded history.

    python bench/chaos.py [--tasks 6000] [--kills 40] [--stops 20] [--seed 1] [--plant fence|lock|noreplace]

Real processes on one folder: workers, a submitter (as the CBO), a reaper. Half of the stops fall right between a
worker's check and its effect, or between its look and its effect under the target's lock. An effect is a line
appended to a real file under the fenced lock of chassis/journal/targets.py. `--plant` breaks the product in every
process of the run, to see that it is noticed. Exits 1 when the promise did not hold.
"""

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "tests" / "exchange")]

from history_checker import Op, Verdict, judge  # noqa: E402  (the path comes first)

from chassis.clock import SystemClock  # noqa: E402
from chassis.errors import AlreadyAcked, Duplicate, LeaseLost, Unavailable  # noqa: E402
from chassis.exchange import moves  # noqa: E402
from chassis.exchange.files import FilesExchange  # noqa: E402
from chassis.exchange.grants import Signer, Verifier, generate_key  # noqa: E402
from chassis.exchange.holders import holder_of  # noqa: E402
from chassis.exchange.manifest import Ack, Manifest, TaskId  # noqa: E402
from chassis.exchange.port import Claim, Holder  # noqa: E402
from chassis.journal.targets import Locks  # noqa: E402
from chassis.killswitch import KillSwitch  # noqa: E402

POOL = "pool"
TARGETS = 100
"""So many that no target sees more tasks during one pause than its lock's record remembers (64)."""

clock = SystemClock()
now = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run; it travels to every process as JSON. `copies`: files that a hostile hand copies back to ready."""

    root: str
    tasks: int
    kills: int = 0
    stops: int = 0
    seed: int = 1
    workers: int = 4
    lease_seconds: float = 0.5
    pause_seconds: tuple[float, float] = (0.3, 3.0)
    """How long a stopped process stands; a lost lease is redelivered a lease and a back-off of 1 s later."""
    plant: str = ""
    copies: int = 0
    patience_seconds: float = 300.0

    @property
    def folder(self) -> Path:
        return Path(self.root)


# What runs in each process


def exchange(plan: Plan) -> FilesExchange:
    verifier = Verifier.load(plan.folder / "grant.pub")
    return FilesExchange(
        plan.folder / "svf", clock, verifier.valid, KillSwitch(plan.folder / "flag"), lease_seconds=plan.lease_seconds
    )


class Recorder:
    """What this process asked and was told, in a file of its own; each line is one write, so a kill tears none."""

    def __init__(self, folder: Path, name: str) -> None:
        self._fd = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = itertools.count()

    def _write(self, *fields: Any) -> None:
        os.write(self._fd, json.dumps(fields).encode() + b"\n")

    def call(self, kind: str, tasks: list[str], epoch: int = 0, *, bare: bool = False) -> Callable[[Any], None]:
        """To be told the result: one text, or a list of [task, epoch, result]."""
        number = next(self._numbers)
        self._write("call", number, now(), kind, tasks, epoch, bare)
        return lambda result: self._write("return", number, now(), result)


def target_of(plan: Plan, task_id: str) -> Path:
    return plan.folder / "targets" / str(int(task_id.split("-")[1]) % TARGETS)


def lines_of(target: Path, task_id: str) -> int:
    try:
        return sum(line.split()[0] == task_id for line in target.read_text().splitlines())
    except FileNotFoundError:
        return 0


class Hand:
    """A worker: claim, check, lock, look, append, ack."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._armed: str | None = None
        # Before the history file is there: the driver waits for that before it sends one.
        signal.signal(signal.SIGUSR1, lambda *_: self._arm("checked"))
        signal.signal(signal.SIGUSR2, lambda *_: self._arm("looked"))
        self._plan, self._note = plan, Recorder(plan.folder / "history", name)
        self._exchange, self._locks = exchange(plan), Locks(plan.folder / "locks", clock)
        self._random = random.Random(name)
        self._held: dict[str, Claim] = {}
        self._progress = os.open(plan.folder / "progress", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        slot = int(name.split("-")[1].split(".")[0])
        # The other half is of another machine, so to speak, and can't be killed by the reaper: only fenced.
        self._holder = me() if slot % 2 else replace(me(), boot_id="elsewhere")

    def _arm(self, where: str) -> None:
        self._armed = where

    def _pause(self, where: str) -> None:
        if self._armed == where:
            self._armed = None
            os.kill(os.getpid(), signal.SIGSTOP)

    def run(self) -> None:
        told = self._note.call("rejoin", [""])
        worker = self._exchange.join(POOL)
        told("ok")
        threading.Thread(target=self._beat, daemon=True).start()
        waiting: collections.deque[Claim] = collections.deque()  # it claims ahead, so it claims while it holds
        while not (self._plan.folder / "stop").exists():
            if len(waiting) < 3:
                told = self._note.call("claim", [""])
                claims = self._exchange.claim(POOL, worker, self._random.randint(1, 4), holder=self._holder)
                self._held |= {claim.manifest.task_id: claim for claim in claims}
                told([[claim.manifest.task_id, claim.epoch, "ok"] for claim in claims])
                waiting += claims
            if not waiting:
                time.sleep(0.01)
                continue
            claim = waiting.popleft()
            self._perform(claim)
            if self._held.get(claim.manifest.task_id) is claim:
                del self._held[claim.manifest.task_id]

    def _beat(self) -> None:
        while True:
            time.sleep(self._plan.lease_seconds / 8)
            for claim in list(self._held.values()):
                told = self._note.call("beat", [claim.manifest.task_id], claim.epoch)
                try:
                    self._exchange.heartbeat(claim)
                    told("ok")
                except LeaseLost:
                    told("lost")

    def _perform(self, claim: Claim) -> None:
        task_id, epoch = claim.manifest.task_id, claim.epoch
        told = self._note.call("check", [task_id], epoch)
        ours = self._exchange.check(claim)
        told("yes" if ours else "no")
        if not ours:
            return
        self._pause("checked")
        told = self._note.call("enter", [task_id], epoch)
        target = target_of(self._plan, task_id)
        try:
            with self._locks.held([target], task_id, epoch):
                told("ok")
                bare = not self._effect(target, task_id, epoch)
        except LeaseLost:
            told("fenced")
            return
        except Unavailable:
            self._answer("nack", claim, lambda: self._exchange.nack(claim, 0.05, "the target is locked"))
            return
        answer = Ack(
            task_id=claim.manifest.task_id, epoch=epoch, agent=POOL, status="failed" if bare else "done",
            started_at=clock.now(), ended_at=clock.now(), duration_seconds=0.0,
        )  # fmt: skip
        if self._answer("ack", claim, lambda: self._exchange.ack(claim, answer), bare=bare):
            os.write(self._progress, b".")

    def _effect(self, target: Path, task_id: str, epoch: int) -> bool:
        """Once: what an earlier epoch did is found. Whether it has been done; some redeliveries do without."""
        told = self._note.call("look", [task_id], epoch)
        done = lines_of(target, task_id) > 0
        told("yes" if done else "no")
        if done or (epoch > 1 and self._random.random() < 0.3):
            return done
        self._pause("looked")
        told = self._note.call("effect", [task_id], epoch)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{task_id} {epoch}\n".encode())
        os.close(fd)
        told("ok")
        return True

    def _answer(self, kind: str, claim: Claim, give: Callable[[], None], *, bare: bool = False) -> bool:
        told = self._note.call(kind, [claim.manifest.task_id], claim.epoch, bare=bare)
        try:
            give()
        except LeaseLost:
            told("lost")
        except AlreadyAcked:
            told("already")
        else:
            told("ok")
            return True
        return False


def me() -> Holder:
    holder = holder_of(os.getpid())
    assert holder is not None
    return holder


def submitter(plan: Plan, name: str) -> None:
    """The CBO: submits every task, a few at a time; a new one repeats all of it and is told what it knows."""
    note, folder = Recorder(plan.folder / "history", name), exchange(plan)
    signer = Signer.load(plan.folder / "grant.key")
    ids = [TaskId(f"t-{n:06d}") for n in range(plan.tasks)]
    for at in range(0, plan.tasks, 10):
        while folder.depth()["ready"] > 60:
            time.sleep(0.005)
        batch = [task(task_id, signer) for task_id in ids[at : at + 10]]
        told = note.call("submit", [each.task_id for each in batch])
        answers = folder.submit_many(batch)
        wrong = [each for each in answers if isinstance(each, Exception) and not isinstance(each, Duplicate)]
        if wrong:
            raise wrong[0]
        told([
            [each.task_id, 0, "duplicate" if isinstance(answer, Exception) else "ok"]
            for each, answer in zip(batch, answers, strict=True)
        ])  # fmt: skip
    (plan.folder / "submitted").touch()
    while not (plan.folder / "stop").exists():
        time.sleep(0.02)


def task(task_id: TaskId, signer: Signer) -> Manifest:
    made = clock.now()
    return signer.sign(
        Manifest(
            station_id="st", task_id=task_id, owner=POOL, issuer="cbo", domain="chaos", procedure="append",
            created_at=made, expires_at=made + timedelta(hours=1), ttl_seconds=3600, max_attempts=1000,
        )
    )  # fmt: skip


def reaper(plan: Plan, name: str) -> None:
    note, folder = Recorder(plan.folder / "history", name), exchange(plan)
    while not (plan.folder / "stop").exists():
        told = note.call("requeue", [""])
        told([[task_id, 0, "ok"] for task_id in folder.sweep().requeued])
        time.sleep(plan.lease_seconds / 10)


def plant(bug: str) -> None:
    """Break the product in this process."""
    if bug == "fence":
        Locks._fence = lambda *_: None  # type: ignore[method-assign, assignment]  # the bug
    elif bug == "lock":
        Locks._locked = _unlocked  # type: ignore[method-assign, assignment]  # the bug
    elif bug == "noreplace":
        moves._RENAME_NOREPLACE = 0


@contextlib.contextmanager
def _unlocked(_locks: Locks, path: Path, _how: int) -> Iterator[int]:
    """The lock's file, which remembers the fence, and no lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


# The driver


@dataclass(slots=True)
class Child:
    role: str
    boot: int = 0
    process: subprocess.Popen[bytes] | None = None
    stopped_until: float | None = None
    """When it is to go on; None while it runs."""

    @property
    def name(self) -> str:
        return f"{self.role}.{self.boot}"


@dataclass(slots=True)
class Driver:
    plan: Plan
    children: list[Child] = field(default_factory=list)
    deaths: dict[str, float] = field(default_factory=dict)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    look_again: float = 0.0

    def run(self) -> None:
        plan, rng = self.plan, random.Random(self.plan.seed)
        for name in ("history", "targets", "locks"):
            (plan.folder / name).mkdir()
        generate_key(plan.folder / "grant.key", plan.folder / "grant.pub")
        self.children = [Child(role) for role in ("cbo", "reaper", *(f"worker-{n}" for n in range(plan.workers)))]
        for child in self.children:
            self._start(child)
        events = self._schedule(rng)
        deadline = now() + plan.patience_seconds
        try:
            while not self._finished() and now() < deadline:
                self._look_after(rng)
                while events and events[0][0] <= self._progress() and self._act(events[0][1], rng):
                    events.pop(0)
                if self.counts["copies"] < plan.copies:
                    self._copy()
                time.sleep(0.005)
            while any(child.stopped_until is not None for child in self.children):
                self._look_after(rng)
                time.sleep(0.005)
        finally:
            self._end()

    def _finished(self) -> bool:
        """All submitted and nothing alive; looked at a few times a second. (An ack may miss its mark in `progress`.)"""
        if now() < self.look_again or not (self.plan.folder / "submitted").exists():
            return False
        self.look_again = now() + 0.2
        depth = exchange(self.plan).depth()
        return not any(number for state, number in depth.items() if state != "dead")

    def _progress(self) -> int:
        try:
            return (self.plan.folder / "progress").stat().st_size
        except FileNotFoundError:
            return 0

    def _schedule(self, rng: random.Random) -> list[tuple[int, str]]:
        """(at how many acks, what), seeded; spread over the first nine tenths of the run."""
        what = ["kill"] * self.plan.kills
        stops = {"fence": ["checked"], "lock": ["looked"]}.get(self.plan.plant, ["checked", "stop", "looked", "stop"])
        what += list(itertools.islice(itertools.cycle(stops), self.plan.stops))
        return sorted((rng.randrange(1, max(2, self.plan.tasks * 9 // 10)), each) for each in what)

    def _start(self, child: Child) -> None:
        child.boot += 1
        child.process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--role",
                child.name,
                json.dumps({k: getattr(self.plan, k) for k in Plan.__slots__}),
            ]
        )

    def _act(self, what: str, rng: random.Random) -> bool:
        """Strike somebody who runs; False to try again later."""
        workers = [c for c in self.children if c.role.startswith("worker") and c.stopped_until is None]
        alone = [c for c in self.children if not c.role.startswith("worker") and c.stopped_until is None]
        if what in ("checked", "looked"):
            ready = [c for c in workers if (self.plan.folder / "history" / f"{c.name}.jsonl").exists()]
            if self.plan.plant:  # nobody kills these while they stand, so that they do come back
                ready = [c for c in ready if int(c.role[-1]) % 2 == 0]
            if not ready:
                return False
            child = rng.choice(ready)
            assert child.process is not None
            child.process.send_signal(signal.SIGUSR1 if what == "checked" else signal.SIGUSR2)
            return True
        kind = rng.choice([workers, workers, workers, alone, alone])
        if not kind:
            return False
        child = rng.choice(kind)
        assert child.process is not None
        if what == "kill":
            child.process.send_signal(signal.SIGKILL)
            self.counts[f"kills of {child.role.split('-')[0]}"] += 1
        else:
            child.process.send_signal(signal.SIGSTOP)
        return True

    def _look_after(self, rng: random.Random) -> None:
        """Start again who died, let go on who was stopped for long enough."""
        for child in self.children:
            assert child.process is not None
            if child.stopped_until is not None and now() >= child.stopped_until:
                child.stopped_until = None
                child.process.send_signal(signal.SIGCONT)
            found = os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG)
            if found is None:
                continue
            if found.si_code == os.CLD_STOPPED:
                child.stopped_until = now() + rng.uniform(*self.plan.pause_seconds)
                self.counts["stops"] += 1
                continue
            self.deaths[child.name] = now()
            child.process.returncode = -found.si_status if found.si_code == os.CLD_KILLED else found.si_status
            if child.process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"{child.name} ended by itself: {child.process.returncode}")
            self.counts["killed"] += 1
            child.stopped_until = None
            self._start(child)

    def _copy(self) -> None:
        """What a backup that is restored by hand does: a claimed task's file is in ready again, as a copy."""
        for path in (self.plan.folder / "svf" / "claimed").glob("*/*.claimed"):
            with contextlib.suppress(FileNotFoundError):
                target = self.plan.folder / "svf" / "ready" / POOL / "p5" / path.with_suffix(".ready").name
                target.parent.mkdir(parents=True, exist_ok=True)
                data = path.read_bytes()
                target.write_bytes(data)
                self.counts["copies"] += 1

    def _end(self) -> None:
        (self.plan.folder / "stop").touch()
        for child in self.children:
            if child.process is not None and child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGCONT)
                try:
                    child.process.wait(20)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
                self.deaths[child.name] = now()

    def history(self) -> Iterator[Op]:
        """What every process recorded, and how each task ended."""
        for path in sorted((self.plan.folder / "history").iterdir()):
            name = path.name.removesuffix(".jsonl")
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            returns = {line[1]: line[2:] for line in lines if line[0] == "return"}
            for line in lines:
                if line[0] == "call":
                    yield from self._ops(name, line, returns.get(line[1]))
        folder = exchange(self.plan)
        start = now()
        for n in range(self.plan.tasks):
            view = folder.get(TaskId(f"t-{n:06d}"))
            effects = lines_of(target_of(self.plan, view.task_id), view.task_id)
            yield Op(
                kind="end", task=view.task_id, process="driver", start=start, end=now(), epoch=view.epoch,
                result=view.state, effects=effects,
            )  # fmt: skip

    def _ops(self, process: str, call: list[Any], told: list[Any] | None) -> Iterator[Op]:
        _, _, start, kind, tasks, epoch, bare = call
        end = told[0] if told else self.deaths[process]
        results: list[list[Any]] = [[each, epoch, None] for each in tasks]
        if told:
            results = told[1] if isinstance(told[1], list) else [[each, epoch, told[1]] for each in tasks]
        for each, at, result in results:
            yield Op(kind=kind, task=each, process=process, start=start, end=end, epoch=at, result=result, bare=bare)


def chaos(plan: Plan) -> tuple[Verdict, Driver]:
    driver = Driver(plan)
    driver.run()
    return judge(driver.history(), driver.deaths), driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=6000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", default="", choices=["", "fence", "lock", "noreplace"])
    parser.add_argument("--copies", type=int, default=0, help="files of claimed tasks copied back to ready")
    parser.add_argument("--folder", help="keep the run here (default: a temporary folder)")
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        name, plan = options.role[0], Plan(**json.loads(options.role[1]))
        plant(plan.plant)
        if name.startswith("worker"):
            Hand(plan, name).run()
        else:
            {"cbo": submitter, "reaper": reaper}[name.split(".")[0]](plan, name)
        return 0
    with contextlib.ExitStack() as stack:
        root = options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="calyx-chaos-"))
        Path(root).mkdir(exist_ok=True)
        plan = Plan(
            root=root, tasks=options.tasks, kills=options.kills, stops=options.stops, seed=options.seed,
            plant=options.plant, copies=200 if options.plant == "noreplace" else options.copies,
            pause_seconds=(2.0, 3.0) if options.plant else (0.3, 3.0),
        )  # fmt: skip
        started = now()
        verdict, driver = chaos(plan)
        seconds = now() - started
    print(f"{plan.tasks} tasks, {plan.workers} workers, seed {plan.seed}, {seconds:.1f} s; {dict(driver.counts)}")
    for kind in ("lost", "double_acks", "duplicate_effects", "two_live_claims", "epochs", "impossible"):
        print(f"  {kind.replace('_', ' '):18} {len(getattr(verdict, kind))}")
    for fault in verdict.faults[:20]:
        print(" ", fault)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
