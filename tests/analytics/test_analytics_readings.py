"""What counts as a figure in a pulse, and what does not."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chassis.errors import InvalidInput
from services.analytics.readings import from_markdown, from_record, read_markdown, read_records, without_repeats

LEGACY = Path(__file__).parents[3] / "shared" / "data" / "legacy_pulses"


def report(
    pulse_id: str = "bp-0001",
    *,
    at: str = "2026-01-02 03:04:05",
    uptime: str = "99.0%",
    ram: str = "50.0%",
    samples: int = 144,
) -> str:
    return f"""# Station Calyx - Bridge Pulse Report

Timestamp: {at}
Pulse ID: {pulse_id}

## 1. Core Metrics
| Metric | Value | Threshold | Status |
| --- | --- | --- | --- |
| Uptime (24h rolling) | {uptime} | > 90% | OK |
| Samples (24h) | {samples} | > 0 | OK |
| Mean TES | 90.2 | >= 95 | Attention |
| CPU Load Avg | 12.0% | < 70% | OK |
| RAM Utilization | {ram} | < 75% | OK |
| GPU Utilization | N/A | < 85% | OK |
"""


def record(number: int, *, tes: float | None = 97.0, ram: object = None) -> dict[str, object]:
    return {
        "schema": "calyx.pulse/1",
        "id": f"bp-{number:09d}",
        "started_at": f"2026-01-01T00:{number:02d}:00.000000Z",
        "status": "complete",
        "reflect": {"capacity": {"ram_percent": ram or {"value": 40.0, "state": "ok"}}},
        "critique": {"ended": [{"tes": tes}], "kpis": [{"name": "uptime", "value": 100.0, "verdict": "met"}]},
    }


def test_uptime_from_one_sample_is_unknown() -> None:
    assert from_markdown(report(samples=1, uptime="100.0%")).uptime_percent is None
    assert from_markdown(report(samples=144, uptime="99.2%")).uptime_percent == 99.2


def test_not_available_and_impossible_figures_are_unknown() -> None:
    assert from_markdown(report(uptime="N/A")).uptime_percent is None
    assert from_markdown(report(ram="0.0%")).ram_percent is None


def test_a_repeated_pulse_measures_nothing() -> None:
    readings = [from_markdown(report(f"bp-000{n}", ram=ram)) for n, ram in enumerate(["50.0%", "50.0%", "51.0%"])]
    assert [r.ram_percent for r in without_repeats(readings)] == [50.0, None, 51.0]


def test_local_times_take_the_offset_that_the_ids_show(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(report("burst-20260102T100405", at="2026-01-02 03:04:05"))
    (tmp_path / "b.md").write_text(report("bp-0002", at="2026-01-02 04:00:00", ram="61%"))
    first, second = read_markdown(tmp_path).readings
    assert first.at == datetime(2026, 1, 2, 10, 4, 5, tzinfo=UTC)
    assert second.at == datetime(2026, 1, 2, 11, 0, 0, tzinfo=UTC)


def test_what_is_no_report_is_rejected_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(report())
    (tmp_path / "shopping.md").write_text("eggs, milk")
    read = read_markdown(tmp_path)
    assert len(read.readings) == 1
    assert read.rejected[0].startswith("shopping.md: ")


def test_a_folder_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no"):
        read_markdown(tmp_path)


def test_a_record_gives_its_known_figures_and_no_others() -> None:
    reading = from_record(record(1, tes=None, ram={"value": 40.0, "state": "stale"}))
    assert (reading.tes, reading.ram_percent, reading.uptime_percent) == (None, None, 100.0)


def test_a_damaged_record_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    day = tmp_path / "20260101"
    day.mkdir()
    for number in range(1, 4):
        (day / f"bp-{number:09d}.json").write_text(json.dumps(record(number)))
    (day / "bp-000000002.json").write_text('{"schema": "calyx.pu')
    read = read_records(tmp_path, 10)
    assert [r.pulse_id for r in read.readings] == ["bp-000000001", "bp-000000003"]
    assert read.rejected[0].startswith("bp-000000002.json: ")


@pytest.mark.skipif(not LEGACY.is_dir(), reason="the older pulses (shared/data/legacy_pulses) are not here")
def test_every_older_pulse_is_read_and_repeats_stay_unknown() -> None:
    read = read_markdown(LEGACY)
    assert len(read.readings) == 410
    assert read.rejected == ()
    known = sum(r.tes is not None for r in read.readings)
    assert known < 100, "395 reports repeat the same 90.2; they are not 395 measurements"
