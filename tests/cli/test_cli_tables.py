"""Tables that fit the terminal, and times as people read them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import iso
from cli.output import share, span
from cli.tables import Column, fold, render
from cli.times import ago, local, readable

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
TASKS = (
    Column("id"), Column("state", "state"), Column("level", drop=2), Column("TES", "number"),
    Column("planned", drop=1), Column("objective", "words"),
)  # fmt: skip
WORDS = st.text("abc xyz-", max_size=200)
IDS = st.text("t-0123456789abcdef", min_size=1, max_size=36)


@given(st.lists(st.tuples(IDS, WORDS), min_size=1, max_size=6), st.integers(20, 160), st.booleans())
def test_an_id_is_never_broken_however_narrow_the_terminal(
    rows: list[tuple[str, str]], wide: int, colour: bool
) -> None:
    cells = [(name, "rehearsed", "EXECUTE", "unknown", "12 s ago", text) for name, text in rows]
    page = render(TASKS, cells, wide, colour=colour)
    for name, _ in rows:
        assert any(name in line for line in page)


@given(st.lists(st.tuples(IDS, WORDS), min_size=1, max_size=6), st.integers(75, 160))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str]], wide: int) -> None:
    cells = [(name, "rehearsed", "EXECUTE", "unknown", "12 s ago", text) for name, text in rows]
    assert max(map(len, render(TASKS, cells, wide))) <= wide


def test_the_least_important_column_goes_first() -> None:
    row = ("t-64e7fa-000000012-1", "rehearsed", "EXECUTE", "100.0", "12 s ago", "check the health of the station")
    assert render(TASKS, [row], 120)[0].split() == ["id", "state", "level", "TES", "planned", "objective"]
    assert render(TASKS, [row], 75)[0].split() == ["id", "state", "TES", "planned", "objective"]
    narrow = render(TASKS, [row], 50)
    assert narrow[0].split() == ["id", "state", "TES"]
    assert narrow[2] == "    check the health of the station"


def test_a_column_of_words_that_says_nothing_is_left_out() -> None:
    assert render((Column("a"), Column("b", "words")), [("1", ""), ("2", "")], 80) == ["a", "1", "2"]


def test_numbers_stand_right_and_states_have_colours() -> None:
    columns = (Column("state", "state"), Column("n", "number"))
    assert render(columns, [("done", "5"), ("dead", "100")], 80) == ["state    n", "done     5", "dead   100"]
    assert "\x1b[32mdone" in render(columns, [("done", "5")], 80, colour=True)[1]


def test_only_a_word_wider_than_the_line_is_broken() -> None:
    assert fold("ask log-rotation first", 12) == ["ask", "log-rotation", "first"]
    assert fold("a" * 12, 10) == ["a" * 10, "aa"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "just now"), (12.7, "12 s ago"), (90, "90 s ago"), (600, "10 min ago"), (7300, "2 h ago"), (-1, "just now")],
)
def test_ages_as_people_say_them(seconds: float, said: str) -> None:
    assert ago(iso(NOON - timedelta(seconds=seconds)), NOON) == said


def test_times_are_short_and_local() -> None:
    here = NOON.astimezone()
    assert local(iso(NOON), NOON) == f"{here:%H:%M:%S}"
    assert local(iso(NOON - timedelta(days=9)), NOON) == f"{here - timedelta(days=9):%b %d %H:%M}"
    assert len(local(iso(NOON - timedelta(days=900)), NOON)) == len("2026-01-31")
    assert local(None, NOON) == ago(None, NOON) == "unknown"
    assert readable("verdict from 2026-07-01T12:00Z; else", NOON) == f"verdict from {here:%H:%M}; else"


def test_a_little_is_not_shown_as_nothing() -> None:
    assert [share(value) for value in (None, 0.0, 0.002, 0.97, 1.0)] == ["unknown", "0 %", "0.2 %", "97 %", "100 %"]
    assert [span(value) for value in (0.0, 0.04, 2.0, 3.5, 12.0, None)] == [
        "0 s", "40 ms", "2 s", "3.5 s", "12 s", "unknown",
    ]  # fmt: skip
