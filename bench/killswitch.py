"""Engage the kill switch at seeded moments of a real station, and look for effects that begin too late.

    python bench/killswitch.py [--moments 50] [--seed 1] [--json]

A station of its own (temporary folder, free ports, pulses every second) at work in four kinds of work and one
`calyx run`. Moments: as a task is published, claimed, or begun in the journal; while a service is dead by kill -9; in
the middle of a governed program. Ways: the flag file, the command, the page, the RPC. An effect's time is that of its
commit in the journal, which is after it, and the ctime of what lies in the folders that effects go to. Exits 1 when
one is more than 2 s younger than the flag, a governed process lives longer, or anything queued did not end well.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "protos" / "gen")]

import httpx  # noqa: E402  (the path comes first)
import psutil  # noqa: E402
from calyx.cbo.v1 import cbo_pb2 as pb  # noqa: E402
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub  # noqa: E402

from chassis.errors import CalyxError  # noqa: E402
from chassis.identity import load_token  # noqa: E402
from chassis.layout import Layout  # noqa: E402
from chassis.rpc.client import open_channel  # noqa: E402

BOUND_SECONDS = 2.0
HOLD_SECONDS = 4.0
KINDS = (
    "dispatch",
    "claim",
    "effect",
    "restart cbo",
    "restart governor",
    "restart analytics",
    "restart guardian",
    "governed",
)
WAYS = ("file", "command", "page", "rpc")
PROGRAM = "trap 'exit 0' TERM; while :; do date +%s.%N >> stamps; sleep 0.02; done"
STUBBORN = "trap '' TERM; (trap '' TERM; while :; do date +%s.%N >> stamps; sleep 0.02; done) & wait; wait"


def until(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.05) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Found:
    """What was measured; seconds."""

    asked_to_flag: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    latest_effect: float = float("-inf")
    """The largest delay from the flag to an effect's commit or ctime, of those in the 4 s that it stood."""
    effects_after_flag: int = 0
    governed_ended: list[float] = field(default_factory=list)
    went_on: list[float] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)


class Station:
    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder / "station")
        path = os.pathsep.join([str(HERE), str(HERE / "protos" / "gen"), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, "CALYX_STATION_DIR": str(self.layout.root), "PYTHONPATH": path}
        self.notes = folder / "notes"
        self.notes.mkdir()
        self._run: subprocess.Popen[bytes] | None = None

    def calyx(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env=self.environment, capture_output=True, text=True, check=False, timeout=120, cwd=HERE,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"calyx {arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done

    @contextlib.contextmanager
    def stub(self) -> Iterator[CboServiceStub]:
        address = json.loads(self.layout.endpoints.read_text())["services"]["cbo"]["grpc"]
        channel = open_channel(address, load_token(self.layout.secrets, "operator"), timeout_seconds=10)
        try:
            yield CboServiceStub(channel)
        finally:
            channel.close()

    def rpc(self, ask: Callable[[CboServiceStub], Any]) -> Any:
        """Asked again while the CBO is being restarted."""
        ends = time.monotonic() + 60
        while True:
            try:
                with self.stub() as stub:
                    return ask(stub)
            except CalyxError:
                if time.monotonic() >= ends:
                    raise
                time.sleep(0.1)

    def engage(self, way: str, why: str) -> None:
        if way == "file":
            self.layout.kill_switch.write_text(f"{why}\n")
        elif way == "command":
            self.calyx("stop", "--why", why)
        elif way == "rpc":
            self.rpc(lambda stub: stub.SetKillSwitch(pb.SetKillSwitchRequest(engaged=True, why=why)))
        else:
            self._page({"engaged": True, "why": why})

    def release(self, way: str) -> None:
        if way == "file":
            self.layout.kill_switch.unlink()
        elif way == "command":
            until(lambda: self.calyx("resume", check=False).returncode == 0, 60, "resumed")
        elif way == "rpc":
            self.rpc(lambda stub: stub.SetKillSwitch(pb.SetKillSwitchRequest(engaged=False)))
        else:
            until(lambda: self._page({"engaged": False}), 60, "resumed on the page")

    def _page(self, body: dict[str, Any]) -> bool:
        page = json.loads(self.layout.endpoints.read_text())["dashboard"]
        token = load_token(self.layout.secrets, "operator")
        answer = httpx.post(
            f"{page}/api/kill-switch", json=body, headers={"authorization": f"Bearer {token}"}, timeout=15
        )
        return answer.status_code == 200

    def pid(self, service: str) -> int:
        services = json.loads(self.calyx("status", "--json", check=False).stdout or "{}").get("services", [])
        return next((each["pid"] for each in services if each["name"] == service and each["pid"]), 0)

    # governed

    def govern(self, program: str) -> None:
        """`calyx run` with children, begun."""
        before = self._stamps()
        self._run = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", "--domain", "bench_notes", "--", "sh", "-c", program],
            env=self.environment, cwd=self.notes, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        until(lambda: self._stamps() > before or self._over(), 30, "the governed program writes")

    def _over(self) -> bool:
        if self._run is None or self._run.poll() is None:
            return False
        assert self._run.stderr is not None
        raise AssertionError(f"the governed program ended: {self._run.stderr.read().decode()}")

    def _stamps(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.notes / "stamps").stat().st_size
        return 0

    def governed(self) -> list[psutil.Process]:
        if self._run is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self._run.pid).children(recursive=True)
            return [each for each in found if "cli.run.inside" not in " ".join(_words(each))]
        return []

    def ended(self) -> None:
        if self._run is not None:
            self._run.wait(60)
            assert self._run.stderr is not None
            self._run.stderr.close()
            self._run = None

    # what happened

    def effects(self) -> list[tuple[float, str]]:
        """(when, what): commits in the journal; what lies in the folders that effects go to."""
        found = []
        for path in self.layout.journal.glob("*/records.jsonl"):
            undo = False
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    undo = undo or record["kind"].startswith("undo")
                    if record["kind"] == "commit" and not undo:
                        found.append((datetime.fromisoformat(record["at"]).timestamp(), f"{path.parent.name} commit"))
        roots = (self.layout.root / "reports" / "diagnostics", self.layout.root / "reports" / "summaries", self.notes)
        for root in roots:
            found += [(each.stat().st_ctime, str(each)) for each in root.rglob("*") if each.is_file()]
        return found


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def prepare(station: Station) -> None:
    station.calyx("up", "--detach", "--port", "0", "--pulse-interval", "1s")
    station.calyx(
        "domain", "new", "bench_notes", "--owner", "bench_notes", "--path", str(station.notes), "--undo-by", "governor",
        "--no-rehearse", "--sign", "--approve",
    )  # fmt: skip
    time.sleep(2.0)
    for domain in ("diagnostics", "metrics_summary", "log_rotation", "bench_notes"):
        until(
            lambda domain=domain: station.calyx(
                "ladder", "set", domain, "EXECUTE", "--why", "the bench", check=False
            ).returncode == 0, 30, f"{domain} at EXECUTE",
        )  # fmt: skip
    # The first effect under a newly declared folder needs a person's yes even at EXECUTE.
    first = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "run", "--domain", "bench_notes", "--wait", "1m", "--", "sh", "-c",
         "date > first"],
        env=station.environment, cwd=station.notes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def approved() -> bool:
        for task in json.loads(station.calyx("inbox", "--json").stdout)["tasks"]:
            if task["domain"] == "bench_notes":
                station.calyx("task", "approve", task["id"], check=False)
        return first.poll() is not None

    until(approved, 60, "the first governed run")
    time.sleep(3.0)  # the pulse that confirms it
    for text, domain in (("summarise", "metrics_summary"), ("rotate", "log_rotation")):
        station.calyx("objective", "add", f"{text} all the time", "--domain", domain, "--every", "1s")


def watch_for(station: Station, kind: str) -> None:
    """Returns at the moment: something new is published, claimed, or begun."""
    folder = {
        "dispatch": station.layout.svf / "ready", "claim": station.layout.svf / "claimed",
        "effect": station.layout.journal,
    }[kind]  # fmt: skip
    depth = {"dispatch": "*/*/*", "claim": "*/*", "effect": "*"}[kind]
    before = {path.name for path in folder.glob(depth)}
    until(lambda: {path.name for path in folder.glob(depth)} - before, 20, f"a new {kind}", every=0.001)


def moment(station: Station, n: int, kind: str, way: str, rng: random.Random, found: Found) -> None:
    with (station.layout.logs / "bench.log").open("a") as log:
        log.writelines(f"{n} line {each}\n" for each in range(20_000))
    domain = rng.choice(("metrics_summary", "log_rotation"))
    station.rpc(
        lambda stub: stub.SubmitObjective(
            pb.SubmitObjectiveRequest(text=f"queued{n} of the bench", domain=domain, idempotency_key=f"bench-{n}")
        )
    )
    program = rng.choice((PROGRAM, STUBBORN))
    if kind == "governed":
        station.govern(program)
        time.sleep(rng.random())
    elif kind.startswith("restart"):
        victim = until(lambda: station.pid(kind.split()[1]), 60, f"{kind.split()[1]} is up")
        os.kill(victim, signal.SIGKILL)
        time.sleep(rng.random() * 2)
    else:
        time.sleep(rng.random())
        watch_for(station, kind)
        time.sleep(rng.choice((0.0, rng.random() * 0.02)))
    victims = station.governed()
    asked = time.time()
    station.engage(way, f"moment {n}: {kind}, by {way}")
    flag = until(lambda: _mtime(station.layout.kill_switch), 60, "the flag", every=0.001)
    found.asked_to_flag.append(flag - asked)
    if kind == "governed":
        psutil.wait_procs([*victims, *station.governed()], timeout=10)
        found.governed_ended.append(time.time() - flag)
        if time.time() - flag > BOUND_SECONDS:
            found.late.append(f"moment {n}: a governed process lived {time.time() - flag:.2f} s under the switch")
    time.sleep(max(0.0, flag + HOLD_SECONDS - time.time()))
    held_until = time.time()
    for at, what in station.effects():
        if flag < at <= held_until:
            found.effects_after_flag += 1
            found.latest_effect = max(found.latest_effect, at - flag)
            if at - flag > BOUND_SECONDS:
                found.late.append(f"moment {n} ({kind}, {way}): {what} {at - flag:.2f} s after")
    station.ended()
    released = rng.choice(WAYS)
    station.release(released)
    until(lambda: not station.layout.kill_switch.exists(), 30, "released")
    free = time.time()
    went_on = until(lambda: [at for at, _ in station.effects() if at > free], 60, f"moment {n}: work goes on", 0.2)
    found.went_on.append(min(went_on) - free)
    found.moments[f"{kind} by {way}"] += 1
    print(f"{n:3} {kind:18} by {way:8} flag after {flag - asked:5.2f} s, released by {released}", file=sys.stderr)


def _mtime(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def lost(station: Station, moments: int) -> list[str]:
    """What was queued and did not end well."""

    def open_ones() -> list[str]:
        answer = station.rpc(lambda stub: stub.ListObjectives(pb.ListObjectivesRequest(include_finished=True)))
        mine = {each.text.split()[0]: each.state for each in answer.objectives if each.text.startswith("queued")}
        return [name for name in (f"queued{n}" for n in range(moments)) if mine.get(name) != "done"]

    with contextlib.suppress(AssertionError):
        until(lambda: not open_ones(), 60, "all of them done", 1.0)
    bad = open_ones()
    for n in range(moments):
        answer = station.rpc(lambda stub, n=n: stub.ListTasks(pb.ListTasksRequest(query=f"queued{n}", limit=20)))
        if not any(task.state == "done" for task in answer.tasks):
            bad.append(f"queued{n}: {[(task.id, task.state, task.tes_note) for task in answer.tasks]}")
    for state in ("expired", "dead"):
        answer = station.rpc(lambda stub, state=state: stub.ListTasks(pb.ListTasksRequest(state=state, limit=50)))
        bad += [f"{task.id} is {state}" for task in answer.tasks if not task.plan_digest]
    return bad


def audited(station: Station) -> tuple[int, Counter[str]]:
    engaged, released = 0, Counter[str]()
    for path in (*sorted(station.layout.audit("cbo").with_suffix(".d").glob("*.jsonl")), station.layout.audit("cbo")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            engaged += entry["event"] == "kill_switch.engaged"
            if entry["event"] == "kill_switch.released":
                released[str(entry["by"])] += 1
    return engaged, released


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng, found, began = random.Random(options.seed), Found(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="calyx-switch-") as folder:
        station = Station(Path(folder))
        try:
            prepare(station)
            for n in range(options.moments):
                moment(station, n, KINDS[n % len(KINDS)], WAYS[(n // len(KINDS) + n) % len(WAYS)], rng, found)
            missing = lost(station, options.moments)
            engaged, released = audited(station)
            whole = station.calyx("audit", "verify", check=False).returncode == 0
        finally:
            station.calyx("down", check=False)
    result = {
        "moments": options.moments,
        "by_kind_and_way": dict(sorted(found.moments.items())),
        "effects_later_than_2_s": len(found.late),
        "late": found.late,
        "effects_after_the_flag": found.effects_after_flag,
        "largest_delay_of_an_effect_s": round(found.latest_effect, 3) if found.effects_after_flag else None,
        "largest_delay_of_a_governed_process_s": round(max(found.governed_ended, default=0.0), 3),
        "largest_time_from_asking_to_the_flag_s": round(max(found.asked_to_flag), 3),
        "largest_time_to_the_first_effect_after_resume_s": round(max(found.went_on), 3),
        "queued_and_lost": missing,
        "audited_engaged": engaged,
        "audited_released": dict(released),
        "audit_verifies": whole,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:50} {value}" for key, value in result.items()))
    return 1 if found.late or missing or not whole else 0


if __name__ == "__main__":
    raise SystemExit(main())
