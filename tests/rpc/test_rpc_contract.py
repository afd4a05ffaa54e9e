"""What a caller may rely on, over the wire and in one process alike."""

from typing import Any

import pytest
from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from rpc_harness import Side

from chassis.errors import KINDS, CalyxError, Internal, NotFound, PermissionDenied


def stub(side: Side, caller: str = "operator") -> Any:
    return memory_pb2_grpc.MemoryServiceStub(side.open(caller))


def raising(error: BaseException) -> Any:
    def behaviour(_request: Any) -> Any:
        raise error

    return behaviour


def test_an_answer_arrives_as_it_was_given(side: Side) -> None:
    side.memory.behaviour = lambda request: pb.RecallResponse(floor=0.8, searched=len(request.objective))
    answer = stub(side).Recall(pb.RecallRequest(objective="rotate"), timeout=20)
    assert (answer.floor, answer.searched) == (0.8, 6)


def test_the_servicer_knows_who_calls(side: Side) -> None:
    stub(side, "cbo").Stats(pb.StatsRequest())
    assert side.memory.seen[-1][0] == "cbo"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_error_type_is_raised_again_at_the_caller_with_its_detail(side: Side, kind: type[CalyxError]) -> None:
    side.memory.behaviour = raising(kind("what happened – and what to do", task="t-1"))
    with pytest.raises(kind) as caught:
        stub(side).Compact(pb.CompactRequest())
    assert type(caught.value) is kind
    assert caught.value.message == "what happened – and what to do"
    assert caught.value.detail == {"task": "t-1"}


def test_an_unforeseen_error_tells_the_caller_an_id_and_nothing_else(side: Side) -> None:
    side.memory.behaviour = raising(RuntimeError("password=hunter2 in /home/somebody"))
    with pytest.raises(Internal) as caught:
        stub(side).Compact(pb.CompactRequest())
    assert "hunter2" not in caught.value.message and "somebody" not in caught.value.message
    assert caught.value.detail["error_id"] in caught.value.message


def test_a_caller_that_is_not_on_the_methods_list_is_refused_by_name(side: Side) -> None:
    with pytest.raises(PermissionDenied, match=r"cbo may not call calyx\.memory\.v1\.MemoryService/Compact"):
        stub(side, "cbo").Compact(pb.CompactRequest())
    assert side.memory.calls == 0


def test_a_method_without_a_list_is_refused_for_everybody(side: Side) -> None:
    with pytest.raises(PermissionDenied):
        stub(side).Backup(pb.BackupRequest())


def test_a_stream_delivers_in_order_and_then_raises_what_the_servicer_raised(side: Side) -> None:
    side.cbo.pulses, side.cbo.error = ["bp-000000001", "bp-000000002"], NotFound("no more pulses")
    got: list[str] = []
    with pytest.raises(NotFound, match="no more pulses"):
        for answer in cbo_pb2_grpc.CboServiceStub(side.channel).WatchPulses(cbo_pb2.WatchPulsesRequest()):
            got.append(answer.pulse.id)
    assert got == ["bp-000000001", "bp-000000002"]


def test_a_stream_ends_when_the_servicer_is_done(side: Side) -> None:
    side.cbo.pulses = ["bp-000000001"]
    answers = cbo_pb2_grpc.CboServiceStub(side.channel).WatchPulses(cbo_pb2.WatchPulsesRequest())
    assert [answer.pulse.id for answer in answers] == ["bp-000000001"]


def test_what_the_servicer_does_to_a_request_the_caller_does_not_see(side: Side) -> None:
    def behaviour(request: Any) -> Any:
        request.objective = "changed"
        return pb.RecallResponse()

    side.memory.behaviour = behaviour
    request = pb.RecallRequest(objective="mine")
    stub(side).Recall(request)
    assert request.objective == "mine"
