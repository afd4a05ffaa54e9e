"""What recall returns, in which order, and what it says of each procedure."""

import math
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import START, experience
from scipy.stats import beta

from chassis.errors import InvalidInput, NotFound, Refused
from services.memory.catalog import Standing
from services.memory.evidence import lower_bound, posterior
from services.memory.experience import Outcome
from services.memory.memory import Match, Memory
from services.memory.recall import Query

Make = Callable[..., Memory]
ASK = "rotate the logs"


def recalled(memory: Memory, **terms: object) -> dict[str, Match]:
    found = memory.recall(Query(objective=ASK, **terms))  # type: ignore[arg-type]  # terms by name
    return {each.experience.id: each for each in found.matches}


def stand(memory: Memory, name: str, standing: Standing, by: str = "", why: str = "") -> bool:
    return memory.trust.stand(name, standing, because_of=by, reason=why, caller="operator")


# filters and order


def test_until_and_outcome_filter_matches_and_summaries_alike(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    memory.record(experience(2, outcome=Outcome.FAILURE))
    memory.record(experience(3))
    assert set(recalled(memory, until=START + timedelta(minutes=3))) == {"e-1", "e-2"}
    assert set(recalled(memory, since=START + timedelta(minutes=1), until=START + timedelta(minutes=3))) == {"e-2"}
    failed = memory.recall(Query(objective=ASK, outcome=Outcome.FAILURE))
    assert [each.experience.id for each in failed.matches] == ["e-2"]
    assert [(each.successes, each.failures) for each in failed.summaries] == [(0, 1)]
    with pytest.raises(InvalidInput, match="swap"):
        recalled(memory, since=START, until=START)


def test_what_is_superseded_or_invalidated_says_so_and_comes_after_all_that_may_be_believed(make_memory: Make) -> None:
    memory = make_memory()
    for number in (1, 2, 3, 4):
        memory.record(experience(number, procedure=f"p-{number}"))
    memory.record(experience(5, objective="rotate the logs tonight", procedure="p-5"))
    stand(memory, "e-4", Standing.SUPERSEDED, by="e-1", why="the disk changed")
    stand(memory, "e-3", Standing.INVALIDATED, why="the probe looked elsewhere")
    for each in (memory, make_memory()):
        found = recalled(each)
        assert list(found) == ["e-2", "e-1", "e-5", "e-4", "e-3"]
        assert found["e-4"].standing is Standing.SUPERSEDED
        assert found["e-4"].because_of == "e-1"
        assert found["e-4"].why.startswith("superseded by e-1 (said operator): the disk changed; the same words")
        assert found["e-3"].why.startswith("invalidated (said operator): the probe looked elsewhere")
        assert list(recalled(each, limit=3)) == ["e-2", "e-1", "e-5"]


def test_a_doubted_copy_is_no_copy_of_one_that_may_be_believed(make_memory: Make) -> None:
    memory = make_memory()
    for number in (1, 2, 3, 4):
        memory.record(experience(number))
    stand(memory, "e-4", Standing.INVALIDATED, why="wrong file")
    found = recalled(memory)
    assert [(name, each.copies) for name, each in found.items()] == [("e-3", 3), ("e-2", 3), ("e-4", 1)]


def test_summaries_leave_out_what_is_no_longer_believed_and_take_it_back_with_it(make_memory: Make) -> None:
    memory = make_memory()
    for number in (1, 2, 3):
        memory.record(experience(number))

    def successes() -> list[int]:
        return [each.successes for each in memory.recall(Query(objective=ASK)).summaries]

    stand(memory, "e-1", Standing.SUPERSEDED, by="e-2")
    stand(memory, "e-3", Standing.INVALIDATED, why="no")
    assert successes() == [1]
    stand(memory, "e-3", Standing.VALID)
    assert successes() == [2]


def test_rehearsals_are_recalled_but_no_evidence_also_after_a_restart(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1, tes=90.0))
    memory.record(experience(2, tes=10.0, context={"rehearsal": "true"}, procedure="xz"))
    memory.record(experience(3, tes=10.0, context={"rehearsal": "true"}))
    memory.record(experience(4, tes=None, context={"rehearsal": "false"}))
    for each in (memory, make_memory()):
        found = each.recall(Query(objective=ASK))
        assert {match.experience.id for match in found.matches} == {"e-1", "e-2", "e-3", "e-4"}
        assert [(s.procedure, s.successes, s.rehearsals, s.mean_tes, s.tes_known) for s in found.summaries] == [
            ("gzip-6", 2, 1, 90.0, 1),
            ("xz", 0, 1, None, 0),
        ]
        assert found.summaries[1].success_mean is None


# standings


def test_a_standing_is_set_once_and_every_change_is_on_record(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    memory.record(experience(2))
    assert stand(memory, "e-1", Standing.VALID) is False
    assert stand(memory, "e-1", Standing.SUPERSEDED, by="e-2") is True
    assert stand(memory, "e-1", Standing.SUPERSEDED, by="e-2") is False
    assert [(e.id, s.standing, s.because_of) for e, s in memory.trust.listed(None, 10)] == [
        ("e-1", Standing.SUPERSEDED, "e-2")
    ]
    assert memory.trust.listed(Standing.EVICTED, 10) == []
    assert stand(memory, "e-1", Standing.VALID, why="it was right after all") is True
    assert memory.trust.listed(None, 10) == make_memory().trust.listed(None, 10) == []


@pytest.mark.parametrize(
    ("standing", "by", "why", "error", "said"),
    [
        (Standing.SUPERSEDED, "", "", InvalidInput, "because_of"),
        (Standing.INVALIDATED, "", " ", InvalidInput, "what is wrong"),
        (Standing.INVALIDATED, "e-2", "no", InvalidInput, "because_of"),
        (Standing.EVICTED, "", "no", InvalidInput, "invalidated"),
        (Standing.SUPERSEDED, "e-1", "", InvalidInput, "itself"),
        (Standing.SUPERSEDED, "e-9", "", NotFound, "e-9"),
        (Standing.SUPERSEDED, "e-lab", "", Refused, "namespace"),
        (Standing.SUPERSEDED, "e-old", "", Refused, "superseded itself"),
        (Standing.INVALIDATED, "", "a\x00b", InvalidInput, "control character"),
    ],
)
def test_a_standing_that_can_not_be_right_is_refused_and_changes_nothing(
    make_memory: Make, standing: Standing, by: str, why: str, error: type[Exception], said: str
) -> None:
    memory = make_memory()
    for name, namespace in ((1, "default"), (2, "default"), ("old", "default"), ("lab", "lab")):
        memory.record(experience(name, namespace=namespace))
    stand(memory, "e-old", Standing.SUPERSEDED, by="e-2")
    with pytest.raises(error, match=said):
        stand(memory, "e-1", standing, by, why)
    assert [each.id for each, _ in memory.trust.listed(None, 10)] == ["e-old"]


def test_a_standing_survives_a_rebuild_of_the_index(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    stand(memory, "e-1", Standing.INVALIDATED, why="no")
    memory.upkeep.rebuild_index()
    assert recalled(memory)["e-1"].standing is Standing.INVALIDATED


# the posterior


@given(successes=st.integers(0, 2_000_000), failures=st.integers(0, 2_000_000))
def test_mean_and_interval_are_those_of_scipy(successes: int, failures: int) -> None:
    found = posterior(successes, failures)
    if successes + failures == 0:
        assert found is None
        return
    assert found is not None
    expected = beta(1 + successes, 1 + failures)
    assert found.mean == pytest.approx(expected.mean(), abs=1e-12)
    assert found.low == pytest.approx(expected.ppf(0.05), abs=1e-9)
    assert found.high == pytest.approx(expected.ppf(0.95), abs=1e-9)
    assert 0 < found.low < found.mean < found.high < 1


@given(successes=st.integers(0, 500), failures=st.integers(0, 500))
def test_the_lower_bound_is_clopper_and_pearsons(successes: int, failures: int) -> None:
    trials = successes + failures
    bound = lower_bound(successes, trials, 0.95)
    expected = beta.ppf(0.05, successes, failures + 1) if successes else 0.0
    assert bound == pytest.approx(expected, abs=1e-9)
    if successes:  # what it promises: were the chance no higher, as many successes would come in 1 of 20 samples
        at_least = sum(
            math.comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(successes, trials + 1)
        )
        assert at_least == pytest.approx(0.05, rel=1e-5)


def test_a_summary_carries_the_posterior_of_all_its_rows(make_memory: Make) -> None:
    memory = make_memory()
    for number in range(1, 11):
        memory.record(experience(number, outcome=Outcome.FAILURE if number == 1 else Outcome.SUCCESS))
    summary = memory.recall(Query(objective=ASK, limit=1)).summaries[0]
    expected = posterior(9, 1)
    assert expected is not None
    assert (summary.success_mean, summary.success_low, summary.success_high) == (
        expected.mean,
        expected.low,
        expected.high,
    )
