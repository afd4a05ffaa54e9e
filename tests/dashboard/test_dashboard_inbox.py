"""The page shows what `calyx inbox` shows: the plans, and everything else that waits for a person."""

import asyncio
from pathlib import Path
from typing import Any

from dashboard_fakes import Bench, bench
from dashboard_scenes import busy

from chassis.clock import VirtualClock


def look(made: Bench) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(made.at.board.overview()).document["inbox"]
    return found


def test_what_waits_beside_the_plans_is_there_with_its_commands_until_it_is_unknown(tmp_path: Path) -> None:
    made = bench(tmp_path / "station", busy(VirtualClock()))
    plan = made.station.task_list[0]["id"]
    shut = {
        "kind": "quarantine", "id": "memory", "title": "memory is in quarantine", "domain": "", "since": None,
        "expires_at": None, "commands": ["calyx quarantine release memory"], "task": None,
    }  # fmt: skip
    asked = {**shut, "kind": "approval", "id": plan, "expires_at": "2026-01-08T00:00:00Z"}
    made.station.waiting_answer = {"items": [asked, shut], "unknown": ["faults: the guardian: silent"]}
    shown = look(made)
    assert [(each["id"], each["commands"]) for each in shown["others"]] == [
        ("memory", ["calyx quarantine release memory"])
    ]
    assert next(each for each in shown["items"] if each["id"] == plan)["expires_at"] == "2026-01-08T00:00:00Z"
    assert shown["unknown"] == ["faults: the guardian: silent"]
    made.station.down.add("cbo")
    made.clock.advance(100)  # type: ignore[attr-defined]  # a VirtualClock
    assert look(made)["others"] == []
