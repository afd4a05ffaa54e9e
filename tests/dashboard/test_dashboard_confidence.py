"""What was predicted, beside how it came out: a picture only of what was measured."""

import asyncio
from pathlib import Path
from typing import Any

from dashboard_fakes import Bench, bench
from dashboard_scenes import busy, empty

from chassis.clock import VirtualClock


def look(made: Bench) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(made.at.board.overview()).document["confidence"]
    return found


def test_the_bins_and_figures_are_shown_as_told_and_go_when_the_answer_is_too_old(tmp_path: Path) -> None:
    made = bench(tmp_path / "station", busy(VirtualClock()))
    shown = look(made)
    assert shown["predictions"] == 120 and len(shown["bins"]) == 10 and shown["state"] == "ok"
    assert shown["uplift"] is None and "12 of 30" in shown["uplift_note"]
    made.station.down.add("cbo")
    made.clock.advance(1000)  # type: ignore[attr-defined]  # a VirtualClock
    lost = look(made)
    assert lost["state"] == "unknown" and lost["bins"] == [] and lost["predictions"] is None and lost["brier"] is None


def test_before_the_first_prediction_there_is_no_figure_at_all(tmp_path: Path) -> None:
    shown = look(bench(tmp_path / "station", empty(VirtualClock())))
    assert shown["bins"] == [] and {shown["brier"], shown["calibration_error"], shown["skill"]} == {None}
