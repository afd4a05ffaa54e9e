"""`calyx recall` with its filters, `calyx memory feedback`, `standing` and `evicted`."""

from calyx.memory.v1 import memory_pb2 as pb
from cli_harness import NOW, Console


def _match(name: str, **fields: object) -> pb.Match:
    experience = pb.Experience(id=name, objective="rotate", outcome=pb.OUTCOME_SUCCESS)
    experience.occurred_at.FromDatetime(NOW)
    return pb.Match(experience=experience, cosine=0.91, source="st-1/default/cbo", untrusted=True, **fields)  # type: ignore[arg-type] — fields by name


def test_every_filter_of_recall_is_asked_for(calyx: Console) -> None:
    calyx.answers(Recall=pb.RecallResponse(floor=0.8))
    calyx.json(
        "recall", "x", "--outcome", "failure", "--until", "2h", "--procedure", "xz", "--namespace", "lab", "--near",
        "--min-cosine", "0.5",
    )  # fmt: skip
    asked = calyx.script.request("Recall")
    assert (asked.outcome, asked.procedure, asked.namespace) == (pb.OUTCOME_FAILURE, "xz", "lab")
    assert (asked.near, asked.min_cosine) == (True, 0.5)
    assert asked.until.ToJsonString() == "2026-01-01T10:00:00Z"
    calyx.run("recall", "x", "--outcome", "nonsense", status=2)


def test_recall_says_what_may_not_be_believed_whose_words_they_are_and_what_was_left_out(calyx: Console) -> None:
    doubted = _match(
        "e-2", standing=pb.STANDING_SUPERSEDED, because_of="e-1", copies=3, harmful=1, why="superseded by e-1: new disk"
    )
    summary = pb.ProcedureSummary(procedure="xz", successes=3, success_mean=0.8, success_low=0.5, success_high=0.99)
    calyx.answers(
        Recall=pb.RecallResponse(
            matches=[_match("e-1", standing=pb.STANDING_VALID), doubted], summaries=[summary], floor=0.8, evicted=2
        )
    )
    shown = calyx.run("recall", "x")[0]
    assert "e-2: superseded by e-1: new disk" in shown
    assert "2 more were left out because they did harm" in shown
    assert "st-1/default/cbo" in shown
    value = calyx.json("recall", "x")
    assert value["evicted"] == 2
    assert {key: value["matches"][1][key] for key in ("standing", "because_of", "copies", "harmful", "untrusted")} == {
        "standing": "superseded", "because_of": "e-1", "copies": 3, "harmful": 1, "untrusted": True,
    }  # fmt: skip
    assert (value["summaries"][0]["success_low"], value["summaries"][0]["mean_tes"]) == (0.5, None)


def test_feedback_passes_the_verdict_on_and_tells_what_came_of_it(calyx: Console) -> None:
    calyx.answers(Feedback=pb.FeedbackResponse(labels=4, standing=pb.STANDING_EVICTED, reason="4 failed"))
    assert "evicted: 4 failed" in calyx.run("memory", "feedback", "e-1", "harmful", "--task", "t-1", "--query", "q")[0]
    asked = calyx.script.request("Feedback")
    assert (asked.id, asked.verdict, asked.task_id, asked.query) == ("e-1", pb.VERDICT_HARMFUL, "t-1", "q")
    assert not asked.HasField("cosine")
    assert calyx.json("memory", "feedback", "e-1", "withdrawn")["standing"] == "evicted"
    calyx.run("memory", "feedback", "e-1", "great", status=2)


def test_a_standing_is_set_and_the_evicted_are_listed_with_the_evidence(calyx: Console) -> None:
    calyx.answers(SetStanding=pb.SetStandingResponse(changed=True), ListStandings=pb.ListStandingsResponse())
    assert "e-1 is superseded" in calyx.run("memory", "standing", "e-1", "superseded", "--by", "e-2")[0]
    asked = calyx.script.request("SetStanding")
    assert (asked.id, asked.standing, asked.because_of) == ("e-1", pb.STANDING_SUPERSEDED, "e-2")
    calyx.run("memory", "standing", "e-1", "evicted", status=2)
    assert "Nothing." in calyx.run("memory", "evicted")[0]
    assert calyx.script.request("ListStandings").standing == pb.STANDING_EVICTED
    stood = pb.Stood(
        experience=pb.Experience(id="e-1"), standing=pb.STANDING_EVICTED, reason="4 failed", caller="memory"
    )
    stood.at.FromDatetime(NOW)
    calyx.answers(ListStandings=pb.ListStandingsResponse(standings=[stood]))
    assert "4 failed" in calyx.run("memory", "evicted")[0]
    (listed,) = calyx.json("memory", "evicted", "--all")["standings"]
    assert (listed["id"], listed["standing"], listed["reason"]) == ("e-1", "evicted", "4 failed")
    assert calyx.script.request("ListStandings").standing == pb.STANDING_UNSPECIFIED
