"""Cleaning the disk removes what the station wrote and is old; nothing else, whatever it is called."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from governor_journal import Undoable

from chassis.clock import VirtualClock
from chassis.drill import tree
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.layout import Layout
from chassis.probing import Check, Verdict, run_checks
from chassis.work import Outcome
from services.governor.agent import modified
from services.governor.disk_cleanup import MAX_FILES, DiskCleanup

NOW = datetime(2026, 5, 1, tzinfo=UTC)
STAMP = "20260101T000000000000"


def task(procedure: str = "oldest", **params: str) -> Manifest:
    return Manifest(
        station_id="st-1", task_id=TaskId("t-disk"), owner="governor", issuer="cbo", domain="disk_cleanup",
        procedure=procedure, created_at=NOW, expires_at=NOW + timedelta(hours=1), ttl_seconds=600, params=params,
    )  # fmt: skip


class Station:
    def __init__(self, root: Path) -> None:
        self.layout = Layout(root / "station")
        self.journal = Undoable(root / "journal", VirtualClock(NOW), [self.layout.root])
        self.work = DiskCleanup(
            layout=self.layout, scratch_root=self.layout.work("governor"), clock=VirtualClock(NOW), modified=modified
        )

    def put(self, name: str, days: float = 60.0, size: int = 100) -> Path:
        path = self.layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        then = (NOW - timedelta(days=days)).timestamp()
        os.utime(path, (then, then))
        return path

    def scratch(self, name: str) -> Path:
        folder = self.layout.work("governor") / name
        folder.mkdir(parents=True)
        return folder

    def perform(self, given: Manifest) -> Outcome:
        with self.journal.effects(given.task_id) as effects:
            return self.work.perform(given, self.scratch("perform"), effects)

    def planned(self, procedure: str, **params: str) -> list[str]:
        plan = self.work.rehearse(task(procedure, **params), self.scratch(f"{procedure}-{len(params)}"))
        assert not plan.claims or verdict(plan.claims) is Verdict.CONFIRMED
        return [str(Path(each.target).relative_to(self.layout.root)) for each in plan.changes]


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def verdict(claims: tuple[dict[str, object], ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


def test_what_is_old_goes_the_prober_agrees_and_undo_brings_every_byte_and_time_back(station: Station) -> None:
    for name in (f"logs/app.log.{STAMP}.gz", "reports/diagnostics/t-000000001-1.json", "reports/exports/d.zip"):
        station.put(name)
    before = tree(station.layout.root)
    times = {path: path.stat().st_mtime_ns for path in station.layout.root.rglob("*") if path.is_file()}
    outcome = station.perform(task())
    assert (len(outcome.claims), verdict(outcome.claims)) == (3, Verdict.CONFIRMED)
    assert outcome.cost["bytes_in"] == 300
    assert station.journal.undo("t-disk")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {name: found for name, found in tree(station.layout.root).items() if not name.startswith("work")} == before


def test_what_is_young_of_another_name_a_link_or_has_a_second_name_stays(station: Station, tmp_path: Path) -> None:
    station.put(f"logs/app.log.{STAMP}.gz", days=29)
    station.put("logs/app.log")
    station.put(f"logs/app.log.{STAMP}")
    station.put("reports/diagnostics/notes.json")
    station.put("memory/experience.sqlite")
    twin = station.put(f"logs/twin.log.{STAMP}.gz")
    (tmp_path / "twin").hardlink_to(twin)
    (station.layout.logs / f"link.log.{STAMP}.xz").symlink_to(twin)
    assert station.planned("expendable") == []
    assert station.perform(task()).no_work


def test_the_newest_backups_stay_however_old_and_a_backup_goes_with_its_digest(station: Station) -> None:
    names = [f"experience-202601{day:02d}T000000000000Z.sqlite" for day in range(1, 10)]
    for name in names:
        station.put(f"memory/backups/{name}")
        station.put(f"memory/backups/{name}.sha256", size=10)
    gone = station.planned("oldest")
    assert gone == [f"memory/backups/{name}{end}" for name in names[:2] for end in ("", ".sha256")]
    assert len(station.planned("oldest", keep_backups="3")) == 12


def test_each_procedure_begins_elsewhere_and_stops_when_it_is_enough(station: Station) -> None:
    station.put("reports/exports/d.zip", days=40, size=10)
    station.put(f"logs/app.log.{STAMP}.gz", days=90, size=20)
    station.put(f"logs/web.log.{STAMP}.xz", days=50, size=3000)
    first = {name: station.planned(name, enough_bytes="5") for name in DiskCleanup.procedures}
    assert first == {
        "expendable": ["reports/exports/d.zip"],
        "oldest": [f"logs/app.log.{STAMP}.gz"],
        "largest": [f"logs/web.log.{STAMP}.xz"],
    }
    assert len({tuple(sorted(station.planned(name))) for name in DiskCleanup.procedures}) == 1, "in the end all goes"


def test_one_run_is_bounded(station: Station) -> None:
    for n in range(MAX_FILES + 3):
        station.put(f"reports/exports/{n}.zip")
    assert len(station.planned("largest")) == MAX_FILES


@pytest.mark.parametrize(
    "params", [{"max_age_days": "1"}, {"max_age_days": "-3"}, {"keep_backups": "0"}, {"enough_bytes": "all"}]
)
def test_a_param_out_of_bounds_is_refused(station: Station, params: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        station.work.rehearse(task(**params), station.scratch("r"))


def test_it_works_on_no_other_station(station: Station, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        station.work.rehearse(task(station=str(tmp_path)), station.scratch("r"))
    with pytest.raises(InvalidInput):
        station.work.rehearse(replace(task(), procedure="all"), station.scratch("s"))
