"""What crosses the wire, there and back: protobuf messages and the memory's own values."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from calyx.memory.v1 import memory_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import parse_iso
from chassis.errors import InvalidInput
from chassis.rpc import auth
from services.memory.catalog import Standing
from services.memory.experience import Experience, Outcome
from services.memory.feedback import Verdict
from services.memory.memory import Match
from services.memory.recall import Query, Summary
from services.memory.trust import Stand

Ours = TypeVar("Ours")

_OUTCOMES: Mapping["pb.Outcome.ValueType", Outcome] = {
    pb.OUTCOME_SUCCESS: Outcome.SUCCESS,
    pb.OUTCOME_FAILURE: Outcome.FAILURE,
    pb.OUTCOME_UNKNOWN: Outcome.UNKNOWN,
    pb.OUTCOME_NO_WORK: Outcome.NO_WORK,
}
_WIRE_OUTCOMES = {ours: theirs for theirs, ours in _OUTCOMES.items()}

STANDINGS: Mapping["pb.Standing.ValueType", Standing] = {
    pb.STANDING_VALID: Standing.VALID,
    pb.STANDING_SUPERSEDED: Standing.SUPERSEDED,
    pb.STANDING_INVALIDATED: Standing.INVALIDATED,
    pb.STANDING_EVICTED: Standing.EVICTED,
}
WIRE_STANDINGS = {ours: theirs for theirs, ours in STANDINGS.items()}

VERDICTS: Mapping["pb.Verdict.ValueType", Verdict] = {
    pb.VERDICT_USEFUL: Verdict.USEFUL,
    pb.VERDICT_USELESS: Verdict.USELESS,
    pb.VERDICT_HARMFUL: Verdict.HARMFUL,
    pb.VERDICT_WITHDRAWN: Verdict.WITHDRAWN,
}


def source_of(experience: Experience) -> str:
    """Where its text comes from, so that whoever reads it knows whose words they are."""
    return f"{experience.station_id}/{experience.namespace}/{experience.origin}"


def known(ours: Mapping[Any, Ours], wire: int, what: str) -> Ours:
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
        occurred_at=stamp(experience.occurred_at),
        context=experience.context,
        outcome=_WIRE_OUTCOMES[experience.outcome],
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
        outcome=None if wire.outcome == pb.OUTCOME_UNSPECIFIED else known(_OUTCOMES, wire.outcome, "outcome"),
        context=dict(wire.context),
        near=wire.near,
    )


def _moment(wire: Timestamp, what: str) -> datetime:
    try:
        return wire.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{what} is not a time: {error}") from error


def stamp(moment: datetime) -> Timestamp:
    wire = Timestamp()
    wire.FromDatetime(moment)
    return wire


def match_to_wire(each: Match) -> pb.Match:
    """Stored text goes out marked as untrusted, with its source."""
    return pb.Match(
        experience=experience_to_wire(each.experience),
        cosine=each.cosine,
        near=each.near,
        why=each.why,
        standing=WIRE_STANDINGS[each.standing],
        because_of=each.because_of,
        copies=each.copies,
        source=source_of(each.experience),
        untrusted=True,
        harmful=each.harmful,
    )


def summary_to_wire(each: Summary) -> pb.ProcedureSummary:
    return pb.ProcedureSummary(
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


def stand_to_wire(experience: Experience, each: Stand) -> pb.Stood:
    return pb.Stood(
        experience=experience_to_wire(experience),
        standing=WIRE_STANDINGS[each.standing],
        because_of=each.because_of,
        reason=each.reason,
        caller=each.caller,
        at=stamp(parse_iso(each.recorded_at)),
    )
