import random

import pytest
from memory_fakes import DATA

from bench.recall import Line, average, measure, pairs, read, sparse
from services.memory.minilm import MiniLM

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared recall data is not on this machine")


def _sample() -> list[Line]:
    lines = read("webarena.jsonl")
    labels = sorted({line.label for line in lines if line.label is not None})
    drawn = set(random.Random(1).sample(labels, 80))
    return [line for line in lines if line.label in drawn]


@needs_data
def test_on_a_sample_of_real_objectives_at_least_80_percent_of_what_is_returned_is_relevant(minilm: MiniLM) -> None:
    sample = _sample()
    found = measure(sample, sample, minilm, 5)
    assert found.returned >= 100
    assert found.precision is not None
    assert found.precision >= 0.80
    assert found.coverage >= 0.50


@needs_data
def test_queries_out_of_scope_almost_always_get_nothing(minilm: MiniLM) -> None:
    lines = read("clinc.jsonl")
    past = sparse([line for line in lines if line.part == "past"], 2, seed=1)
    outside = [line for line in lines if line.part == "query" and line.label is None][:200]
    assert measure(past, outside, minilm, 5).coverage <= 0.02


@needs_data
def test_sparse_memory_keeps_its_precision_and_the_guard_costs_at_most_3_points_of_coverage(minilm: MiniLM) -> None:
    sample = _sample()
    for per_label in (1, 2, 3):
        row = average("", [sparse(sample, per_label, seed) for seed in (1, 2)], sample, minilm, 5)
        assert row.precision is not None
        assert row.precision >= 0.80
        assert row.free_coverage - row.coverage <= 0.03


def test_opposite_objectives_are_kept_apart_and_the_same_ones_are_not(minilm: MiniLM) -> None:
    judged = pairs(minilm, ("held", "late"))
    assert sum(each.pairs for each in judged) >= 400
    for each in judged:
        assert each.share <= (0.10 if each.kind == "opposite" else 0.03), each


def test_what_is_handed_over_counts_less_than_what_is_done(minilm: MiniLM) -> None:
    asked, other_number, other_wish = minilm.embed(
        ["close ticket 4711 of the customer", "close ticket 12 of the customer", "print ticket 4711 of the customer"]
    )
    assert asked @ other_number > 0.95 > asked @ other_wish


@pytest.mark.parametrize("text", ["!!!", "'", "“" * 4000, "x" * 8000, "7", "…", "\u200b", "是的", '"' * 4001])
def test_any_text_has_a_vector_of_unit_length(minilm: MiniLM, text: str) -> None:
    (vector,) = minilm.embed([text])
    assert abs(float(vector @ vector) - 1.0) < 1e-5


def test_case_does_not_move_a_text(minilm: MiniLM) -> None:
    plain, shouted = minilm.embed(["restart the web server", "RESTART the Web Server"])
    assert plain.tobytes() == shouted.tobytes()
