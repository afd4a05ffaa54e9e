"""The wire of the memory: decode, ask, encode."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock, parse_iso
from chassis.errors import InvalidInput
from chassis.executor import Executor
from chassis.rpc import auth
from services.memory.catalog import Standing
from services.memory.experience import Experience, Outcome
from services.memory.feedback import Verdict
from services.memory.memory import Memory
from services.memory.portable import export, take_in
from services.memory.recall import Query

log = structlog.get_logger(__name__)

_READERS = frozenset({"cbo", "dashboard", "analytics", "guardian", "operator"})
_KEEPERS = frozenset({"operator", "cbo", "guardian"})

ALLOW: Mapping[str, frozenset[str]] = {
    "RecordExperience": frozenset({"cbo", "analytics"}),
    "Recall": _READERS,
    "Feedback": frozenset({"operator", "dashboard", "cbo"}),
    "AmendOutcome": frozenset({"cbo"}),
    "Compact": _KEEPERS,
    "Verify": _KEEPERS,
    "Backup": _KEEPERS,
    "RebuildIndex": _KEEPERS,
    "Stats": _READERS | {"governor"},
    "ListExperiences": _READERS,
    "SetStanding": frozenset({"operator", "dashboard", "cbo"}),
    "ListStandings": _READERS,
    "Restore": frozenset({"operator"}),
    "Export": frozenset({"operator"}),
    "Import": frozenset({"operator"}),
}

DEFAULT_PAGE, MAX_PAGE = 50, 500

Ours = TypeVar("Ours")

_OUTCOMES: Mapping["pb.Outcome.ValueType", Outcome] = {
    pb.OUTCOME_SUCCESS: Outcome.SUCCESS,
    pb.OUTCOME_FAILURE: Outcome.FAILURE,
    pb.OUTCOME_UNKNOWN: Outcome.UNKNOWN,
    pb.OUTCOME_NO_WORK: Outcome.NO_WORK,
}
_WIRE = {ours: theirs for theirs, ours in _OUTCOMES.items()}

_STANDINGS: Mapping["pb.Standing.ValueType", Standing] = {
    pb.STANDING_VALID: Standing.VALID,
    pb.STANDING_SUPERSEDED: Standing.SUPERSEDED,
    pb.STANDING_INVALIDATED: Standing.INVALIDATED,
    pb.STANDING_EVICTED: Standing.EVICTED,
}
_WIRE_STANDINGS = {ours: theirs for theirs, ours in _STANDINGS.items()}

_VERDICTS: Mapping["pb.Verdict.ValueType", Verdict] = {
    pb.VERDICT_USEFUL: Verdict.USEFUL,
    pb.VERDICT_USELESS: Verdict.USELESS,
    pb.VERDICT_HARMFUL: Verdict.HARMFUL,
    pb.VERDICT_WITHDRAWN: Verdict.WITHDRAWN,
}


class Meter(Protocol):
    """Who counts recalls."""

    def recalled(self, hit: bool, seconds: float, searched: int) -> None: ...


class Recorder(Protocol):
    """Who stores experiences of callers that wait together; see gather.py."""

    async def run(self, item: Experience) -> bool: ...


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """`root` is the station folder: backup paths are told relative to it."""

    def __init__(
        self,
        memory: Memory,
        executor: Executor,
        *,
        clock: Clock,
        root: Path,
        backups: Path,
        station_id: str,
        meter: Meter | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self._memory, self._executor, self._clock = memory, executor, clock
        self._root, self._backups, self._station_id, self._meter = root, backups, station_id, meter

    async def RecordExperience(self, request: pb.RecordExperienceRequest, context: Any) -> pb.RecordExperienceResponse:
        experience = experience_from_wire(request.experience, self._station_id)
        if self._recorder is None:
            created = await self._executor.run(self._memory.record, experience)
        else:
            created = await self._recorder.run(experience)
        return pb.RecordExperienceResponse(id=experience.id, created=created)

    async def Recall(self, request: pb.RecallRequest, context: Any) -> pb.RecallResponse:
        began = self._clock.monotonic()
        found = await self._executor.run(self._memory.recall, query_from_wire(request))
        if self._meter is not None:
            self._meter.recalled(bool(found.matches), self._clock.monotonic() - began, found.searched)
        return pb.RecallResponse(
            matches=[
                pb.Match(
                    experience=experience_to_wire(each.experience),
                    cosine=each.cosine,
                    near=each.near,
                    why=each.why,
                    standing=_WIRE_STANDINGS[each.standing],
                    because_of=each.because_of,
                    copies=each.copies,
                    source=source_of(each.experience),
                    untrusted=True,
                    harmful=each.harmful,
                )
                for each in found.matches
            ],
            summaries=[
                pb.ProcedureSummary(
                    domain=each.domain,
                    procedure=each.procedure,
                    successes=each.successes,
                    failures=each.failures,
                    mean_tes=each.mean_tes,
                    success_mean=each.success_mean,
                    success_low=each.success_low,
                    success_high=each.success_high,
                    tes_known=each.tes_known,
                    rehearsals=each.rehearsals,
                )
                for each in found.summaries
            ],
            floor=found.floor,
            searched=found.searched,
            pending=found.pending,
            evicted=found.evicted,
        )

    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:
        told = Verdict.USEFUL if request.useful else Verdict.USELESS
        if request.verdict != pb.VERDICT_UNSPECIFIED:
            told = _known(_VERDICTS, request.verdict, "verdict")
        judged = await self._executor.run(
            partial(
                self._memory.trust.judge,
                request.id,
                told,
                query=request.query,
                cosine=request.cosine if request.HasField("cosine") else None,
                task_id=request.task_id,
                caller=auth.caller(),
            )
        )
        return pb.FeedbackResponse(
            labels=judged.labels, standing=_WIRE_STANDINGS[judged.standing], reason=judged.reason
        )

    async def AmendOutcome(self, request: pb.AmendOutcomeRequest, context: Any) -> pb.AmendOutcomeResponse:
        outcome = outcome_from_wire(request.outcome)
        created = await self._executor.run(
            self._memory.amend, request.id, outcome, request.evidence, request.amendment_id
        )
        return pb.AmendOutcomeResponse(created=created)

    async def Compact(self, request: pb.CompactRequest, context: Any) -> pb.CompactResponse:
        done = await self._executor.run(self._memory.upkeep.compact, dry_run=request.dry_run)
        return pb.CompactResponse(
            merged=done.merged,
            kept=done.kept,
            rollups=done.rollups,
            freed_bytes=done.freed_bytes or 0,
            retired=done.retired,
        )

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        verdict = await self._executor.run(self._memory.upkeep.verify)
        return pb.VerifyResponse(
            ok=verdict.ok,
            damages=[pb.Damage(what=each.what, why=each.why, done=each.done) for each in verdict.damages],
            experiences=verdict.experiences,
            vectors=verdict.vectors,
            verified_at=_stamp(verdict.verified_at),
            roots=verdict.roots,
            backups=verdict.backups,
        )

    async def Backup(self, request: pb.BackupRequest, context: Any) -> pb.BackupResponse:
        made = await self._executor.run(self._memory.upkeep.backup, self._backups)
        path = made.path.relative_to(self._root).as_posix()
        return pb.BackupResponse(path=path, size_bytes=made.size_bytes, sha256=made.sha256)

    async def RebuildIndex(self, request: pb.RebuildIndexRequest, context: Any) -> pb.RebuildIndexResponse:
        return pb.RebuildIndexResponse(vectors=await self._executor.run(self._memory.upkeep.rebuild_index))

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsResponse:
        stats = await self._executor.run(self._memory.stats)
        return pb.StatsResponse(
            experiences=stats.experiences,
            vectors=stats.vectors,
            recalls=stats.recalls,
            hits=stats.hits,
            model=stats.model,
            index=stats.index,
            verified_at=_stamp(stats.verified_at) if stats.verified_at else None,
            schema_version=stats.schema_version,
            pending=stats.pending,
            model_change_done=stats.model_change.done,
            model_change_of=stats.model_change.of,
            labels=stats.trust.labels,
            feedback_precision=stats.trust.precision,
            floor=stats.trust.floor.value,
            evicted=stats.trust.evicted,
            rolled_up=stats.rolled_up,
            compacted_at=_stamp(stats.compacted_at) if stats.compacted_at else None,
            backed_up_at=_stamp(stats.backed_up_at) if stats.backed_up_at else None,
        )

    async def ListExperiences(self, request: pb.ListExperiencesRequest, context: Any) -> pb.ListExperiencesResponse:
        found = await self._executor.run(self._memory.newest, _page(request.limit), request.domain)
        return pb.ListExperiencesResponse(experiences=[experience_to_wire(each) for each in found])

    async def SetStanding(self, request: pb.SetStandingRequest, context: Any) -> pb.SetStandingResponse:
        changed = await self._executor.run(
            partial(
                self._memory.trust.stand,
                request.id,
                _known(_STANDINGS, request.standing, "standing"),
                because_of=request.because_of,
                reason=request.reason,
                caller=auth.caller(),
            )
        )
        return pb.SetStandingResponse(changed=changed)

    async def ListStandings(self, request: pb.ListStandingsRequest, context: Any) -> pb.ListStandingsResponse:
        which = None
        if request.standing != pb.STANDING_UNSPECIFIED:
            which = _known(_STANDINGS, request.standing, "standing")
        found = await self._executor.run(self._memory.trust.listed, which, _page(request.limit))
        return pb.ListStandingsResponse(
            standings=[
                pb.Stood(
                    experience=experience_to_wire(experience),
                    standing=_WIRE_STANDINGS[each.standing],
                    because_of=each.because_of,
                    reason=each.reason,
                    caller=each.caller,
                    at=_stamp(parse_iso(each.recorded_at)),
                )
                for experience, each in found
            ]
        )

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> pb.RestoreResponse:
        backup = self._inside(request.path) if request.path else None
        restore = partial(self._memory.upkeep.integrity.restore, backup, dry_run=request.dry_run)
        done = await self._executor.run(restore)
        return pb.RestoreResponse(
            path=(self._backups / done.backup).relative_to(self._root).as_posix() if done.backup else "",
            from_backup=done.from_backup,
            replayed=done.replayed,
            lost=done.lost,
            set_aside=(self._backups.parent / done.set_aside).relative_to(self._root).as_posix()
            if done.set_aside
            else "",
        )

    def _inside(self, path: str) -> Path:
        """A backup by its path in the station folder; nothing else is opened."""
        found = (self._root / path).resolve()
        if not found.is_relative_to(self._backups.resolve()):
            raise InvalidInput(f"{path} is not in {self._backups.relative_to(self._root)}; copy the backup there first")
        return found

    async def Export(self, request: pb.ExportRequest, context: Any) -> AsyncIterator[pb.ExportResponse]:
        parts = export(self._memory.store, request.namespace)
        try:
            while part := await self._executor.run(partial(next, parts, b"")):
                yield pb.ExportResponse(lines=part)
        finally:
            await self._executor.run(parts.close)

    async def Import(self, request: pb.ImportRequest, context: Any) -> pb.ImportResponse:
        if request.format not in ("", "jsonl"):
            raise InvalidInput(f"{request.format!r} is turned into lines of JSON by `calyx memory import`, not here")
        done = await self._executor.run(
            partial(
                take_in,
                self._memory,
                request.data,
                source=request.source,
                namespace=request.namespace,
                station_id=self._station_id,
                dry_run=request.dry_run,
            )
        )
        return pb.ImportResponse(created=done.created, known=done.known, refused=done.refused)


def source_of(experience: Experience) -> str:
    """Where its text comes from, so that whoever reads it knows whose words they are."""
    return f"{experience.station_id}/{experience.namespace}/{experience.origin}"


def _page(limit: int) -> int:
    if not 0 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is {limit}; ask for 1 to {MAX_PAGE} (0 means {DEFAULT_PAGE})")
    return limit or DEFAULT_PAGE


def _known(ours: Mapping[Any, Ours], wire: int, what: str) -> Ours:
    if wire not in ours:
        raise InvalidInput(f"{what} is missing or unknown ({wire}); say one of {', '.join(map(str, ours.values()))}")
    return ours[wire]


def outcome_from_wire(outcome: "pb.Outcome.ValueType") -> Outcome:
    if outcome not in _OUTCOMES:
        raise InvalidInput("outcome is missing; say OUTCOME_UNKNOWN when nobody could tell")
    return _OUTCOMES[outcome]


def experience_from_wire(wire: pb.Experience, station_id: str) -> Experience:
    """An empty station is this one, an empty namespace the default one."""
    if not wire.HasField("occurred_at"):
        raise InvalidInput("occurred_at is missing; say when it happened")
    return Experience(
        id=wire.id,
        station_id=wire.station_id or station_id,
        namespace=wire.namespace or "default",
        origin=wire.origin or auth.caller(),
        kind=wire.kind,
        objective=wire.objective,
        domain=wire.domain,
        procedure=wire.procedure,
        task_id=wire.task_id,
        pulse_id=wire.pulse_id,
        occurred_at=_moment(wire.occurred_at, "occurred_at"),
        context=dict(wire.context),
        outcome=outcome_from_wire(wire.outcome),
        tes=wire.tes if wire.HasField("tes") else None,
        duration_seconds=wire.duration_seconds if wire.HasField("duration_seconds") else None,
        files_changed=wire.files_changed if wire.HasField("files_changed") else None,
        confidence=wire.confidence if wire.HasField("confidence") else None,
        evidence=wire.evidence,
        cost=dict(wire.cost),
    )


def experience_to_wire(experience: Experience) -> pb.Experience:
    return pb.Experience(
        id=experience.id,
        station_id=experience.station_id,
        namespace=experience.namespace,
        origin=experience.origin,
        kind=experience.kind,
        objective=experience.objective,
        domain=experience.domain,
        procedure=experience.procedure,
        task_id=experience.task_id,
        pulse_id=experience.pulse_id,
        occurred_at=_stamp(experience.occurred_at),
        context=experience.context,
        outcome=_WIRE[experience.outcome],
        tes=experience.tes,
        duration_seconds=experience.duration_seconds,
        files_changed=experience.files_changed,
        confidence=experience.confidence,
        evidence=experience.evidence,
        cost=experience.cost,
    )


def query_from_wire(wire: pb.RecallRequest) -> Query:
    return Query(
        objective=wire.objective,
        limit=wire.limit,
        min_cosine=wire.min_cosine if wire.HasField("min_cosine") else None,
        namespace=wire.namespace,
        domain=wire.domain,
        procedure=wire.procedure,
        since=_moment(wire.since, "since") if wire.HasField("since") else None,
        until=_moment(wire.until, "until") if wire.HasField("until") else None,
        outcome=None if wire.outcome == pb.OUTCOME_UNSPECIFIED else _known(_OUTCOMES, wire.outcome, "outcome"),
        context=dict(wire.context),
        near=wire.near,
    )


def _moment(wire: Timestamp, what: str) -> datetime:
    try:
        return wire.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{what} is not a time: {error}") from error


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
