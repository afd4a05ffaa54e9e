from datetime import UTC, datetime

import pytest
from cli_harness import Console
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidInput
from cli.main import _station_first
from cli.times import parse_moment, parse_span

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["task"], ["task", "nonsense"], ["recall"], ["recall", "x", "-n", "0"], ["status", "--nope"], []],
)
def test_wrong_use_exits_with_two_and_never_with_a_trace(calyx: Console, arguments: list[str]) -> None:
    out, err = calyx.run(*arguments, status=2)
    assert "Traceback" not in out + err
    assert "calyx" in out + err


def test_help_exits_with_zero_and_shows_an_example(calyx: Console) -> None:
    assert "Example: calyx recall" in calyx.run("recall", "--help")[0]


def test_the_station_may_be_named_anywhere_before_the_dashes() -> None:
    assert _station_first(["ladder", "--station", "s", "--json"]) == ["--station", "s", "ladder", "--json"]
    assert _station_first(["ladder", "--station=s"]) == ["--station=s", "ladder"]
    assert _station_first(["run", "--", "x", "--station", "s"]) == ["run", "--", "x", "--station", "s"]


def test_spans_as_people_type_them() -> None:
    assert [parse_span(text) for text in ("90", "90s", "1.5m", "1h30m", "2d", "250ms", "1h 5s")] == [
        90.0, 90.0, 90.0, 5400.0, 172800.0, 0.25, 3605.0,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "soon", "5 apples", "-5s", "1h30", "s", "1e3s", "nan", "٣s", "99999d"])
def test_what_is_not_a_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="1h30m"):
        parse_span(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_span(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_moments_are_iso_or_a_span_from_now() -> None:
    assert parse_moment("2026-01-31T18:00+01:00", NOON, ago=False) == datetime(2026, 1, 31, 17, tzinfo=UTC)
    assert parse_moment("2h", NOON, ago=False).hour == 14
    assert parse_moment("2h", NOON, ago=True).hour == 10
    assert parse_moment("2026-01-31T18:00", NOON, ago=False).tzinfo is UTC
    with pytest.raises(InvalidInput, match="not a time"):
        parse_moment("tomorrow", NOON, ago=False)
