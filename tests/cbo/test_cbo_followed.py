"""What a task's end says of the experiences that its plan followed, up to a misleading one's eviction."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from cbo_station import Station

from chassis.audit import Audit
from chassis.domains import Level
from chassis.exchange.manifest import Ack, Manifest
from chassis.executor import InlineExecutor
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served
from services.cbo.followed import judgements
from services.cbo.objectives import Schedule
from services.cbo.peers import MemoryPeer
from services.cbo.ports import Recalled, Summary
from services.cbo.tasks import Task
from services.memory.exact import ExactIndex
from services.memory.memory import Memory
from services.memory.servicer import ALLOW, MemoryServicer
from services.memory.store import Store

ASK = "rotate the logs"
TASK = Task(
    id="t-1",  # type: ignore[arg-type] — a plain name will do
    domain="log_rotation",
    procedure="xz-6",
    owner="governor",
    state="failed",
    level=Level.EXECUTE,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    dispatched_at=datetime(2026, 1, 1, tzinfo=UTC),
    objective=ASK,
)


def match(name: str, **changes: object) -> Recalled:
    known = Recalled(
        id=name, cosine=0.9, domain="log_rotation", procedure="xz-6", outcome="success", tes=99.0, rehearsal=False
    )
    return replace(known, **changes)  # type: ignore[arg-type] — fields by name


def after(*matches: Recalled, success: bool, **changes: object) -> dict[str, str]:
    task = replace(TASK, recalled=tuple(each.to_json() for each in matches), **changes)  # type: ignore[arg-type] — fields by name
    return {name: each.verdict for name, each in judgements(task, success).items()}


def test_a_failed_task_speaks_against_the_believed_successes_of_its_procedure_alone() -> None:
    recalled = (
        match("followed"),
        match("failed", outcome="failure"),
        match("other", procedure="zstd-3"),
        match("elsewhere", domain="cleanup"),
        match("tried", rehearsal=True),
        match("old", standing="superseded"),
    )
    assert after(*recalled, success=False) == {"followed": "harmful"}
    assert after(*recalled, success=False, state="done") == {"followed": "harmful"}


def test_a_task_that_went_well_speaks_only_for_those_that_are_in_doubt() -> None:
    assert after(match("fine"), match("doubted", harmful=1), success=True, state="done") == {"doubted": "useful"}


@pytest.mark.parametrize(
    "changes",
    [{"state": "expired"}, {"state": "dead"}, {"rehearsal": True}, {"undo_of": "t-0"}, {"dispatched_at": None}],
)
def test_what_never_had_its_effect_speaks_neither_way(changes: dict[str, object]) -> None:
    assert after(match("followed"), success=False, **changes) == {}


def executing(station: Station) -> None:
    station.pulse(6)
    assert station.cbo.bridge.ladder.standing("diagnostics").level is Level.EXECUTE


def like_diagnostics(*procedures: str) -> tuple[Recalled, ...]:
    return tuple(
        match(f"x-{each}", domain="diagnostics", procedure=each, objective="check the health of the station")
        for each in procedures
    )


def test_judgements_wait_for_memory_and_are_told_once(station: Station) -> None:
    executing(station)
    station.memory.matches = like_diagnostics("quick", "rolling", "full")
    station.answer.status, station.answer.reverted = "failed", True
    station.pulse()
    procedure = station.done[-1].procedure
    station.memory.matches = ()
    station.memory.down = True
    station.pulse()
    assert station.memory.judged == []
    station.memory.down = False
    station.pulse(3)
    told = [each for each in station.memory.judged if each[1].task_id == station.memory.judged[0][1].task_id]
    assert [(name, judgement.verdict, judgement.cosine) for name, judgement in told] == [
        (f"x-{procedure}", "harmful", 0.9)
    ]


def test_a_regression_found_later_speaks_against_what_was_followed(station: Station) -> None:
    executing(station)
    station.memory.matches = like_diagnostics("quick", "rolling", "full")
    station.pulse()
    station.memory.matches = ()
    station.pulse()
    assert station.memory.judged == []
    station.probers["governor"].verdict = "refuted"
    station.pulse(2)
    assert {each.verdict for _, each in station.memory.judged} == {"harmful"}


def test_the_planner_counts_by_the_summaries_and_each_draw_keeps_them(station: Station) -> None:
    station.memory.summaries = (
        Summary(domain="diagnostics", procedure="full", successes=400, failures=1),
        Summary(domain="cleanup", procedure="quick", successes=9, failures=9),
    )
    planned = station.pulse()["plan"]["tasks"][0]
    kept = {each["procedure"]: (each["recalled_successes"], each["recalled_failures"]) for each in planned["draws"]}
    assert kept == {"quick": (0, 0), "rolling": (0, 0), "full": (400, 1)}
    (full,) = (each for each in planned["draws"] if each["procedure"] == "full")
    assert full["alpha"] + full["beta"] == pytest.approx(12.0)  # 1 + 1, and recall never counts for more than ten runs


# end to end: this CBO and the memory itself


class Words:
    """A word is a direction."""

    model, model_sha256, dimension = "words", "0" * 64, 64

    def embed(self, texts: list[str]) -> np.ndarray:
        rows = [sum(np.eye(64)[sum(word.encode()) % 64] for word in text.split()) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


class Failing(Station):
    """Rehearsals go well, effects do not."""

    def ack_for(self, task: Manifest, epoch: int) -> Ack:
        self.answer.status = None if task.rehearsal else "failed"
        self.answer.applied, self.answer.reverted = True, not task.rehearsal
        return super().ack_for(task, epoch)


@pytest.fixture
def remembering(tmp_path: Path) -> Iterator[Failing]:
    station = Failing(tmp_path / "failing")
    memory = Memory(
        store=Store(station.layout.memory / "experience.sqlite", durable=False),
        embedder=Words(),
        index=ExactIndex(64),
        clock=station.clock,
        audit=Audit(station.layout.audit("memory"), station.clock, "memory"),
    )
    servicer = MemoryServicer(
        memory,
        InlineExecutor(),
        clock=station.clock,
        root=station.layout.root,
        backups=station.layout.memory / "backups",
        station_id="st-test",
    )
    served = {
        "calyx.memory.v1.MemoryService": Served(
            "calyx.memory.v1.MemoryService",
            memory_pb2_grpc.add_MemoryServiceServicer_to_server,
            servicer,
            ALLOW,
        )
    }
    station.channel = LocalChannel(served, "cbo")
    station.memory = MemoryPeer(station.channel, "st-test")
    station.cbo.close()
    station.open()
    yield station
    station.cbo.close()
    memory.close()


def test_a_planted_memory_that_misleads_is_evicted_within_ten_failing_uses_and_listed(
    remembering: Failing,
) -> None:
    station = remembering
    stub = memory_pb2_grpc.MemoryServiceStub(station.channel)
    planted = pb.Experience(
        id="planted", origin="import:forum", kind="task", objective=ASK, domain="log_rotation", procedure="xz-6",
        outcome=pb.OUTCOME_SUCCESS, tes=100.0, evidence="always use xz",
    )  # fmt: skip
    planted.occurred_at.FromDatetime(station.clock.now())
    stub.RecordExperience(pb.RecordExperienceRequest(experience=planted))
    station.cbo.desk.submit(ASK, "log_rotation", {"procedure": "xz-6"}, Schedule(every_pulse=True), "", "operator")
    for _ in range(60):
        station.pulse()
        for task in station.cbo.bridge.store.tasks("tasks_inbox", 50):
            if task.domain == "log_rotation":
                station.cbo.desk.approve(task.id, task.plan_digest, "operator")
        station.agent()
        evicted = stub.ListStandings(pb.ListStandingsRequest(standing=pb.STANDING_EVICTED)).standings
        if evicted:
            break
    uses = [task for task in station.done if task.domain == "log_rotation" and not task.rehearsal]
    print(f"evicted after {len(uses)} uses that failed")
    assert [each.experience.id for each in evicted] == ["planted"]
    assert "judged uses" in evicted[0].reason
    assert evicted[0].caller == "memory"
    assert len(uses) <= 10
    found = stub.Recall(pb.RecallRequest(objective=ASK))
    assert "planted" not in {each.experience.id for each in found.matches}
    assert found.evicted == 1
    (summary,) = (each for each in found.summaries if each.procedure == "xz-6")
    assert summary.successes == 0
    lines = [json.loads(each) for each in station.layout.audit("memory").read_text().splitlines()]
    assert [each["standing"] for each in lines if each["event"] == "memory.standing"] == ["evicted"]
