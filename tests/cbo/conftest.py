"""Stations that are closed after the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cbo_station import Station


@pytest.fixture
def new_station(tmp_path: Path) -> Iterator[Callable[..., Station]]:
    made: list[Station] = []

    def make(**options: Any) -> Station:
        made.append(Station(tmp_path / f"station-{len(made)}", **options))
        return made[-1]

    yield make
    for each in made:
        each.cbo.close()


@pytest.fixture
def station(new_station: Callable[..., Station]) -> Station:
    return new_station()
