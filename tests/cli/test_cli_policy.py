"""`calyx policy`: the rules in force, a linter's lines, a draft against the past, a file to begin with."""

import json
from pathlib import Path

import pytest
from calyx.cbo.v1 import cbo_pb2
from cli_harness import Console

from chassis.policy_yaml import SHIPPED, parse

BAD = "schema: calyx.policy/2\nrules:\n  - allow: a\n    domain: [x]\n    per_day: 0\n...\n"
FOUND = {
    "since": "2025-12-31T00:00:00.000000Z", "until": "2026-01-01T11:00:00.000000Z",
    "history_from": "2025-12-31T00:00:00.000000Z",
    "asked_since": "2025-12-02T12:00:00.000000Z", "blocks": {"tasks": 14, "held": 0, "ended": {"well": 12, "badly": 2}},
    "changes": [
        {"change": "blocks", "domain": "notes", "rule": "no notes", "tasks": 14, "ended": {"well": 12, "badly": 1}},
    ],
}  # fmt: skip


def in_force(**more: object) -> cbo_pb2.GetPolicyResponse:
    made = cbo_pb2.GetPolicyResponse(source="/s/config/policy.yaml", digest="ab" * 32, text="rules: []\n...\n")
    made.since.FromJsonString("2026-01-01T11:00:00Z")
    made.rules.add(number=1, line=8, name="quiet hours", allow=False)
    made.rules.add(number=2, line=12, name="the rest", allow=True, used_pulse=1, used_day=7)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_show_prints_the_rules_in_their_order(calyx: Console) -> None:
    calyx.answers(GetPolicy=in_force())
    out = calyx.run("policy", "show")[0]
    assert "/s/config/policy.yaml" in out and "the first that matches decides" in out
    assert out.index("quiet hours") < out.index("the rest")
    answer = calyx.json("policy", "show")
    assert [rule["used_day"] for rule in answer["rules"]] == [None, 7]
    assert (answer["fault"], answer["refused"], answer["since"]) == ("", "", "2026-01-01T11:00:00.000000Z")
    assert calyx.run("policy", "show", "--text")[0] == "rules: []\n...\n"


def test_show_says_no_while_nothing_may_act_or_a_version_was_refused(calyx: Console) -> None:
    calyx.answers(GetPolicy=in_force(fault="policy.yaml is missing; put it back"))
    assert "Nothing may act: policy.yaml is missing; put it back" in calyx.run("policy", "show", status=1)[0]
    calyx.answers(GetPolicy=in_force(refused="line 3, column 5: unknown key"))
    out = calyx.run("policy", "show", status=1)[0]
    assert "quiet hours" in out and "A newer version does not count: line 3, column 5: unknown key" in out


def test_check_prints_each_mistake_as_a_linter_does(calyx: Console, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text(BAD)
    lines = calyx.run("policy", "check", str(draft), status=1)[0].splitlines()
    assert lines[0].startswith(f'{draft}:4:5: unknown key "domain"; the keys here are')
    assert lines[1] == f"{draft}:5:5: per_day is at least 1, not 0; to allow nothing, leave the rule out"
    answer = calyx.json("policy", "check", str(draft), status=1)
    assert [(each["line"], each["column"]) for each in answer["faults"]] == [(4, 5), (5, 5)]
    draft.write_bytes(SHIPPED.read_bytes())
    assert calyx.run("policy", "check", str(draft))[0] == f"{draft}: 2 rules, no mistakes\n"
    assert calyx.json("policy", "check", str(draft))["ok"] is True
    assert calyx.script.asked == [], "no station is asked"


def test_a_file_that_is_not_there_is_said_in_one_line(calyx: Console, tmp_path: Path) -> None:
    assert "there is no file" in calyx.run("policy", "check", str(tmp_path / "no.yaml"), status=2)[1]
    assert "can't be read" in calyx.run("policy", "check", str(tmp_path), status=2)[1]


def test_try_asks_the_cbo_and_says_what_would_have_changed(calyx: Console, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_bytes(SHIPPED.read_bytes())
    words = ["Blocks 14 tasks that went, 12 of which ended well, 2 badly."]
    calyx.answers(TryPolicy=cbo_pb2.TryPolicyResponse(result_json=json.dumps(FOUND), words=words))
    out = calyx.run("policy", "try", str(draft), "--last", "7d", "--terms", "promote_run=3, demote_below=90")[0]
    assert words[0] in out and "no notes" in out and "is on record from" in out
    asked = calyx.script.request("TryPolicy")
    assert (asked.text, asked.last.seconds, dict(asked.terms)) == (
        SHIPPED.read_text(), 7 * 86400, {"promote_run": 3.0, "demote_below": 90.0},
    )  # fmt: skip
    answer = calyx.json("policy", "try")
    assert (answer["words"], answer["blocks"]["tasks"]) == (words, 14)
    asked = calyx.script.request("TryPolicy")
    assert (asked.text, asked.last.seconds) == ("", 30 * 86400)


@pytest.mark.parametrize("more", [["--last", "soon"], ["--terms", "promote_run"], ["--terms", "promote_run=x"]])
def test_try_with_what_makes_no_sense_asks_nobody(calyx: Console, more: list[str]) -> None:
    calyx.run("policy", "try", *more, status=2)
    assert calyx.script.asked == []


def test_try_of_a_draft_with_mistakes_names_the_first(calyx: Console, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    draft.write_text(BAD)
    assert f'{draft}:4:5: unknown key "domain"' in calyx.run("policy", "try", str(draft), status=2)[1]


def test_init_writes_the_shipped_policy_once(calyx: Console) -> None:
    root = calyx.reach.root
    assert "there is no station folder" in calyx.run("policy", "init", status=3)[1]
    root.mkdir()
    assert str(root / "config" / "policy.yaml") in calyx.run("policy", "init")[0]
    written = (root / "config" / "policy.yaml").read_bytes()
    assert parse(written).policy is not None and written == SHIPPED.read_bytes()
    (root / "config" / "policy.yaml").write_text("mine")
    assert "is there already" in calyx.run("policy", "init", status=1)[1]
    assert (root / "config" / "policy.yaml").read_text() == "mine"
