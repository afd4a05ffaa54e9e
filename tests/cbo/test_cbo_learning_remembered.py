"""The planner fed by the real memory service, in one of the bench's worlds; `python -m bench.learning` has the size."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations

import pytest

from bench.world_memory import Served, alike, packaged, served
from bench.worlds import DOMAIN, FORMATS, HARD, KINDS, STEP, Counts, Done, Kind, Lived, live
from services.cbo.ports import Summary
from services.cbo.uplift import RECENT_RUNS
from services.memory.recall import FLOOR

TASKS, LEARNING, SEED = 200, 50, 6


@dataclass
class Book:
    """Writes down what was done, beside the real memory."""

    memory: Served
    done: list[Done] = field(default_factory=list)

    def recall(self, objective: str, kind: Kind, since: datetime | None, now: datetime) -> Sequence[Summary]:
        return self.memory.recall(objective, kind, since, now)

    def record(self, done: Done) -> None:
        self.memory.record(done)
        self.done.append(done)


@pytest.fixture(scope="module")
def life() -> Iterator[tuple[Book, list[Lived]]]:
    """In the world in which only memory can tell the kinds of work apart."""
    with served() as memory:
        book = Book(memory)
        yield book, list(live(FORMATS, SEED, TASKS, book))


def gained(lived: Sequence[Lived], other: Sequence[Lived]) -> float:
    """Utility a task, of the tasks after the first."""
    pairs = zip(lived[LEARNING:], other[LEARNING:], strict=True)
    return sum(a.utility - b.utility for a, b in pairs) / (TASKS - LEARNING)


def test_recalling_by_meaning_pays_more_than_by_the_very_words_and_than_nothing(life: tuple[Book, list[Lived]]) -> None:
    _, lived = life
    assert gained(lived, list(live(FORMATS, SEED, TASKS, Counts(), always_ignore=True))) > 0.01
    assert gained(lived, list(live(FORMATS, SEED, TASKS, Counts(by_words=True)))) > 0.0


def test_nearly_every_decision_heard_memory_though_more_than_a_quarter_came_in_new_words(
    life: tuple[Book, list[Lived]],
) -> None:
    book, lived = life
    said = Counter(each.heard for each in lived)
    new = sum(each.objective not in {other.objective for other in book.done[:n]} for n, each in enumerate(book.done))
    assert new > TASKS / 4, "counting by the very words would have had nothing to say"
    assert said["none"] < 0.1 * TASKS and said["ignored"] > 0


def test_what_memory_counts_is_what_a_count_by_hand_over_the_like_wordings_is(life: tuple[Book, list[Lived]]) -> None:
    book, _ = life
    assert book.memory.memory.stats().trust.evicted == 0, "nothing was left out for harm it did"
    last, since = book.done[-1].at, book.done[-RECENT_RUNS].at
    for kind in KINDS:
        (asked, *_) = kind.texts()
        found = book.memory.recall(asked, kind, since, last + STEP)
        vector = packaged().embed([asked])[0]
        recent = [each for each in book.done if each.at > since]
        like = [each for each in recent if packaged().embed([each.objective])[0] @ vector > FLOOR]
        assert {each.kind.name for each in like} == {kind.name}
        ends = Counter((each.procedure, each.success) for each in like)
        assert {(each.domain, each.procedure, each.successes, each.failures) for each in found} == {
            (DOMAIN, name, ends[name, True], ends[name, False]) for name, _ in ends
        }


def test_the_floor_keeps_the_kinds_of_work_apart_and_lets_most_of_their_wordings_find_each_other() -> None:
    assert all(alike(kind, kind) > 0.4 for kind in KINDS)
    assert not any(alike(one, two) for one, two in combinations(KINDS, 2))


def test_a_life_with_the_real_memory_is_the_same_each_time() -> None:
    lives = []
    for _ in range(2):
        with served() as memory:
            lives.append(list(live(HARD, 3, 60, memory)))
    assert lives[0] == lives[1] and {each.heard for each in lives[0]} == {"used", "ignored", "none"}


def test_what_a_failure_says_of_the_experiences_that_were_followed_reaches_the_memory(
    life: tuple[Book, list[Lived]],
) -> None:
    book, lived = life
    assert sum(not each.success for each in lived) > 0
    assert book.memory.memory.stats().trust.labels > 0
