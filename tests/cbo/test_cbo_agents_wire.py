"""An outside agent from invitation to ack, over real gRPC."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from agent_station import Wire, domains_with, held, outside, proposal
from calyx.agent.v1 import agent_pb2 as pb
from calyx.agent.v1 import agent_pb2_grpc
from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.common.v1 import common_pb2
from cbo_station import Station
from google.protobuf.duration_pb2 import Duration

from chassis.domains import Level
from chassis.errors import NotFound, PermissionDenied, ResourceExhausted, Unauthenticated
from chassis.rpc.auth import Callers
from services.cbo.agent_servicer import until_woken
from services.cbo.ports import Recalled


@pytest.fixture
def wire(new_station: Callable[..., Station]) -> Iterator[Wire]:
    station = new_station(
        domains=domains_with(
            outside("sorting", "scout", budget={"per_pulse": 20}), outside("asking", "scout", rehearses=False)
        ),
    )
    made = Wire(station)
    yield made
    made.close()


def test_an_invited_agent_joins_proposes_claims_beats_checks_and_acks(wire: Wire) -> None:
    wire.station.cbo.desk.set_level("sorting", Level.EXECUTE, "trusted", 0, "operator")
    invited = wire.person().InviteAgent(cbo_pb2.InviteAgentRequest(agent="scout", domains=["sorting"]))
    assert invited.agent.agent == "scout" and len(invited.token) >= 43
    wire.tokens["scout"] = invited.token
    agent = wire.agent()
    hello = agent.Join(pb.JoinRequest(version="1.0", capabilities=["sorts"]))
    assert (hello.agent, hello.station_id) == ("scout", "st-test")
    assert [each.domain for each in hello.domains] == ["sorting"]
    task = agent.Propose(proposal()).task
    assert task.state == "ready" and agent.Propose(proposal()).task.task_id == task.task_id
    claimed = agent.Claim(pb.ClaimRequest(session="s1")).claims[0]
    manifest = json.loads(claimed.manifest_json)
    assert (manifest["task_id"], manifest["owner"], claimed.epoch) == (task.task_id, "scout", 1)
    assert claimed.task.state == "claimed"
    beat = agent.Heartbeat(pb.HeartbeatRequest(**held(claimed), cpu_percent=12.0))
    assert beat.order == pb.HeartbeatResponse.ORDER_GO_ON
    assert agent.Check(pb.CheckRequest(**held(claimed))).allowed
    wire.station.clock.advance(10)
    answer = pb.AckRequest(
        **held(claimed), status="done", detail="sorted", files_changed=1, applied=True, duration=Duration(seconds=4),
        claims_json=json.dumps([{"kind": "file_digest", "target": "/x", "expect": {"sha256": "00"}}]),
    )  # fmt: skip
    assert agent.Ack(answer).recorded
    again = agent.Ack(answer)
    assert (again.status, again.recorded) == ("done", False)
    seen = agent.AwaitTask(pb.AwaitTaskRequest(task_id=task.task_id, seen_state="claimed")).task
    assert seen.state == "done" and seen.ended
    ack = wire.station.exchange.get(task.task_id).ack
    assert ack is not None and ack.agent == "scout" and ack.duration_seconds == 4.0
    assert ack.ended_at - ack.started_at == timedelta(seconds=4)
    assert not agent.GetStatus(pb.GetStatusRequest()).tasks


def test_a_task_is_given_back_and_claimed_again_at_the_next_epoch(wire: Wire) -> None:
    agent = wire.agent()
    agent.Propose(proposal())
    first = agent.Claim(pb.ClaimRequest(session="s1")).claims[0]
    agent.Nack(pb.NackRequest(**held(first), reason="not now"))
    second = agent.Claim(pb.ClaimRequest(session="s2")).claims[0]
    assert (second.task.task_id, second.epoch) == (first.task.task_id, 2)
    lost = agent.Heartbeat(pb.HeartbeatRequest(**held(first)))
    assert lost.order == pb.HeartbeatResponse.ORDER_LOST


def test_long_polls_hold_no_thread_and_wake_when_something_comes(wire: Wire) -> None:
    """Eight wait at a server with four threads; all that they wait for comes by other calls."""
    wire.pause = until_woken
    wire.serve()
    agent = wire.agent()
    agent.Propose(proposal("k-0", objective="first"))
    first = agent.Claim(pb.ClaimRequest(session="s0")).claims[0]
    with ThreadPoolExecutor(8) as callers:
        wait = Duration(seconds=30)
        seen = pb.AwaitTaskRequest(task_id=first.task.task_id, seen_state="claimed", wait=wait)
        ends = [callers.submit(agent.AwaitTask, seen, timeout=20) for _ in range(2)]
        claims = [
            callers.submit(agent.Claim, pb.ClaimRequest(session=f"s{n}", wait=wait), timeout=20) for n in range(1, 7)
        ]
        for n in range(6):
            agent.Propose(proposal(f"k-{n + 1}", objective=f"sort {n}"))
        assert sorted(len(each.result().claims) for each in claims) == [1] * 6
        agent.Ack(pb.AckRequest(**held(first, "s0"), status="no_work"))
        assert [each.result().task.state for each in ends] == ["done", "done"]


def test_a_wait_ends_with_nothing_when_its_time_or_its_callers_deadline_is_over(wire: Wire) -> None:
    agent = wire.agent()
    began = wire.station.clock.monotonic()
    assert not agent.Claim(pb.ClaimRequest(session="s1", wait=Duration(seconds=3600)), timeout=60).claims
    assert wire.station.clock.monotonic() - began == pytest.approx(30)
    agent.Claim(pb.ClaimRequest(session="s1", wait=Duration(seconds=30)), timeout=10)
    assert wire.station.clock.monotonic() - began == pytest.approx(39.5, abs=0.4)
    task = agent.Propose(proposal()).task
    same = agent.AwaitTask(
        pb.AwaitTaskRequest(task_id=task.task_id, seen_state="ready", wait=Duration(seconds=5)), timeout=60
    )
    assert same.task.state == "ready"


def test_the_kill_switch_is_why_a_claim_comes_back_empty(wire: Wire) -> None:
    wire.station.cbo.desk.set_kill_switch(True, "look", "operator")
    assert wire.agent().Claim(pb.ClaimRequest(session="s1")).reason == "the kill switch is engaged: look"
    assert wire.agent().GetStatus(pb.GetStatusRequest()).kill_switch_why == "look"


def test_a_persons_yes_wakes_who_awaits_it(wire: Wire) -> None:
    wire.pause = until_woken
    wire.serve()
    agent, person = wire.agent(domains=("sorting", "asking")), wire.person()
    asked = agent.Propose(proposal(domain="asking")).task
    assert asked.state == "proposed" and asked.waits_for_person and not asked.ended
    with ThreadPoolExecutor(1) as callers:
        request = pb.AwaitTaskRequest(task_id=asked.task_id, seen_state="proposed", wait=Duration(seconds=30))
        waiting = callers.submit(agent.AwaitTask, request, timeout=20)
        second = person.ApproveTask(cbo_pb2.ApproveTaskRequest(id=asked.task_id)).task
        answer = waiting.result().task
    assert answer.approved_as == second.id and answer.ended
    manifest = json.loads(agent.Claim(pb.ClaimRequest(session="s1", task_id=second.id)).claims[0].manifest_json)
    assert manifest["approval"] == "operator"
    again = agent.AwaitTask(request, timeout=20).task
    assert again.approved_as == second.id, "who asks after the answer, or after a crash, gets it at once"


def test_too_many_waiting_calls_of_one_agent_are_refused(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cbo.agent_servicer.MAX_WAITING", 0)
    wait = Duration(seconds=30)
    with pytest.raises(ResourceExhausted):
        wire.agent().Claim(pb.ClaimRequest(session="s1", wait=wait))
    wire.agent().Claim(pb.ClaimRequest(session="s1"))


def test_an_agents_token_opens_nothing_else(wire: Wire) -> None:
    wire.agent()
    channel = wire.channel(wire.tokens["scout"])
    cbo = cbo_pb2_grpc.CboServiceStub(channel)
    for method in cbo_pb2.DESCRIPTOR.services_by_name["CboService"].methods:
        request = getattr(cbo_pb2, method.input_type.name)()
        with pytest.raises(PermissionDenied):
            answer = getattr(cbo, method.name)(request, timeout=20)
            next(iter(answer))  # of a stream
    with pytest.raises(Unauthenticated):  # any other server: it doesn't even know the token
        Callers.of_tokens({"operator": "operator-token"}).identify(f"Bearer {wire.tokens['scout']}")


def test_a_person_and_a_service_have_no_business_here(wire: Wire) -> None:
    for name in ("operator", "dashboard", "guardian"):
        with pytest.raises(PermissionDenied):
            agent_pb2_grpc.AgentServiceStub(wire.channel(f"{name}-token")).GetStatus(pb.GetStatusRequest())


def test_status_and_recall_show_ones_own_and_nothing_unknown_as_a_number(wire: Wire) -> None:
    agent = wire.agent()
    status = agent.GetStatus(pb.GetStatusRequest())
    assert not status.HasField("last_pulse_age_seconds") and not status.last_pulse
    assert [each.domain for each in status.domains] == ["sorting"]
    assert status.domains[0].level == common_pb2.LEVEL_GUIDE and status.domains[0].rehearses
    assert list(status.domains[0].paths) == [f"{wire.station.layout.root}/work/out"]
    task = agent.Propose(proposal()).task
    wire.station.cbo.run_pulse()
    wire.station.clock.advance(7)
    status = agent.GetStatus(pb.GetStatusRequest())
    assert status.last_pulse == "bp-000000001" and status.last_pulse_age_seconds == pytest.approx(7)
    assert [each.task_id for each in status.tasks] == [task.task_id] and not status.tasks[0].HasField("tes")
    when = datetime(2026, 1, 1, tzinfo=UTC)
    wire.station.memory.matches = (
        Recalled(
            id="x", cosine=0.9, domain="sorting", procedure="plain", outcome="success", tes=None, rehearsal=False,
            objective="sort it", at=when,
        ),
    )  # fmt: skip
    match = agent.Recall(pb.RecallRequest(text="sort")).matches[0]
    assert (match.untrusted, match.standing) == (True, "valid")
    assert (match.objective, match.at.ToDatetime(tzinfo=UTC)) == ("sort it", when) and not match.HasField("tes")
    agent.Report(pb.ReportRequest(text="all well"))


def test_a_revoked_token_is_nobodys_at_the_next_call(wire: Wire) -> None:
    agent = wire.agent()
    agent.GetStatus(pb.GetStatusRequest())
    wire.person().RevokeAgent(cbo_pb2.RevokeAgentRequest(agent="scout", why="gone"))
    with pytest.raises(Unauthenticated):
        agent.GetStatus(pb.GetStatusRequest())


def test_an_agent_sees_no_others_tasks_and_no_other_domain(wire: Wire) -> None:
    task = wire.agent().Propose(proposal()).task
    other = wire.agent("rover", ("sorting",))
    with pytest.raises(NotFound):
        other.AwaitTask(pb.AwaitTaskRequest(task_id=task.task_id))
    with pytest.raises(PermissionDenied):
        other.Propose(proposal())
    with pytest.raises(PermissionDenied, match="not for diagnostics"):
        wire.agent().Propose(proposal(domain="diagnostics"))
