"""The wrapper of an approved run, or the station, is killed while it applies: nothing half stays, and that is said."""

import os
import signal
from pathlib import Path

import pytest

from chassis.layout import Layout
from cli.run.stage import obstacle
from tests.embedded.conftest import Station, until
from tests.run.conftest import ROOT, Seat
from tests.run.test_watched_journal import tree

KILLED = str(ROOT / "tests" / "run" / "killed_run.py")
AGENT = """
set -eu
cd $1
for n in $(seq 0 9); do rm remove-$n; mv rename-$n ../two/renamed-$n; echo edited >> edit-$n; done
mkdir -p ../two/deep/er; for n in $(seq 0 9); do echo created $n > ../two/deep/er/create-$n; done
"""


@pytest.fixture(autouse=True)
def _can(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := obstacle(Layout(tmp_path_factory.mktemp("look")), print):
        pytest.skip(f"this kernel can't rehearse: {why}")


class Ground:
    """Two folders, their domain, and a run of it that is killed at some moment."""

    def __init__(self, station: Station, root: Path, domain: str) -> None:
        self.station, self.root, self.domain = station, root, domain
        one, two = root / "one", root / "two"
        one.mkdir()
        two.mkdir()
        for kind in ("remove", "rename", "edit"):
            for n in range(10):
                (one / f"{kind}-{n}").write_text(f"{kind} {n}\n")
                os.utime(one / f"{kind}-{n}", ns=(10**18, 10**18 + n))
        self.script = root / "agent.sh"
        self.script.write_text(AGENT)
        self.before = self.picture()
        self.paths = ("--path", str(one), "--path", str(two))
        made = station.calyx("run", "--domain", domain, *self.paths, "--", "true", status=125)
        station.calyx(*made.stderr.split("make it with: calyx ")[1].split())

    def picture(self) -> dict[str, tuple[object, ...]]:
        return tree(self.root / "one") | {f"two/{name}": seen for name, seen in tree(self.root / "two").items()}

    def command(self) -> list[str]:
        return ["run", "--domain", self.domain, *self.paths, "--", "bash", str(self.script), str(self.root / "one")]

    def killed(self, moment: str, seat: Seat) -> str:
        """The task that was to apply the plan."""
        status, shown = seat.type(*self.command(), through=(KILLED, moment))
        assert status == -signal.SIGKILL, shown
        tasks = [each for each in self.station.json("task", "list")["tasks"] if each["domain"] == self.domain]
        return str(next(each["id"] for each in tasks if each["id"].endswith("-a")))


def ended(station: Station, task: str) -> None:
    """Its lease has to run out first."""
    until(lambda: station.json("task", "show", task)["state"] == "dead", 120, "the end of a task whose holder is dead")


def undone(ground: Ground, task: str) -> str:
    """What `calyx undo` said."""
    said = ground.station.calyx("undo", task, status=None).stdout
    until(lambda: ground.station.json("task", "show", task)["state"] == "undone", 60, "the undo")
    assert ground.picture() == ground.before
    return said


def test_a_run_killed_while_it_applies_is_taken_back_by_the_station_and_one_killed_after_it_can_be_undone(
    station: Station, seat: Seat, tmp_path: Path
) -> None:
    for name in ("half", "whole"):
        (tmp_path / name).mkdir()
    half, whole = (Ground(station, tmp_path / name, name) for name in ("half", "whole"))
    cut = half.killed("dressed:7", seat)
    all_of_it = whole.killed("finished", seat)
    # By the station's look every ten seconds, or by the next run, which looks at its start.
    until(lambda: half.picture() == half.before, 60, "the half is taken back, before anybody asks for it")
    ended(station, cut)
    ended(station, all_of_it)
    assert (tmp_path / "whole" / "two" / "deep" / "er" / "create-9").read_text() == "created 9\n"
    assert "what it changed is in the journal" in station.json("task", "show", all_of_it)["undo"]["reason"]
    assert "taken back when it was cut short" in undone(half, cut)
    undone(whole, all_of_it)
    for task in (cut, all_of_it):
        assert station.json("task", "show", task)["attempt"] == 1
    status, shown = seat.type(*half.command())
    assert status == 0 and "done" not in shown.split("rehearsed:")[0], shown
    assert (tmp_path / "half" / "two" / "deep" / "er" / "create-9").exists()


def test_an_overseer_killed_while_a_run_applies_gets_the_answer_when_it_is_back(
    station: Station, seat: Seat, tmp_path: Path
) -> None:
    ground = Ground(station, tmp_path, "outlives")
    overseer = next(each["pid"] for each in station.json("status")["services"] if each["name"] == "cbo")
    status, shown = seat.type(*ground.command(), through=(KILLED, f"overseer:5:{overseer}"))
    assert status == 0, shown
    assert (tmp_path / "two" / "deep" / "er" / "create-9").exists()
    task = shown.split("calyx undo ")[1].split()[0]
    assert station.json("task", "show", task)["state"] == "done"
    undone(ground, task)
