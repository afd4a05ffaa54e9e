"""The RAM rule: three high pulses in a row ask once, two low ones in a row clear, unknown does neither."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.governor.ram_rule import Judgement, RamState, RamTerms, judge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = RamTerms()
readings = st.one_of(st.none(), st.sampled_from([0.0, 74.9, 75.0, 78.0, 80.0, 80.1, 99.0]), st.floats(0, 100))


def play(values: list[float | None], state: RamState | None = None, start: int = 1) -> list[Judgement]:
    steps, state = [], state or RamState()
    for number, value in enumerate(values, start):
        step = judge(state, pulse_id=f"bp-{number:09d}", ram_percent=value, now=NOW, terms=TERMS)
        steps.append(step)
        state = step.state
    return steps


def test_three_high_pulses_in_a_row_raise_one_intent() -> None:
    steps = play([81.0, 90.0, 80.1, 95.0, 95.0])
    assert [step.raised is not None for step in steps] == [False, False, True, False, False]
    assert {step.state.intent.id for step in steps if step.state.intent} == {"cleanup-bp-000000003"}


def test_exactly_eighty_percent_is_not_high() -> None:
    assert all(step.raised is None for step in play([80.0] * 10))


def test_a_pulse_that_is_not_high_breaks_the_run() -> None:
    assert all(step.raised is None for step in play([81.0, 81.0, 80.0, 81.0, 81.0]))


def test_an_unknown_pulse_neither_counts_nor_breaks_the_run() -> None:
    steps = play([81.0, None, 81.0, None, 81.0])
    assert [step.raised is not None for step in steps] == [False] * 4 + [True]


def test_it_clears_after_two_low_pulses_in_a_row_and_not_at_exactly_75() -> None:
    raised = play([90.0] * 3)[-1].state
    assert all(s.cleared is None for s in play([75.0, 75.0, 74.0, 76.0, 74.0], raised, 10))
    steps = play([74.0, None, 74.9], raised, 10)
    assert [s.cleared is not None for s in steps] == [False, False, True]
    assert steps[-1].state.intent is None


def test_after_it_cleared_three_new_high_pulses_raise_another_intent() -> None:
    steps = play([90.0] * 3 + [10.0] * 2 + [90.0] * 3)
    assert [s.raised.id for s in steps if s.raised] == ["cleanup-bp-000000003", "cleanup-bp-000000008"]


@settings(deadline=None)
@given(st.lists(readings, max_size=40))
def test_the_same_pulse_judged_again_changes_nothing(values: list[float | None]) -> None:
    for number, step in enumerate(play(values), 1):
        again = judge(step.state, pulse_id=f"bp-{number:09d}", ram_percent=99.0, now=NOW, terms=TERMS)
        assert (again.state, again.raised, again.cleared) == (step.state, None, None)


@settings(deadline=None)
@given(st.lists(readings, max_size=40))
def test_raised_and_cleared_take_turns_beginning_with_raised(values: list[float | None]) -> None:
    open_intent = None
    for step in play(values):
        if step.raised:
            assert open_intent is None
            open_intent = step.raised
        if step.cleared:
            assert step.cleared == open_intent
            open_intent = None
        assert step.state.intent == open_intent


@settings(deadline=None)
@given(st.lists(readings, max_size=30), st.integers(0, 30), st.integers(1, 5))
def test_unknown_pulses_anywhere_change_no_outcome(values: list[float | None], at: int, count: int) -> None:
    known = [v for v in values if v is not None]
    at = min(at, len(known))
    with_gaps: list[float | None] = [*known[:at], *([None] * count), *known[at:]]
    a, b = play(list(known))[-1:], play(with_gaps)[-1:]
    final_a = a[0].state if a else RamState()
    final_b = b[0].state if b else RamState()
    assert (final_a.high_run, final_a.low_run) == (final_b.high_run, final_b.low_run)
    assert (final_a.intent is None) == (final_b.intent is None)


@settings(deadline=None)
@given(st.lists(readings, max_size=40))
def test_an_intent_is_raised_exactly_when_a_plain_count_says_so(values: list[float | None]) -> None:
    """The rule told a second time, over the whole history instead of a state."""
    known = [v for v in values if v is not None]
    raised, is_open, since = 0, False, 0
    for n in range(len(known)):
        seen = known[since : n + 1]
        if not is_open and len(seen) >= 3 and all(v > 80 for v in seen[-3:]):
            raised, is_open, since = raised + 1, True, n + 1
        elif is_open and len(seen) >= 2 and all(v < 75 for v in seen[-2:]):
            is_open, since = False, n + 1
    assert sum(step.raised is not None for step in play(values)) == raised


@settings(deadline=None)
@given(st.lists(readings, max_size=20), st.lists(readings, max_size=20))
def test_a_state_read_back_goes_on_as_if_never_written(first: list[float | None], rest: list[float | None]) -> None:
    state = play(first)[-1].state if first else RamState()
    back = RamState.from_json(state.to_json())
    assert back == state
    assert play(rest, back, 100) == play(rest, state, 100)


def test_a_damaged_state_is_not_read_as_an_empty_one() -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        RamState.from_json({"high_run": 1})
