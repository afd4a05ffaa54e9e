"""The ladder's simulation at a small size, and the proof that its numpy model is the rule of the station."""

import math

import numpy as np
import pytest

from bench.ladder import FAILED, GOOD, TERMS, Crowd, ever_leaves, failures, flapping, relapse, started
from chassis.domains import Level
from services.cbo.autonomy_evaluator import Entry, Standing, step

DOMAINS, EFFECTS = 2000, 18


def rehearsed(standing: Standing) -> Standing:
    """Perfect rehearsals until the domain acts."""
    while standing.level is Level.GUIDE:
        standing = step(standing, Entry(pulse=standing.pulse + 1, worked=True, tes=GOOD), TERMS)
    return standing


def acted(standing: Standing, held: bool) -> Standing:
    entry = Entry(
        pulse=standing.pulse + 1,
        worked=True,
        tes=GOOD if held else FAILED,
        failures=int(not held),
        effects_held=int(held),
        effects_failed=int(not held),
    )
    return step(standing, entry, TERMS)


def test_the_model_in_numpy_is_the_rule_on_thousands_of_random_histories() -> None:
    """Of domains from hopeless to perfect, so that some leave probation and some come to a run of 40."""
    rng = np.random.default_rng(1)
    success = rng.choice([0.6, 0.9, 0.95, 1.0, 1.0, 1.0], DOMAINS)
    crowd = Crowd(DOMAINS)
    standings = [rehearsed(started())] * DOMAINS
    left = [0] * DOMAINS
    for n in range(1, EFFECTS + 1):
        held = rng.random(DOMAINS) < success
        lost = crowd.act(held)
        for each in range(DOMAINS):
            after = acted(standings[each], bool(held[each]))
            assert (after.level is Level.GUIDE) == lost[each]
            if after.level is Level.EXECUTE and not after.probation and not left[each]:
                left[each] = n
            standings[each] = rehearsed(after)
        assert [each.pulse for each in standings] == crowd.pulse.tolist()
        assert [each.probation for each in standings] == crowd.probation.tolist()
    np.testing.assert_allclose([each.evidence_ln for each in standings], crowd.evidence_ln, atol=1e-9)
    assert left == crowd.left_after.tolist()
    assert any(left) and not all(left)
    assert max(len(each.demotions) for each in standings) >= 4, "the longest run was never asked for"


def test_a_long_history_agrees_too_past_288_pulses() -> None:
    rng = np.random.default_rng(2)
    crowd, standings = Crowd(20), [rehearsed(started())] * 20
    for _ in range(300):
        held = rng.random(20) < 0.85
        crowd.act(held)
        standings = [rehearsed(acted(each, bool(one))) for each, one in zip(standings, held, strict=True)]
        assert [each.pulse for each in standings] == crowd.pulse.tolist()
    assert max(each.pulse for each in standings) > 3 * 288


@pytest.mark.parametrize("success", [0.80, 0.79, 0.75, 0.6])
def test_at_a_true_success_of_80_percent_or_less_at_most_1_in_20_ever_leave_probation(success: float) -> None:
    assert 0.0 < ever_leaves(success) <= 0.05


def test_the_exact_chance_is_that_of_a_sample() -> None:
    rng = np.random.default_rng(3)
    crowd = Crowd(20_000)
    for _ in range(200):
        crowd.act(rng.random(20_000) < 0.80)
    share, exact = float((crowd.left_after > 0).mean()), ever_leaves(0.80)
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)


@pytest.mark.parametrize(("success", "most"), [(0.99, 20), (0.90, 70)])
def test_good_domains_leave_probation_soon(success: float, most: int) -> None:
    rng = np.random.default_rng(4)
    crowd = Crowd(10_000)
    for _ in range(most):
        crowd.act(rng.random(10_000) < success)
    assert (crowd.left_after > 0).mean() > 0.5, "the median"


def test_news_of_an_effect_that_comes_a_pulse_late_never_ends_probation_that_on_time_news_would_not() -> None:
    """Failures are known at once, what held a minute later: on the way the score is only ever lower."""
    rng = np.random.default_rng(5)
    acting = rehearsed(started())
    for _ in range(300):
        outcomes = (rng.random(40) < 0.9).tolist()
        prompt = late = acting
        pending = 0
        for pulse, held in enumerate(outcomes, acting.pulse + 1):
            prompt = step(prompt, Entry(pulse=pulse, effects_held=held, effects_failed=not held), TERMS)
            late = step(late, Entry(pulse=pulse, effects_held=pending, effects_failed=not held), TERMS)
            pending = int(held)
            assert late.probation or not prompt.probation


@pytest.mark.parametrize("innovation", [True, False])
def test_noise_makes_few_level_changes_and_a_relapse_is_noticed(innovation: bool) -> None:
    rng = np.random.default_rng(6)
    found = [*flapping(rng, 30, innovation=innovation), *relapse(rng, 30, innovation=innovation)]
    bounded = [each for each in found if each.holds is not None]
    assert len(bounded) == 3 and all(each.holds for each in bounded), bounded
    wild = next(each.value for each in found if "mean 95" in each.name and "bare rule, median" in each.name)
    assert wild is not None and wild >= 9, "beside the bare rule"


def test_a_third_failure_demotes_in_its_very_pulse() -> None:
    bounded = [each for each in failures(np.random.default_rng(7), 60) if each.holds is not None]
    assert len(bounded) == 2 and all(each.holds for each in bounded), bounded
