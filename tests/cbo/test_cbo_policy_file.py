"""policy.yaml on a running station: read strictly, live, and never by guess."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cbo_station import Station
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.domains import Level
from chassis.policy_yaml import SHIPPED, parse
from services.cbo.objectives import Schedule

NewStation = Callable[..., Station]
WHOLE = SHIPPED.read_text()
NIGHT = """\
schema: calyx.policy/2
rules:
  - deny: quiet hours
    domains: [diagnostics]
    hours: 01:00-02:00
  - allow: the rest
    per_pulse: 1
    per_day: 3
...
"""


def write(station: Station, text: str) -> None:
    station.layout.policy.parent.mkdir(exist_ok=True)
    station.layout.policy.write_text(text)


def restart(station: Station) -> None:
    station.cbo.close()
    station.open()


def policy_gate(record: Any) -> tuple[str, str]:
    """Of the last task in the record."""
    gates = {each["gate"]: each for each in record["plan"]["tasks"][-1]["gates"]}
    return gates["policy"]["answer"], gates["policy"]["reason"]


# reading

FAULTY: list[tuple[str, str, str]] = [
    ("", "line 1, column 1", "it is empty"),
    ("  \n\n", "line 1, column 1", "it is empty"),
    ("# only words\n...\n", "line 2, column 1", "this is not YAML"),
    ("[]\n...\n", "line 1, column 1", "keys with values are expected"),
    ("just words\n...\n", "line 1, column 1", "keys with values are expected"),
    (WHOLE.replace("rules:", "rule:"), "line 7, column 1", 'unknown key "rule"; the keys here are schema'),
    (WHOLE.replace("manifest: [signed]", "manifests: [signed]"), "line 12, column 5", 'unknown key "manifests"'),
    (WHOLE.replace("manifest: [signed]", "manifest: signed"), "line 12, column 5", "manifest is a list"),
    (WHOLE.replace("manifest: [signed]", "manifest: [sign]"), "line 12, column 16", "'built-in' or 'signed'"),
    (WHOLE.replace("manifest: [signed]", "manifest: []"), "line 12, column 5", "an empty manifest matches nothing"),
    (WHOLE.replace("manifest: [signed]", "manifest:"), "line 12, column 5", "manifest is a list, like [a, b]"),
    (WHOLE.replace("manifest: [signed]", "manifest: ~"), "line 12, column 5", "manifest is a list, like [a, b]"),
    (WHOLE.replace("manifest: [signed]", "domains: [a]\n    domains: [b]"), "line 13, column 5", "stands here twice"),
    (WHOLE.replace("[signed]", "&s [signed]\n    procedures: *s"), "line 12, column 15", "an alias repeats"),
    (WHOLE.replace("calyx.policy/2", "calyx.policy/3"), "line 5, column 1", "schema is 'calyx.policy/2'"),
    (WHOLE.replace("schema: calyx.policy/2\n", ""), "line 5, column 1", '"schema" is missing'),
    (WHOLE.replace("timezone: UTC", "timezone: Mars"), "line 6, column 1", "timezone is 'UTC' or 'local'"),
    (WHOLE.replace("  - allow: what a person signed and approved\n", "  - "), "line 11, column 9",
     "one of allow and deny"),
    (WHOLE.replace("manifest: [signed]", "deny: both"), "line 11, column 5", "one of allow and deny"),
    (WHOLE.replace("what a person signed and approved", "the station's own work"), "line 11, column 5",
     "names are unique"),
    (WHOLE.replace("what a person signed and approved", '""'), "line 11, column 5", "allow has an empty name"),
    (WHOLE.replace("manifest: [signed]", "hours: 25:00-01:00"), "line 12, column 5", "hours are like 22:00-06:00"),
    (WHOLE.replace("manifest: [signed]", "hours: 22:00"), "line 12, column 5", "hours are like 22:00-06:00"),
    (WHOLE.replace("manifest: [signed]", "hours: 08:00-08:00"), "line 12, column 5", "these hours have no length"),
    (WHOLE.replace("manifest: [signed]", "days: [Monday]"), "line 12, column 12", "not 'Monday'"),
    (WHOLE.replace("manifest: [signed]", "per_day: 0"), "line 12, column 5", "per_day is at least 1"),
    (WHOLE.replace("manifest: [signed]", "per_day: many"), "line 12, column 5", "a whole number, not 'many'"),
    (WHOLE.replace("manifest: [signed]", 'per_day: "3"'), "line 12, column 5", "a whole number, not '3'"),
    (WHOLE.replace("manifest: [signed]", "per_day: 1.5"), "line 12, column 5", "a whole number, not '1.5'"),
    (WHOLE.replace("- allow: what", "- deny: what") .replace("manifest: [signed]", "per_day: 3"), "line 12, column 5",
     "per_day belongs to an allow rule"),
    (WHOLE.replace("manifest: [signed]", "paths: [logs]"), "line 12, column 13", "no full path"),
    (WHOLE.replace("manifest: [signed]", "paths: [/a/../etc]"), "line 12, column 13", "no full path"),
    (WHOLE.replace("manifest: [signed]", "does: [fly]"), "line 12, column 12", "'rehearse' or 'act'"),
    (WHOLE.replace("manifest: [signed]", "agents: [[a]]"), "line 12, column 14", "agents is a text, not list"),
    (WHOLE.replace("    manifest: [signed]", "\tmanifest: [signed]"), "line 12, column 1", "this is not YAML"),
    (WHOLE.replace("[signed]", "[signed"), "line 13, column 1", "this is not YAML"),
    (WHOLE.replace("[signed]", "!!python/name:os.system [x]"), "line 12, column 15", "a tag (tag:yaml.org,2002:python"),
    (WHOLE.replace("...\n", ""), "line 12, column 1", 'ends with a line "..."'),
    (WHOLE + "---\nschema: calyx.policy/2\n", "line 14, column 1", "this is not YAML"),
    ("a: " + "[" * 50 + "]" * 50 + "\n...\n", "line 1, column 1", 'unknown key "a"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "said"), FAULTY)
def test_every_mistake_has_its_line_and_column_and_what_to_do(text: str, place: str, said: str) -> None:
    found = parse(text.encode())
    assert found.policy is None
    lines = [str(each) for each in found.faults]
    assert any(line.startswith(f"{place}: ") and said in line for line in lines), lines


def test_all_mistakes_of_a_file_are_named_at_once_in_order() -> None:
    text = "schema: calyx.policy/2\nrules:\n  - allow: a\n    domain: [x]\n    per_day: 0\n  - deny: b\n    days: [x]\n"
    assert [each.line for each in parse(text.encode()).faults] == [4, 5, 7, 7]


def test_words_stay_words() -> None:
    rule_text = "  - allow: yes\n    hours: 09:00-17:00\n    domains: [no, on, 1e3, 0x1f]\n"
    text = f"schema: calyx.policy/2\nrules:\n{rule_text}...\n"
    policy = parse(text.encode()).policy
    assert policy is not None
    (rule,) = policy.rules
    assert (rule.name, rule.hours, rule.domains) == ("yes", (540, 1020), frozenset({"no", "on", "1e3", "0x1f"}))


def test_half_of_the_file_is_never_taken_for_a_whole_one() -> None:
    for text in (WHOLE, NIGHT):
        whole = parse(text.encode()).policy
        for cut in range(len(text)):
            half = parse(text[:cut].encode()).policy
            assert half is None or (cut == len(text) - 1 and whole is not None and half.rules == whole.rules)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_a_policy_by_accident_or_break_the_reader(raw: bytes) -> None:
    found = parse(raw)
    assert found.policy is None and found.faults and found.why


@given(st.integers(0, len(NIGHT) - 1), st.characters(min_codepoint=1, max_codepoint=255))
@settings(max_examples=300, deadline=None)
def test_one_wrong_character_is_a_fault_or_another_readable_policy(place: int, character: str) -> None:
    found = parse((NIGHT[:place] + character + NIGHT[place + 1 :]).encode())
    assert (found.policy is None) == bool(found.faults)


# on a station


def test_a_station_without_its_own_policy_runs_by_the_shipped_one(station: Station) -> None:
    record = station.pulse()
    assert policy_gate(record)[0] == "pass"
    assert 'allowed by rule 1 "the station\'s own work", line 9' in policy_gate(record)[1]
    adopted = station.audit("policy.adopted")
    assert [each["source"] for each in adopted] == ["the shipped policy"]
    assert record["versions"]["rules"] == adopted[0]["digest"] != ""


def spoil(station: Station, how: str) -> str:
    """One way in which there is no policy at the start; a part of the reason."""
    path = station.layout.policy
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_text("")
        return "it is empty"
    elif how == "unreadable":
        path.unlink()
        path.mkdir()
        return "can't be read"
    elif how == "half-written":
        path.write_text(WHOLE[: len(WHOLE) // 2])
        return "line"
    elif how == "unknown key":
        path.write_text(WHOLE.replace("manifest: [signed]", "maniphest: [signed]"))
        return 'unknown key "maniphest"'
    elif how == "no text":
        path.write_bytes(b"\xff\xfe\x00")
        return "not UTF-8"
    elif how == "dangling link":
        path.unlink()
        path.symlink_to("/nowhere/policy.yaml")
    return "missing"


@pytest.mark.parametrize(
    "how", ["missing", "empty", "unreadable", "half-written", "unknown key", "no text", "dangling link"]
)
def test_a_start_without_a_whole_policy_lets_nothing_act_and_says_why(station: Station, how: str) -> None:
    write(station, WHOLE)
    station.pulse()
    done = len(station.done)
    why = spoil(station, how)
    restart(station)
    record = station.pulse(2)
    answer, reason = policy_gate(record)
    assert answer == "hold" and reason.startswith("denied: nothing may act: ") and why in reason
    assert len(station.done) == done
    assert why in station.audit("policy.broken")[-1]["why"]
    assert station.audit("policy.blocked")
    assert record["versions"]["rules"] == ""


def test_a_named_policy_that_is_missing_is_not_replaced_by_the_shipped_one(tmp_path: Path) -> None:
    station = Station(tmp_path / "station")
    book = station.cbo.bridge.policy_file.__class__
    bridge = station.cbo.bridge
    named = book(tmp_path / "no.yaml", bridge.layout.root, bridge.store, bridge.audit, bridge.clock, must_exist=True)
    assert "no.yaml is missing" in named.rules().fault
    station.cbo.close()


def test_it_goes_on_as_soon_as_the_file_is_mended(station: Station) -> None:
    write(station, "")
    restart(station)
    assert station.pulse(2)["plan"]["tasks"][-1]["state"] == "held"
    write(station, WHOLE)
    station.pulse()
    assert station.done, "what waited went by itself"
    assert [each["rules"] for each in station.audit("policy.adopted")] == [2, 2]


def test_a_bad_new_version_is_refused_once_and_the_good_one_goes_on(station: Station) -> None:
    write(station, NIGHT)
    good = station.pulse()["versions"]["rules"]
    for bad in (NIGHT.replace("domains", "domain"), NIGHT[:60], ""):
        write(station, bad)
        record = station.pulse(2)
        assert record["versions"]["rules"] == good
        assert station.cbo.bridge.policy_file.in_force().refused
    station.layout.policy.unlink()
    assert station.pulse()["versions"]["rules"] == good
    assert len(station.audit("policy.refused")) == 4, "once for each version"
    assert all(each["kept"] == good for each in station.audit("policy.refused"))
    write(station, WHOLE)
    assert station.pulse()["versions"]["rules"] != good
    assert not station.cbo.bridge.policy_file.in_force().refused


def test_a_new_version_counts_without_a_restart(station: Station) -> None:
    station.pulse()
    write(station, NIGHT)
    assert 'rule 2 "the rest", line 6' in policy_gate(station.pulse())[1]
    write(station, NIGHT.replace("the rest", "all else"))
    os.utime(station.layout.policy, ns=(1, 1))
    assert 'rule 2 "all else", line 6' in policy_gate(station.pulse())[1]


# gates


def test_quiet_hours_hold_a_task_and_let_it_go_afterwards(station: Station) -> None:
    write(station, NIGHT.replace("    per_pulse: 1\n    per_day: 3\n", ""))
    station.clock.advance(3600)
    record = station.pulse(3)
    assert policy_gate(record) == ("hold", 'denied by rule 1 "quiet hours", line 3')
    assert record["plan"]["tasks"][-1]["state"] == "held"
    assert station.done == []
    blocked = station.audit("policy.blocked")
    assert [(each["rule"], each["task"]) for each in blocked] == [
        ("quiet hours", record["plan"]["tasks"][-1]["task_id"])
    ], "on record once, when it began to wait"
    station.clock.advance(3600)
    station.pulse()
    assert [each.task_id for each in station.done] == [blocked[0]["task"]]


def test_a_deny_without_hours_refuses_and_the_attempt_is_on_record(station: Station) -> None:
    write(station, NIGHT.replace("    hours: 01:00-02:00\n", ""))
    record = station.pulse()
    assert policy_gate(record) == ("refuse", 'denied by rule 1 "quiet hours", line 3')
    assert 'rule 1 "quiet hours", line 3' in station.audit("policy.blocked")[0]["why"]
    assert station.done == []


def test_a_budget_of_a_day_is_counted_over_restarts_and_ends_after_a_day(station: Station) -> None:
    write(station, NIGHT.replace("domains: [diagnostics]", "domains: [mail]"))
    station.pulse(2)
    restart(station)
    station.pulse(2)
    assert len(station.done) == 3
    gate = policy_gate(station.record())
    assert gate == ("hold", 'denied by rule 2 "the rest", line 6: its 3 in 24 h are used up')
    station.clock.advance(timedelta(hours=24).total_seconds() - 5 * 60)
    station.pulse(1)
    assert len(station.done) == 3
    station.clock.advance(120)
    station.pulse(1)
    assert len(station.done) == 4


def test_a_budget_of_a_pulse_counts_all_that_the_rule_lets_through(new_station: NewStation) -> None:
    station = new_station(every_pulse_only=False)
    write(station, NIGHT)
    record = station.pulse()
    answers = [
        next((each["answer"], each["reason"]) for each in task["gates"] if each["gate"] == "policy")
        for task in record["plan"]["tasks"]
    ]
    assert [answer for answer, _ in answers] == ["pass", *["hold"] * 5]
    assert answers[1][1].endswith("its 1 a pulse are used up")


def test_what_is_out_is_taken_back_when_its_hours_end_but_what_runs_goes_on(station: Station) -> None:
    write(station, NIGHT.replace("    per_pulse: 1\n    per_day: 3\n", ""))
    station.clock.advance(3600 - 31)
    station.cbo.run_pulse()
    out = station.cbo.bridge.store.tasks("tasks_open")[0]
    assert out.state == "ready"
    station.clock.advance(31)
    station.cbo.reap()
    station.cbo.reap()
    assert station.cbo.bridge.store.task(out.id).state == "cancelled"
    assert [each["rule"] for each in station.audit("policy.blocked")] == ["quiet hours"]
    assert station.exchange.claim("guardian", "w", 5) == []

    station.clock.advance(23 * 3600 + 3590)
    station.cbo.run_pulse()
    (claim,) = station.exchange.claim("guardian", "w", 5)
    station.cbo.reap()
    station.clock.advance(10)
    station.cbo.reap()
    assert station.cbo.bridge.store.task(claim.manifest.task_id).state == "claimed", "hours are about what begins"


def test_a_changed_policy_ends_what_runs(station: Station) -> None:
    station.cbo.run_pulse()
    (claim,) = station.exchange.claim("guardian", "w", 5)
    station.cbo.reap()
    write(station, NIGHT.replace("    hours: 01:00-02:00\n", ""))
    station.cbo.reap()
    station.cbo.reap()
    (line,) = station.audit("policy.blocked")
    assert (line["rule"], line["task"]) == ("quiet hours", claim.manifest.task_id)


def test_an_approval_is_held_by_quiet_hours_too(station: Station) -> None:
    write(station, NIGHT.replace("    per_pulse: 1\n    per_day: 3\n", ""))
    station.pulse(2)
    rehearsed = next(each for each in station.cbo.bridge.store.tasks("tasks_inbox", 5))
    station.clock.advance(3600)
    second = station.cbo.desk.approve(rehearsed.id, rehearsed.plan_digest, "operator")
    assert second.state == "held" and "quiet hours" in second.why
    station.clock.advance(3600)
    station.pulse()
    assert station.cbo.bridge.store.task(second.id).dispatched_at is not None


# executed violations


def act(station: Station) -> None:
    station.cbo.desk.set_level("diagnostics", Level.EXECUTE, "trusted", 0, "operator")


def test_an_effect_beyond_the_rules_folders_is_a_critical_incident(station: Station) -> None:
    reports = station.layout.root / "reports"
    allowed = NIGHT.replace("    per_pulse: 1\n    per_day: 3\n", f"    paths: ['{reports}']\n")
    write(station, allowed)
    act(station)
    inside = {"op": "create", "target": str(reports / "diagnostics" / "a.json")}
    station.answer.effects = (inside,)
    station.pulse(2)
    assert station.audit("policy.violation") == [] and station.guardian.reported == []
    link = reports / "diagnostics" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(station.layout.root / "journal")
    station.answer.effects = (inside, {"op": "create", "target": str(link / "x")})
    station.pulse(2)
    line = station.audit("policy.violation")[0]
    assert line["targets"] == [str(station.layout.root.resolve() / "journal" / "x")]
    assert 'rule 2 "the rest", line 6' in line["rule"]
    target, symptom = station.guardian.reported[0]
    assert target == "guardian" and "the policy kept it to other folders" in symptom and str(line["task"]) in symptom


def test_effects_of_a_rehearsal_are_a_violation(station: Station) -> None:
    station.answer.effects = ({"op": "create", "target": str(station.layout.root / "reports/diagnostics/x")},)
    station.answer.status = "rehearsed"
    station.pulse()
    task = station.done[0]
    assert task.rehearsal
    critic = station.cbo._steps._critic
    kept = station.cbo.bridge.store.task(task.task_id)
    forged = replace(kept, ack={"effects": list(station.answer.effects)})
    assert critic.violations([forged]) == [task.task_id]


def test_the_incident_waits_until_the_guardian_has_heard_it(station: Station) -> None:
    act(station)
    station.answer.effects = ({"op": "create", "target": "/etc/passwd"},)
    station.pulse()
    station.guardian.down = True
    station.pulse()
    assert station.audit("policy.violation") and station.guardian.reported == []
    station.answer.effects = None
    restart(station)
    station.guardian.down = False
    station.pulse()
    violated = [str(each["task"]) for each in station.audit("policy.violation")]
    assert [target for target, _ in station.guardian.reported] == ["guardian"] * len(violated)
    station.pulse(2)
    assert len(station.guardian.reported) == len(violated), "each is told once"


def test_the_settings_schedule_is_still_everybodys(station: Station) -> None:
    """A person's own objective passes the same gate."""
    write(
        station, NIGHT.replace("domains: [diagnostics]", "domains: [cleanup]").replace("    hours: 01:00-02:00\n", "")
    )
    made = station.cbo.desk.submit("clean up", "cleanup", {}, Schedule(), "", "operator")
    record = station.pulse()
    task = next(each for each in record["plan"]["tasks"] if each["objective_id"] == made.id)
    assert task["state"] == "rejected" and "quiet hours" in task["reason"]
