"""The embedded station from outside: a new one earns its way, rotates live logs, stops when told, and heals."""

import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from calyx.guardian.v1 import guardian_pb2
from calyx.guardian.v1.guardian_pb2_grpc import GuardianServiceStub

from chassis.layout import SERVICES
from tests.embedded.conftest import Station, until

KILLS = int(os.environ.get("CALYX_TEST_KILLS", "6"))
"""Kills in the healing test: one for each service; `CALYX_TEST_KILLS=20 pytest tests/embedded` for the long run."""

WRITER = """
import sys, time
path, rate = sys.argv[1], int(sys.argv[2])
n, started = 0, time.monotonic()
while True:
    with open(path, "a") as log:
        while n < (time.monotonic() - started) * rate:
            log.write(f"line {n} " + "x" * 60 + "\\n"); n += 1
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def writer(station: Station) -> Iterator[Path]:
    """A process that adds 1,000 lines a second to a log in the station's own log folder, reopening as it goes."""
    log = station.layout.logs / "writer.log"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(log), "1000"])
    try:
        yield log
    finally:
        process.terminate()
        process.wait()


def content(segment: Path) -> bytes:
    match segment.suffix:
        case ".gz":
            return gzip.decompress(segment.read_bytes())
        case ".xz":
            return lzma.decompress(segment.read_bytes())
        case ".zst":
            with zstandard.ZstdDecompressor().stream_reader(segment.open("rb")) as stream:
                return stream.read()
        case _:
            return segment.read_bytes()


def numbers(log: Path) -> list[int]:
    """The line numbers in all segments of a log, in order; a half-written last line is the writer's own."""
    data = b"".join(content(path) for path in sorted(log.parent.glob(f"{log.name}*")))
    return sorted(
        int(line.split()[1]) for line in data.split(b"\n") if line.startswith(b"line ") and line.endswith(b"x")
    )


def test_a_new_station_earns_execute_and_rotates_a_live_log_without_losing_a_line(
    station: Station, writer: Path
) -> None:
    until(lambda: station.domain("diagnostics")["level"] == "EXECUTE", 60, "diagnostics promoted by the rule")
    assert len(station.pulses()) >= 5

    station.calyx("objective", "add", "rotate the logs", "--domain", "log_rotation", "--every", "1s")
    until(lambda: station.domain("log_rotation")["level"] == "EXECUTE", 90, "log_rotation promoted by the rule")

    def rotated() -> dict[str, Any] | None:
        for task in station.json("task", "list", "--state", "done")["tasks"]:
            if task["domain"] == "log_rotation" and list(writer.parent.glob(f"{writer.name}.*.*")):
                shown: dict[str, Any] = station.json("task", "show", task["id"])
                if shown["undo"]["possible"]:
                    return shown
        return None

    until(rotated, 60, "a real log file rotated and compressed, by a task that can be undone")

    found = numbers(writer)
    assert found == list(range(len(found))), "a line was lost or doubled"

    def recalled() -> list[dict[str, object]]:
        matches: list[dict[str, object]] = station.json("recall", "rotate the logs")["matches"]
        return matches

    matches = until(recalled, 30, "the experience in memory")
    assert all(match["domain"] == "log_rotation" for match in matches)
    assert all(match["cosine"] > 0.8 for match in matches)  # type: ignore[operator]  # JSON


def test_undone_rotations_give_back_every_line(station: Station, writer: Path) -> None:
    """The later rotations of the same log stand on the earlier ones: alone refused, with --cascade all undone."""

    def undoable() -> list[str]:
        """Newest first."""
        return [
            task["id"]
            for task in station.json("task", "list", "--state", "done")["tasks"]
            if task["domain"] == "log_rotation" and station.json("task", "show", task["id"])["undo"]["possible"]
        ]

    until(lambda: len(undoable()) >= 2, 60, "two rotations that can be undone")
    for objective in station.json("objective", "list")["objectives"]:
        if objective["domain"] == "log_rotation":
            station.calyx("objective", "cancel", objective["id"])
    until(lambda: not unfinished(station, "log_rotation"), 30, "the running rotations ended")
    rotations = undoable()[:3]
    station.calyx("undo", rotations[-1], "--dry-run", status=1)
    station.calyx("undo", rotations[-1], "--cascade", "--dry-run")
    station.calyx("undo", rotations[-1], "--cascade")
    for each in rotations:
        until(lambda each=each: station.json("task", "show", each)["state"] == "undone", 30, f"{each} is undone")  # type: ignore[misc]  # default binds
    found = numbers(writer)
    assert found == list(range(len(found))), "a line was lost or doubled"


def unfinished(station: Station, domain: str) -> list[str]:
    tasks = station.json("task", "list")["tasks"]
    over = {"rehearsed", "done", "failed", "expired", "cancelled", "rejected", "dead", "undone"}
    return [task["id"] for task in tasks if task["domain"] == domain and task["state"] not in over]


def test_the_kill_switch_holds_everything_and_resume_lets_it_go_on(station: Station) -> None:
    def performed() -> int:
        return sum(1 for _ in (station.layout.root / "reports" / "diagnostics").glob("*.json"))

    station.calyx("stop", "--why", "a test")
    assert station.layout.kill_switch.exists()
    station.more_pulses(3)
    before = performed()
    station.more_pulses(3)
    assert performed() == before, "an effect started under the kill switch"
    record = json.loads(station.pulses()[-1].read_text())
    assert record["kill_switch"] == {"engaged": True, "why": "a test"}
    assert station.json("status")["station"]["kill_switch"] is True
    assert station.overview()["kill_switch"]["engaged"] is True
    expired = {task["id"] for task in station.json("task", "list", "--state", "expired")["tasks"]}

    station.calyx("resume")
    until(lambda: performed() > before, 30, "what was held goes on")
    after = {task["id"] for task in station.json("task", "list", "--state", "expired")["tasks"]}
    assert after <= expired, "a task expired while the station was stopped"


def test_a_killed_service_is_back_without_a_person(station: Station) -> None:
    health = GuardianServiceStub(station.channel("guardian"))
    chance = random.Random(20261123)
    targets = [SERVICES[n % len(SERVICES)] for n in range(KILLS)]
    chance.shuffle(targets)

    def pid(service: str) -> int | None:
        rows = {row["name"]: row for row in station.json("status")["services"]}
        return rows[service]["pid"] if rows[service]["state"] == "up" else None

    for target in targets:
        victim = until(lambda target=target: pid(target), 60, f"{target} is up")  # type: ignore[misc]  # bound default
        os.kill(victim, signal.SIGKILL)
        until(lambda target=target, victim=victim: (pid(target) or victim) != victim, 60, f"{target} is back")  # type: ignore[misc]  # bound defaults
    incidents = health.ListIncidents(guardian_pb2.ListIncidentsRequest(limit=500), timeout=10).incidents
    for target in set(targets):
        assert any(each.target == target and each.HasField("closed_at") for each in incidents), f"no incident: {target}"
    station.more_pulses(2)
    entries = [
        entry for path in station.pulses() for entry in json.loads(path.read_text())["reflect"]["incidents"] or ()
    ]
    assert {entry["target"] for entry in entries} >= set(targets), "a recovery without a pulse entry"
    ids = [json.loads(path.read_text())["id"] for path in station.pulses()]
    assert len(ids) == len(set(ids))


def test_no_task_was_done_twice(station: Station) -> None:
    acks = list((station.layout.svf / "acks").glob("*/*.json"))
    done = [path.name.split(".e")[0] for path in (station.layout.svf / "done").glob("*/*.done")]
    assert len(done) == len(set(done))
    assert len(acks) >= len(done)


def test_the_audit_chains_hold(station: Station) -> None:
    station.calyx("audit", "verify")


def test_a_second_up_on_the_same_station_is_refused_in_one_line(station: Station) -> None:
    again = station.calyx("up", "--detach", "--port", "0", status=None)
    assert again.returncode != 0
    assert len(again.stderr.strip().splitlines()) == 1, again.stderr
