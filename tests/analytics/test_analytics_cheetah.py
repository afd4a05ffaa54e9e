"""An analysis from files to charts, memory and the wire."""

import csv
import json
from datetime import datetime
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, Unavailable
from services.analytics.adapters import StatisticsProcess
from services.analytics.cheetah import Cheetah
from services.analytics.draw import run


class Inline:
    """draw.py in this process."""

    run = staticmethod(run)


class Notebook:
    """A memory that keeps what it is told, or is out of reach."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.kept: dict[str, str] = {}
        self.reachable = reachable

    def remember(self, experience_id: str, summary: str, at: datetime, context: dict[str, str]) -> None:
        if not self.reachable:
            raise Unavailable("memory is down")
        self.kept[experience_id] = summary


def pulses(folder: Path, count: int) -> Path:
    for n in range(count):
        day = folder / "20260101"
        day.mkdir(parents=True, exist_ok=True)
        record = {
            "schema": "calyx.pulse/1",
            "id": f"bp-{n:09d}",
            "started_at": f"2026-01-01T{n // 60:02d}:{n % 60:02d}:00.000000Z",
            "reflect": {"capacity": {"ram_percent": {"value": 40.0 + n % 7, "state": "ok"}}},
            "critique": {"ended": [{"tes": 97.0 if n % 5 else None}], "kpis": []},
        }
        (day / f"bp-{n:09d}.json").write_text(json.dumps(record))
    return folder


def cheetah(root: Path, memory: Notebook, statistics: object = None) -> Cheetah:
    return Cheetah(
        pulses=root / "pulses",
        folder=root / "reports" / "trends",
        clock=VirtualClock(),
        statistics=statistics or Inline(),  # type: ignore[arg-type]  # duck-typed port
        memory=memory,
    )


def test_an_analysis_in_a_process_of_its_own_draws_charts_and_feeds_memory(tmp_path: Path) -> None:
    memory = Notebook()
    agent = cheetah(tmp_path, memory, StatisticsProcess())
    pulses(tmp_path / "pulses", 40)
    done = agent.analyze()
    assert done.pulses == 40
    assert {path.name for path, _, _ in agent.charts()} >= {"tes.svg", "tes.png", "tes.csv", "ram_percent.svg"}
    assert (tmp_path / "reports/trends/tes.png").read_bytes().startswith(b"\x89PNG")
    assert list(memory.kept.values()) == [done.summary]
    assert "uptime: insufficient data (0 known, 40 unknown)" in done.summary
    with (tmp_path / "reports/trends/tes.csv").open() as table:
        values = [row["tes"] for row in csv.DictReader(table)]
    assert values.count("") == 8, "an unknown TES is an empty cell"
    assert agent.latest() == done


def test_repeating_an_analysis_feeds_memory_once(tmp_path: Path) -> None:
    memory = Notebook()
    agent = cheetah(tmp_path, memory)
    pulses(tmp_path / "pulses", 12)
    agent.analyze(charts=False)
    agent.analyze(charts=False)
    assert len(memory.kept) == 1


def test_without_pulses_there_is_insufficient_data_and_nothing_to_remember(tmp_path: Path) -> None:
    memory = Notebook()
    done = cheetah(tmp_path, memory).analyze()
    assert done.pulses == 0
    assert {trend["verdict"] for trend in done.trends} == {"insufficient data"}
    assert memory.kept == {}


def test_a_memory_out_of_reach_does_not_cost_the_analysis(tmp_path: Path) -> None:
    agent = cheetah(tmp_path, Notebook(reachable=False))
    pulses(tmp_path / "pulses", 12)
    assert agent.analyze(charts=False).pulses == 12
    assert agent.latest() is not None


def test_it_analyses_by_itself_when_there_is_enough_and_the_last_one_is_old(tmp_path: Path) -> None:
    agent = cheetah(tmp_path, Notebook())
    pulses(tmp_path / "pulses", 11)
    assert agent.refresh(12, 1800, 240) is None
    pulses(tmp_path / "pulses", 12)
    assert agent.refresh(12, 1800, 240) is not None
    assert agent.refresh(12, 1800, 240) is None
    assert isinstance(agent.clock, VirtualClock)
    agent.clock.advance(1800)
    assert agent.refresh(12, 1800, 240) is not None


def test_older_reports_go_to_a_folder_of_their_own(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "a.md").write_text(
        "Timestamp: 2025-01-01 00:00:00\nPulse ID: bp-0001\n\n| Metric | Value |\n| Mean TES | 90.2 |\n"
    )
    agent = cheetah(tmp_path, Notebook())
    assert agent.analyze(import_dir=str(old)).source == "import:old"
    assert agent.latest() is None, "an import is not the station's own trend"


def test_wrong_input_is_refused_in_one_line(tmp_path: Path) -> None:
    agent = cheetah(tmp_path, Notebook())
    with pytest.raises(InvalidInput, match="not a folder"):
        agent.analyze(import_dir=str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="must be 1 to"):
        agent.analyze(last=0)
