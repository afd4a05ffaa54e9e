"""Thousands of sequences, killed at every step: what was done is undone to the byte, and nothing else is touched.

In processes of their own: the kills hang on Python's audit events, which nobody can take off again.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "undo.py"


def sequences(*given: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--json", "--jobs", "1", "--longest", "2", *given],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert ran.stdout, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize("part", range(4))
def test_whatever_was_done_and_wherever_it_was_killed_all_comes_back_and_nothing_else_moves(part: int) -> None:
    found = sequences("--sequences", "90", "--seed", str(1 + part * 1000), "--every", "8", "--first", str(part * 8))
    assert found["wrong"] == []
    assert found["sequences"] >= 90 + 25 * 8
    assert found["kills"] > 200
    assert found["drifts_refused"] > 5


CHANCE, EACH = ("--sequences", "60", "--seed", "1"), ("--sequences", "0", "--every", "40", "--domain")


@pytest.mark.parametrize(
    ("bug", "where"),
    [("time", CHANCE), ("drift", CHANCE), ("keys", CHANCE), ("settle", (*EACH, "cleanup")), ("rows", (*EACH, "cells"))],
)
def test_a_planted_bug_is_noticed(bug: str, where: tuple[str, ...]) -> None:
    """By chance in one sequence of ten or so; what a recovery does not settle, where each boundary is tried."""
    assert sequences(*where, "--plant", bug)["wrong"]
