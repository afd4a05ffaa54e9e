"""The rules: a hand-checked table of requests and verdicts, and what holds for every policy."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.policy import Request, Rule, RuleSet, Used, decide, placed, within
from chassis.policy_yaml import parse

STATION = "/srv/station"
POLICY = """\
schema: calyx.policy/2
timezone: UTC
rules:
  - deny: no irreversible work by agents
    asked_by: ["agent:scout"]
    effects: [irreversible]
  - deny: hands off the books
    paths: [/data/books]
  - allow: diagnostics at any hour
    domains: [diagnostics]
    agents: [guardian]
    manifest: [built-in]
  - deny: quiet hours
    does: [act]
    hours: 22:00-06:00
  - deny: no archives on Sundays
    domains: [log_rotation]
    procedures: [xz-6]
    days: [sun]
  - allow: logs
    domains: [log_rotation]
    procedures: [gzip-6, xz-6]
    agents: [governor]
    paths: ["{station}/logs", /var/app/logs]
    per_pulse: 2
    per_day: 5
  - allow: cleanup by night and at weekends
    domains: [cleanup]
    hours: 18:00-07:00
    days: [fri, sat]
  - allow: office hours
    domains: [notes]
    manifest: [signed]
    hours: 09:00-17:30
    days: [mon, tue, wed, thu, fri]
  - allow: rehearsals of anything signed
    does: [rehearse]
    manifest: [signed]
...
"""
parsed = parse(POLICY.encode(), STATION).policy
assert parsed is not None
RULES = parsed
LINES = {"irreversible": (1, 4), "books": (2, 7), "diagnostics": (3, 9), "quiet": (4, 13), "sunday": (5, 16),
         "logs": (6, 20), "cleanup": (7, 27), "office": (8, 31), "rehearsals": (9, 36), "": (None, None)}  # fmt: skip
LOGS = f"{STATION}/logs"


def at(text: str) -> datetime:
    """`thu 12:00`, in the week of Monday 2026-01-05."""
    day, clock = text.split()
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hour, minute = map(int, clock.split(":"))
    return datetime(2026, 1, 5, hour, minute, tzinfo=UTC) + timedelta(days=days.index(day))


def wish(domain: str, **more: Any) -> Request:
    usual_of: dict[str, dict[str, Any]] = {
        "log_rotation": {"agent": "governor", "procedure": "gzip-6", "folders": (LOGS,), "effects": "reversible"},
        "diagnostics": {"agent": "guardian", "procedure": "quick", "folders": (f"{STATION}/reports",)},
        "cleanup": {"agent": "governor", "procedure": "scratch", "folders": (f"{STATION}/work",)},
        "notes": {"agent": "noter", "procedure": "plain", "folders": ("/home/a/notes",), "manifest": "signed"},
        "mail": {"agent": "mailer", "procedure": "send", "effects": "irreversible", "manifest": "signed"},
    }
    known = usual_of[domain]
    usual = {"asked_by": "station", "does": "act", "effects": "reversible", "manifest": "built-in"}
    return Request(domain=domain, **{**usual, **known, **more})


YES, NO, WAIT = "yes", "no", "wait"
TABLE: list[tuple[str, dict[str, Any], str, str, str]] = [
    # domain, what is other than usual, when, verdict, rule
    ("diagnostics", {}, "mon 12:00", YES, "diagnostics"),
    ("diagnostics", {}, "mon 23:00", YES, "diagnostics"),
    ("diagnostics", {}, "sun 03:00", YES, "diagnostics"),
    ("diagnostics", {"does": "rehearse"}, "sun 03:00", YES, "diagnostics"),
    ("diagnostics", {"procedure": "full"}, "tue 05:00", YES, "diagnostics"),
    ("diagnostics", {"asked_by": "inbox"}, "tue 05:00", YES, "diagnostics"),
    ("diagnostics", {"asked_by": "agent:scout"}, "tue 05:00", YES, "diagnostics"),
    ("diagnostics", {"agent": "governor"}, "mon 12:00", NO, ""),
    ("diagnostics", {"agent": "governor"}, "mon 23:00", WAIT, "quiet"),
    ("diagnostics", {"manifest": "signed"}, "mon 12:00", NO, ""),
    ("diagnostics", {"manifest": "signed", "does": "rehearse"}, "mon 12:00", YES, "rehearsals"),
    ("diagnostics", {"folders": ("/data/books",)}, "mon 12:00", NO, "books"),
    ("diagnostics", {"folders": ("/data/books/2026",)}, "mon 12:00", NO, "books"),
    ("diagnostics", {"folders": ("/data",)}, "mon 12:00", NO, "books"),
    ("diagnostics", {"folders": ("/",)}, "mon 12:00", NO, "books"),
    ("diagnostics", {"folders": ("/data/bookshelf",)}, "mon 12:00", YES, "diagnostics"),
    ("diagnostics", {"folders": (f"{STATION}/reports", "/data/books/x")}, "mon 12:00", NO, "books"),
    ("diagnostics", {"folders": ()}, "mon 12:00", YES, "diagnostics"),
    ("log_rotation", {}, "mon 12:00", YES, "logs"),
    ("log_rotation", {}, "mon 06:00", YES, "logs"),
    ("log_rotation", {}, "mon 05:59", WAIT, "quiet"),
    ("log_rotation", {}, "mon 21:59", YES, "logs"),
    ("log_rotation", {}, "mon 22:00", WAIT, "quiet"),
    ("log_rotation", {}, "tue 00:00", WAIT, "quiet"),
    ("log_rotation", {"does": "rehearse"}, "mon 22:00", YES, "logs"),
    ("log_rotation", {"does": "rehearse"}, "mon 03:00", YES, "logs"),
    ("log_rotation", {"procedure": "xz-6"}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"procedure": "xz-6"}, "sun 12:00", WAIT, "sunday"),
    ("log_rotation", {"procedure": "xz-6"}, "sun 00:00", WAIT, "quiet"),
    ("log_rotation", {"procedure": "xz-6", "does": "rehearse"}, "sun 00:00", WAIT, "sunday"),
    ("log_rotation", {"procedure": "xz-6", "does": "rehearse"}, "sat 23:59", YES, "logs"),
    ("log_rotation", {"procedure": "gzip-6"}, "sun 12:00", YES, "logs"),
    ("log_rotation", {"procedure": "zstd-3"}, "mon 12:00", NO, ""),
    ("log_rotation", {"procedure": ""}, "mon 12:00", NO, ""),
    ("log_rotation", {"agent": "scout"}, "mon 12:00", NO, ""),
    ("log_rotation", {"folders": (f"{LOGS}/web",)}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"folders": ("/var/app/logs",)}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"folders": (LOGS, "/var/app/logs/a")}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"folders": (LOGS, "/var/app")}, "mon 12:00", NO, ""),
    ("log_rotation", {"folders": (LOGS, "/etc")}, "mon 12:00", NO, ""),
    ("log_rotation", {"folders": (f"{STATION}/logsx",)}, "mon 12:00", NO, ""),
    ("log_rotation", {"folders": (STATION,)}, "mon 12:00", NO, ""),
    ("log_rotation", {"folders": (LOGS, "/data/books")}, "mon 12:00", NO, "books"),
    ("log_rotation", {"folders": ()}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"manifest": "signed"}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"effects": "irreversible"}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"effects": "irreversible", "asked_by": "agent:scout"}, "mon 12:00", NO, "irreversible"),
    ("log_rotation", {"effects": "irreversible", "asked_by": "agent:scout"}, "mon 23:00", NO, "irreversible"),
    ("log_rotation", {"effects": "irreversible", "asked_by": "agent:other"}, "mon 12:00", YES, "logs"),
    ("log_rotation", {"effects": "none", "asked_by": "agent:scout"}, "mon 12:00", YES, "logs"),
    ("cleanup", {"does": "rehearse"}, "fri 18:00", YES, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "fri 17:59", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "fri 06:59", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sat 06:59", YES, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sat 07:00", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sat 18:00", YES, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sun 06:59", YES, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sun 07:00", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "sun 18:00", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "thu 23:00", WAIT, "cleanup"),
    ("cleanup", {"does": "rehearse"}, "mon 03:00", WAIT, "cleanup"),
    ("cleanup", {}, "fri 18:00", YES, "cleanup"),
    ("cleanup", {}, "fri 22:30", WAIT, "quiet"),
    ("cleanup", {}, "sat 06:30", YES, "cleanup"),
    ("cleanup", {"agent": "anybody", "procedure": "any"}, "fri 18:00", YES, "cleanup"),
    ("cleanup", {"folders": ("/data/books",)}, "fri 18:00", NO, "books"),
    ("notes", {}, "mon 09:00", YES, "office"),
    ("notes", {}, "mon 08:59", WAIT, "office"),
    ("notes", {}, "fri 17:29", YES, "office"),
    ("notes", {}, "fri 17:30", WAIT, "office"),
    ("notes", {}, "sat 12:00", WAIT, "office"),
    ("notes", {}, "mon 22:00", WAIT, "quiet"),
    ("notes", {"does": "rehearse"}, "sat 12:00", YES, "rehearsals"),
    ("notes", {"does": "rehearse"}, "mon 12:00", YES, "office"),
    ("notes", {"does": "rehearse"}, "mon 23:00", YES, "rehearsals"),
    ("notes", {"does": "rehearse", "folders": ("/data/books",)}, "mon 12:00", NO, "books"),
    ("notes", {"manifest": "built-in"}, "mon 12:00", NO, ""),
    ("notes", {"manifest": "built-in", "does": "rehearse"}, "mon 12:00", NO, ""),
    ("notes", {"effects": "irreversible", "asked_by": "agent:scout", "does": "rehearse"}, "mon 12:00", NO,
     "irreversible"),
    ("notes", {"effects": "irreversible"}, "mon 12:00", YES, "office"),
    ("mail", {}, "mon 12:00", NO, ""),
    ("mail", {}, "mon 23:00", WAIT, "quiet"),
    ("mail", {"does": "rehearse"}, "mon 12:00", YES, "rehearsals"),
    ("mail", {"does": "rehearse"}, "sun 03:00", YES, "rehearsals"),
    ("mail", {"does": "rehearse", "asked_by": "agent:scout"}, "mon 12:00", NO, "irreversible"),
    ("mail", {"does": "rehearse", "manifest": "built-in"}, "mon 12:00", NO, ""),
]  # fmt: skip


@pytest.mark.parametrize(("domain", "more", "when", "verdict", "rule"), TABLE)
def test_a_request_gets_its_verdict_from_the_rule_that_decides(
    domain: str, more: dict[str, Any], when: str, verdict: str, rule: str
) -> None:
    said = decide(wish(domain, **more), RULES, at(when), {})
    assert (said.allowed, said.waits) == {YES: (True, False), NO: (False, False), WAIT: (False, True)}[verdict]
    number, line = LINES[rule]
    assert (None if said.rule is None else (said.rule.number, said.rule.line)) == (
        None if number is None else (number, line)
    )
    if said.rule is not None:
        assert f'rule {number} "{said.rule.name}", line {line}' in said.reason


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TABLE) >= 80
    assert len({(domain, repr(sorted(more.items())), when) for domain, more, when, _, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("used", "allowed", "said"),
    [
        (Used(pulse=0, day=0), True, "allowed by"),
        (Used(pulse=1, day=4), True, "allowed by"),
        (Used(pulse=2, day=4), False, "its 2 a pulse are used up"),
        (Used(pulse=0, day=5), False, "its 5 in 24 h are used up"),
        (Used(pulse=9, day=9), False, "its 2 a pulse are used up"),
    ],
)
def test_a_budget_that_is_used_up_makes_wait(used: Used, allowed: bool, said: str) -> None:
    verdict = decide(wish("log_rotation"), RULES, at("mon 12:00"), {"logs": used, "office hours": Used(pulse=9, day=9)})
    assert (verdict.allowed, verdict.waits) == (allowed, not allowed)
    assert said in verdict.reason and 'rule 6 "logs", line 20' in verdict.reason


def test_local_time_is_the_machines_offset_at_that_moment() -> None:
    local = RuleSet.of(RULES.rules, local=True)
    berlin = wish("log_rotation", utc_offset_seconds=7200)
    assert not decide(berlin, local, at("mon 20:00"), {}).allowed
    assert decide(berlin, RULES, at("mon 20:00"), {}).allowed
    assert decide(berlin, local, at("mon 04:00"), {}).allowed
    sunday = replace(berlin, procedure="xz-6", does="rehearse")
    assert not decide(sunday, local, at("sat 22:00"), {}).allowed, "it is Sunday there already"


def test_nothing_may_act_while_there_is_a_fault_and_the_reason_is_said() -> None:
    verdict = decide(wish("diagnostics"), RuleSet.nothing("it is gone"), at("mon 12:00"), {})
    assert (verdict.allowed, verdict.waits, verdict.rule) == (False, True, None)
    assert verdict.reason == "denied: nothing may act: it is gone"


# what holds for every policy

NAMES = st.sampled_from(["a", "b", "c"])
SOME = st.none() | st.frozensets(NAMES, min_size=1)
FOLDERS = ("/x", "/x/y", "/x/y/z", "/w", "/xy")
RULE = st.builds(
    Rule,
    number=st.just(1), line=st.just(1), name=st.uuids().map(str), allow=st.booleans(), agents=SOME, asked_by=SOME,
    domains=SOME, procedures=SOME, does=st.none() | st.frozensets(st.sampled_from(["rehearse", "act"]), min_size=1),
    paths=st.lists(st.sampled_from(FOLDERS), max_size=2).map(tuple),
    hours=st.none() | st.tuples(st.integers(0, 1439), st.integers(0, 1440)).filter(lambda h: h[0] != h[1]),
    days=st.none() | st.frozensets(st.integers(0, 6), min_size=1),
    per_pulse=st.none() | st.integers(1, 3), per_day=st.none() | st.integers(1, 3),
)  # fmt: skip
REQUEST = st.builds(
    Request,
    agent=NAMES, asked_by=NAMES, domain=NAMES, procedure=NAMES, does=st.sampled_from(["rehearse", "act"]),
    effects=st.just("none"), manifest=st.just("signed"),
    folders=st.lists(st.sampled_from(FOLDERS), max_size=2).map(tuple), utc_offset_seconds=st.just(0),
)  # fmt: skip
MOMENT = st.integers(0, 14 * 24 * 60).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))
RULES_MADE = st.lists(RULE, max_size=5)


def spent(rules: list[Rule], numbers: list[int]) -> Mapping[str, Used]:
    return {rule.name: Used(pulse=n, day=n) for rule, n in zip(rules, numbers, strict=False)}


@given(RULES_MADE, RULE, st.integers(0, 5), REQUEST, MOMENT, st.lists(st.integers(0, 3), max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_deny_rule_more_never_allows_more_wherever_it_stands(
    rules: list[Rule], deny: Rule, place: int, request_: Request, now: datetime, numbers: list[int]
) -> None:
    used = spent(rules, numbers)
    more = [*rules[:place], replace(deny, allow=False), *rules[place:]]
    if decide(request_, RuleSet.of(more), now, used).allowed:
        assert decide(request_, RuleSet.of(rules), now, used).allowed


@given(RULES_MADE, REQUEST, MOMENT, st.lists(st.integers(0, 3), max_size=6))
@settings(max_examples=150, deadline=None)
def test_the_first_rule_that_matches_decides_and_no_rule_allows_nothing(
    rules: list[Rule], request_: Request, now: datetime, numbers: list[int]
) -> None:
    used = spent(rules, numbers)
    said = decide(request_, RuleSet.of(rules), now, used)
    first = next((each for each in rules if each.concerns(request_) and each.in_time(now)), None)
    if first is None:
        assert not said.allowed
    else:
        over = any(
            most is not None and count >= most
            for most, count in (
                (first.per_pulse, used.get(first.name, Used()).pulse),
                (first.per_day, used.get(first.name, Used()).day),
            )
        )
        assert said.allowed == (first.allow and not over)
        assert said.rule is first
    assert not decide(request_, RuleSet.of(()), now, used).allowed


@given(RULES_MADE, st.integers(0, 5), REQUEST, MOMENT)
@settings(max_examples=100, deadline=None)
def test_the_first_rules_alone_allow_nothing_that_the_whole_denies(
    rules: list[Rule], cut: int, request_: Request, now: datetime
) -> None:
    """So a list of rules that lost its end denies more, never less."""
    if decide(request_, RuleSet.of(rules[:cut]), now, {}).allowed:
        assert decide(request_, RuleSet.of(rules), now, {}).allowed


def test_a_path_lies_within_a_folder_by_whole_names() -> None:
    assert within("/a/b", "/a") and within("/a", "/a") and within("/a", "/")
    assert not within("/ab", "/a") and not within("/", "/a")


def test_paths_are_placed_with_their_links_resolved(tmp_path: Any) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    real = str((tmp_path / "real").resolve())
    assert placed("{station}/logs", str(tmp_path / "link")) == f"{real}/logs"
    assert placed(f"{tmp_path}/link/x/", "/s") == f"{real}/x"
