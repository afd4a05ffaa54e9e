"""Rows by a fact of their context: what is kept of an earlier answer hides no row and shows none of another file."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_fakes import experience

from services.memory import store as store_module
from services.memory.store import Store

AT = "2026-11-01T00:00:00.000000Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "experience.sqlite", durable=False)
    yield made
    made.close()


def _with(store: Store, site: str) -> list[int]:
    found: list[int] = store.with_fact("site", site).tolist()
    return found


def test_rows_recorded_after_an_answer_are_in_the_next_one(store: Store) -> None:
    assert _with(store, "here") == []
    for number, site in enumerate(("here", "there", "here", "here"), start=1):
        store.append(experience(number, context={"site": site}), AT)
        assert _with(store, "there") == ([2] if number >= 2 else [])
        if number != 3:
            assert _with(store, "here") == [each for each in (1, 3, 4) if each <= number]
    assert store.with_fact("other", "here").tolist() == []


def test_another_file_in_its_place_answers_for_itself(store: Store, tmp_path: Path) -> None:
    store.append(experience(1, context={"site": "there"}), AT)
    store.checkpoint()
    earlier = tmp_path / "earlier.sqlite"
    shutil.copy(store.path, earlier)
    for number in (2, 3):
        store.append(experience(number, context={"site": "here"}), AT)
    store.checkpoint()
    assert (_with(store, "here"), _with(store, "there")) == ([2, 3], [1])

    def swap() -> None:
        shutil.copy(earlier, store.path)

    with store.still() as replaced:
        replaced(swap)
    assert (_with(store, "here"), _with(store, "there")) == ([], [1])
    store.append(experience(9, context={"site": "here"}), AT)
    assert _with(store, "here") == [2]


def test_what_is_kept_is_bounded_and_what_was_dropped_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FACTS_KEPT", 3)
    for number in range(1, 7):
        store.append(experience(number, context={"site": f"s{number % 3}"}), AT)
    for _ in range(2):
        assert [_with(store, f"s{each}") for each in range(3)] == [[3, 6], [1, 4], [2, 5]]
    assert sum(map(len, store._having.values())) <= 3
