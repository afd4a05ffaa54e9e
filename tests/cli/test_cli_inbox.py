"""`calyx inbox`, `calyx notify test`, and answers that do nothing, as the command says them."""

import json
import sqlite3
from datetime import timedelta

import pytest
from calyx.cbo.v1 import cbo_pb2
from calyx.inbox.v1 import inbox_pb2
from cli_harness import NOW, Console

from chassis.errors import NotFound, Refused

TASK = cbo_pb2.Task(id="t-1", state="rehearsed", domain="log_rotation", objective="rotate the logs", plan_digest="d")


def waiting() -> inbox_pb2.ListWaitingResponse:
    plan = inbox_pb2.WaitingItem(
        kind="approval", id="t-1", title="rotate the logs", domain="log_rotation", task=TASK,
        commands=["calyx task show t-1", "calyx task approve t-1", 'calyx task reject t-1 --why "…"'],
    )  # fmt: skip
    plan.since.FromDatetime(NOW - timedelta(hours=2))
    plan.expires_at.FromDatetime(NOW + timedelta(days=6))
    shut = inbox_pb2.WaitingItem(
        kind="quarantine", id="memory", title="memory is in quarantine", commands=["calyx quarantine release memory"]
    )
    return inbox_pb2.ListWaitingResponse(items=[plan, shut], unknown=["faults: the guardian: silent"])


def test_everything_that_waits_has_its_age_its_end_and_the_command_to_type_next(calyx: Console) -> None:
    calyx.answers(ListWaiting=waiting())
    found = calyx.json("inbox")
    plan, shut = found["items"]
    assert (plan["kind"], plan["age_s"], plan["expires_at"]) == ("approval", 7200.0, "2026-01-07T12:00:00.000000Z")
    assert (shut["since"], shut["age_s"], shut["expires_at"]) == (None, None, None), "unknown is unknown"
    assert found["tasks"][0]["answer_with"] == "calyx task approve t-1"
    assert found["unknown"] == ["faults: the guardian: silent"]
    out = calyx.run("inbox")[0]
    for words in ("calyx task approve t-1", "calyx quarantine release memory", "Something may be missing", "unknown"):
        assert words in out


def test_approving_twice_says_that_nothing_was_done(calyx: Console) -> None:
    second = cbo_pb2.Task(id="t-1-a", state="done")
    calyx.answers(
        GetTask=cbo_pb2.GetTaskResponse(task=TASK), ApproveTask=cbo_pb2.ApproveTaskResponse(task=second, already=True)
    )
    assert calyx.run("task", "approve", "t-1")[0] == "approved before as t-1-a (done); nothing was done\n"
    assert calyx.json("task", "approve", "t-1")["already"] is True


def test_a_late_answer_is_one_line_and_exit_one(calyx: Console) -> None:
    why = "t-1 could be answered until 2026-01-01T00:00:00.000000Z; nothing was done"
    calyx.answers(GetTask=cbo_pb2.GetTaskResponse(task=TASK), ApproveTask=Refused(why), RejectTask=Refused(why))
    for command in (["task", "approve", "t-1"], ["task", "reject", "t-1", "--reason", "late"]):
        assert calyx.run(*command, status=1)[1] == f"calyx: {why}\n"


def test_a_task_shows_what_its_agent_said(calyx: Console) -> None:
    said = "the world no longer matches the approved plan; nothing was changed, rehearse it again"
    task = cbo_pb2.Task(id="t-1-a", state="failed", ack_json=json.dumps({"detail": said}))
    calyx.answers(GetTask=cbo_pb2.GetTaskResponse(task=task))
    assert said in " ".join(calyx.run("task", "show", "t-1-a")[0].split())


@pytest.mark.parametrize(("sent", "status"), [(True, 0), (False, 1)])
def test_a_test_notification_says_for_each_target_whether_it_took_it(calyx: Console, sent: bool, status: int) -> None:
    tried = inbox_pb2.TargetTried(name="phone", kind="ntfys", sent=sent, detail="" if sent else "refused")
    calyx.answers(TestNotification=inbox_pb2.TestNotificationResponse(targets=[tried]))
    assert calyx.json("notify", "test", status=status)["targets"][0]["sent"] is sent


def test_without_a_target_it_says_where_to_write_one(calyx: Console) -> None:
    calyx.answers(TestNotification=inbox_pb2.TestNotificationResponse())
    assert "notify.conf" in calyx.run("notify", "test", status=1)[0]
    calyx.answers(TestNotification=NotFound("there is no target 'x'"))
    assert calyx.run("notify", "test", "--target", "x", status=2)[1].count("\n") == 1


def test_a_dead_target_is_named_by_the_doctor(calyx: Console) -> None:
    folder = calyx.reach.layout.state("cbo")
    folder.mkdir(parents=True)
    dead = {"failing_since": "2026-01-01T00:00:00Z", "tries": 3, "again_at": "2026-01-01T01:00:00Z", "why": "refused"}
    with sqlite3.connect(folder / "cbo.sqlite") as database:
        database.execute("CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute("INSERT INTO fact VALUES ('notify:phone', ?)", (json.dumps(dead),))
    database.close()
    checks = {each["check"]: each for each in calyx.json("doctor")["checks"]}
    assert (checks["notify"]["answer"], checks["notify"]["fix"].split(";")[0]) == ("note", "calyx notify test")
    assert "phone since 2026-01-01T00:00" in checks["notify"]["found"]
