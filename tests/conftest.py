"""The files that take longest go first, so that the workers end together."""

import pytest

LONGEST = (
    "tests/virtual/test_virtual_day.py",
    "tests/embedded/",
    "tests/run/test_governed_runs.py",
    "tests/run/test_killed_runs.py",
    "tests/journal/test_undo_sequences.py",
    "tests/virtual/test_virtual_consent.py",
    "tests/run/",
    "tests/examples/",
    "tests/exchange/",
    "tests/memory/",
    "tests/journal/",
    "tests/virtual/",
    "tests/cbo/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, each in enumerate(LONGEST) if item.nodeid.startswith(each)), len(LONGEST))

    items.sort(key=place)
