"""Before and after: the interval is Student's, few readings are unknown, what resembles itself counts for less."""

import random

import pytest
from scipy import stats

from services.cbo.comparison import FEWEST, compare, student


@pytest.mark.parametrize("freedom", [2.0, 2.5, 3.0, 4.4, 8.3, 20.0, 58.0, 1000.0])
@pytest.mark.parametrize("probability", [0.9, 0.95, 0.975, 0.995])
def test_the_quantile_is_that_of_scipy(probability: float, freedom: float) -> None:
    assert student(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=5e-5)


def test_without_resemblance_it_is_welchs_interval() -> None:
    before, after = [3.0, 9.0, 1.0, 8.0, 2.0, 7.0], [12.0, 5.0, 14.0, 6.0, 13.0, 7.0, 15.0]
    made = compare(before, after)
    expected = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert (made.low, made.high) == (pytest.approx(expected.low, rel=1e-4), pytest.approx(expected.high, rel=1e-4))
    assert made.change == pytest.approx(sum(after) / 7 - sum(before) / 6)
    assert made.size is not None and made.size > 0


def test_with_too_few_readings_it_is_unknown_and_never_nothing() -> None:
    made = compare([1.0] * (FEWEST - 1), [9.0] * 30)
    assert (made.change, made.low, made.high, made.size) == (None, None, None, None)
    assert "unknown" in made.reason


def test_what_does_not_scatter_changed_by_what_it_changed() -> None:
    made = compare([5.0] * 6, [7.0] * 6)
    assert (made.change, made.low, made.high, made.size) == (2.0, 2.0, 2.0, None)


def _walk(chance: random.Random, alike: float, count: int) -> list[float]:
    values = [chance.gauss(0, 1)]
    while len(values) < count:
        values.append(alike * values[-1] + (1 - alike**2) ** 0.5 * chance.gauss(0, 1))
    return values


@pytest.mark.parametrize(("alike", "least"), [(0.0, 0.93), (0.6, 0.88)])
def test_an_interval_holds_what_did_not_change(alike: float, least: float) -> None:
    """Readings that resemble each other strongly are still a little too sure: some 91 instead of 95 in 100."""
    chance = random.Random(7)
    made = [compare(_walk(chance, alike, 30), _walk(chance, alike, 30)) for _ in range(600)]
    assert sum(each.low <= 0.0 <= each.high for each in made) / 600 >= least  # type: ignore[operator]  # none unknown
