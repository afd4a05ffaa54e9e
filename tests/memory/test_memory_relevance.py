import random

import pytest
from memory_fakes import DATA

from bench.recall import measure, read, sparse
from services.memory.minilm import MiniLM

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared recall data is not on this machine")


@needs_data
def test_on_a_sample_of_real_objectives_at_least_80_percent_of_what_is_returned_is_relevant(minilm: MiniLM) -> None:
    lines = read("webarena.jsonl")
    labels = sorted({line.label for line in lines if line.label is not None})
    sample = [line for line in lines if line.label in set(random.Random(1).sample(labels, 80))]
    found = measure(sample, sample, minilm, 5)
    assert found.returned >= 100
    assert found.precision is not None
    assert found.precision >= 0.80
    assert found.coverage >= 0.25


@needs_data
def test_queries_out_of_scope_almost_always_get_nothing(minilm: MiniLM) -> None:
    lines = read("clinc.jsonl")
    past = sparse([line for line in lines if line.part == "past"], 2, seed=1)
    outside = [line for line in lines if line.part == "query" and line.label is None][:200]
    assert measure(past, outside, minilm, 5).coverage <= 0.02
