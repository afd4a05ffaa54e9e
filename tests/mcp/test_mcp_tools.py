"""What a model can call, and what it can't."""

from collections.abc import Callable
from typing import Any

import pytest
from calyx.agent.v1 import agent_pb2
from mcp_fake_station import DIGEST
from mcp_harness import Desk

from chassis.canonical import digest

TOOLS = [
    "status", "recall", "propose", "request_approval", "await_approval", "claim", "heartbeat", "ack", "report",
]  # fmt: skip
Session = Callable[..., None]


def test_the_tools_are_these_nine_and_none_approves_raises_resumes_or_admits(session: Session) -> None:
    async def body(at: Desk) -> None:
        assert [tool.name for tool in (await at.client.list_tools()).tools] == TOOLS
        for forbidden in ("approve", "approve_task", "resume", "ladder_set", "approve_domain", "undo"):
            result = await at.client.call_tool(forbidden, {"task_id": "t-1"})
            assert result.is_error

    session(body)


def test_the_contract_behind_them_has_no_call_that_approves_raises_or_resumes() -> None:
    calls = {method.name for method in agent_pb2.DESCRIPTOR.services_by_name["AgentService"].methods}
    assert calls == {
        "Join", "Propose", "AwaitTask", "Claim", "Heartbeat", "Check", "Ack", "Nack", "Recall", "Report", "GetStatus",
        "PutArtifact", "GetArtifact",
    }  # fmt: skip


def test_each_tool_says_what_it_does_has_schemas_both_ways_and_honest_hints(session: Session) -> None:
    async def body(at: Desk) -> None:
        reads = {"status", "recall", "await_approval"}
        for tool in (await at.client.list_tools()).tools:
            assert tool.description and "Comes back:" in tool.description and len(tool.description) > 150
            assert tool.input_schema["additionalProperties"] is False
            for name, each in tool.input_schema.get("properties", {}).items():
                assert each.get("description"), (tool.name, name)
            assert tool.output_schema and tool.output_schema["type"] == "object"
            hints = tool.annotations
            assert hints and hints.read_only_hint is (tool.name in reads) and hints.open_world_hint is False
            assert hints.idempotent_hint is (tool.name not in {"request_approval", "claim", "report"})

    session(body)


def test_no_tool_takes_a_token(session: Session) -> None:
    async def body(at: Desk) -> None:
        for tool in (await at.client.list_tools()).tools:
            assert not {name for name in tool.input_schema.get("properties", {}) if "token" in name or "url" in name}

    session(body)


def test_the_whole_way_from_status_to_ack(session: Session) -> None:
    async def body(at: Desk) -> None:
        status = await at.ok("status")
        assert status["agent"] == "tidy" and status["domains"][0]["level"] == "GUIDE" and status["held"] == []
        (match,) = (await at.ok("recall", text="sort files"))["matches"]
        assert (match["tes"], match["untrusted"]) == (0.8, True)
        task = (await at.ok("propose", domain="tidy_files", objective="sort", params={"folder": "/srv"}))["task"]
        again = (await at.ok("propose", domain="tidy_files", objective="sort", params={"folder": "/srv"}))["task"]
        assert again["task_id"] == task["task_id"]
        claimed = await at.ok("claim", task_id=task["task_id"])
        assert (claimed["claimed"], claimed["mode"], claimed["epoch"]) == (True, "perform", 1)
        beaten = await at.ok("heartbeat", task_id=task["task_id"], progress="half")
        assert (beaten["order"], beaten["may_act"]) == ("go_on", True)
        assert at.station.made("heartbeat")[-1]["progress"] == "half"
        acked = await at.ok(
            "ack", task_id=task["task_id"], status="done", detail="sorted", applied=True, files_changed=2,
            effects=[{"op": "create", "target": "/srv/inbox/a"}],
            claims=[{"kind": "file_digest", "target": "/srv/inbox/a", "expect": {"sha256": DIGEST}}],
            cost={"cpu_seconds": 0.1},
        )  # fmt: skip
        assert (acked["status"], acked["recorded"]) == ("done", True)
        sent = at.station.acks[task["task_id"]]
        assert sent["epoch"] == 1 and sent["session"] == "mcp-test" and DIGEST in sent["claims_json"]
        assert float(sent["duration"].removesuffix("s")) >= 0
        assert (await at.ok("report", text="all sorted"))["kept"] is True

    session(body)


def test_a_rehearsal_sends_its_plan_with_the_digest_that_a_person_approves(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1", manifest={"rehearsal": True})
        claimed = await at.ok("claim")
        assert claimed["mode"] == "rehearse" and "Change nothing" in claimed["next"]
        change = {
            "op": "replace", "target": "/srv/inbox/a", "before_sha256": DIGEST, "after_sha256": DIGEST, "size_bytes": 7,
        }  # fmt: skip
        assert "plan" in await at.error("ack", task_id="t-1", status="rehearsed")
        assert "plan" in await at.error("ack", task_id="t-1", status="done", plan=[change])
        acked = await at.ok("ack", task_id="t-1", status="rehearsed", plan=[change])
        assert at.station.acks["t-1"]["plan_digest"] == digest([change])
        assert "await_approval" in acked["next"]

    session(body)


def test_a_task_that_undoes_another_names_it_and_is_answered_undone(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-9", manifest={"undo_of": "t-1"})
        claimed = await at.ok("claim")
        assert (claimed["mode"], claimed["undo_of"]) == ("undo", "t-1") and "Take back what t-1 did" in claimed["next"]
        assert (await at.ok("ack", task_id="t-9", status="undone", reverted=True))["status"] == "undone"

    session(body)


@pytest.mark.parametrize(
    ("change", "answer", "run"),
    [
        ({"approved_as": "t-2", "waits_for_person": False, "ended": True}, "approved", "t-2"),
        ({"state": "rejected", "ended": True, "waits_for_person": False}, "rejected", ""),
        ({"state": "expired", "ended": True, "waits_for_person": False}, "ended", ""),
        ({"state": "ready", "waits_for_person": False}, "approved", "t-1"),
        ({}, "waiting", ""),
    ],
)
def test_a_persons_answer_is_waited_for_and_never_given(
    session: Session, change: dict[str, Any], answer: str, run: str
) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1", state="rehearsed", waits_for_person=True)
        asked = await at.ok("request_approval", task_id="t-1", why="it only moves files")
        assert asked["asked"] is True
        assert at.station.reports == [{"text": "asks for approval: it only moves files", "task_id": "t-1"}]
        assert at.station.tasks["t-1"]["waits_for_person"] is True, "asking is not answering"

        waits = 0

        def later(task_id: str) -> None:
            nonlocal waits
            waits += 1
            if waits == 2:
                at.station.tasks[task_id] |= change

        at.station.at_await = later
        got = await at.ok("await_approval", task_id="t-1", wait_seconds=15)
        assert (got["answer"], got["run_task_id"]) == (answer, run)
        assert {rpc for rpc, _ in at.station.calls} <= {"join", "await_task", "report"}

    session(body)


def test_nobody_is_asked_about_a_task_that_waits_for_nobody(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        assert (await at.ok("request_approval", task_id="t-1", why="please"))["asked"] is False
        assert at.station.reports == []
        assert (await at.ok("await_approval", task_id="t-1"))["answer"] == "not_needed"

    session(body)


def test_a_long_wait_is_bounded_and_tells_its_progress(session: Session) -> None:
    async def body(at: Desk) -> None:
        told: list[tuple[float, float | None]] = []

        async def told_so(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total))

        result = await at.client.call_tool("claim", {"wait_seconds": 12}, progress_callback=told_so)
        assert result.structured_content is not None and result.structured_content["claimed"] is False
        assert told == [(5.0, 12.0), (10.0, 12.0)]
        assert [body["wait"] for body in at.station.made("claim")] == ["5.000000000s", "5.000000000s", "2.000000000s"]

    session(body)


def test_when_the_kill_switch_is_engaged_nothing_is_claimed_and_the_reason_is_told(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        at.station.kill_switch = "smoke in the rack"
        claimed = await at.ok("claim", wait_seconds=60)
        assert claimed["claimed"] is False and "smoke in the rack" in claimed["next"]
        assert len(at.station.made("claim")) == 1, "a reason is told at once, not waited out"
        assert "only a person" in (await at.ok("status"))["next"]

    session(body)


def test_errors_are_one_line_that_says_what_to_do_next(session: Session) -> None:
    async def body(at: Desk) -> None:
        refusals = {
            "not a domain of tidy's": await at.error("propose", domain="payroll", objective="raise"),
            "status lists your tasks": await at.error("await_approval", task_id="t-404"),
            "limit": await at.error("recall", text="x", limit=99),
            "takes no argument 'token'": await at.error("status", token="secret"),
            "no claim on it": await at.error("ack", task_id="t-1", status="done"),
            "Input should be 'rehearsed'": await at.error("ack", task_id="t-1", status="approved"),
        }
        at.station.down = True
        refusals["wait a minute"] = await at.error("recall", text="x")
        for expected, text in refusals.items():
            assert expected in text and "\n" not in text and "Error executing" not in text, text
            assert text.endswith(".")

    session(body)


def test_the_status_and_a_claimed_manifest_can_be_read_as_resources(session: Session) -> None:
    async def body(at: Desk) -> None:
        at.station.add("t-1")
        (status,) = (await at.client.read_resource("calyx://status")).contents
        assert '"agent":"tidy"' in getattr(status, "text", "")
        with pytest.raises(Exception, match="only claimed tasks"):
            await at.client.read_resource("calyx://tasks/t-1/manifest")
        await at.ok("claim")
        (manifest,) = (await at.client.read_resource("calyx://tasks/t-1/manifest")).contents
        assert '"svf_version": "2.0"' in getattr(manifest, "text", "")
        at.station.down = True
        with pytest.raises(Exception, match="wait a minute"):
            await at.client.read_resource("calyx://status")

    session(body)
