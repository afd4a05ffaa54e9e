from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog
from memory_fakes import HashEmbedder, experience

from chassis.errors import Damaged
from services.memory.embedding import Vectors
from services.memory.exact import ExactIndex
from services.memory.memory import Memory
from services.memory.minilm import _MODEL, _TOKENIZER, MODEL_SHA256, TOKENIZER_SHA256, MiniLM, _packaged
from services.memory.recall import Query
from services.memory.succession import DROPPED_AT_ONCE, Progress, Successor, folder_of, remember_folder, serving_model

Make = Callable[..., Memory]
OLD, NEW = HashEmbedder(salt="old"), HashEmbedder(dimension=96, salt="new")
ROWS = 150  # more than one step of catching up


def successor(embedder: HashEmbedder = NEW) -> Successor:
    return Successor(embedder=embedder, open_index=lambda: ExactIndex(embedder.dimension))


def filled(make_memory: Make, rows: int = ROWS) -> None:
    memory = make_memory(OLD)
    for number in range(1, rows + 1):
        memory.record(experience(number, objective=f"objective number {number}"))
    memory.close()


def ids(memory: Memory, objective: str) -> list[str]:
    return [each.experience.id for each in memory.recall(Query(objective=objective, limit=1)).matches]


def held(memory: Memory) -> set[str]:
    with_model = memory._store.snapshot()
    found = {row[0] for row in with_model.execute("SELECT DISTINCT model_sha256 FROM vector")}
    with_model.close()
    return found


def test_the_old_model_answers_until_the_last_vector_is_made_and_the_swap_is_one_step(make_memory: Make) -> None:
    filled(make_memory)
    memory = make_memory(OLD, successor=successor())
    seen = []
    while memory.shelf.embedder is OLD:
        seen.append(memory.stats().model_change)
        found = memory.recall(Query(objective="objective number 7", limit=1))
        assert ([each.experience.id for each in found.matches], found.pending, found.searched) == (["e-7"], 0, ROWS)
        assert memory.catch_up() > 0
    assert seen == [Progress(done=done, of=ROWS) for done in (0, 64, 128, ROWS)]
    assert memory.shelf.embedder is NEW
    assert ids(memory, "objective number 7") == ["e-7"]
    assert memory.stats().model_change == Progress(done=0, of=0)
    assert held(memory) == {OLD.model_sha256, NEW.model_sha256}
    assert memory.catch_up() == min(ROWS, DROPPED_AT_ONCE)
    assert memory.catch_up() == 0
    assert held(memory) == {NEW.model_sha256}
    assert memory.upkeep.verify().ok
    memory.upkeep.check()


def test_what_is_recorded_meanwhile_is_found_at_once_and_after_the_swap(make_memory: Make) -> None:
    filled(make_memory, 80)
    memory = make_memory(OLD, successor=successor())
    memory.catch_up()
    memory.record(experience("late", objective="a late one"))
    assert ids(memory, "a late one") == ["e-late"]
    while memory.shelf.embedder is OLD:
        memory.catch_up()
    assert ids(memory, "a late one") == ["e-late"]
    memory.record(experience("later", objective="a later one"))
    assert ids(memory, "a later one") == ["e-later"]
    assert memory.upkeep.verify().ok


def test_a_restart_in_the_middle_goes_on_where_it_was(make_memory: Make) -> None:
    filled(make_memory)
    memory = make_memory(OLD, successor=successor())
    memory.catch_up()
    assert serving_model(memory._store) == OLD.model_sha256
    memory.close()
    memory = make_memory(OLD, successor=successor())
    assert memory.stats().model_change == Progress(done=64, of=ROWS)
    assert ids(memory, "objective number 9") == ["e-9"]
    while memory.catch_up():
        pass
    assert serving_model(memory._store) == NEW.model_sha256
    memory.close()
    memory = make_memory(NEW)
    assert (ids(memory, "objective number 9"), memory.stats().pending) == (["e-9"], 0)


def test_a_change_that_is_taken_back_leaves_nothing_of_the_other_model(make_memory: Make) -> None:
    filled(make_memory)
    memory = make_memory(OLD, successor=successor())
    memory.catch_up()
    memory.close()
    memory = make_memory(OLD)
    while memory.catch_up():
        pass
    assert held(memory) == {OLD.model_sha256}
    assert ids(memory, "objective number 9") == ["e-9"]


def test_without_the_old_model_rows_are_pending_and_come_back_one_by_one(make_memory: Make) -> None:
    filled(make_memory)
    memory = make_memory(NEW)
    found = memory.recall(Query(objective="objective number 149"))
    assert (found.matches, found.searched, found.pending) == ((), 0, ROWS)
    assert held(memory) == {OLD.model_sha256}
    memory.catch_up()
    assert ids(memory, "objective number 9") == ["e-9"]
    assert memory.recall(Query(objective="objective number 9")).pending == ROWS - 64
    while memory.catch_up():
        pass
    assert held(memory) == {NEW.model_sha256}


class Choking(HashEmbedder):
    """Gives no vector for one word."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        made = super().embed(texts)
        for row, text in enumerate(texts):
            if "poison" in text:
                made[row] = np.nan
        return made


def test_a_new_model_that_gives_no_vector_for_one_text_never_takes_over_and_says_how_far_it_is(
    make_memory: Make,
) -> None:
    filled(make_memory, 70)
    memory = make_memory(OLD)
    memory.record(experience("p", objective="poison"))
    memory.close()
    memory = make_memory(OLD, successor=successor(Choking(salt="new")))
    with structlog.testing.capture_logs():
        for _ in range(6):
            try:
                memory.catch_up()
            except Exception as error:  # the last one left is raised, for the log
                assert "unit vector" in str(error)
    assert memory.shelf.embedder is OLD
    assert memory.stats().model_change == Progress(done=70, of=71)
    assert ids(memory, "poison") == ["e-p"]


def test_one_text_without_a_vector_is_pending_and_keeps_nobody_else_waiting(make_memory: Make) -> None:
    memory = make_memory(Choking())
    with structlog.testing.capture_logs():
        for number, objective in enumerate(["rotate the logs", "poison", "check the health"]):
            assert memory.record(experience(number, objective=objective)) is True
    assert ids(memory, "check the health") == ["e-2"]
    found = memory.recall(Query(objective="rotate the logs"))
    assert (len(found.matches), found.pending) == (1, 1)
    assert memory.stats().experiences == 3


def test_where_a_model_lies_is_remembered(make_memory: Make, tmp_path: Path) -> None:
    store = make_memory(OLD)._store
    remember_folder(store, "a" * 64, str(tmp_path))
    remember_folder(store, "b" * 64, "")
    assert [folder_of(store, name * 64) for name in "abc"] == [str(tmp_path), "", None]


@pytest.mark.parametrize("rows", [0, 3])
def test_a_change_in_a_small_or_empty_memory_takes_place_too(make_memory: Make, rows: int) -> None:
    filled(make_memory, rows)
    memory = make_memory(OLD, successor=successor())
    while memory.catch_up():
        pass
    assert memory.shelf.embedder is NEW


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged files, but for a newline: a model of one's own, with a vector space of its own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "model.onnx").symlink_to(_packaged(*_MODEL))
    (folder / "tokenizer.json").write_bytes(_packaged(*_TOKENIZER).read_bytes() + b"\n")
    return folder


def test_a_model_of_ones_own_has_the_dimension_that_it_gives_and_a_space_of_its_own(
    own_folder: Path, minilm: MiniLM
) -> None:
    own = MiniLM.from_folder(own_folder)
    assert own.embed(["rotate the logs"]).shape == (1, 384)
    assert own.dimension == 384
    assert own.model_sha256 != minilm.model_sha256


class Same(MiniLM):
    def pooled(self, text: str) -> Vectors:
        return np.ones(16, dtype=np.float32)


class Restless(MiniLM):
    calls = 0

    def pooled(self, text: str) -> Vectors:
        Restless.calls += 1
        return np.random.default_rng(self.calls).standard_normal(16).astype(np.float32)


class Broken(MiniLM):
    def pooled(self, text: str) -> Vectors:
        return np.full(16, np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Same, "same vector for everything"), (Restless, "another vector each time"), (Broken, "not a unit vector")],
)
def test_a_model_that_can_not_be_right_is_refused_at_the_start(own_folder: Path, kind: type[MiniLM], said: str) -> None:
    with pytest.raises(Damaged, match=said):
        kind.from_folder(own_folder)


def test_a_model_read_beside_is_the_same_and_says_what_is_wrong_with_it_before_it_serves(
    tmp_path: Path, minilm: MiniLM
) -> None:
    beside = MiniLM.packaged(beside=True)
    assert (beside.model_sha256, beside.dimension) == (minilm.model_sha256, minilm.dimension)
    assert beside.embed(["rotate the logs"]).tobytes() == minilm.embed(["rotate the logs"]).tobytes()

    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    broken = MiniLM(
        tmp_path / "model.onnx",
        tmp_path / "tokenizer.json",
        digests=(MODEL_SHA256, TOKENIZER_SHA256),  # as if it had changed right after it was hashed
        beside=True,
    )
    for ask in (broken.ready, lambda: broken.embed(["rotate the logs"]), lambda: broken.pooled("rotate the logs")):
        with pytest.raises(Damaged, match="holds no model"):
            ask()
