"""metrics_summary: the same bytes by either procedure, finished intervals only, closed days stay."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.canonical import canonical_json
from chassis.errors import InvalidInput
from chassis.exchange.manifest import Manifest, TaskId
from services.analytics.metrics_summary import GROUPERS, METRICS, MetricsSummary, Sources, bucket_start, summarise

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def sources(root: Path, rows: int, value: float = 10.0) -> Sources:
    lines = ["slot_start," + ",".join(f"{metric}_mean,{metric}_max" for metric in METRICS)]
    for minute in range(rows):
        at = (DAY + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        cells = ",".join(f"{value + minute % 10},{value + minute % 10 + 1}" for _ in METRICS[:-1])
        lines.append(f"{at},{cells},,")  # the last metric is unknown throughout
    (root / "capacity.csv").write_text("\n".join(lines) + "\n2026-01-01T0")
    return Sources(capacity=root / "capacity.csv", pulses=root / "pulses", out=root / "out")


def task(made: datetime, procedure: str = "stream", **params: str) -> Manifest:
    return Manifest(
        station_id="st-1",
        task_id=TaskId("t-1"),
        owner="analytics",
        issuer="cbo",
        domain="metrics_summary",
        procedure=procedure,
        created_at=made,
        expires_at=made,
        ttl_seconds=60,
        params=params,
    )


def test_all_procedures_write_the_same_bytes(tmp_path: Path) -> None:
    found = sources(tmp_path, 200)
    until = DAY + timedelta(minutes=200)
    made = {canonical_json(summarise(found, procedure, 60, until)) for procedure in GROUPERS}
    assert len(GROUPERS) == 3 and len(made) == 1


def test_only_finished_intervals_are_summarised_and_unknown_is_left_out(tmp_path: Path) -> None:
    summary = summarise(sources(tmp_path, 150), "stream", 60, DAY + timedelta(minutes=150))["20260101"]
    assert [bucket["start"] for bucket in summary["buckets"]] == [
        "2026-01-01T00:00:00.000000Z",
        "2026-01-01T01:00:00.000000Z",
    ]
    hour = summary["buckets"][0]["capacity"]
    assert hour["cpu_percent"] == {"rows": 60, "coverage": 1.0, "mean": 14.5, "min": 10.0, "max": 20.0}
    assert "disk_percent" not in hour, "a metric that was never known has no mean"


def test_the_rehearsal_plans_exactly_what_is_then_missing(tmp_path: Path) -> None:
    work = MetricsSummary(sources(tmp_path, 150), lambda: 0.0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    plan = work.rehearse(task(DAY + timedelta(minutes=150)), scratch)
    assert [Path(change.target).name for change in plan.changes] == ["20260101.json"]
    assert not (tmp_path / "out").exists()


def test_a_closed_day_keeps_its_summary_when_its_rows_are_gone(tmp_path: Path) -> None:
    found = sources(tmp_path, 60)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "20260101.json").write_text("kept")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    plan = MetricsSummary(found, lambda: 0.0).rehearse(task(DAY + timedelta(days=5)), scratch)
    assert plan.changes == ()


def test_pulses_count_and_an_unknown_tes_stays_out_of_the_mean(tmp_path: Path) -> None:
    found = sources(tmp_path, 60)
    day = tmp_path / "pulses" / "20260101"
    day.mkdir(parents=True)
    for n, tes in enumerate([97.0, None, 99.0]):
        record = {"started_at": f"2026-01-01T00:0{n}:00Z", "status": "complete", "critique": {"ended": [{"tes": tes}]}}
        (day / f"bp-{n:09d}.json").write_text(json.dumps(record))
    [bucket] = summarise(found, "stream", 60, DAY + timedelta(hours=1))["20260101"]["buckets"]
    assert bucket["pulses"] == {"count": 3, "complete": 3, "tasks_ended": 3, "tes_mean": 98.0, "tes_known": 2}


@pytest.mark.parametrize("minutes", ["0", "7", "-60", "soon"])
def test_an_interval_that_does_not_divide_a_day_is_refused(tmp_path: Path, minutes: str) -> None:
    work = MetricsSummary(sources(tmp_path, 1), lambda: 0.0)
    with pytest.raises(InvalidInput, match="divide a day"):
        work.rehearse(task(DAY, bucket_minutes=minutes), tmp_path)


@given(st.integers(0, 1439), st.sampled_from([1, 5, 60, 240, 1440]))
def test_a_bucket_starts_at_or_before_its_moment(minute: int, minutes: int) -> None:
    at = DAY + timedelta(minutes=minute, seconds=30)
    start = bucket_start(at, minutes)
    assert start <= at < start + timedelta(minutes=minutes)
