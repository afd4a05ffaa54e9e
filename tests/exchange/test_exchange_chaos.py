"""Processes are killed and stopped at any point; the recorded history must be one of a correct exchange."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from history_checker import Op, judge

from bench.chaos import Plan, chaos


def test_kills_and_stops_lose_nothing_double_nothing_and_leave_one_live_claim(tmp_path: Path) -> None:
    plan = Plan(root=str(tmp_path), tasks=300, kills=4, stops=3, seed=20261123)
    verdict, driver = chaos(plan)
    assert verdict.faults == ()
    assert (driver.counts["killed"] >= 4, driver.counts["stops"] >= 1) == (True, True), driver.counts


PLANTED = {
    "fence": {"stops": 4},
    "lock": {"stops": 4},
    "noreplace": {"copies": 60},
}


def test_each_planted_bug_is_noticed(tmp_path: Path) -> None:
    def run(bug: str) -> Sequence[str]:
        """A worker may be elsewhere when its stop comes, so a quiet history is asked for again, up to four times."""
        for seed in range(4):
            root = tmp_path / f"{bug}{seed}"
            root.mkdir()
            plan = Plan(
                root=str(root), tasks=60, workers=2, plant=bug, pause_seconds=(2.2, 2.4), patience_seconds=30,
                seed=seed, **PLANTED[bug],
            )  # fmt: skip
            if faults := chaos(plan)[0].faults:
                return faults
        return ()

    with ThreadPoolExecutor(len(PLANTED)) as pool:
        found = dict(zip(PLANTED, pool.map(run, PLANTED), strict=True))
    assert [bug for bug in PLANTED if not found[bug]] == [], "these went unnoticed"


def told(*rows: tuple[Any, ...]) -> list[Op]:
    """(kind, process, epoch, start, end, result) of one task."""
    return [
        Op(kind=kind, task="t", process=process, epoch=epoch, start=start, end=end, result=result)
        for kind, process, epoch, start, end, result in rows
    ]


END = Op(kind="end", task="t", process="driver", epoch=1, start=90, end=91, result="done", effects=1)
GOOD = [
    *told(
        ("submit", "cbo", 0, 1, 2, "ok"), ("claim", "w1", 1, 3, 4, "ok"), ("check", "w1", 1, 5, 6, "yes"),
        ("enter", "w1", 1, 7, 8, "ok"), ("look", "w1", 1, 9, 10, "no"), ("effect", "w1", 1, 11, 12, "ok"),
        ("ack", "w1", 1, 13, 14, "ok"),
    ),
    END,
]  # fmt: skip


def test_a_plain_history_is_sound() -> None:
    assert judge(GOOD, {}).faults == ()


def test_a_history_with_a_lost_lease_is_sound_when_the_reaper_was_there_in_between() -> None:
    history = [
        *told(
            ("submit", "cbo", 0, 1, 2, "ok"), ("claim", "w1", 1, 3, 4, "ok"), ("requeue", "r", 0, 5, 6, "ok"),
            ("claim", "w2", 2, 7, 8, "ok"), ("check", "w1", 1, 9, 10, "no"), ("enter", "w2", 2, 11, 12, "ok"),
            ("enter", "w1", 1, 13, 14, "fenced"), ("effect", "w2", 2, 15, 16, "ok"), ("ack", "w1", 1, 17, 18, "lost"),
            ("ack", "w2", 2, 19, 20, "ok"), ("ack", "w1", 1, 21, 22, "already"),
        ),
        Op(kind="end", task="t", process="driver", epoch=2, start=90, end=91, result="done", effects=1),
    ]  # fmt: skip
    assert judge(history, {}).faults == ()
    without = [op for op in history if op.kind != "requeue"]
    assert judge(without, {}).impossible, "nobody took the first claim back"
    killed = Op(kind="requeue", task="", process="r", start=5, end=6)
    assert judge([*without, killed], {"r": 6}).faults == (), "a reaper killed in its sweep may have done it"
    too_late = Op(kind="requeue", task="", process="r", start=30, end=31)
    assert judge([*without, too_late], {"r": 31}).impossible


def test_an_operation_cut_short_may_have_happened_or_not_but_not_after_its_process_died() -> None:
    cut = [op for op in GOOD if op.kind not in ("ack", "end")]
    killed = Op(kind="ack", task="t", process="w1", epoch=1, start=13, end=14)
    assert judge([*cut, killed, END], {"w1": 14}).faults == ()
    assert judge([*cut, killed], {"w1": 14}).faults == ()
    again = told(("claim", "w2", 2, 20, 21, "ok"))
    assert judge([*cut, killed, *told(("requeue", "r", 0, 15, 16, "ok")), *again], {"w1": 14}).faults == ()
    assert judge([*cut, killed, *told(("requeue", "r", 0, 15, 16, "ok")), END], {"w1": 14}).impossible


BAD = {
    "lost": [GOOD[0], Op(kind="end", task="t", process="driver", start=90, end=91, result="unknown")],
    "double_acks": [*GOOD, *told(("ack", "w2", 1, 20, 21, "ok"))],
    "duplicate_effects": [
        *GOOD[:-1], Op(kind="end", task="t", process="driver", epoch=1, start=90, end=91, result="done", effects=2),
    ],
    "two_live_claims": [
        *GOOD[:2], *told(("claim", "w2", 2, 5, 6, "ok"), ("check", "w1", 1, 7, 8, "yes")),
    ],
    "epochs": [*GOOD[:2], *told(("claim", "w2", 1, 5, 6, "ok"))],
    "impossible": [*GOOD[:2], *told(("check", "w1", 1, 5, 6, "no"))],
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_the_judge_names_each_kind_of_fault(kind: str) -> None:
    assert getattr(judge(BAD[kind], {}), kind)
