"""Every number has an age: ok, then stale, then unknown, never frozen."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dashboard_fakes import Bench, bench
from dashboard_scenes import busy, empty, trouble
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput
from services.dashboard.figures import aged, terms


@pytest.fixture
def made(tmp_path: Path) -> Bench:
    return bench(tmp_path / "station", busy(VirtualClock()))


def look(made: Bench) -> dict[str, Any]:
    return asyncio.run(made.at.board.overview()).document


def advance(made: Bench, seconds: float) -> None:
    made.clock.advance(seconds)  # type: ignore[attr-defined] # the bench runs on a VirtualClock


def test_a_stopped_governors_figures_turn_stale_after_ten_seconds_and_unknown_after_a_minute(made: Bench) -> None:
    assert look(made)["capacity"]["cpu"] | {"note": ""} == {
        "value": 12.4,
        "state": "ok",
        "unit": "percent",
        "age_seconds": 2.0,
        "coverage": 1.0,
        "note": "",
        "stale_after_seconds": 10.0,
        "unknown_after_seconds": 60.0,
    }
    made.station.down.add("governor")
    advance(made, 9)
    stale = look(made)["capacity"]["cpu"]
    assert (stale["value"], stale["state"], stale["age_seconds"]) == (12.4, "stale", 11.0)
    assert "governor does not answer" in stale["note"]
    advance(made, 50)
    gone = look(made)["capacity"]["cpu"]
    assert (gone["value"], gone["state"]) == (None, "unknown")
    assert "governor does not answer" in gone["note"]


def test_figures_are_good_again_with_the_first_answer_after_a_failure(made: Bench) -> None:
    look(made)
    made.station.down.add("governor")
    advance(made, 100)
    assert look(made)["capacity"]["ram"]["state"] == "unknown"
    made.station.down.clear()
    advance(made, 2)
    assert look(made)["capacity"]["ram"]["state"] == "ok"


def test_a_governor_that_answers_with_an_old_reading_does_not_make_it_young(made: Bench) -> None:
    made.station.readings["cpu_percent"]["age_seconds"] = 61.0
    assert look(made)["capacity"]["cpu"]["state"] == "unknown"


@pytest.mark.parametrize("service", ["memory", "governor", "guardian", "cbo", "analytics"])
def test_one_silent_service_makes_only_its_own_figures_unknown(made: Bench, service: str) -> None:
    made.station.down.add(service)
    shown = look(made)
    states = {
        "memory": shown["memory"]["state"],
        "governor": shown["capacity"]["state"],
        "guardian": shown["alerts"]["state"],
        "cbo": shown["autonomy"]["state"],
        "analytics": shown["trends"]["state"],
    }
    assert states == {name: "unknown" if name == service else "ok" for name in states}
    assert shown["peers"][service]["answers"] is False
    assert shown["status"]["tone"] in ("attention", "bad")


def test_all_services_silent_still_gives_a_page_without_a_single_number(made: Bench) -> None:
    made.station.down.update(("memory", "governor", "guardian", "cbo", "analytics"))
    shown = look(made)
    assert [kpi["figure"]["value"] for kpi in shown["kpis"]["items"]] == [None] * 5
    assert shown["autonomy"]["items"] == shown["inbox"]["items"] == shown["pulses"]["items"] == []
    assert shown["status"]["tone"] == "bad"


def test_levels_and_plans_are_not_shown_from_memory_once_the_overseer_is_long_silent(made: Bench) -> None:
    assert len(look(made)["inbox"]["items"]) == 2
    made.station.down.add("cbo")
    advance(made, 400)
    shown = look(made)
    assert shown["autonomy"]["state"] == "unknown"
    assert shown["autonomy"]["items"] == shown["inbox"]["items"] == []
    assert len(shown["pulses"]["items"]) == 30, "what happened stays a fact"
    assert shown["pulses"]["state"] == "unknown"
    assert {kpi["figure"]["state"] for kpi in shown["kpis"]["items"]} == {"unknown"}


def test_pulses_without_a_known_run_score_are_gaps(made: Bench) -> None:
    series = look(made)["tes"]["series"]
    assert series[-1]["value"] is None
    assert series[-1]["note"] == "no work"
    assert 0 not in [each["value"] for each in series]


def test_one_question_that_is_refused_does_not_count_as_silence(made: Bench) -> None:
    def refuse(_timeout: float) -> Any:
        raise InvalidInput("no such thing")

    made.station.kpis = refuse  # type: ignore[method-assign] # this one question fails
    made = bench(made.layout.root, made.station)
    shown = look(made)
    assert shown["peers"]["cbo"]["answers"] is True
    assert shown["kpis"]["note"] == "cbo: no such thing"
    assert shown["autonomy"]["state"] == "ok"


def test_many_watchers_within_a_second_cost_one_round(made: Bench) -> None:
    look(made)
    before = len(made.station.calls)
    for _ in range(20):
        look(made)
    assert len(made.station.calls) == before


def test_nobody_is_asked_while_nobody_watches(made: Bench) -> None:
    advance(made, 3600)
    assert made.station.calls == []


def test_a_pulse_that_ends_renews_what_it_changed_at_once(made: Bench) -> None:
    look(made)
    advance(made, 1)
    made.station.pulse_list.insert(0, {**made.station.pulse_list[0], "id": "bp-000000043"})
    made.station.ladder_list[0]["level"] = "EXECUTE"
    shown = look(made)
    assert shown["pulses"]["items"][0]["id"] == "bp-000000043"
    assert shown["autonomy"]["items"][0]["word"] == "Act"


def test_a_dead_service_is_given_little_time_until_it_is_back(made: Bench) -> None:
    given_time: list[float] = []
    real = made.station.capacity

    def capacity(timeout: float) -> dict[str, Any]:
        given_time.append(timeout)
        return real(timeout)

    made.station.capacity = capacity  # type: ignore[method-assign] # watched
    made = bench(made.layout.root, made.station)
    made.station.down.add("governor")
    look(made)
    advance(made, 1)
    look(made)
    assert given_time == pytest.approx([1.5, 0.4])


def test_the_first_minute_says_when_the_first_pulse_comes(tmp_path: Path) -> None:
    shown = look(bench(tmp_path / "station", empty(VirtualClock())))
    assert shown["station"]["last_pulse"] is None
    assert shown["station"]["next_pulse_in_seconds"] == 12.0
    assert shown["status"]["tone"] == "waiting"


def test_open_faults_come_before_waiting_plans_in_the_headline(tmp_path: Path) -> None:
    status = look(bench(tmp_path / "station", trouble(VirtualClock())))["status"]
    assert status["text"] == "1 fault is open: governor."
    assert status["detail"] == "2 plans wait for your answer."


def test_the_flag_shows_even_when_no_service_answers(made: Bench) -> None:
    made.station.down.update(("memory", "governor", "guardian", "cbo", "analytics"))
    made.switch.engage("smoke in the rack", "operator", made.clock.now())
    shown = look(made)
    assert shown["kill_switch"] == {"engaged": True, "why": "smoke in the rack"}
    assert shown["status"]["tone"] == "stopped"


def test_an_unreadable_plan_shows_no_changes_and_says_so(made: Bench) -> None:
    made.station.task_list[0]["plan_json"] = "{not json"
    shown = look(made)["inbox"]["items"][0]
    assert shown["changes"] == []
    assert "can't be read" in shown["notes"]


def test_without_the_guardian_services_show_what_this_page_sees(made: Bench) -> None:
    made.station.down.update(("guardian", "memory"))
    states = {each["service"]: (each["state"], each["by"]) for each in look(made)["services"]["items"]}
    assert states["memory"] == ("down", "dashboard")
    assert states["cbo"] == ("up", "dashboard")
    assert states["dashboard"] == ("up", "itself")


def test_a_stopped_guardian_does_not_vouch_for_anybody(made: Bench) -> None:
    look(made)
    made.station.down.update(("guardian", "memory"))
    advance(made, 16)
    items = {each["service"]: each for each in look(made)["services"]["items"]}
    assert (items["guardian"]["state"], items["guardian"]["uptime_seconds"]) == ("down", None)
    assert (items["memory"]["state"], items["cbo"]["state"]) == ("down", "up")


def test_a_verdict_goes_with_the_figure_it_was_about(made: Bench) -> None:
    assert look(made)["uptime"]["verdict"] == "met"
    made.station.down.add("cbo")
    advance(made, 400)
    shown = look(made)
    assert shown["uptime"]["verdict"] == "unknown"
    assert shown["uptime"]["note"].startswith("cbo does not answer")
    assert all(kpi["note"].startswith("cbo does not answer") for kpi in shown["kpis"]["items"])
    assert shown["station"]["next_pulse_in_seconds"] is None
    assert (shown["station"]["tasks"], shown["station"]["overdue"]) == ({}, False)


def test_an_analysis_that_can_not_be_asked_for_has_no_pulses(made: Bench) -> None:
    made.station.down.add("analytics")
    assert look(made)["trends"]["pulses"] is None


def test_a_service_whose_state_is_unknown_keeps_the_headline_from_being_well(made: Bench) -> None:
    made.station.health_states["memory"] = "unknown"
    status = look(made)["status"]
    assert status["tone"] == "attention"
    assert status["text"] == "Not known to be up: memory."


FIGURES = st.fixed_dictionaries(
    {
        "value": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        "state": st.sampled_from(["ok", "stale", "unknown", "absent", ""]),
        "unit": st.just("percent"),
        "age_seconds": st.floats(min_value=0, max_value=1e6),
        "coverage": st.none(),
        "note": st.just(""),
    }
)


@given(FIGURES, st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0.1, 1e4))
def test_a_figure_never_gets_better_by_waiting(figure: dict[str, Any], first: float, more: float, every: float) -> None:
    rank = {"ok": 0, "stale": 1, "unknown": 2, "absent": 3}
    early = aged(figure, since_answer=first, limits=terms(every))
    late = aged(figure, since_answer=first + more, limits=terms(every))
    assert rank[late["state"]] >= rank[early["state"]]
    assert (late["value"] is None) or late["state"] in ("ok", "stale")


@given(FIGURES, st.floats(0, 1e5), st.floats(0.1, 1e4))
def test_what_is_not_ok_says_why_and_what_is_unknown_has_no_value(
    figure: dict[str, Any], since: float, every: float
) -> None:
    shown = aged(figure, since_answer=since, limits=terms(every))
    assert shown["state"] in ("ok", "absent") or shown["note"]
    assert shown["state"] not in ("unknown", "absent") or shown["value"] is None
