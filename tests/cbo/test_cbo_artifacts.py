"""Payloads over the wire: who may hand them in and out, and that a task is given out only while its own are here."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from agent_station import Wire, domains_with, held, outside, proposal
from calyx.agent.v1 import agent_pb2 as pb
from calyx.agent.v1 import agent_pb2_grpc
from calyx.cbo.v1 import cbo_pb2
from cbo_station import Station

from chassis.domains import Level
from chassis.errors import InvalidInput, NotFound, PermissionDenied, Unauthenticated
from chassis.exchange.artifacts import PIECE_BYTES, Named
from services.cbo.overseer import ARTIFACTS_KEPT

BIG = bytes(range(256)) * 3000
NAME = str(Named(sha256=sha256(BIG).hexdigest(), size=len(BIG)))
HALF = BIG[:PIECE_BYTES]


@pytest.fixture
def wire(new_station: Callable[..., Station]) -> Iterator[Wire]:
    made = Wire(new_station(domains=domains_with(outside("sorting", "scout"), outside("other", "rival"))))
    made.station.cbo.desk.set_level("sorting", Level.EXECUTE, "trusted", 0, "operator")
    yield made
    made.close()


def put(stub: agent_pb2_grpc.AgentServiceStub) -> None:
    first = stub.PutArtifact(pb.PutArtifactRequest(artifact=NAME, data=HALF))
    assert (first.received, first.complete) == (PIECE_BYTES, False)
    last = stub.PutArtifact(pb.PutArtifactRequest(artifact=NAME, offset=first.received, data=BIG[PIECE_BYTES:]))
    assert (last.received, last.complete) == (len(BIG), True)


def person(wire: Wire) -> agent_pb2_grpc.AgentServiceStub:
    return agent_pb2_grpc.AgentServiceStub(wire.channel("operator-token"))


def piece(stub: agent_pb2_grpc.AgentServiceStub, task_id: str = "", offset: int = 0) -> bytes:
    return stub.GetArtifact(pb.GetArtifactRequest(artifact=NAME, task_id=task_id, offset=offset)).data


def test_what_an_agent_hands_in_travels_by_its_digest_and_is_read_by_whose_task_names_it(wire: Wire) -> None:
    scout, rival = wire.agent(), wire.agent("rival", ("other",))
    put(scout)
    task = scout.Propose(proposal(params={"data": NAME, "note": "plain"})).task
    claimed = scout.Claim(pb.ClaimRequest(session="s1")).claims[0]
    manifest = json.loads(claimed.manifest_json)
    assert manifest["artifacts"] == [{"sha256": sha256(BIG).hexdigest(), "size": len(BIG)}]
    assert manifest["params"]["data"] == NAME
    assert piece(scout, task.task_id) + piece(scout, task.task_id, PIECE_BYTES) == BIG
    assert piece(scout, task.task_id, len(BIG)) == b""
    assert scout.Check(pb.CheckRequest(**held(claimed))).allowed, "the grant covers the list"
    for stub, of in ((rival, task.task_id), (rival, ""), (scout, "t-unknown")):
        with pytest.raises(NotFound):
            piece(stub, of)
    plain = scout.Propose(proposal("k-2", objective="another")).task
    with pytest.raises(NotFound, match="names no artifact"):
        piece(scout, plain.task_id)


def test_a_person_hands_in_for_a_task_and_has_any(wire: Wire) -> None:
    put(person(wire))
    wire.person().SubmitObjective(
        cbo_pb2.SubmitObjectiveRequest(text="sort this", domain="sorting", params={"data": NAME})
    )
    wire.station.cbo.run_pulse()
    claimed = wire.agent().Claim(pb.ClaimRequest(session="s1")).claims[0]
    assert json.loads(claimed.manifest_json)["artifacts"][0]["size"] == len(BIG)
    assert piece(person(wire)) == HALF


def test_a_name_is_not_enough_where_it_is_not_here(wire: Wire) -> None:
    scout = wire.agent()
    with pytest.raises(InvalidInput, match="put it first"):
        scout.Propose(proposal(params={"data": NAME}))
    with pytest.raises(InvalidInput, match="put it first"):
        wire.person().SubmitObjective(
            cbo_pb2.SubmitObjectiveRequest(text="sort this", domain="sorting", params={"data": NAME})
        )
    for data in (b"x" * (PIECE_BYTES + 1), BIG):
        with pytest.raises(InvalidInput, match="at most"):
            scout.PutArtifact(pb.PutArtifactRequest(artifact=NAME, data=data))
    with pytest.raises(InvalidInput, match="sha256:<64"):
        scout.PutArtifact(pb.PutArtifactRequest(artifact="../../etc/passwd", data=b"x"))


def test_a_task_whose_payload_went_before_it_was_given_out_is_rejected_with_the_reason(wire: Wire) -> None:
    put(person(wire))
    objective = wire.person().SubmitObjective(
        cbo_pb2.SubmitObjectiveRequest(text="sort this", domain="sorting", params={"data": NAME})
    )
    artifacts = wire.station.cbo.bridge.artifacts
    later = wire.station.clock.now() + 40 * ARTIFACTS_KEPT
    assert artifacts.sweep(kept=later, partial=later) == 1
    wire.station.cbo.run_pulse()
    tasks = wire.person().ListTasks(cbo_pb2.ListTasksRequest(domain="sorting")).tasks
    (made,) = [each for each in tasks if each.objective_id == objective.objective.id]
    assert made.state == "rejected"
    assert made.why == f"artifact {NAME} is not here; put it first (calyx artifact put)"


def test_a_revoked_agent_and_other_services_hand_in_nothing(wire: Wire) -> None:
    scout = wire.agent()
    wire.person().RevokeAgent(cbo_pb2.RevokeAgentRequest(agent="scout", why="test"))
    with pytest.raises(Unauthenticated):
        scout.PutArtifact(pb.PutArtifactRequest(artifact=NAME, data=HALF))
    for name in ("governor", "dashboard", "cbo"):
        stub = agent_pb2_grpc.AgentServiceStub(wire.channel(f"{name}-token"))
        with pytest.raises(PermissionDenied):
            stub.PutArtifact(pb.PutArtifactRequest(artifact=NAME, data=HALF))
