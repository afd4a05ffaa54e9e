import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry, generate_latest

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, NotFound, PermissionDenied
from chassis.executor import InlineExecutor, ThreadExecutor
from chassis.identity import CALLERS
from chassis.rpc.auth import Callers
from chassis.rpc.client import open_channel
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served, start_server
from services.memory.memory import Memory
from services.memory.metrics import MemoryCollector, RecallMeter
from services.memory.queries import migrations
from services.memory.servicer import ALLOW, MemoryServicer

NAME = "calyx.memory.v1.MemoryService"
Stub = memory_pb2_grpc.MemoryServiceStub
StubMaker = Callable[[str], Stub]


def _served(memory: Memory, executor: object, root: Path, meter: RecallMeter | None = None) -> Served:
    servicer = MemoryServicer(
        memory,
        executor,  # type: ignore[arg-type]  # either executor
        clock=VirtualClock(),
        root=root,
        backups=root / "memory" / "backups",
        station_id="st-own",
        meter=meter,
    )
    return Served(NAME, memory_pb2_grpc.add_MemoryServiceServicer_to_server, servicer, ALLOW)


@pytest.fixture(params=["wire", "local"])
def stub_of(request: pytest.FixtureRequest, make_memory: Callable[..., Memory], tmp_path: Path) -> Iterator[StubMaker]:
    """Stubs by caller: over a real server on a free port, and within one process."""
    memory = make_memory()
    if request.param == "local":
        served = {NAME: _served(memory, InlineExecutor(), tmp_path)}
        yield lambda caller: Stub(LocalChannel(served, caller))
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    executor = ThreadExecutor("memory-test", threads=2)
    starting = start_server(
        served=[_served(memory, executor, tmp_path)],
        callers=Callers.of_tokens({name: f"token-{name}" for name in CALLERS}),
        checks={"store and index": memory.upkeep.check},
        executor=executor,
    )
    running = asyncio.run_coroutine_threadsafe(starting, loop).result(20)
    channels = []

    def stub(caller: str) -> Stub:
        channels.append(open_channel(f"127.0.0.1:{running.port}", f"token-{caller}"))
        return Stub(channels[-1])

    yield stub
    for channel in channels:
        channel.close()
    asyncio.run_coroutine_threadsafe(running.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    executor.close()


def _experience(name: str = "e-1", **changes: object) -> pb.Experience:
    at = Timestamp()
    at.FromDatetime(datetime(2026, 11, 1, 12, tzinfo=UTC))
    fields: dict[str, object] = {
        "id": name,
        "kind": "task",
        "objective": "rotate the logs",
        "domain": "log_rotation",
        "procedure": "zstd-3",
        "occurred_at": at,
        "context": {"site": "here"},
        "outcome": pb.OUTCOME_SUCCESS,
        "tes": 96.7,
        "confidence": 0.0,
        "cost": {"cpu_seconds": 0.25},
        **changes,
    }
    return pb.Experience(**fields)  # type: ignore[arg-type]  # fields by name


def test_what_is_recorded_comes_back_by_recall_with_zero_and_unknown_kept_apart(stub_of: StubMaker) -> None:
    cbo = stub_of("cbo")
    answer = cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience()))
    assert (answer.id, answer.created) == ("e-1", True)
    assert cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience())).created is False
    found = cbo.Recall(pb.RecallRequest(objective="rotate the logs"))
    assert (found.searched, found.pending, found.floor) == (1, 0, 0.8)
    match = found.matches[0]
    told = _experience(station_id="st-own", namespace="default", origin="cbo")
    assert match.experience == told
    assert match.cosine == pytest.approx(1.0)
    assert match.why == "the same words"
    assert match.experience.HasField("confidence")
    assert not match.experience.HasField("duration_seconds")
    assert [(s.domain, s.procedure, s.successes, s.failures, s.mean_tes) for s in found.summaries] == [
        ("log_rotation", "zstd-3", 1, 0, 96.7)
    ]


def test_nothing_alike_is_an_empty_answer_and_not_an_error(stub_of: StubMaker) -> None:
    found = stub_of("dashboard").Recall(pb.RecallRequest(objective="rotate the logs"))
    assert list(found.matches) == []
    assert found.floor == 0.8


def test_upkeep_over_the_wire(stub_of: StubMaker, tmp_path: Path) -> None:
    cbo, operator = stub_of("cbo"), stub_of("operator")
    for number in range(3):
        cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience(f"e-{number}")))
    assert cbo.AmendOutcome(
        pb.AmendOutcomeRequest(id="e-1", outcome=pb.OUTCOME_FAILURE, evidence="gone", amendment_id="v-1")
    ).created
    listed = operator.ListExperiences(pb.ListExperiencesRequest(limit=2)).experiences
    assert [(each.id, each.outcome) for each in listed] == [("e-2", pb.OUTCOME_SUCCESS), ("e-1", pb.OUTCOME_FAILURE)]
    assert not operator.Stats(pb.StatsRequest()).HasField("verified_at")
    verdict = stub_of("guardian").Verify(pb.VerifyRequest())
    assert (verdict.ok, verdict.experiences, verdict.vectors) == (True, 3, 1)
    backup = operator.Backup(pb.BackupRequest())
    assert (tmp_path / backup.path).stat().st_size == backup.size_bytes
    assert operator.RebuildIndex(pb.RebuildIndexRequest()).vectors == 3
    assert operator.Compact(pb.CompactRequest(dry_run=True)).kept == 3
    assert operator.Feedback(pb.FeedbackRequest(id="e-1", useful=True)).labels == 1
    stats = operator.Stats(pb.StatsRequest())
    assert (stats.experiences, stats.vectors, stats.index, stats.schema_version) == (3, 3, "exact", len(migrations()))
    assert stats.verified_at == verdict.verified_at


def test_errors_arrive_as_what_they_were(stub_of: StubMaker) -> None:
    cbo = stub_of("cbo")
    with pytest.raises(InvalidInput, match="outcome is missing"):
        cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience(outcome=pb.OUTCOME_UNSPECIFIED)))
    with pytest.raises(InvalidInput, match="occurred_at"):
        cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience(occurred_at=None)))
    with pytest.raises(InvalidInput, match="near"):
        cbo.Recall(pb.RecallRequest(objective="rotate the logs", min_cosine=0.5))
    with pytest.raises(InvalidInput, match="limit"):
        cbo.ListExperiences(pb.ListExperiencesRequest(limit=501))
    with pytest.raises(NotFound):
        cbo.Feedback(pb.FeedbackRequest(id="e-9"))


def test_matches_carry_standing_source_and_the_mark_untrusted_and_summaries_a_posterior(stub_of: StubMaker) -> None:
    cbo, operator = stub_of("cbo"), stub_of("operator")
    for number in range(3):
        cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience(f"e-{number}", procedure=f"p-{number}")))
    said = pb.SetStandingRequest(id="e-2", standing=pb.STANDING_SUPERSEDED, because_of="e-1", reason="newer disk")
    assert operator.SetStanding(said).changed is True
    assert operator.SetStanding(said).changed is False
    found = cbo.Recall(pb.RecallRequest(objective="rotate the logs", outcome=pb.OUTCOME_SUCCESS))
    assert [(m.experience.id, m.standing, m.because_of) for m in found.matches] == [
        ("e-1", pb.STANDING_VALID, ""),
        ("e-0", pb.STANDING_VALID, ""),
        ("e-2", pb.STANDING_SUPERSEDED, "e-1"),
    ]
    assert all(m.untrusted and m.copies == 1 and m.source == "st-own/default/cbo" for m in found.matches)
    assert [(s.procedure, s.successes, s.tes_known) for s in found.summaries] == [("p-0", 1, 1), ("p-1", 1, 1)]
    assert found.summaries[0].success_mean == pytest.approx(2 / 3)
    assert 0 < found.summaries[0].success_low < 2 / 3 < found.summaries[0].success_high < 1
    listed = stub_of("dashboard").ListStandings(pb.ListStandingsRequest()).standings
    assert [(s.experience.id, s.standing, s.because_of, s.reason, s.caller) for s in listed] == [
        ("e-2", pb.STANDING_SUPERSEDED, "e-1", "newer disk", "operator")
    ]
    assert listed[0].HasField("at")
    until = pb.RecallRequest(objective="rotate the logs")
    until.until.FromDatetime(datetime(2026, 11, 1, 12, tzinfo=UTC))
    assert list(cbo.Recall(until).matches) == []


def test_feedback_evicts_and_says_so_everywhere(stub_of: StubMaker) -> None:
    cbo, operator = stub_of("cbo"), stub_of("operator")
    cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience()))
    assert not operator.Stats(pb.StatsRequest()).HasField("feedback_precision")
    for number in range(4):
        harm = pb.FeedbackRequest(id="e-1", verdict=pb.VERDICT_HARMFUL, cosine=0.9, task_id=f"t-{number}")
        answer = cbo.Feedback(harm)
        assert cbo.Feedback(harm) == answer
        assert (answer.labels, answer.standing == pb.STANDING_EVICTED) == (number + 1, number == 3)
    assert "4 failed" in answer.reason
    found = operator.Recall(pb.RecallRequest(objective="rotate the logs"))
    assert (list(found.matches), found.evicted, found.floor) == ([], 1, 0.8)
    stats = operator.Stats(pb.StatsRequest())
    assert (stats.labels, stats.feedback_precision, stats.evicted, stats.floor) == (4, 0.0, 1, 0.8)
    assert operator.SetStanding(pb.SetStandingRequest(id="e-1", standing=pb.STANDING_VALID)).changed
    assert len(operator.Recall(pb.RecallRequest(objective="rotate the logs")).matches) == 1
    with pytest.raises(InvalidInput, match="standing"):
        operator.SetStanding(pb.SetStandingRequest(id="e-1"))
    with pytest.raises(InvalidInput, match="verdict"):
        operator.Feedback(pb.FeedbackRequest(id="e-1", verdict=99))  # type: ignore[arg-type]  # from a newer client
    with pytest.raises(PermissionDenied):
        stub_of("analytics").Feedback(pb.FeedbackRequest(id="e-1", verdict=pb.VERDICT_HARMFUL))


def test_every_method_has_its_callers_and_others_are_refused(stub_of: StubMaker) -> None:
    service = pb.DESCRIPTOR.services_by_name["MemoryService"]
    assert {method.name for method in service.methods} == set(ALLOW)
    with pytest.raises(PermissionDenied):
        stub_of("dashboard").RecordExperience(pb.RecordExperienceRequest(experience=_experience()))
    with pytest.raises(PermissionDenied):
        stub_of("dashboard").Compact(pb.CompactRequest())


def test_prometheus_sees_sizes_recalls_and_an_unknown_verify_age(
    make_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    memory, registry, clock = make_memory(), CollectorRegistry(), VirtualClock()
    registry.register(MemoryCollector(memory, clock))
    served = {NAME: _served(memory, InlineExecutor(), tmp_path, RecallMeter(registry))}
    cbo = Stub(LocalChannel(served, "cbo"))
    cbo.Recall(pb.RecallRequest(objective="rotate the logs"))
    cbo.RecordExperience(pb.RecordExperienceRequest(experience=_experience()))
    cbo.Recall(pb.RecallRequest(objective="rotate the logs"))
    cbo.Recall(pb.RecallRequest(objective="brew some coffee"))
    text = generate_latest(registry).decode()
    for line in (
        "calyx_memory_experiences 1.0",
        "calyx_memory_vectors 1.0",
        "calyx_memory_verify_age_seconds NaN",
        'calyx_memory_recalls_total{hit="yes"} 1.0',
        'calyx_memory_recalls_total{hit="no"} 2.0',
        "calyx_memory_abstentions_total 1.0",
        "calyx_memory_recall_seconds_count 3.0",
        "calyx_memory_feedback_labels 0.0",
        "calyx_memory_feedback_precision NaN",
        "calyx_memory_floor 0.8",
        "calyx_memory_evicted 0.0",
    ):
        assert line in text.splitlines()
