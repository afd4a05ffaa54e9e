"""The runbook's commands for a damaged cbo.sqlite run in the CBO's own image, and refuse while a CBO runs."""

import json
import os
import subprocess

import pytest
from stack_client import Stack, eventually

pytestmark = pytest.mark.stack


def calyx(*words: str) -> subprocess.CompletedProcess[str]:
    compose = os.environ["CALYX_STACK_COMPOSE"].split()
    return subprocess.run(
        [*compose, "run", "--rm", "--no-deps", "-T", "cbo", "calyx", "cbo", *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_copies_can_be_looked_through_and_none_is_put_back_beneath_a_running_cbo(stack: Stack) -> None:
    def listed() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(calyx("backups", "--json").stdout)["backups"]
        return found

    newest = eventually("a copy of cbo.sqlite", listed)[0]
    assert (newest["fault"], newest["last_pulse"][:3]) == ("", "bp-")
    refused = calyx("restore", newest["path"])
    assert refused.returncode == 1
    assert "the CBO runs" in refused.stderr
    assert stack.healthy("cbo")
