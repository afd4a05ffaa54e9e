"""The whole station on virtual time with services killed: every pulse is decided again from its record alone."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
from calyx.common.v1 import common_pb2

from chassis.rng import Rng
from services.governor.reproduce import again
from tests.virtual.virtual_station import Killed, VirtualStation, packaged

PULSES = 26


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualStation]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    root: Path = tmp_path_factory.mktemp("replay") / "station"
    made = VirtualStation(root, packaged(), seed="replay", busy_hours=frozenset())
    try:
        live(made)
        yield made
    finally:
        made.close()
        structlog.reset_defaults()


def live(station: VirtualStation) -> None:
    """A log that grows, objectives in words, a service killed every few minutes and the CBO in mid-pulse."""
    chance = Rng.of("virtual replay")
    cbo = CboServiceStub(station.channel("operator"))
    station.layout.logs.mkdir(exist_ok=True)
    for domain in ("log_rotation", "cleanup"):
        cbo.SetLevel(cbo_pb2.SetLevelRequest(domain=domain, level=common_pb2.LEVEL_EXECUTE, why="trusted"))
    stale = station.layout.root / "work" / "governor" / "t-old" / "left.tmp"
    stale.parent.mkdir(parents=True)
    stale.write_text("scratch of a task that has ended")
    os.utime(stale, (0, 0))
    points = iter(["planned", "dispatched", "probed", "settled"])
    for minute in range(PULSES):
        with (station.layout.logs / "app.log").open("a") as log:
            log.writelines(f"{minute} something happened, number {n}\n" for n in range(400))
        if minute % 6 == 2:
            domain = ("log_rotation", "diagnostics", "cleanup")[minute // 6 % 3]
            cbo.SubmitObjective(cbo_pb2.SubmitObjectiveRequest(text=f"{domain} now", domain=domain))
        if minute % 12 == 5:
            station.fault = killed_at(station, next(points, "settled"))
        elif minute % 5 == 3:
            station.kill(("memory", "governor", "guardian", "analytics")[int(chance.uniform() * 4)])
            cbo.RunPulse(cbo_pb2.RunPulseRequest())  # before the guardian has brought it back
        station.step(60)


def killed_at(station: VirtualStation, point: str) -> Callable[[str], None]:
    def fault(here: str) -> None:
        if here == point:
            station.fault = lambda _point: None
            raise Killed

    return fault


def replayed(station: VirtualStation) -> list[cbo_pb2.ReplayPulsesResponse]:
    return list(CboServiceStub(station.channel("operator")).ReplayPulses(cbo_pb2.ReplayPulsesRequest()))


def test_every_pulse_of_a_station_with_faults_is_decided_again_byte_for_byte(station: VirtualStation) -> None:
    found = replayed(station)
    assert {(each.status, each.reason) for each in found} <= {
        ("identical", "the same decisions, byte for byte"),
        ("identical", "the same decisions, byte for byte; not decided again: plan, critique (the pulse did not come "
         "to them)"),
    }  # fmt: skip
    assert len(found) >= PULSES
    assert sum("critique.ended" in each.sections for each in found) >= PULSES - 6
    records = [json.loads(path.read_bytes()) for path in sorted(station.layout.pulses.glob("*/bp-*.json"))]
    assert any(record["status"] == "interrupted" for record in records)
    assert any(record["reflect"]["silent"] for record in records)
    assert sum(len(record["critique"]["ended"]) for record in records) >= PULSES // 2


def test_a_byte_flipped_in_any_record_is_found_over_the_wire(station: VirtualStation) -> None:
    chance = Rng.of("virtual flips")
    paths = sorted(station.layout.pulses.glob("*/bp-*.json"))
    cbo = CboServiceStub(station.channel("operator"))
    for _ in range(40):
        path = paths[int(chance.uniform() * len(paths))]
        good = path.read_bytes()
        at, bit = int(chance.uniform() * len(good)), 1 << int(chance.uniform() * 8)
        path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        (found,) = cbo.ReplayPulses(cbo_pb2.ReplayPulsesRequest(id=path.stem))
        assert found.status == "damaged" and found.findings[0].path, f"byte {at} of {path.stem}"
        path.write_bytes(good)


def effects(station: VirtualStation, domain: str) -> list[str]:
    done = CboServiceStub(station.channel("operator")).ListTasks(
        cbo_pb2.ListTasksRequest(state="done", domain=domain, limit=100)
    )
    return [task.id for task in done.tasks if json.loads(task.ack_json)["files_changed"]]


@pytest.mark.parametrize("domain", ["log_rotation", "cleanup"])
def test_a_task_done_again_on_what_it_found_leaves_the_same_bytes(
    station: VirtualStation, domain: str, tmp_path: Path
) -> None:
    done = effects(station, domain)
    assert done
    for task in done:
        found = again(station.layout, task, tmp_path / "again")
        assert (found.status, found.changes != ()) == ("same", True), found.reason
    assert not (tmp_path / "again").exists()


def test_an_archive_whose_pre_image_is_gone_says_so(station: VirtualStation, tmp_path: Path) -> None:
    task = effects(station, "log_rotation")[0]
    for archive in station.layout.logs.glob("app.log.*"):
        archive.write_bytes(b"something else")
    found = again(station.layout, task, tmp_path / "again")
    assert found.status == "not reproducible"
    assert "is not kept any more" in found.reason or "can't be decompressed" in found.reason
