"""Trend lines against what is known by construction."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.analytics.trend import DAY, MIN_POINTS, line, trends

HOUR = 3600.0


def hourly(values: list[float | None]) -> list[tuple[float, float | None]]:
    return [(n * HOUR, value) for n, value in enumerate(values)]


def noise(n: int) -> float:
    """Deterministic, uncorrelated enough: the fractional part of n·φ, centred."""
    return math.modf(n * 0.6180339887498949)[0] - 0.5


def test_a_rising_series_rises_by_its_slope() -> None:
    [found] = trends({"tes": ("score", hourly([90 + n / 24 + noise(n) for n in range(200)]))})
    assert found.verdict == "rising"
    assert found.slope_per_day is not None
    assert abs(found.slope_per_day - 1.0) < 0.05
    assert found.slope_low is not None
    assert found.slope_high is not None
    assert found.slope_low < 1.0 < found.slope_high


def test_noise_alone_is_flat() -> None:
    [found] = trends({"tes": ("score", hourly([95 + noise(n) for n in range(200)]))})
    assert found.verdict == "flat"


def test_a_slow_wave_is_not_called_a_trend() -> None:
    """Neighbouring pulses resemble each other; without the correction this half-wave would look significant."""
    values: list[float | None] = [50 + 10 * math.sin(n / 40) for n in range(190)]
    [found] = trends({"ram_percent": ("percent", hourly(values))})
    assert found.verdict == "flat"


def test_unknown_values_neither_count_nor_bend_the_line() -> None:
    values: list[float | None] = [90 + n / 24 + noise(n) for n in range(200)]
    holes = [None if n % 3 else value for n, value in enumerate(values)]
    found = line("tes", "score", hourly(holes))
    assert (found.points, found.unknown) == (67, 133)
    assert found.slope_per_day is not None
    assert abs(found.slope_per_day - 1.0) < 0.1


@given(st.lists(st.none() | st.floats(0, 100), max_size=MIN_POINTS - 1))
def test_too_few_points_are_no_trend(values: list[float | None]) -> None:
    found = line("tes", "score", hourly(values))
    assert found.verdict == "insufficient data"
    assert found.slope_per_day is None
    assert found.p_value is None


@given(st.floats(0, 100), st.integers(MIN_POINTS, 50))
def test_a_constant_is_flat_and_its_p_value_is_one(value: float, count: int) -> None:
    [found] = trends({"tes": ("score", hourly([value] * count))})
    assert (found.verdict, found.p_value, found.slope_per_day) == ("flat", 1.0, 0.0)


def test_significance_is_corrected_over_the_metrics() -> None:
    wavering: list[float | None] = [90 + n / (24 * 12) + noise(n) for n in range(60)]
    [alone] = trends({"a": ("x", hourly(wavering))})
    first, *_ = trends({name: ("x", hourly(wavering)) for name in "abc"})
    assert alone.p_value is not None
    assert first.p_value is not None
    assert first.p_value >= alone.p_value * 2.9 or first.p_value == 1.0
    assert DAY == 24 * HOUR
