"""Pulses of a real station under faults, each decided again from its record; then one byte of a record flipped.

    python bench/replay.py [--pulses 200] [--flips 200] [--seed 1] [--json]

A station of its own (temporary folder, free ports, pulses every second) at work, with logs that grow and objectives in
words. Faults, drawn by seed: kill -9 of each service, also of the CBO; a governor that stands still, so that readings
grow stale and nothing is admitted; a guardian that stands still, so that probes are missing; results taken away before
they are probed, which fails and demotes; levels set by a person, the kill switch, and a policy that blocks. Exits 1
when a record is not decided again byte for byte, or a flip is not found with the part that it is in.
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
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "protos" / "gen")]

import psutil  # noqa: E402  (the path comes first)
from calyx.cbo.v1 import cbo_pb2 as pb  # noqa: E402
from calyx.common.v1 import common_pb2  # noqa: E402

from chassis.canonical import canonical_json  # noqa: E402
from chassis.errors import CalyxError  # noqa: E402
from cli.reach import Reach  # noqa: E402

SERVICES = ("memory", "governor", "guardian", "analytics", "cbo")
WORDS = (
    "rotate the logs now",
    "check the health of the station",
    "summarise the metrics",
    "clean up the scratch space",
)


class World:
    """The station and the hands that trouble it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.chance = root, random.Random(seed)
        self.environment = {**os.environ, "CALYX_STATION_DIR": str(root)}
        self.faults: Counter[str] = Counter()
        self.reach = Reach(root)
        self._thief_until = 0.0
        self._over = threading.Event()
        self._hands: list[threading.Thread] = []

    def calyx(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments], env=self.environment, cwd=HERE, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    def process(self, service: str) -> psutil.Process | None:
        for each in psutil.process_iter(["cmdline", "environ"]):
            line, environment = each.info["cmdline"] or [], each.info["environ"] or {}
            if line[-1:] == [f"services.{service}"] and environment.get("CALYX_STATION_DIR") == str(self.root):
                return each
        return None

    def records(self) -> list[Path]:
        return sorted(self.root.glob("pulses/*/bp-*.json"))

    def hand(self, work: Callable[[], None]) -> None:
        self._hands.append(threading.Thread(target=work, daemon=True))
        self._hands[-1].start()

    def end(self) -> None:
        self._over.set()
        for each in self._hands:
            each.join()

    def grow_logs(self) -> None:
        number = 0
        (self.root / "logs").mkdir(exist_ok=True)
        while not self._over.wait(0.5):
            number += 1
            with (self.root / "logs" / "bench.log").open("a") as log:
                log.writelines(f"{number} something happened, number {n}\n" for n in range(900))

    def steal(self) -> None:
        """Take results away before anybody looks, while the thief is about."""
        while not self._over.wait(0.01):
            if time.monotonic() < self._thief_until:
                for path in (self.root / "reports" / "diagnostics").glob("*.json"):
                    path.unlink(missing_ok=True)

    # the faults

    def trouble(self) -> None:
        kinds = (
            self.kill,
            self.kill,
            self.stand_still,
            self.be_robbed,
            self.set_level,
            self.stop,
            self.block,
            self.ask,
        )
        kind = self.chance.choice(kinds)
        with contextlib.suppress(CalyxError, psutil.Error):  # what is down can't be troubled
            kind()
            self.faults[kind.__name__] += 1

    def kill(self) -> None:
        service = self.chance.choice(SERVICES)
        if (found := self.process(service)) is not None:
            found.kill()
            self.faults[f"kill -9 {service}"] += 1

    def stand_still(self) -> None:
        found = self.process(self.chance.choice(("governor", "guardian")))
        if found is not None:
            found.send_signal(signal.SIGSTOP)
            time.sleep(4.0)
            found.send_signal(signal.SIGCONT)

    def be_robbed(self) -> None:
        self._thief_until = time.monotonic() + 6.0

    def set_level(self) -> None:
        domain = self.chance.choice(("diagnostics", "log_rotation", "metrics_summary"))
        level = self.chance.choice(
            (common_pb2.LEVEL_GUIDE, common_pb2.LEVEL_EXECUTE, common_pb2.LEVEL_EXECUTE, common_pb2.LEVEL_SUGGEST)
        )
        self.reach.cbo().SetLevel(pb.SetLevelRequest(domain=domain, level=level, why="the bench says so"))

    def stop(self) -> None:
        cbo = self.reach.cbo()
        cbo.SetKillSwitch(pb.SetKillSwitchRequest(engaged=True, why="the bench"))
        time.sleep(2.0)
        cbo.SetKillSwitch(pb.SetKillSwitchRequest(engaged=False, why="the bench"))

    def block(self) -> None:
        """A policy that denies one kind of work for a while."""
        path = self.root / "policy.yaml"
        shipped = (HERE / "chassis" / "policy.yaml").read_text()
        denied = "rules:\n  - deny: the bench says no\n    domains: [diagnostics]\n"
        path.write_text(shipped.replace("rules:\n", denied, 1))
        time.sleep(3.0)
        path.write_text(shipped)

    def ask(self) -> None:
        key = f"bench-{self.chance.random()}"
        words = self.chance.choice(WORDS)
        self.reach.cbo().SubmitObjective(pb.SubmitObjectiveRequest(text=words, idempotency_key=key))


def replayed(reach: Reach, pulse: str = "") -> list[Any]:
    return list(reach.cbo().ReplayPulses(pb.ReplayPulsesRequest(id=pulse), timeout=600))


def part_of(good: bytes, at: int) -> str:
    """Which part of a record a byte lies in, counted along the seal's own table."""
    whole = json.loads(good)["seal"]
    begin = good.index(b'"seal":{')
    end = begin + len(canonical_json({"seal": whole})) - 1
    if begin <= at < end:
        return "seal"
    place = at if at < begin else at - (end - begin)
    for path, length, _ in whole["parts"]:
        if place < length:
            return str(path)
        place -= length
    return "end of file"


def flip(world: World, path: Path) -> bool:
    """One bit of a random byte; whether it was found, in its part."""
    good = path.read_bytes()
    at, bit = world.chance.randrange(len(good)), 1 << world.chance.randrange(8)
    path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
    try:
        (found,) = replayed(world.reach, path.stem)
    finally:
        path.write_bytes(good)
    named = {each.path.partition(".")[0] if each.path.startswith("seal") else each.path for each in found.findings}
    right = found.status == "damaged" and named == {part_of(good, at)}
    if not right:
        print(f"{path.stem}, byte {at} ({part_of(good, at)}): {found.status} {sorted(named)}", file=sys.stderr)
    return right


def live(world: World, pulses: int) -> None:
    world.hand(world.grow_logs)
    world.hand(world.steal)
    ends = time.monotonic() + 4.0 * pulses + 120
    while len(world.records()) < pulses:
        if time.monotonic() > ends:
            raise SystemExit(f"only {len(world.records())} pulses came")
        world.trouble()
        time.sleep(world.chance.uniform(0.2, 3.0))
    world.end()
    time.sleep(8.0)  # the guardian heals what is still down


def seen(records: list[Path]) -> dict[str, int]:
    """What the records tell of: faults that left no trace would prove nothing."""
    told: Counter[str] = Counter()
    for path in records:
        record = json.loads(path.read_bytes())
        critique = record["critique"]
        told["interrupted"] += record["status"] == "interrupted"
        told["a service was silent"] += bool(record["reflect"]["silent"])
        told["stale or unknown readings"] += any(
            each["state"] in ("stale", "unknown") for each in record["reflect"]["capacity"].values()
        )
        told["kill switch on"] += record["kill_switch"]["engaged"]
        told["questions to the gates"] += len(record.get("gate_log", {}).get("entries", ()))
        told["tasks blocked or held"] += sum(each["state"] in ("held", "rejected") for each in record["plan"]["tasks"])
        told["tasks ended"] += len(critique["ended"])
        for each in critique["ended"]:
            verdict = "not due" if each["probe"] is None else each["probe"]["verdict"]
            told[f"probe {'missing' if isinstance(each.get('heard'), str) else verdict}"] += 1
        changes = critique.get("level_changes", ())
        told["promotions"] += sum(each["after"] == "EXECUTE" for each in changes)
        told["demotions"] += sum(each["before"] == "EXECUTE" for each in changes)
        told["windows looked at"] += len(critique.get("verifications", ()))
    return dict(sorted(told.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pulses", type=int, default=200)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calyx-replay-") as folder:
        world = World(Path(folder) / "station", options.seed)
        up = world.calyx("up", "--detach", "--port", "0", "--pulse-interval", "1s")
        if up.returncode != 0:
            print(up.stderr or up.stdout, file=sys.stderr)
            return 1
        try:
            live(world, options.pulses)
            begun = time.monotonic()
            verdicts = replayed(world.reach)
            took = time.monotonic() - begun
            for each in verdicts:
                if each.status != "identical":
                    print(f"{each.pulse_id} {each.status}: {each.reason}", file=sys.stderr)
                    for finding in each.findings:
                        print(f"  {finding.section}: {finding.path}: {finding.reason}", file=sys.stderr)
            records = world.records()[: options.pulses]
            found = sum(flip(world, world.chance.choice(records)) for _ in range(options.flips))
            sizes = [path.stat().st_size for path in records]
            told = seen(world.records())
        finally:
            world.end()
            world.calyx("down")
    identical = sum(each.status == "identical" for each in verdicts)
    result = {
        "pulses": len(verdicts),
        "identical": identical,
        "decided again in whole": sum(
            "critique.calibration" in each.sections and not each.skipped for each in verdicts
        ),
        "flips": options.flips,
        "flips found in their part": found,
        "ms a replay": round(1000 * took / max(1, len(verdicts)), 2),
        "bytes a record": sum(sizes) // len(sizes),
        "faults": dict(sorted(world.faults.items())),
        "records tell of": told,
    }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:28} {value}")
    return 0 if identical == len(verdicts) >= options.pulses and found == options.flips else 1


if __name__ == "__main__":
    raise SystemExit(main())
