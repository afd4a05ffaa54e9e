"""An outside agent from invitation to ack, over real gRPC."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from agent_station import Wire, domains_with, held, outside, proposal
from calyx.agent.v1 import agent_pb2 as pb
from calyx.cbo.v1 import cbo_pb2
from cbo_station import Station
from google.protobuf.duration_pb2 import Duration

from chassis.domains import Level
from chassis.errors import NotFound, PermissionDenied, Unauthenticated


@pytest.fixture
def wire(new_station: Callable[..., Station]) -> Iterator[Wire]:
    station = new_station(
        domains=domains_with(outside("sorting", "scout"), outside("asking", "scout", rehearses=False)),
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


def test_a_claim_waits_for_what_comes(wire: Wire) -> None:
    agent = wire.agent()
    waiting = agent.Claim.future if False else None
    assert waiting is None
    agent.Propose(proposal())
    assert agent.Claim(pb.ClaimRequest(session="s1", wait=Duration(seconds=5))).claims


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
