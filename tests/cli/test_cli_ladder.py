"""`calyx ladder explain`: level, reason, what would change it, the evidence and its goal, what is in the way."""

from typing import Any

import pytest
from calyx.cbo.v1 import cbo_pb2
from calyx.common.v1 import common_pb2
from cli_harness import Console

KEYS = {
    "domain", "level", "earned_level", "max_level", "reason", "since", "run", "run_required", "tes_last", "failures_20",
    "mean_12", "probation", "evidence", "evidence_goal", "effects_missing", "demotions_288", "unknown_run", "frozen",
    "obstacle", "next", "changed_at",
}  # fmt: skip


def entry(**more: Any) -> cbo_pb2.LadderEntry:
    known: dict[str, Any] = {
        "domain": "notes", "level": common_pb2.LEVEL_GUIDE, "earned_level": common_pb2.LEVEL_GUIDE,
        "max_level": common_pb2.LEVEL_EXECUTE, "reason": "TES above 95 in 2 of 5 pulses (since: starts at GUIDE)",
        "since": "starts at GUIDE", "run": 2, "run_required": 5, "evidence": 1.0, "evidence_goal": 20.0,
        "effects_missing": 18, "next": "3 more in a row",
    }  # fmt: skip
    return cbo_pb2.LadderEntry(**{**known, **more})


@pytest.mark.parametrize(
    ("more", "said", "unsaid"),
    [
        ({}, ["Rehearse and ask (GUIDE)", "2 of 5 in a row", "evidence 1 of 20, when it acts; 18 effects that hold",
              "next         3 more in a row", "last unknown"], ["in the way", "earned", "unknown TES"]),
        ({"level": common_pb2.LEVEL_EXECUTE, "earned_level": common_pb2.LEVEL_EXECUTE, "probation": True,
          "evidence": 5.5131, "effects_missing": 8},
         ["Act (EXECUTE)", "evidence 5.51 of 20; at most one effect a pulse; 8 effects that hold"], []),
        ({"level": common_pb2.LEVEL_EXECUTE, "earned_level": common_pb2.LEVEL_EXECUTE, "evidence": 22.05,
          "effects_missing": 0}, ["over: evidence 22.1 of 20"], ["at most one effect"]),
        ({"evidence": 3e-7}, ["evidence 3e-07 of 20"], []),
        ({"run_required": 20, "demotions_288": 2}, ["2 of 20 in a row", "20 are needed after 2 demotions in 288"], []),
        ({"level": common_pb2.LEVEL_OBSERVE, "earned_level": common_pb2.LEVEL_EXECUTE,
          "reason": "the manifest gives no right to act: expired at noon (since: five in a row)"},
         ["Watch (OBSERVE); never above Act (EXECUTE)", "gives no right to act: expired at noon",
          "Act (EXECUTE); it comes back with a valid manifest"], []),
        ({"obstacle": "runs of this size score at most 91.1: small_files is 4, large_files 40",
          "next": "3 more in a row; runs of this size score at most 91.1: small_files is 4, large_files 40"},
         ["in the way", "small_files is 4, large_files 40; until that changes it can't rise",
          "next         3 more in a row\n"], []),
        ({"frozen": True, "unknown_run": 3}, ["until a known TES or a person"], ["unknown TES"]),
        ({"unknown_run": 2}, ["2 in a row; 3 freeze the level"], ["until a known TES"]),
    ],
)  # fmt: skip
def test_explain_says_why_and_what_would_change_it(
    calyx: Console, more: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    calyx.answers(GetLadder=cbo_pb2.GetLadderResponse(domains=[entry(**more)]))
    out = calyx.run("ladder", "explain", "notes")[0]
    for words in said:
        assert words in out, out
    for words in unsaid:
        assert words not in out, out


def test_its_json_holds_all_of_it(calyx: Console) -> None:
    calyx.answers(GetLadder=cbo_pb2.GetLadderResponse(domains=[entry(obstacle="max_level in its manifest is GUIDE")]))
    answer = calyx.json("ladder", "explain", "notes")
    assert set(answer) == KEYS
    assert (answer["evidence_goal"], answer["effects_missing"], answer["tes_last"]) == (20.0, 18, None)
    assert answer["obstacle"] == "max_level in its manifest is GUIDE"
    assert set(calyx.json("ladder")["domains"][0]) == KEYS


def test_a_cbo_of_before_still_makes_sense(calyx: Console) -> None:
    old = cbo_pb2.LadderEntry(domain="notes", level=common_pb2.LEVEL_EXECUTE, probation=True, evidence=1.19)
    calyx.answers(GetLadder=cbo_pb2.GetLadderResponse(domains=[old]))
    answer = calyx.json("ladder", "explain", "notes")
    assert (answer["earned_level"], answer["evidence_goal"]) == ("EXECUTE", 20.0)
    assert "evidence 1.19 of 20; at most one effect a pulse" in calyx.run("ladder", "explain", "notes")[0]
