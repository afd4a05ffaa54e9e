"""Each call of the memory: decode (wire.py), ask, encode."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc

from chassis.clock import Clock
from chassis.errors import InvalidInput
from chassis.executor import Executor
from chassis.rpc import auth
from services.memory.experience import Experience
from services.memory.feedback import Verdict
from services.memory.memory import Memory
from services.memory.portable import export, take_in
from services.memory.wire import (
    STANDINGS,
    VERDICTS,
    WIRE_STANDINGS,
    experience_from_wire,
    experience_to_wire,
    known,
    match_to_wire,
    outcome_from_wire,
    query_from_wire,
    stamp,
    stand_to_wire,
    summary_to_wire,
)

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
            matches=[match_to_wire(each) for each in found.matches],
            summaries=[summary_to_wire(each) for each in found.summaries],
            floor=found.floor,
            searched=found.searched,
            pending=found.pending,
            evicted=found.evicted,
        )

    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:
        told = Verdict.USEFUL if request.useful else Verdict.USELESS
        if request.verdict != pb.VERDICT_UNSPECIFIED:
            told = known(VERDICTS, request.verdict, "verdict")
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
        return pb.FeedbackResponse(labels=judged.labels, standing=WIRE_STANDINGS[judged.standing], reason=judged.reason)

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
            verified_at=stamp(verdict.verified_at),
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
            verified_at=stamp(stats.verified_at) if stats.verified_at else None,
            schema_version=stats.schema_version,
            pending=stats.pending,
            model_change_done=stats.model_change.done,
            model_change_of=stats.model_change.of,
            labels=stats.trust.labels,
            feedback_precision=stats.trust.precision,
            floor=stats.trust.floor.value,
            evicted=stats.trust.evicted,
            rolled_up=stats.rolled_up,
            compacted_at=stamp(stats.compacted_at) if stats.compacted_at else None,
            backed_up_at=stamp(stats.backed_up_at) if stats.backed_up_at else None,
        )

    async def ListExperiences(self, request: pb.ListExperiencesRequest, context: Any) -> pb.ListExperiencesResponse:
        found = await self._executor.run(self._memory.newest, _page(request.limit), request.domain)
        return pb.ListExperiencesResponse(experiences=[experience_to_wire(each) for each in found])

    async def SetStanding(self, request: pb.SetStandingRequest, context: Any) -> pb.SetStandingResponse:
        changed = await self._executor.run(
            partial(
                self._memory.trust.stand,
                request.id,
                known(STANDINGS, request.standing, "standing"),
                because_of=request.because_of,
                reason=request.reason,
                caller=auth.caller(),
            )
        )
        return pb.SetStandingResponse(changed=changed)

    async def ListStandings(self, request: pb.ListStandingsRequest, context: Any) -> pb.ListStandingsResponse:
        which = None
        if request.standing != pb.STANDING_UNSPECIFIED:
            which = known(STANDINGS, request.standing, "standing")
        found = await self._executor.run(self._memory.trust.listed, which, _page(request.limit))
        return pb.ListStandingsResponse(standings=[stand_to_wire(experience, each) for experience, each in found])

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> pb.RestoreResponse:
        backup = self._inside(request.path) if request.path else None
        restore = partial(self._memory.upkeep.restore, backup, dry_run=request.dry_run)
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


def _page(limit: int) -> int:
    if not 0 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is {limit}; ask for 1 to {MAX_PAGE} (0 means {DEFAULT_PAGE})")
    return limit or DEFAULT_PAGE
