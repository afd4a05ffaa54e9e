"""Cleanup removes what is old and belongs to nobody, and nothing else."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from governor_journal import Undoable

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.probing import Check, Verdict, run_checks
from chassis.work import Outcome, Plan
from services.governor.cleanup import FEW_FILES, MAX_FILES, Cleanup

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def task(procedure: str = "scratch", **params: str) -> Manifest:
    return Manifest(
        station_id="st-1",
        task_id=TaskId("t-clean"),
        owner="governor",
        issuer="cbo",
        domain="cleanup",
        procedure=procedure,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        ttl_seconds=600,
        params=params,
    )


class Station:
    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.clock, self.ages = VirtualClock(NOW), dict[Path, float]()
        self.live = {"t-live"}
        self.journal = Undoable(root / "journal", self.clock, [self.work])
        self.cleanup = Cleanup(
            work=self.work, live=self.live.__contains__, clock=self.clock, modified=lambda path: self.modified(path)
        )

    def modified(self, path: Path) -> datetime:
        return NOW - timedelta(seconds=self.ages.get(path, 0.0))

    def put(self, path: str, age: float = 7200.0) -> Path:
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"scratch {path}\n")
        self.ages[file] = age
        return file

    def scratch(self) -> Path:
        folder = self.work / "governor" / "t-clean"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rehearse(self, procedure: str = "scratch", **params: str) -> Plan:
        return self.cleanup.rehearse(task(procedure, **params), self.scratch())

    def perform(self, **params: str) -> Outcome:
        with self.journal.effects("t-clean") as effects:
            return self.cleanup.perform(task(**params), self.scratch(), effects)

    def files(self) -> Mapping[str, str]:
        return {str(p.relative_to(self.work)): p.read_text() for p in sorted(self.work.rglob("*")) if p.is_file()}


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def verdict(claims: tuple[dict[str, object], ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


def test_old_scratch_of_ended_tasks_goes_and_the_prober_agrees(station: Station) -> None:
    station.put("governor/t-1/a.tmp")
    station.put("analytics/t-2/deep/b.tmp")
    outcome = station.perform()
    assert station.files() == {}
    assert (len(outcome.claims), verdict(outcome.claims)) == (2, Verdict.CONFIRMED)
    assert outcome.cost["bytes_saved"] == len("scratch governor/t-1/a.tmp\n") + len(
        "scratch analytics/t-2/deep/b.tmp\n"
    )


def test_young_files_live_tasks_and_our_own_scratch_stay(station: Station) -> None:
    station.put("governor/t-1/young.tmp", age=3599)
    station.put("governor/t-live/old.tmp")
    station.put("governor/t-clean/own.tmp")
    station.put("loose.tmp")
    outcome = station.perform()
    assert outcome.no_work
    assert len(station.files()) == 4


def test_a_file_exactly_as_old_as_the_limit_goes(station: Station) -> None:
    station.put("governor/t-1/a.tmp", age=3600)
    assert not station.perform().no_work


def test_links_are_neither_followed_nor_removed(station: Station, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.tmp").write_text("keep\n")
    station.put("governor/t-1/a.tmp")
    (station.work / "governor" / "t-1" / "link").symlink_to(outside)
    (station.work / "governor" / "t-2").symlink_to(outside)
    station.ages[outside / "keep.tmp"] = station.ages[station.work / "governor" / "t-2" / "keep.tmp"] = 9e9
    station.perform()
    assert (outside / "keep.tmp").exists()
    assert (station.work / "governor" / "t-1" / "link").is_symlink()


def test_a_rehearsal_names_every_file_touches_none_and_is_confirmed(station: Station) -> None:
    station.put("governor/t-1/a.tmp")
    station.put("governor/t-1/b.tmp")
    before = station.files()
    plan = station.rehearse()
    assert station.files() == before
    assert [Path(c.target).name for c in plan.changes] == ["a.tmp", "b.tmp"]
    assert verdict(plan.claims) is Verdict.CONFIRMED
    assert {claim["kind"] for claim in plan.claims} == {"absent", "file_digest"}
    assert plan.digest == station.rehearse().digest
    station.perform()
    assert verdict(plan.claims) is Verdict.REFUTED


def test_one_run_is_bounded(station: Station) -> None:
    for n in range(MAX_FILES + 3):
        station.put(f"governor/t-1/{n:04d}")
    assert len(station.rehearse().changes) == MAX_FILES


def test_the_procedures_take_a_few_of_the_oldest_or_the_largest(station: Station) -> None:
    for n in range(FEW_FILES + 5):
        station.put(f"governor/t-1/{n:04d}", age=7200.0 + n).write_text("x" * (1000 - n))
    oldest, largest = (
        [Path(each.target).name for each in station.rehearse(procedure).changes] for procedure in ("oldest", "largest")
    )
    assert oldest == [f"{n:04d}" for n in range(FEW_FILES + 4, 4, -1)]
    assert largest == [f"{n:04d}" for n in range(FEW_FILES)]
    with pytest.raises(InvalidInput):
        station.rehearse("newest")


@pytest.mark.parametrize("age", ["-1", "soon", "nan", "inf"])
def test_a_bad_age_is_refused(station: Station, age: str) -> None:
    with pytest.raises(InvalidInput):
        station.rehearse(max_age_seconds=age)


def test_it_looks_nowhere_but_below_the_work_folder(station: Station, tmp_path: Path) -> None:
    station.put("governor/t-1/a.tmp")
    for folder in (tmp_path, station.work / ".." / "logs"):
        with pytest.raises(Refused):
            station.rehearse(folder=str(folder))


def test_without_a_work_folder_there_is_no_work(tmp_path: Path) -> None:
    station = Station(tmp_path)
    cleanup = Cleanup(
        work=tmp_path / "none", live=lambda _: False, clock=station.clock, modified=lambda path: station.modified(path)
    )
    assert cleanup.rehearse(task(), tmp_path).changes == ()


def test_the_drill_removes_its_files_and_undo_brings_them_back(station: Station) -> None:
    folder = station.work / "governor" / "drill-1"
    folder.mkdir(parents=True)
    params = station.cleanup.stage_drill(folder, "scratch")
    before = station.files()
    assert len(station.rehearse(**params).changes) == 2
    station.perform(**params)
    assert station.files() == {}
    assert station.journal.undo("t-clean")
    assert station.files() == before
