"""The time machine: the past under its own policy comes out word by word, and what a draft would have changed."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cbo_station import Station

from chassis.domains import Level
from chassis.errors import InvalidInput
from services.cbo.gate_log import Entry
from services.cbo.history import end_of, from_records, from_store
from services.cbo.policy_desk import tried
from services.cbo.proposals import Wish
from services.cbo.time_machine import ADJUSTABLE, in_words, replay, terms_of, told

NewStation = Callable[..., Station]
MONTH = timedelta(days=30)
OWN = """\
schema: calyx.policy/2
rules:
  - deny: quiet hours
    domains: [diagnostics]
    hours: 03:00-05:00
  - deny: no cleanup
    domains: [cleanup]
  - allow: a few checks
    domains: [diagnostics]
    per_pulse: 1
    per_day: 60
  - allow: the rest
...
"""


def a_day(station: Station) -> Station:
    """Quiet hours, budgets, refusals, proposals, approvals, the kill switch, a silent governor, crashes, failures."""
    station.layout.policy.parent.mkdir(exist_ok=True)
    station.layout.policy.write_text(OWN)
    desk = station.cbo.desk
    for hour in range(24):
        for quarter in range(4):
            if hour == 2 and quarter == 1:
                station.crash_at("planned")
            if hour == 7 and quarter == 2:
                station.crash_at("dispatched")
            if hour == 9:
                station.crash_at("settled") if quarter == 0 else None
                station.governor.down = quarter == 2
            if hour == 10:
                station.governor.admits = quarter != 1
            if hour == 12 and quarter == 0:
                station.cbo.desk.set_kill_switch(True, "lunch", "operator")
            if hour == 13 and quarter == 0:
                station.cbo.desk.set_kill_switch(False, "", "operator")
            station.answer.status = "failed" if hour == 15 else None
            desk = station.cbo.desk
            if quarter == 3:
                wish = Wish(source="inbox", domain="log_rotation", objective="rotate the logs", key=f"k{hour}")
                station.cbo.inbox._proposals.make(wish)
                clean = Wish(source="inbox", domain="cleanup", objective="clean up", key=f"c{hour}")
                station.cbo.inbox._proposals.make(clean)
            if hour in (3, 6, 18) and quarter == 1:
                for task in station.cbo.bridge.store.tasks("tasks_inbox", 3):
                    if task.plan_digest:
                        desk.approve(task.id, task.plan_digest, "operator")
            station.cbo.run_pulse()
            station.cbo.reap()
            station.agent()
            station.clock.advance(900)
    return station


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Any:
    station = a_day(Station(tmp_path_factory.mktemp("day") / "station", interval=900.0))
    yield station
    station.cbo.close()


def records(station: Station) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in sorted(station.layout.pulses.glob("*/bp-*.json"))]


def entries(station: Station) -> list[Entry]:
    rows = station.cbo.bridge.store.rows("gate_entries_after", 0)
    return [Entry.from_json(json.loads(row["entry"])) for row in rows]


def test_the_day_had_everything(day: Station) -> None:
    known = entries(day)
    refused = {each.domain for each in known if each.verdict == "refuse"}
    reasons = " ".join(why for each in known for _, _, why in each.answers)
    assert refused == {"cleanup"}
    for said in ("quiet hours", "its 1 a pulse", "its 60 in 24 h", "engaged: lunch", "RAM is at 97 %", "can't be asked",
                 "approved by operator", "EXECUTE: runs with effects", "a pulse are used up"):  # fmt: skip
        assert said in reasons, said
    assert any(record["status"] == "interrupted" for record in records(day))


def test_the_past_under_its_own_policy_is_reproduced_answer_by_answer(day: Station) -> None:
    result = tried(day.cbo, "", MONTH, {}).result
    assert result["questions"] == len(entries(day)) > 140
    assert (result["same"], result["answers_differ"], result["gates_differ"]) == (True, 0, {})
    for change in ("blocks", "allows", "earlier", "later"):
        assert result[change]["tasks"] == 0
    assert "Every gate would have answered exactly as it did." in in_words(result)


@pytest.mark.parametrize("hours", [1, 5, 11, 17, 23])
def test_so_is_every_part_of_it_with_its_budgets_from_before(day: Station, hours: int) -> None:
    result = tried(day.cbo, "", timedelta(hours=hours), {}).result
    assert result["same"] and 0 < result["questions"] < len(entries(day))


def test_the_unchanged_ladder_terms_change_nothing_either(day: Station) -> None:
    usual = {"promote_run": 5.0, "demote_below": 92.0}
    result = tried(day.cbo, "", MONTH, usual).result
    assert result["same"] and result["levels"] == []
    assert all(each["was"] == each["would"] for each in result["ladder"])
    assert any(each["was"]["first_execute_pulse"] for each in result["ladder"])
    part = tried(day.cbo, "", timedelta(hours=12), usual).result
    assert part["same"] and all(each["was"] == each["would"] for each in part["ladder"])


def test_the_records_alone_hold_the_same_past(day: Station) -> None:
    store = day.cbo.bridge.store
    kept = [each for each in records(day) if each["status"] == "complete"]
    last = kept[-1]["gate_log"]
    assert last["after"] + len(last["entries"]) <= len(entries(day))
    past = from_records(records(day))
    assert list(past.entries) == entries(day)[: last["after"] + len(last["entries"])]
    since = day.clock.now() - MONTH
    found, _ = replay(past, day.cbo.bridge.policy_file.rules(), since)
    assert found.differing == 0
    known = from_store(store, since).ends
    ended = {task for task, end in past.ends.items() if end != known[task]}
    assert ended <= {task for task, end in known.items() if end in ("undone", "open", "not run")}


def test_a_draft_that_blocks_says_what_and_how_it_ended(day: Station) -> None:
    draft = OWN.replace(
        "  - deny: no cleanup\n", "  - deny: no rotation\n    domains: [log_rotation]\n  - deny: no cleanup\n"
    )
    made = tried(day.cbo, draft, MONTH, {})
    went = {each.task for each in entries(day) if each.domain == "log_rotation" and each.policy_passed}
    blocks = made.result["blocks"]
    assert blocks["tasks"] == len(went) and blocks["held"] == 0
    assert sum(blocks["ended"].values()) == len(went)
    assert blocks["ended"]["well"] > 0
    assert made.result["changes"] == [
        {
            "change": "blocks",
            "domain": "log_rotation",
            "rule": "no rotation",
            "tasks": len(went),
            "ended": blocks["ended"],
        }
    ]
    assert any(f"Blocks {len(went)} tasks that went, {blocks['ended']['well']} of which ended well" in line
               for line in made.words)  # fmt: skip
    assert {each["rule"] for each in made.result["examples"]} == {"no rotation"}


def test_a_draft_that_allows_says_so_and_what_nobody_knows(day: Station) -> None:
    draft = OWN.replace("  - deny: no cleanup\n    domains: [cleanup]\n", "")
    result = tried(day.cbo, draft, MONTH, {}).result
    assert result["allows"]["tasks"] == 24 and result["blocks"]["tasks"] == 0
    assert 0 < result["allows"]["admission_unknown"] <= 24
    assert "Allows 24 tasks that were blocked" in " ".join(in_words(result))


def test_a_draft_without_quiet_hours_lets_what_waited_go_earlier(day: Station) -> None:
    draft = OWN.replace("    hours: 03:00-05:00\n", "    hours: 04:00-05:00\n")
    result = tried(day.cbo, draft, MONTH, {}).result
    assert result["earlier"]["tasks"] >= 1 and result["blocks"]["tasks"] == 0


def test_longer_quiet_hours_hold_rather_than_block(day: Station) -> None:
    draft = OWN.replace("    hours: 03:00-05:00\n", "    hours: 03:00-08:00\n")
    blocks = tried(day.cbo, draft, MONTH, {}).result["blocks"]
    assert blocks["tasks"] == blocks["held"] > 0


def test_smaller_budgets_are_counted_by_what_the_draft_let_through(day: Station) -> None:
    blocked = [
        tried(day.cbo, OWN.replace("per_day: 60", f"per_day: {n}"), MONTH, {}).result["blocks"]["tasks"]
        for n in (60, 40, 20, 5)
    ]
    assert blocked[0] == 0 and blocked == sorted(blocked) and blocked[3] > blocked[1] > 0


def test_an_empty_list_of_rules_blocks_all_that_went(day: Station) -> None:
    result = tried(day.cbo, "schema: calyx.policy/2\nrules: []\n...\n", MONTH, {}).result
    assert result["blocks"]["tasks"] == len({each.task for each in entries(day) if each.policy_passed})


def test_other_ladder_terms_say_when_a_level_would_have_come(day: Station) -> None:
    quick = tried(day.cbo, "", MONTH, {"promote_run": 3}).result
    rung = next(each for each in quick["ladder"] if each["domain"] == "diagnostics")
    was, would = rung["was"]["first_execute_pulse"], rung["would"]["first_execute_pulse"]
    assert rung["execute_earlier_pulses"] == was - would == 2
    assert "diagnostics would have reached EXECUTE 2 pulses earlier" in " ".join(in_words(quick))
    assert any((each["was"], each["would"]) == ("GUIDE", "EXECUTE") for each in quick["levels"])
    never = tried(day.cbo, "", MONTH, {"promote_above": 100}).result
    rung = next(each for each in never["ladder"] if each["domain"] == "diagnostics")
    assert rung["would"]["first_execute_pulse"] is None
    assert "would not have reached EXECUTE" in " ".join(in_words(never))


@pytest.mark.parametrize(
    ("terms", "said"),
    [({"promote_runs": 3}, "no term 'promote_runs'"), ({"promote_run": 2.5}, "a whole number"),
     ({"demote_below": -1}, "from 0 on"), ({"demote_below": float("nan")}, "from 0 on"), ({"void": 1}, "no term")],
)  # fmt: skip
def test_terms_that_make_no_sense_are_refused(terms: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        terms_of(terms)


def test_every_term_of_the_ladder_but_the_manifests_can_be_another() -> None:
    assert {"promote_run", "promote_above", "demote_below", "max_failures"} < set(ADJUSTABLE)
    assert not {"max_level", "void"} & set(ADJUSTABLE)


def test_a_draft_with_mistakes_is_refused_with_the_place(day: Station) -> None:
    with pytest.raises(InvalidInput, match='line 3, column 5: unknown key "hour"'):
        tried(day.cbo, OWN.replace("deny: quiet hours", "hour: 3", 1), MONTH, {})
    with pytest.raises(InvalidInput, match="at most 400 days"):
        tried(day.cbo, OWN, timedelta(days=500), {})


def test_an_entry_comes_back_from_its_record_as_it_was(day: Station) -> None:
    for each in entries(day):
        assert Entry.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_a_station_without_a_past_says_so(new_station: NewStation) -> None:
    station = new_station()
    made = tried(station.cbo, "", MONTH, {})
    assert made.words == ("There is no history to replay in this time: nothing was asked of the gates.",)
    assert made.result["history_from"] is None


def test_questions_go_with_the_records_but_not_before_their_budgets_have(new_station: NewStation) -> None:
    station = new_station(keep_pulses=10, interval=3600.0)
    station.pulse(60)
    known = entries(station)
    assert station.clock.now() - known[0].at < timedelta(days=2, hours=2)
    assert tried(station.cbo, "", MONTH, {}).result["same"]


@pytest.mark.parametrize(
    ("state", "facts", "end"),
    [
        ("done", {"stability": 1.0, "tes": 97.0}, "well"), ("rehearsed", {"stability": 1.0, "tes": 97.0}, "well"),
        ("done", {"stability": 0.0, "tes": 46.0}, "badly"), ("done", {"tes": None}, "unknown"),
        ("done", {"worked": False}, "no work"), ("done", {"scored": False}, "open"), ("failed", {}, "badly"),
        ("dead", {}, "badly"), ("undone", {}, "undone"), ("cancelled", {}, "cancelled"),
        ("expired", {"stability": 1.0, "tes": 97.0}, "well"), ("expired", {"scored": False}, "badly"),
        ("rejected", {"scored": False}, "not run"), ("held", {"scored": False}, "not run"),
        ("proposed", {"scored": False}, "not run"), ("claimed", {"scored": False}, "open"),
    ],
)  # fmt: skip
def test_how_a_task_ended_in_one_word(state: str, facts: dict[str, Any], end: str) -> None:
    usual: dict[str, Any] = {"scored": True, "worked": True, "tes": None, "stability": None}
    assert end_of(state, **{**usual, **facts}) == end


def test_the_finding_is_a_document(day: Station) -> None:
    past = from_store(day.cbo.bridge.store, day.clock.now() - MONTH)
    rules = day.cbo.bridge.policy_file.rules()
    found, courses = replay(past, rules, day.clock.now() - MONTH)
    assert json.loads(json.dumps(told(found, courses, past.ends, rules)))["same"] is True
    assert day.cbo.bridge.ladder.standing("diagnostics").level in (Level.GUIDE, Level.EXECUTE)
