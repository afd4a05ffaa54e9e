"""A real station for the tests: six processes under supervisord, in a temporary folder, on free ports."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
import pytest

from chassis.identity import load_token
from chassis.layout import Layout
from chassis.rpc.client import open_channel

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The condition's first true value; fails with `what` when it stays false. Real processes offer no event."""
    ticks = threading.Event()
    for _ in range(int(seconds * 10)):
        if value := condition():
            return value
        ticks.wait(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class Station:
    """A running station as a person and a client see it."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        self.environment = {**os.environ, "CALYX_STATION_DIR": str(folder), "COLUMNS": "200"}

    def calyx(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if status is not None:
            assert done.returncode == status, (
                f"calyx {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.calyx(*arguments, "--json").stdout)

    def channel(self, service: str) -> grpc.Channel:
        endpoints = json.loads(self.layout.endpoints.read_text())
        address = endpoints["services"][service]["grpc"]
        return open_channel(address, load_token(self.layout.secrets, "operator"), timeout_seconds=10)

    def overview(self) -> Any:
        """What the page shows."""
        page = json.loads(self.layout.endpoints.read_text())["dashboard"]
        return httpx.get(f"{page}/api/overview", timeout=10).raise_for_status().json()

    def domain(self, name: str) -> dict[str, Any]:
        return next(each for each in self.json("ladder")["domains"] if each["domain"] == name)

    def pulses(self) -> list[Path]:
        return sorted(self.layout.pulses.glob("*/bp-*.json"))

    def more_pulses(self, count: int, seconds: float = 60) -> None:
        before = len(self.pulses())
        until(lambda: len(self.pulses()) >= before + count, seconds, f"{count} more pulses")


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    found = Station(tmp_path_factory.mktemp("embedded") / "station")
    found.calyx("up", "--detach", "--port", "0", "--pulse-interval", "1s")
    try:
        yield found
    finally:
        found.calyx("down", status=None)
