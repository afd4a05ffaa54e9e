"""One contract for every vector index. Chroma's run needs chromadb, which the development lock leaves out."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.memory.coarse import CHUNK as WIDE_CHUNK
from services.memory.coarse import MOST, CoarseIndex, quantise
from services.memory.embedding import Vectors
from services.memory.exact import CHUNK, ExactIndex
from services.memory.index import VectorIndex

D = 16
IndexMaker = Callable[[], VectorIndex]


def unit(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    made: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
    return made


class Truth:
    """Stands for the store: what a row's vector really is."""

    def __init__(self) -> None:
        self.vectors: dict[int, bytes] = {}

    def keep(self, keys: list[int], vectors: Vectors) -> tuple[list[int], Vectors]:
        self.vectors |= {key: vector.tobytes() for key, vector in zip(keys, vectors, strict=True)}
        return keys, vectors

    def source(self, keys: object) -> dict[int, bytes]:
        return {key: self.vectors[key] for key in keys if key in self.vectors}  # type: ignore[attr-defined]  # a sequence


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture(params=["exact", "int8", "chroma"])
def make_index(request: pytest.FixtureRequest, tmp_path: Path, truth: Truth) -> Iterator[IndexMaker]:
    made: list[VectorIndex] = []

    def make(model: str = "m1") -> VectorIndex:
        if request.param == "exact":
            made.append(ExactIndex(D))
        elif request.param == "int8":
            made.append(CoarseIndex(D, truth.source))
        else:
            if importlib.util.find_spec("chromadb") is None:
                pytest.skip("chromadb is not installed (extra memory-chroma)")
            from services.memory.chroma import ChromaIndex

            made.append(ChromaIndex(tmp_path / "index", D, model, truth.source))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_an_empty_index_finds_nothing(make_index: IndexMaker) -> None:
    index = make_index()
    assert len(index) == 0
    assert index.keys() == set()
    assert index.nearest(unit(1)[0], 5) == []


def test_each_vector_finds_itself_first_with_cosine_one(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors = make_index(), unit(60)
    index.add(*truth.keep(list(range(1, 61)), vectors))
    for key, vector in enumerate(vectors, start=1):
        best = index.nearest(vector, 1)[0]
        assert best.key == key
        assert best.cosine == pytest.approx(1.0, abs=1e-6)


def test_cosines_are_exact_and_in_order(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors, asked = make_index(), unit(80), unit(1, seed=9)[0]
    index.add(*truth.keep(list(range(80)), vectors))
    found = index.nearest(asked, 10)
    exact = vectors.astype(np.float64) @ asked.astype(np.float64)
    exact /= np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(asked.astype(np.float64))
    assert [each.key for each in found] == np.argsort(-exact)[:10].tolist()
    assert [each.cosine for each in found] == pytest.approx(np.sort(exact)[::-1][:10].tolist(), abs=1e-12)


def test_equal_vectors_come_newest_first(make_index: IndexMaker, truth: Truth) -> None:
    index, one = make_index(), unit(1)
    index.add(*truth.keep([3, 1, 2], np.repeat(one, 3, axis=0)))
    assert [each.key for each in index.nearest(one[0], 3)] == [3, 2, 1]


def test_a_filter_leaves_only_what_it_names_however_few(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors = make_index(), unit(200)
    index.add(*truth.keep(list(range(200)), vectors))
    found = index.nearest(vectors[0], 5, among=np.array([7, 150, 199, 999], dtype=np.int64))
    assert {each.key for each in found} == {7, 150, 199}
    assert index.nearest(vectors[0], 5, among=np.array([], dtype=np.int64)) == []


def test_only_what_is_above_the_bound_is_found(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors, asked = make_index(), unit(200), unit(1, seed=9)[0]
    index.add(*truth.keep(list(range(200)), vectors))
    all_found = index.nearest(asked, 200)
    bound = all_found[20].cosine
    assert index.nearest(asked, 200, above=bound) == all_found[:20]
    assert index.nearest(asked, 5, above=bound) == all_found[:5]
    assert index.nearest(asked, 5, above=1.0) == []


def test_adding_a_key_again_changes_nothing(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors = make_index(), unit(3)
    index.add(*truth.keep([1, 2], vectors[:2]))
    index.add([2, 1], vectors[1:])
    assert len(index) == 2
    assert index.vectors([1, 2]) == truth.vectors


def test_stored_bytes_come_back_as_they_went_in_and_absent_keys_are_left_out(
    make_index: IndexMaker, truth: Truth
) -> None:
    index, vectors = make_index(), unit(20)
    index.add(*truth.keep(list(range(20)), vectors))
    assert index.vectors([*range(20), 77]) == truth.vectors
    assert index.keys() == set(range(20))


def test_a_rebuild_replaces_everything(make_index: IndexMaker, truth: Truth) -> None:
    index, vectors = make_index(), unit(30)
    index.add([100, 101], unit(2, seed=5))
    index.rebuild(iter([truth.keep(list(range(20)), vectors[:20]), truth.keep(list(range(20, 30)), vectors[20:])]))
    assert index.keys() == set(range(30))
    assert index.nearest(vectors[25], 1)[0].key == 25
    index.add(*truth.keep([40], unit(1, seed=6)))
    assert len(index) == 31


def test_vectors_of_another_dimension_are_refused(make_index: IndexMaker) -> None:
    with pytest.raises(ValueError, match="shape"):
        make_index().add([1], np.ones((1, D + 1), dtype=np.float32))


def test_chroma_is_there_after_a_restart_and_empty_after_a_change_of_model(
    make_index: Callable[..., VectorIndex], truth: Truth, request: pytest.FixtureRequest
) -> None:
    index = make_index()
    if index.name != "chroma":
        pytest.skip("the others live in memory only")
    index.add(*truth.keep([1, 2, 3], unit(3)))
    index.rebuild([truth.keep([1, 2], unit(2))])
    index.close()
    again = make_index()
    assert again.keys() == {1, 2}
    assert again.vectors([1]) == {1: truth.vectors[1]}
    again.close()
    assert len(make_index("m2")) == 0


@pytest.mark.parametrize("name", ["exact", "int8"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(count=st.integers(1, 400), limit=st.integers(1, 60), seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_an_index_in_memory_agrees_with_a_sorted_list_for_any_size_limit_and_filter(
    name: str, count: int, limit: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct vectors, so that ties at the edge are common.
    vectors = unit(8, seed=seed)[rng.integers(0, 8, size=count)]
    truth, asked = Truth(), unit(1, seed=seed + 1)[0]
    index: VectorIndex = ExactIndex(D) if name == "exact" else CoarseIndex(D, truth.source)
    for first in range(0, count, 7):
        keys = list(range(first, min(first + 7, count)))
        index.add(*truth.keep(keys, vectors[first : first + 7]))
    among = np.flatnonzero(rng.random(count) < share)
    cosines = {key: float(vectors[key].astype(np.float64) @ asked.astype(np.float64)) for key in among.tolist()}
    best = sorted((-round(cosine, 9), -key) for key, cosine in cosines.items())[:limit]
    found = index.nearest(asked, limit, among)
    assert [each.key for each in found] == [-key for _, key in best]


def test_a_batch_larger_than_a_chunk_is_stored_whole() -> None:
    index, vectors = ExactIndex(D), unit(2 * CHUNK + 5)
    index.add([1], vectors[:1])
    index.add(list(range(2, 2 * CHUNK + 6)), vectors[1:])
    assert len(index) == 2 * CHUNK + 5
    for key in (1, CHUNK, CHUNK + 1, 2 * CHUNK + 5):
        assert index.nearest(vectors[key - 1], 1)[0].key == key


def test_eight_bits_find_what_exact_numbers_find_among_thousands_that_lie_close_together() -> None:
    rng, dimension = np.random.default_rng(3), 384
    middles = rng.standard_normal((20, dimension))
    vectors = middles[rng.integers(0, 20, 6000)] + 0.3 * rng.standard_normal((6000, dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
    truth, keys = Truth(), list(range(1, 6001))
    exact, coarse = ExactIndex(dimension), CoarseIndex(dimension, truth.source)
    exact.add(*truth.keep(keys, vectors))
    coarse.add(keys, vectors)
    few = np.arange(5, 6000, 20, dtype=np.int64)
    many = np.setdiff1d(np.arange(6001), few)
    for row in range(0, 6000, 750):
        asked = vectors[row] + 0.01 * rng.standard_normal(dimension).astype(np.float32)
        for among in (None, few, many):
            assert coarse.nearest(asked, 50, among) == exact.nearest(asked, 50, among)


def test_eight_bits_over_several_chunks_with_keys_out_of_order() -> None:
    vectors, truth = unit(WIDE_CHUNK + 500), Truth()
    keys = np.random.default_rng(1).permutation(WIDE_CHUNK + 500).tolist()
    index = CoarseIndex(D, truth.source)
    index.add(*truth.keep(keys[:300], vectors[:300]))
    index.add(*truth.keep(keys, vectors))
    assert len(index) == WIDE_CHUNK + 500
    for row in (0, 299, 300, WIDE_CHUNK - 1, WIDE_CHUNK, WIDE_CHUNK + 499):
        assert index.nearest(vectors[row], 1)[0].key == keys[row]
        assert index.nearest(vectors[row], 1, np.array([keys[row]]))[0].key == keys[row]
        assert keys[row] in index
    assert WIDE_CHUNK + 500 not in index


def test_more_equals_than_can_be_scored_come_newest_first() -> None:
    truth, one = Truth(), unit(1)
    index = CoarseIndex(D, truth.source)
    index.add(*truth.keep(list(range(MOST + 200)), np.repeat(one, MOST + 200, axis=0)))
    assert [each.key for each in index.nearest(one[0], 3)] == [MOST + 199, MOST + 198, MOST + 197]


def test_codes_that_are_not_those_of_the_store_show_as_another_vector() -> None:
    truth, vectors = Truth(), unit(3)
    index = CoarseIndex(D, truth.source)
    index.add(*truth.keep([1, 2, 3], vectors))
    truth.vectors[2] = unit(1, seed=7)[0].tobytes()
    del truth.vectors[3]
    held = index.vectors([1, 2, 3])
    assert held[1] == truth.vectors[1]
    assert held[2] != truth.vectors[2]
    assert np.frombuffer(held[3], dtype="<f4") == pytest.approx(vectors[2], abs=0.01)
    assert 3 not in [each.key for each in index.nearest(vectors[2], 3)]  # what the store lacks is not found


def test_a_vector_of_nothing_or_of_no_numbers_is_held_and_harms_no_search() -> None:
    truth, vectors = Truth(), unit(4)
    index = CoarseIndex(D, truth.source)
    strange = np.stack([np.zeros(D), np.full(D, np.nan), np.full(D, np.inf)]).astype("<f4")
    index.add(*truth.keep([1, 2, 3, 4], vectors))
    index.add([5, 6, 7], strange)
    assert len(index) == 7
    assert index.nearest(vectors[2], 1)[0].key == 3
    codes, steps = quantise(strange)
    assert not codes.any()
    assert not steps.any()


def test_keys_that_no_objective_can_have_are_refused() -> None:
    index = CoarseIndex(D, Truth().source)
    for key in (-1, 2**31):
        with pytest.raises(ValueError, match="keys"):
            index.add([key], unit(1))
    assert len(index) == 0
