"""`calyx pulse replay` and `calyx task reproduce`: one line where all is well, a line a section where not, exit 1."""

from calyx.cbo.v1 import cbo_pb2
from cli_harness import Console

GOOD = cbo_pb2.ReplayPulsesResponse(
    pulse_id="bp-000000001", status="identical", reason="the same decisions, byte for byte", sections=["rng"]
)
BAD = cbo_pb2.ReplayPulsesResponse(
    pulse_id="bp-000000002",
    status="damaged",
    reason="differs in critique.ended",
    findings=[
        cbo_pb2.ReplayFinding(
            section="critique", path="critique.ended", reason="it is not what was sealed", damage=True
        )
    ],
)
OTHER = cbo_pb2.ReplayPulsesResponse(pulse_id="bp-000000003", status="different code", reason="other code decides")


def test_pulses_that_are_as_they_were_take_one_line(calyx: Console) -> None:
    calyx.answers(ReplayPulses=[GOOD, GOOD])
    out, _ = calyx.run("pulse", "replay", "--all")
    assert out == "2 pulses from bp-000000001 to bp-000000001: 2 identical\n"


def test_damage_is_named_and_ends_with_1(calyx: Console) -> None:
    calyx.answers(ReplayPulses=[GOOD, BAD])
    out, _ = calyx.run("pulse", "replay", "--last", "2", status=1)
    assert "critique: critique.ended: it is not what was sealed" in out
    value = calyx.json("pulse", "replay", "--last", "2", status=1)
    assert value["counted"]["damaged"] == 1 and value["pulses"][1]["findings"][0]["path"] == "critique.ended"


def test_other_code_is_no_damage(calyx: Console) -> None:
    calyx.answers(ReplayPulses=[OTHER])
    assert "different code" in calyx.run("pulse", "replay")[0]


def test_one_pulse_and_many_at_once_is_a_misuse(calyx: Console) -> None:
    assert "name one pulse" in calyx.run("pulse", "replay", "bp-000000001", "--all", status=2)[1]


def test_what_can_not_be_done_again_says_why(calyx: Console) -> None:
    task = cbo_pb2.Task(id="t-1", domain="diagnostics", owner="guardian")
    calyx.answers(GetTask=cbo_pb2.GetTaskResponse(task=task))
    value = calyx.json("task", "reproduce", "t-1", status=1)
    assert (value["status"], "nothing is journaled" in value["reason"]) == ("not reproducible", True)
