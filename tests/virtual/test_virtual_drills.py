"""A stretch of the whole station in which one undo is not drilled yet: only rehearsed, then drilled, then chosen."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
from calyx.common.v1 import common_pb2

from chassis.errors import Refused
from chassis.exchange.manifest import Manifest
from chassis.work import Effects, Outcome, Plan, Work
from tests.virtual.virtual_station import VirtualStation, packaged

DOMAIN, LATE = "diagnostics", "full"
PULSES, MOST = 20, 120
"""In each part: so many pulses, and as many more as it takes until the late one was chosen."""


class Unready:
    """The real work, whose drill of one procedure can't be staged until it is `ready`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.domain, self.procedures = work.domain, work.procedures
        self.ready = False

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return self._work.rehearse(task, scratch)

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        done = self._work.perform(task, scratch, effects)
        return replace(done, cost={**done.cost, "cpu_seconds": 0.5})  # not what this machine took: the draws rest on it

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        if procedure == LATE and not self.ready:
            raise Refused("there is no room for the drill")
        return self._work.stage_drill(folder, procedure)


class Stretch:
    """The station, and what its pulses planned, part by part."""

    def __init__(self, station: VirtualStation, late: Unready) -> None:
        self.station = station
        self.before = self.live(lambda task: "only rehearsed, since" in why(task))
        late.ready = True
        station.step(120)  # an agent drills again what failed after a minute
        self.after = self.live(lambda task: task["procedure"] == LATE and task["level"] == "EXECUTE")
        station.explore = False
        station.kill("cbo")
        station.step(120)
        self.off = self.live()

    def live(self, enough: Callable[[dict[str, Any]], bool] = lambda _task: True) -> list[dict[str, Any]]:
        """What was planned of the domain, in pulses on end."""
        seen = set(self.station.layout.pulses.glob("*/bp-*.json"))
        found: list[dict[str, Any]] = []
        for number in range(1, MOST + 1):
            self.station.step(60)
            for path in sorted(set(self.station.layout.pulses.glob("*/bp-*.json")) - seen):
                seen.add(path)
                tasks = json.loads(path.read_bytes())["plan"]["tasks"]
                found += [task for task in tasks if task["new"] and task["domain"] == DOMAIN]
            if number >= PULSES and any(map(enough, found)):
                break
        return found


@pytest.fixture(scope="module")
def stretch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stretch]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    root: Path = tmp_path_factory.mktemp("drills") / "station"
    late: list[Unready] = []

    def one_late(work: Work) -> Work:
        if work.domain != DOMAIN:
            return work
        late.append(Unready(work))
        return late[-1]

    station = VirtualStation(root, packaged(), seed="drills", busy_hours=frozenset(), work=one_late)
    CboServiceStub(station.channel("operator")).SetLevel(
        cbo_pb2.SetLevelRequest(domain=DOMAIN, level=common_pb2.LEVEL_EXECUTE, why="trusted")
    )
    station.step(30)
    try:
        yield Stretch(station, late[0])
    finally:
        station.close()
        structlog.reset_defaults()


def levels(planned: list[dict[str, Any]], procedure: str) -> Counter[str]:
    return Counter(task["level"] for task in planned if task["procedure"] == procedure)


def why(task: dict[str, Any]) -> str:
    return next(str(draw["why"]) for draw in task["draws"] if "why" in draw)


def test_what_was_never_drilled_is_only_rehearsed(stretch: Stretch) -> None:
    assert set(levels(stretch.before, LATE)) == {"GUIDE"}
    acts = levels(stretch.before, "quick") + levels(stretch.before, "rolling")
    assert acts["EXECUTE"] > 0, "what was drilled acts meanwhile"
    drawn = [task for task in stretch.before if task["procedure"] == LATE]
    assert any("only rehearsed, since its undo has passed no drill" in why(task) for task in drawn)
    gates = [gate["reason"] for task in drawn for gate in task["gates"] if gate["gate"] == "level"]
    assert all("only rehearsed" in reason and "no room for the drill" in reason for reason in gates)


def test_once_its_drill_has_passed_it_is_chosen_and_acts(stretch: Stretch) -> None:
    assert levels(stretch.after, LATE)["EXECUTE"] > 0
    acted = {task["task_id"] for task in stretch.after if task["procedure"] == LATE and task["level"] == "EXECUTE"}
    done = CboServiceStub(stretch.station.channel("operator")).ListTasks(
        cbo_pb2.ListTasksRequest(state="done", domain=DOMAIN, limit=1000)
    )
    assert acted & {task.id for task in done.tasks}, "and was done"


def test_with_exploring_off_nothing_is_drawn_to_learn(stretch: Stretch) -> None:
    assert any("to learn" in why(task) for task in stretch.before + stretch.after)
    assert stretch.off and {why(task) for task in stretch.off} == {"best known of 3; exploration is off"}
    assert all(
        draw["draw"] == draw["alpha"] / (draw["alpha"] + draw["beta"]) for t in stretch.off for draw in t["draws"]
    )


def test_every_pulse_of_the_stretch_is_decided_again_byte_for_byte(stretch: Stretch) -> None:
    found = list(CboServiceStub(stretch.station.channel("operator")).ReplayPulses(cbo_pb2.ReplayPulsesRequest()))
    assert len(found) >= 3 * PULSES and {each.status for each in found} == {"identical"}
