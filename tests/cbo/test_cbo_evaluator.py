"""The ladder's rule as tables and properties. Numbers are those of design §5."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.domains import Level
from services.cbo.autonomy_evaluator import Entry, Standing, Terms, decide, fold, run_required, step

TERMS = Terms()
START = Standing(level=Level.GUIDE, reason="start")
ACTING = Standing(level=Level.EXECUTE, reason="earned")


def works(*scores: float | None, failures: int = 0, start: int = 1) -> list[Entry]:
    """One pulse with work for each score; None is an unknown TES."""
    return [Entry(pulse=start + n, worked=True, tes=tes, failures=failures) for n, tes in enumerate(scores)]


def idle(count: int, start: int = 1) -> list[Entry]:
    return [Entry(pulse=start + n) for n in range(count)]


@pytest.mark.parametrize(
    ("name", "scores", "level", "run"),
    [
        ("nothing yet", [], Level.GUIDE, 0),
        ("four are not enough", [96.0] * 4, Level.GUIDE, 4),
        ("five promote and clear the run", [96.0] * 5, Level.EXECUTE, 0),
        ("95 exactly is not above 95", [95.0] * 9, Level.GUIDE, 0),
        ("95.1 is", [95.1] * 5, Level.EXECUTE, 0),
        ("one at 95 breaks the run", [96, 96, 96, 96, 95, 96, 96], Level.GUIDE, 2),
        ("after a break five more are needed", [96, 96, 96, 96, 95, 96, 96, 96, 96, 96], Level.EXECUTE, 0),
        ("an unknown breaks the run", [96, 96, 96, 96, None, 96], Level.GUIDE, 1),
        ("an unknown alone does nothing", [None], Level.GUIDE, 0),
        ("low scores at GUIDE do not demote", [10.0] * 30, Level.GUIDE, 0),
        ("perfect scores promote once", [100.0] * 6, Level.EXECUTE, 1),
    ],
)
def test_promotion(name: str, scores: list[float | None], level: Level, run: int) -> None:
    standing = fold(START, works(*scores), TERMS)
    assert (standing.level, standing.run) == (level, run), name


@pytest.mark.parametrize(
    ("name", "entries", "level"),
    [
        ("a first good pulse stays", works(96.0), Level.EXECUTE),
        ("a first pulse under 92 demotes at once: there is no minimum", works(91.9), Level.GUIDE),
        ("92 exactly stays", works(92.0), Level.EXECUTE),
        ("the mean counts, not the last", works(*[100.0] * 11, 50.0), Level.EXECUTE),
        ("two bad ones among twelve", works(*[100.0] * 10, 50.0, 50.0), Level.GUIDE),
        ("only the last twelve count", works(*[93.0] * 12, *[91.0] * 12), Level.GUIDE),
        ("what is older than twelve no longer helps", works(*[100.0] * 40, *[91.9] * 12), Level.GUIDE),
        ("two failures stay", works(*[96.0] * 2, failures=1), Level.EXECUTE),
        ("three failures demote", works(*[96.0] * 3, failures=1), Level.GUIDE),
        ("three failures in one pulse demote", works(96.0, failures=3), Level.GUIDE),
        ("a failure older than twenty pulses is forgotten",
         [*works(96, 96, failures=1), *works(*[96] * 19), *works(96, failures=1)], Level.EXECUTE),
        ("three within twenty demote",
         [*works(96, 96, failures=1), *works(*[96] * 17), *works(96, failures=1)], Level.GUIDE),
        ("regressions without other work count",
         [Entry(pulse=n, failures=1, effects_failed=1) for n in range(3)], Level.GUIDE),
        ("an unknown does not demote", works(None), Level.EXECUTE),
        ("unknown pulses leave the mean alone", works(93.0, None, None), Level.EXECUTE),
        ("no work never demotes", idle(500), Level.EXECUTE),
    ],
)  # fmt: skip
def test_demotion(name: str, entries: list[Entry], level: Level) -> None:
    assert fold(ACTING, entries, TERMS).level is level, name


@pytest.mark.parametrize(
    ("demoted_at", "now", "required"),
    [
        ((), 10, 5),
        ((10,), 10, 10),
        ((10,), 297, 10),
        ((10,), 298, 5),
        ((10, 200), 250, 20),
        ((10, 200, 250), 260, 40),
        ((10, 100, 200, 250), 260, 40),
        ((10, 100, 200, 250), 400, 20),
    ],
)
def test_the_required_run_doubles_for_each_demotion_in_288_pulses(
    demoted_at: tuple[int, ...], now: int, required: int
) -> None:
    assert run_required(replace(START, demotions=demoted_at, pulse=now), TERMS) == required


def test_after_a_demotion_ten_good_pulses_are_needed() -> None:
    demoted = fold(ACTING, works(50.0), TERMS)
    assert demoted.level is Level.GUIDE and demoted.demotions == (1,)
    assert fold(demoted, works(*[99.0] * 9, start=2), TERMS).level is Level.GUIDE
    assert fold(demoted, works(*[99.0] * 10, start=2), TERMS).level is Level.EXECUTE


def test_a_persons_demotion_does_not_double_the_run() -> None:
    standing = step(ACTING, Entry(pulse=1, forced=Level.GUIDE, why="careful"), TERMS)
    assert run_required(standing, TERMS) == 5 and standing.demotions == ()


def test_three_unknown_in_a_row_freeze_until_a_known_one() -> None:
    frozen = fold(START, works(None, None, None), TERMS)
    assert frozen.frozen and "frozen" in decide(frozen, TERMS).reason
    freed = fold(frozen, works(96.0, start=4), TERMS)
    assert not freed.frozen and freed.run == 1


def test_a_frozen_level_does_not_move_by_regressions_but_does_once_freed() -> None:
    frozen = fold(ACTING, works(None, None, None), TERMS)
    regressed = fold(frozen, [Entry(pulse=n, failures=1, effects_failed=1) for n in range(4, 8)], TERMS)
    assert regressed.level is Level.EXECUTE
    assert fold(regressed, works(99.0, start=8), TERMS).level is Level.GUIDE


def test_a_person_frees_a_frozen_level_even_by_the_same_level() -> None:
    frozen = fold(ACTING, works(None, None, None), TERMS)
    assert not step(frozen, Entry(pulse=4, forced=Level.EXECUTE, why="known fault"), TERMS).frozen


def test_two_unknown_and_idle_pulses_do_not_freeze() -> None:
    assert not fold(START, [*works(None, None), *idle(5, 3)], TERMS).frozen
    assert fold(START, [*works(None, None), *idle(5, 3), *works(None, start=9)], TERMS).frozen


def test_promotion_never_passes_the_manifests_limit() -> None:
    terms = Terms(max_level=Level.GUIDE)
    standing = fold(START, works(*[100.0] * 50), terms)
    assert standing.level is Level.GUIDE and "allows at most GUIDE" in decide(standing, terms).reason


def test_a_lowered_limit_lowers_the_level_and_is_no_demotion() -> None:
    standing = step(ACTING, Entry(pulse=3), Terms(max_level=Level.GUIDE))
    assert standing.level is Level.GUIDE and standing.demotions == ()


def test_a_person_can_not_force_past_the_limit() -> None:
    terms = Terms(max_level=Level.GUIDE)
    assert step(START, Entry(pulse=1, forced=Level.EXECUTE, why="x"), terms).level is Level.GUIDE


@pytest.mark.parametrize("level", [Level.OBSERVE, Level.SUGGEST])
def test_lower_levels_belong_to_people(level: Level) -> None:
    standing = fold(Standing(level=level, reason="set"), works(*[100.0] * 50), TERMS)
    assert standing.level is level


def test_probation_ends_after_eighteen_effects_that_held() -> None:
    fresh = fold(START, works(*[96.0] * 5), TERMS)
    assert fresh.probation and fresh.evidence == 1.0
    held = [Entry(pulse=10 + n, effects_held=1) for n in range(18)]
    assert fold(fresh, held[:17], TERMS).probation
    assert not fold(fresh, held, TERMS).probation


def test_a_failure_quarters_the_evidence_and_it_is_carried_across_demotions() -> None:
    fresh = fold(START, works(*[96.0] * 5), TERMS)
    failed = step(fresh, Entry(pulse=9, worked=True, tes=50.0, failures=1, effects_failed=1), TERMS)
    assert failed.level is Level.GUIDE and failed.evidence == pytest.approx(0.25)
    again = fold(failed, works(*[99.0] * 10, start=10), TERMS)
    assert again.level is Level.EXECUTE and again.evidence == pytest.approx(0.25) and again.probation


def test_rehearsals_leave_the_evidence_alone() -> None:
    assert fold(START, works(*[100.0] * 4), TERMS).evidence == 1.0


def test_a_new_manifest_resets_the_evidence_and_puts_execute_on_probation() -> None:
    trusted = replace(ACTING, evidence=25.0, digest="one")
    renewed = step(trusted, Entry(pulse=1, digest="two"), TERMS)
    assert renewed.evidence == 1.0 and renewed.probation and renewed.level is Level.EXECUTE
    assert step(renewed, Entry(pulse=2, digest="two"), TERMS).digest == "two"


def test_decisions_say_what_would_change_them() -> None:
    assert decide(fold(START, works(96.0, 96.0), TERMS), TERMS).next.startswith("3 more in a row")
    assert "demotes" in decide(ACTING, TERMS).next


def test_a_standing_survives_json() -> None:
    standing = fold(START, works(96.0, None, 50.0, 99.0), TERMS)
    assert Standing.from_json(standing.to_json()) == standing


scores = st.one_of(st.none(), st.floats(0, 100))
entries = st.builds(
    Entry,
    pulse=st.just(0),
    worked=st.booleans(),
    tes=scores,
    failures=st.integers(0, 3),
    effects_held=st.integers(0, 3),
    effects_failed=st.integers(0, 3),
).map(lambda e: e if e.worked else replace(e, tes=None))
histories = st.lists(entries, max_size=60).map(lambda es: [replace(e, pulse=n) for n, e in enumerate(es)])


@given(histories)
def test_the_rule_only_moves_between_guide_and_execute(history: list[Entry]) -> None:
    standing = START
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        assert standing.level in (Level.GUIDE, Level.EXECUTE)
        if standing.level is not before.level:
            assert (standing.run, standing.window, standing.failures) == (0, (), ())


@given(histories, st.integers(3, 9))
def test_more_than_two_failures_always_demote(history: list[Entry], failures: int) -> None:
    standing = fold(ACTING, history, TERMS)
    bad = Entry(pulse=100, worked=True, tes=100.0, failures=failures)
    assert step(replace(standing, level=Level.EXECUTE), bad, TERMS).level is Level.GUIDE


@given(histories)
def test_idle_pulses_change_nothing_but_the_pulse_count(history: list[Entry]) -> None:
    standing = fold(START, history, TERMS)
    later = fold(standing, idle(3, standing.pulse), TERMS)
    assert replace(later, pulse=0) == replace(standing, pulse=0)


@given(histories)
def test_folding_in_two_parts_is_folding_at_once(history: list[Entry]) -> None:
    middle = len(history) // 2
    assert fold(fold(START, history[:middle], TERMS), history[middle:], TERMS) == fold(START, history, TERMS)


@given(histories)
def test_no_promotion_without_five_known_scores_above_95_in_a_row(history: list[Entry]) -> None:
    standing, good = START, 0
    for entry in history:
        before, standing = standing, step(standing, entry, TERMS)
        if entry.worked:
            good = good + 1 if entry.tes is not None and entry.tes > 95 else 0
        if before.level is Level.GUIDE and standing.level is Level.EXECUTE:
            assert good >= 5
