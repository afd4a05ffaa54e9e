"""Trend lines against what is known by construction."""

import math

from hypothesis import given
from hypothesis import strategies as st

from services.analytics.trend import DAY, MIN_POINTS, line, trends, why_no_line

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


def test_minutes_of_points_give_no_slope_a_day() -> None:
    """60 pulses in two minutes once read +4170 a day."""
    steep: list[tuple[float, float | None]] = [(n * 2.0, 20.0 + n * 0.1) for n in range(60)]
    [found] = trends({"ram_percent": ("percent", steep)})
    assert (found.verdict, found.slope_per_day, found.p_value, found.points) == ("insufficient data", None, None, 60)
    assert found.latest == 20.0 + 59 * 0.1
    assert why_no_line(found.points, found.span_seconds) == "60 known over 118 s, an hour needed"


def test_unknown_points_do_not_lengthen_the_span() -> None:
    known: list[tuple[float, float | None]] = [(n * 60.0, float(n)) for n in range(30)]
    found = line("tes", "score", [(-HOUR, None), *known, (3 * HOUR, None)])
    assert (found.verdict, found.span_seconds) == ("insufficient data", 29 * 60.0)


def test_an_hour_of_known_points_is_enough() -> None:
    assert line("tes", "score", [(n * 60.0, 90.0 + n) for n in range(61)]).slope_per_day is not None
    assert why_no_line(3, HOUR) == f"3 known, {MIN_POINTS} needed"


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
