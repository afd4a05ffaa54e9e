"""An approved plan whose applying is killed: all of it is taken back or all of it is done, whatever was reached."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "apply_kills.py"


def kills(*given: str) -> dict[str, Any]:
    ran = subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, check=False, text=True)
    assert ran.stdout, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize("first", range(2))
def test_wherever_the_apply_is_killed_a_recovery_takes_all_of_it_back_and_nothing_else(first: int) -> None:
    found = kills("--files", "10", "--every", "6", "--first", str(first * 3))
    assert found["wrong"] == []
    assert found["kills"] > 25
    assert found["undone"] > 5


@pytest.mark.parametrize("bug", ["half", "person"])
def test_a_planted_bug_is_noticed(bug: str) -> None:
    assert kills("--files", "10", "--every", "4", "--plant", bug)["wrong"]
