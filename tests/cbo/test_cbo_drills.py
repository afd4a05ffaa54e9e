"""What the agents wrote of their drills, and what the level gate makes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cbo_station import Station
from test_cbo_replay import verdicts

from chassis.atomic import write_json
from chassis.canonical import Json
from chassis.domains import Level, load_domains
from chassis.layout import DEPLOY, Layout
from services.cbo.drills import Drills

NewStation = Callable[..., Station]
DOMAINS = load_domains(DEPLOY / "domains")
EDITION = DOMAINS["cleanup"].digest


def told(layout: Layout, owner: str, found: Json) -> None:
    layout.drilled(owner).parent.mkdir(parents=True, exist_ok=True)
    write_json(layout.drilled(owner), found)


def test_what_no_agent_wrote_down_has_passed_no_drill_and_is_left_to_its_worker(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    drills = Drills(layout, DOMAINS)
    assert not drills("governor", "cleanup", "scratch") and not drills.barred("governor", "cleanup", "scratch")
    told(layout, "governor", {})
    layout.drilled("governor").write_text("{torn")
    assert not drills("governor", "cleanup", "scratch") and not drills.barred("governor", "cleanup", "scratch")


@pytest.mark.parametrize(
    ("drill", "why"),
    [
        ({"failed": None, "manifest": EDITION}, ""),
        ({"failed": "it left a file", "manifest": EDITION}, "did not pass its drill: it left a file"),
        ({"failed": None, "manifest": "0" * 64}, "another edition of cleanup"),
        ({"failed": None}, "another edition of cleanup"),
        (None, "has passed no drill"),
        ("passed", "has passed no drill"),
    ],
)
def test_a_drill_counts_for_the_edition_for_which_it_was_done(tmp_path: Path, drill: object, why: str) -> None:
    layout = Layout(tmp_path)
    drills = Drills(layout, DOMAINS)
    told(layout, "governor", {"cleanup/scratch": drill, "gone/scratch": {"failed": None, "manifest": EDITION}})
    assert drills("governor", "cleanup", "scratch") is (not why)
    assert why in drills.barred("governor", "cleanup", "scratch") and bool(why) == bool(
        drills.barred("governor", "cleanup", "scratch")
    )
    assert drills.barred("governor", "cleanup", "largest") == "the undo of largest has passed no drill"
    assert "there is no gone" in drills.barred("governor", "gone", "scratch")


def levels(station: Station, pulses: int) -> set[str]:
    found = [task for _ in range(pulses) for task in station.pulse()["plan"]["tasks"]]
    return {task["level"] for task in found if task["domain"] == "diagnostics"}


def test_at_execute_a_procedure_with_a_stale_or_failed_drill_is_only_rehearsed(new_station: NewStation) -> None:
    station = new_station()
    drills = Drills(station.layout, station.domains)
    for name in ("drilled", "barred"):
        object.__setattr__(station.cbo.bridge, name, drills if name == "drilled" else drills.barred)
    station.cbo.desk.set_level("diagnostics", Level.EXECUTE, "for the test", station.cbo.pulse_number(), "operator")
    manifest = station.domains["diagnostics"]

    def write(**drill: object) -> None:
        known = {"failed": None, "manifest": manifest.digest, **drill}
        told(station.layout, "guardian", {f"diagnostics/{each}": known for each in manifest.procedures})

    write()
    assert levels(station, 3) == {"EXECUTE"}
    write(manifest="0" * 64)
    assert levels(station, 3) == {"GUIDE"}
    said = station.record()["plan"]["tasks"][0]["gates"]
    level = next(each for each in said if each["gate"] == "level")
    assert "only rehearsed" in level["reason"] and "another edition" in level["reason"]
    write(failed="the undo did not restore a.txt")
    assert levels(station, 3) == {"GUIDE"}
    write()
    assert "EXECUTE" in levels(station, 3)
    assert {each.status for each in verdicts(station)} == {"identical"}
