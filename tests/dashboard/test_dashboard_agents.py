"""The page's section about outside agents."""

import asyncio
from pathlib import Path
from typing import Any

from dashboard_fakes import Bench, bench
from dashboard_scenes import agent, busy

from chassis.clock import VirtualClock


def look(made: Bench) -> Any:
    return asyncio.run(made.at.board.overview()).document["agents"]


def test_good_agents_come_first_and_those_seen_last_on_top(tmp_path: Path) -> None:
    clock = VirtualClock()
    shown = look(bench(tmp_path, busy(clock)))
    assert [each["agent"] for each in shown["items"]] == ["scribe", "builder", "newcomer", "old-crawler"]
    assert (shown["state"], shown["total"]) == ("ok", 4)
    assert shown["items"][2]["last_seen"] is None, "never seen is not a time"
    assert "token" not in str(shown)


def test_a_long_silent_overseer_makes_it_unknown_not_empty(tmp_path: Path) -> None:
    clock = VirtualClock()
    made = bench(tmp_path, busy(clock))
    assert len(look(made)["items"]) == 4
    made.station.down.add("cbo")
    clock.advance(400)
    assert (look(made)["state"], look(made)["items"]) == ("unknown", [])


def test_a_crowd_is_counted_rather_than_listed(tmp_path: Path) -> None:
    clock = VirtualClock()
    station = busy(clock)
    station.agent_list = [agent(clock, f"a-{n:02}", ["d"], seen=None) for n in range(25)]
    shown = look(bench(tmp_path, station))
    assert (len(shown["items"]), shown["total"]) == (20, 25)
