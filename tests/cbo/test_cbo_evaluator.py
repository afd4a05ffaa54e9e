"""The ladder's rule as properties, one or more for each clause of design §5. The cases by hand are next door."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.domains import Level
from services.cbo.autonomy_evaluator import (
    Entry,
    Standing,
    Terms,
    decide,
    earned,
    effects_missing,
    fold,
    run_required,
    step,
)

TERMS = Terms()
START = Standing(level=Level.GUIDE, reason="start")
ACTING = Standing(level=Level.EXECUTE, reason="earned")
MOVING = (Level.GUIDE, Level.EXECUTE)


def number(entries: Sequence[Entry]) -> list[Entry]:
    return [replace(each, pulse=n) for n, each in enumerate(entries, 1)]


def work(tes: float | None, failures: int = 0) -> Entry:
    return Entry(pulse=0, worked=True, tes=tes, failures=failures)


tenths = st.integers(0, 1000).map(lambda n: n / 10)
"""Scores as they are: one decimal. Good ones are common, or nothing would ever be promoted."""
good = st.integers(951, 1000).map(lambda n: n / 10)
near = st.sampled_from([91.9, 92.0, 92.1, 94.9, 95.0, 95.1])
scores = st.one_of(good, good, good, near, tenths, st.none())
worked = st.builds(
    Entry,
    pulse=st.just(0),
    worked=st.just(True),
    tes=scores,
    failures=st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
    effects_held=st.integers(0, 2),
    effects_failed=st.sampled_from([0, 0, 0, 1]),
)
idle = st.just(Entry(pulse=0))
regressed = st.builds(Entry, pulse=st.just(0), failures=st.integers(1, 3), effects_failed=st.integers(0, 2))
persons = st.builds(Entry, pulse=st.just(0), forced=st.sampled_from(list(Level)), why=st.just("so"))
editions = st.builds(Entry, pulse=st.just(0), digest=st.sampled_from("ab"), code=st.sampled_from(["", "1", "2"]))
by_rule = st.lists(st.one_of(worked, worked, worked, idle, regressed), max_size=45).map(number)
anything = st.lists(st.one_of(worked, worked, worked, idle, regressed, persons, editions), max_size=45).map(number)
limits = st.builds(Terms, max_level=st.sampled_from(list(Level)), void=st.sampled_from(["", "", "expired"]))
standings = st.builds(lambda start, history: fold(start, history, TERMS), st.sampled_from([START, ACTING]), anything)


# up


@given(by_rule)
def test_it_rises_exactly_when_the_run_of_scores_above_95_is_long_enough(history: list[Entry]) -> None:
    standing, run = START, 0
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if entry.worked:
            run = run + 1 if entry.tes is not None and Fraction(str(entry.tes)) > 95 else 0
        rises = before.level is Level.GUIDE and run >= run_required(replace(before, pulse=entry.pulse), TERMS)
        assert (before.level is Level.GUIDE and standing.level is Level.EXECUTE) == rises
        if standing.level is not before.level:
            run = 0
        assert standing.run == run


@given(standings, st.integers(1, 9))
def test_pulses_without_work_change_nothing_but_the_pulse_count(standing: Standing, count: int) -> None:
    later = fold(standing, [Entry(pulse=standing.pulse) for _ in range(count)], TERMS)
    assert later == standing


@given(standings.filter(lambda each: each.level is Level.GUIDE))
def test_an_unknown_score_breaks_the_run_and_does_not_demote(standing: Standing) -> None:
    after = step(standing, replace(work(None), pulse=standing.pulse), TERMS)
    assert (after.level, after.run) == (standing.level, 0)
    assert after.window == standing.window


# down


@given(by_rule)
def test_it_falls_exactly_when_the_mean_or_the_failures_say_so(history: list[Entry]) -> None:
    standing = ACTING
    window: list[Fraction] = []
    failures: list[int] = []
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if entry.worked or entry.failures:
            failures = [*failures, entry.failures][-20:]
        if entry.tes is not None:
            window = [*window, Fraction(str(entry.tes))][-12:]
        low = bool(window) and sum(window) / len(window) < 92
        if before.level is Level.EXECUTE:
            frozen = before.frozen and entry.tes is None
            falls = sum(failures) > 2 or (low and not frozen)
            assert (standing.level is Level.GUIDE) == falls
        if standing.level is not before.level:
            window, failures = [], []


@given(standings, st.integers(3, 9), scores)
def test_more_than_two_failures_in_one_pulse_always_demote(
    standing: Standing, failures: int, tes: float | None
) -> None:
    acting = replace(standing, level=Level.EXECUTE)
    assert step(acting, replace(work(tes, failures), pulse=standing.pulse), TERMS).level is Level.GUIDE


@given(st.lists(tenths, min_size=1, max_size=12), st.lists(tenths, min_size=0, max_size=12))
def test_binary_dust_never_decides_at_exactly_92(first: list[float], second: list[float]) -> None:
    both = [*first, *second]
    exact = sum(Fraction(str(each)) for each in both[-12:]) / len(both[-12:])
    standing = replace(ACTING, window=tuple(both[-12:]))
    assert (earned(standing, TERMS).level is Level.GUIDE) == (exact < 92)


@given(anything, limits)
def test_the_rule_moves_between_guide_and_execute_only_or_down_to_the_limit(history: list[Entry], terms: Terms) -> None:
    standing = START
    for entry in history:
        before, standing = standing, step(standing, entry, terms)
        if standing.level is before.level or entry.forced is not None:
            continue
        assert (before.level in MOVING and standing.level in MOVING) or standing.level is terms.max_level


@given(anything)
def test_a_level_change_clears_run_and_windows_and_the_freeze(history: list[Entry]) -> None:
    standing = START
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if standing.level is not before.level and entry.forced is None:
            assert (standing.run, standing.window, standing.failures) == (0, (), ())
            assert (standing.frozen, standing.unknown_run, standing.changed_pulse) == (False, 0, entry.pulse)


# unknown, frozen


@given(anything)
def test_three_unknown_in_a_row_freeze_until_a_person_or_a_known_score(history: list[Entry]) -> None:
    standing, unknown = START, 0
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if entry.forced is not None or entry.tes is not None:
            unknown = 0
        elif entry.worked:
            unknown += 1
        if standing.level is not before.level:
            unknown = 0
        assert (standing.unknown_run, standing.frozen) == (unknown, unknown >= 3)


@given(standings)
def test_a_frozen_level_never_rises(standing: Standing) -> None:
    frozen = replace(standing, frozen=True, unknown_run=3, run=99)
    assert decide(frozen, TERMS).level <= frozen.level


# requalification


@given(st.lists(st.integers(0, 400), max_size=8).map(sorted), st.integers(0, 800))
def test_the_required_run_doubles_with_each_demotion_in_288_pulses_up_to_40(demoted: list[int], later: int) -> None:
    pulse = max([*demoted, 0]) + later
    recent = sum(pulse - each < 288 for each in demoted)
    required = run_required(replace(START, demotions=tuple(demoted), pulse=pulse), TERMS)
    assert required == {0: 5, 1: 10, 2: 20}.get(recent, 40)


@given(anything)
def test_only_the_rules_demotions_are_counted(history: list[Entry]) -> None:
    standing = START
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        fell = before.level is Level.EXECUTE and standing.level is Level.GUIDE and entry.forced is None
        assert (standing.demotions[-1:] == (entry.pulse,)) == fell


# probation


@given(anything)
def test_the_evidence_is_its_factors_carried_over_every_level_and_reset_by_an_edition_alone(
    history: list[Entry],
) -> None:
    standing, score = START, 1.0
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if (standing.digest, standing.code) != (before.digest, before.code):
            score = 1.0
        score *= (0.95 / 0.80) ** entry.effects_held * (0.05 / 0.20) ** entry.effects_failed
        assert standing.evidence == pytest.approx(score, rel=1e-9)


@given(anything)
def test_a_fresh_execute_is_on_probation_until_the_evidence_reaches_20(history: list[Entry]) -> None:
    standing = START
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if standing.level is not Level.EXECUTE:
            assert not standing.probation
        elif before.level is not Level.EXECUTE or standing.digest != before.digest or standing.code != before.code:
            assert standing.probation == (standing.evidence_ln < math.log(20))
        else:
            assert standing.probation == (before.probation and standing.evidence_ln < math.log(20))


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_the_evidence_has_no_floor_and_can_be_earned_back(failed: int, held: int) -> None:
    low = step(START, Entry(pulse=1, effects_failed=failed), TERMS)
    high = step(low, Entry(pulse=2, effects_held=held), TERMS)
    exact = failed * math.log(0.25) + held * math.log(0.95 / 0.80)
    assert high.evidence_ln == pytest.approx(min(exact, math.log(1e12)), abs=1e-6)


@given(standings)
def test_the_effects_said_to_be_missing_are_those_that_end_probation(standing: Standing) -> None:
    fresh = replace(standing, level=Level.EXECUTE, probation=True, failures=(), window=(), frozen=False)
    missing = effects_missing(fresh, TERMS)
    held = fold(fresh, [Entry(pulse=standing.pulse, effects_held=1)] * max(0, missing - 1), TERMS)
    assert held.probation == (missing > 0)
    assert not fold(fresh, [Entry(pulse=standing.pulse, effects_held=1)] * (missing + 1), TERMS).probation


# limits


@given(anything, limits)
def test_nothing_ever_passes_the_manifests_limit(history: list[Entry], terms: Terms) -> None:
    standing = step(START, Entry(pulse=0), terms)
    for entry in history:
        standing = step(standing, entry, terms)
        assert standing.level <= terms.max_level
        assert decide(standing, terms).level <= terms.max_level


@given(standings, st.lists(worked, max_size=30))
def test_while_the_manifest_is_void_the_level_is_observe_and_nothing_rises(
    standing: Standing, later: list[Entry]
) -> None:
    void = Terms(void="expired")
    assert decide(standing, void).level is Level.OBSERVE
    after = standing
    for entry in later:
        before, after = after, step(after, replace(entry, pulse=standing.pulse), void)
        assert after.level <= before.level


@given(st.integers(5, 60))
def test_good_pulses_under_a_void_manifest_count_and_promote_once_it_is_valid_again(count: int) -> None:
    void = fold(START, number([work(99.0)] * count), Terms(void="expired"))
    assert (void.level, void.run) == (Level.GUIDE, count)
    assert step(void, Entry(pulse=count + 1, digest="new"), TERMS).level is Level.EXECUTE


@given(standings)
def test_a_void_manifest_takes_nothing_that_was_earned(standing: Standing) -> None:
    quiet = step(standing, Entry(pulse=standing.pulse), Terms(void="expired"))
    assert decide(quiet, TERMS) == decide(standing, TERMS)


# demotion beats approval


@given(standings, worked)
def test_approval_and_demotion_in_one_pulse_end_demoted_in_either_order(standing: Standing, bad: Entry) -> None:
    pulse = standing.pulse + 1
    acting = replace(standing, level=Level.EXECUTE, window=(), failures=(1, 1), frozen=False, demotions=())
    bad = replace(bad, pulse=pulse, failures=1)
    yes = Entry(pulse=pulse, forced=Level.EXECUTE, why="go on")
    first, last = fold(acting, [yes, bad], TERMS), fold(acting, [bad, yes], TERMS)
    both = step(acting, replace(bad, forced=Level.EXECUTE), TERMS)
    assert first.level is last.level is both.level is Level.GUIDE
    assert fold(acting, [bad, replace(yes, pulse=pulse - 1)], TERMS).level is Level.GUIDE, "asked for before, too"
    later = step(last, replace(yes, pulse=pulse + 1), TERMS)
    assert later.level is Level.EXECUTE, "a person may overrule it, but not by a click that crossed it"


# the fold


@given(anything, st.integers(0, 45))
def test_folding_in_two_parts_is_folding_at_once(history: list[Entry], middle: int) -> None:
    whole = fold(START, history, TERMS)
    assert fold(fold(START, history[:middle], TERMS), history[middle:], TERMS) == whole
    assert Standing.from_json(whole.to_json()) == whole


@given(anything, limits)
def test_after_each_step_the_decision_is_the_standing_unless_the_manifest_is_void(
    history: list[Entry], terms: Terms
) -> None:
    standing = step(START, Entry(pulse=0), terms)
    for entry in history:
        standing = step(standing, entry, terms)
        decision = decide(standing, terms)
        assert decision.level is (Level.OBSERVE if terms.void else standing.level)
        assert decision.reason and decision.next


@given(anything, anything)
def test_two_domains_never_touch_each_other(one: list[Entry], other: list[Entry]) -> None:
    standings = {"one": START, "other": ACTING}
    for n in range(max(len(one), len(other))):
        for name, history in (("one", one), ("other", other)):
            if n < len(history):
                standings[name] = step(standings[name], history[n], TERMS)
    assert standings == {"one": fold(START, one, TERMS), "other": fold(ACTING, other, TERMS)}


@pytest.mark.parametrize("tes", [math.nan, math.inf, -0.1, 100.1])
def test_a_score_that_is_none_is_refused_because_it_would_never_demote(tes: float) -> None:
    with pytest.raises(ValueError, match="a TES is 0 to 100"):
        work(tes)


def test_a_score_without_work_and_counts_below_0_are_refused() -> None:
    with pytest.raises(ValueError, match="belongs to work"):
        Entry(pulse=1, tes=99.0)
    with pytest.raises(ValueError, match="counted from 0"):
        Entry(pulse=1, failures=-1)


def test_a_standing_saved_before_the_score_was_a_logarithm_is_read() -> None:
    saved = replace(ACTING, probation=True).to_json()
    del saved["evidence_ln"], saved["code"]
    assert Standing.from_json({**saved, "evidence": 1.1875}).evidence == pytest.approx(1.1875)
    assert Standing.from_json({**saved, "evidence": 0.0}).evidence_ln < -700, "it had run out of digits"
