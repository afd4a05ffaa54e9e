"""The ports over gRPC: generated stubs on a real channel or a local one, as each is given."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import grpc
from calyx.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from calyx.common.v1 import common_pb2
from calyx.governor.v1 import governor_pb2, governor_pb2_grpc
from calyx.guardian.v1 import guardian_pb2, guardian_pb2_grpc
from calyx.memory.v1 import memory_pb2, memory_pb2_grpc
from calyx.probe.v1 import probe_pb2, probe_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.canonical import Json
from services.cbo.ports import (
    Capacity,
    Compared,
    Experience,
    Health,
    Incident,
    Intent,
    Judgement,
    Moment,
    Outcome,
    Peers,
    Probed,
    Reading,
    Recalled,
    Recollection,
    ServiceState,
    Summary,
    Told,
    Trends,
    Verdict,
)

READ_SECONDS = 1.0
"""One reading. A pulse waits at most this long, once, for each service that does not give one."""
SHORT_SECONDS = 2.0
"""Recall (which embeds), and what memory stores."""
PROBE_SECONDS = 5.0

_STATES: Mapping[int, Literal["ok", "stale", "unknown", "absent"]] = {
    common_pb2.FIGURE_STATE_OK: "ok",
    common_pb2.FIGURE_STATE_STALE: "stale",
    common_pb2.FIGURE_STATE_UNKNOWN: "unknown",
    common_pb2.FIGURE_STATE_ABSENT: "absent",
}
_GRADES = {
    guardian_pb2.INCIDENT_CLASS_MINOR: "minor",
    guardian_pb2.INCIDENT_CLASS_MAJOR: "major",
    guardian_pb2.INCIDENT_CLASS_CRITICAL: "critical",
}
_VERDICTS: Mapping[int, Literal["confirmed", "refuted", "inconclusive"]] = {
    probe_pb2.VERDICT_CONFIRMED: "confirmed",
    probe_pb2.VERDICT_REFUTED: "refuted",
}
_MOMENTS: "Mapping[Moment, probe_pb2.Moment.ValueType]" = {
    "before": probe_pb2.MOMENT_BEFORE,
    "anew": probe_pb2.MOMENT_ANEW,
    "after": probe_pb2.MOMENT_AFTER,
}
_OUTCOMES: "Mapping[Outcome, memory_pb2.Outcome.ValueType]" = {
    "success": memory_pb2.OUTCOME_SUCCESS,
    "failure": memory_pb2.OUTCOME_FAILURE,
    "unknown": memory_pb2.OUTCOME_UNKNOWN,
    "no_work": memory_pb2.OUTCOME_NO_WORK,
}
_OUTCOME_NAMES: Mapping[int, Outcome] = {int(value): name for name, value in _OUTCOMES.items()}
_STANDINGS = {
    memory_pb2.STANDING_VALID: "valid",
    memory_pb2.STANDING_SUPERSEDED: "superseded",
    memory_pb2.STANDING_INVALIDATED: "invalidated",
}
_JUDGED: "Mapping[Verdict, memory_pb2.Verdict.ValueType]" = {
    "useful": memory_pb2.VERDICT_USEFUL,
    "harmful": memory_pb2.VERDICT_HARMFUL,
}


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def reading(figure: common_pb2.Figure) -> Reading:
    state = _STATES.get(figure.state, "unknown")
    usable = figure.HasField("value") and state in ("ok", "stale")
    return Reading(
        value=figure.value if usable else None,
        state=state if usable or state == "absent" else "unknown",
        unit=figure.unit,
        age_seconds=figure.age_seconds,
        coverage=figure.coverage if figure.HasField("coverage") else None,
        note=figure.note,
    )


class GovernorPeer:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = governor_pb2_grpc.GovernorServiceStub(channel)

    def capacity(self, pulse_id: str) -> Capacity:
        answer = self._stub.GetCapacity(governor_pb2.GetCapacityRequest(pulse_id=pulse_id), timeout=READ_SECONDS)
        found = answer.capacity
        return Capacity(
            readings={
                name: reading(getattr(found, name))
                for name in ("cpu_percent", "ram_percent", "swap_percent", "disk_percent")
            },
            intents=tuple(
                Intent(id=each.id, kind=each.kind, domain=each.domain, reason=each.reason) for each in answer.intents
            ),
        )

    def admit(self, task_id: str, domain: str, owner: str) -> tuple[bool, str]:
        request = governor_pb2.AdmitRequest(task_id=task_id, domain=domain, owner=owner)
        answer = self._stub.Admit(request, timeout=READ_SECONDS)
        return answer.admitted, answer.reason


class GuardianPeer:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = guardian_pb2_grpc.GuardianServiceStub(channel)

    def health(self, slots_since: datetime) -> Health:
        request = guardian_pb2.GetHealthRequest(slots_since=_stamp(slots_since))
        answer = self._stub.GetHealth(request, timeout=READ_SECONDS)
        return Health(
            services=tuple(
                ServiceState(
                    service=each.service, state=each.state or "unknown", age_seconds=each.age_seconds,
                    detail=each.detail,
                )
                for each in answer.services
            ),
            slots={_time(each.start): _slot(each.state) for each in answer.slots},
            slots_from=_time(answer.slots_from) if answer.HasField("slots_from") else None,
        )  # fmt: skip

    def incidents(self, since: datetime) -> tuple[Incident, ...]:
        request = guardian_pb2.ListIncidentsRequest(limit=50, since=_stamp(since))
        answer = self._stub.ListIncidents(request, timeout=READ_SECONDS)
        return tuple(_incident(each) for each in answer.incidents)

    def open_incidents(self) -> tuple[Incident, ...]:
        request = guardian_pb2.ListIncidentsRequest(limit=50, open_only=True)
        answer = self._stub.ListIncidents(request, timeout=READ_SECONDS)
        return tuple(_incident(each) for each in answer.incidents)

    def report(self, target: str, symptom: str) -> None:
        critical = {"class": guardian_pb2.INCIDENT_CLASS_CRITICAL}
        request = guardian_pb2.ReportIncidentRequest(target=target, symptom=symptom, **critical)
        self._stub.ReportIncident(request, timeout=SHORT_SECONDS)


def _slot(state: str) -> Literal["up", "down", "unknown", "maintenance"]:
    known = state in ("up", "down", "unknown", "maintenance")
    return cast(Literal["up", "down", "unknown", "maintenance"], state) if known else "unknown"


def _incident(found: guardian_pb2.Incident) -> Incident:
    return Incident(
        id=found.id,
        grade=_GRADES.get(getattr(found, "class"), "unknown"),
        target=found.target,
        symptom=found.symptom,
        opened_at=_time(found.opened_at),
        closed_at=_time(found.closed_at) if found.HasField("closed_at") else None,
        action=f"{found.recovery.playbook}: {found.recovery.action}" if found.recovery.playbook else "nothing yet",
        recovered_seconds=found.recovered_seconds if found.HasField("recovered_seconds") else None,
        causes=tuple(
            {
                "cause": each.cause,
                "confidence": each.confidence,
                "evidence": list(each.evidence),
                "disproved_by": each.disproved_by,
            }
            for each in found.causes
        ),
    )


class AnalyticsPeer:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = analytics_pb2_grpc.AnalyticsServiceStub(channel)

    def trends(self) -> Trends:
        answer = self._stub.GetTrends(analytics_pb2.GetTrendsRequest(without_series=True), timeout=READ_SECONDS)
        known = answer.HasField("analyzed_at")
        return Trends(summary=answer.summary, age_seconds=answer.age_seconds if known else None)


class ProbePeer:
    """`name` is the service behind the channel."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._stub = probe_pb2_grpc.ProbeServiceStub(channel)
        self._name = name

    def probe(self, task_id: str, domain: str, doer: str, claims: Sequence[Json]) -> Probed:
        checks = [_check(each) for each in claims]
        request = probe_pb2.ProbeRequest(task_id=task_id, domain=domain, doer=doer, checks=checks)
        answer = self._stub.Probe(request, timeout=PROBE_SECONDS)
        odd = [each.found for each in answer.findings if each.verdict != probe_pb2.VERDICT_CONFIRMED]
        shown = odd or [each.found for each in answer.findings]
        return Probed(
            verdict=_VERDICTS.get(answer.verdict, "inconclusive"),
            prober=answer.prober or self._name,
            found="; ".join(shown[:3])[:500],
        )

    def watch(self, task_ids: Sequence[str], doer: str, roots: Sequence[str], moment: Moment) -> str:
        request = probe_pb2.WatchRequest(task_ids=task_ids, doer=doer, roots=roots, moment=_MOMENTS[moment])
        return str(self._stub.Watch(request, timeout=PROBE_SECONDS).failed)

    def compare(self, task_id: str, doer: str, told: Told) -> Compared:
        request = probe_pb2.CompareRequest(
            task_id=task_id, doer=doer, others=told.others, grows=told.grows, must_change=told.must_change,
            declared=[
                probe_pb2.Change(**{key: str(each.get(key) or "") for key in ("op", "target", "to", "after_sha256")})
                for each in told.declared
            ],
        )  # fmt: skip
        answer = self._stub.Compare(request, timeout=PROBE_SECONDS)
        verdict = _VERDICTS.get(answer.verdict, "inconclusive")
        probed = Probed(verdict=verdict, prober=answer.prober or self._name, found=answer.found[:500])
        return Compared(probed=probed, undeclared=tuple(answer.undeclared))


def _check(claim: Json) -> probe_pb2.Check:
    expect = claim.get("expect")
    return probe_pb2.Check(
        kind=str(claim.get("kind", "")),
        target=str(claim.get("target", "")),
        expect={str(k): str(v) for k, v in expect.items()} if isinstance(expect, dict) else {},
    )


class MemoryPeer:
    def __init__(self, channel: grpc.Channel, station_id: str) -> None:
        self._stub = memory_pb2_grpc.MemoryServiceStub(channel)
        self._station_id = station_id

    def recall(self, objective: str, domain: str, limit: int, since: datetime | None = None) -> Recollection:
        after = None if since is None else _stamp(since)
        request = memory_pb2.RecallRequest(objective=objective, domain=domain, limit=limit, since=after)
        answer = self._stub.Recall(request, timeout=SHORT_SECONDS)
        return Recollection(
            matches=tuple(_recalled(each) for each in answer.matches),
            summaries=tuple(
                Summary(domain=each.domain, procedure=each.procedure, successes=each.successes, failures=each.failures)
                for each in answer.summaries
            ),
        )

    def record(self, experience: Experience) -> None:
        wire = memory_pb2.Experience(
            id=experience.id,
            station_id=self._station_id,
            origin="cbo",
            kind="task",
            objective=experience.objective,
            domain=experience.domain,
            procedure=experience.procedure,
            task_id=experience.task_id,
            pulse_id=experience.pulse_id,
            occurred_at=_stamp(experience.occurred_at),
            context=dict(experience.context),
            outcome=_OUTCOMES[experience.outcome],
            tes=experience.tes,
            duration_seconds=experience.duration_seconds,
            files_changed=experience.files_changed,
            confidence=experience.confidence,
            evidence=experience.evidence,
            cost=dict(experience.cost),
        )
        self._stub.RecordExperience(memory_pb2.RecordExperienceRequest(experience=wire), timeout=SHORT_SECONDS)

    def amend(self, experience_id: str, outcome: Outcome, evidence: str, amendment_id: str) -> None:
        request = memory_pb2.AmendOutcomeRequest(
            id=experience_id, outcome=_OUTCOMES[outcome], evidence=evidence, amendment_id=amendment_id
        )
        self._stub.AmendOutcome(request, timeout=SHORT_SECONDS)

    def judge(self, experience_id: str, judgement: Judgement) -> None:
        request = memory_pb2.FeedbackRequest(
            id=experience_id,
            verdict=_JUDGED[judgement.verdict],
            query=judgement.query,
            cosine=judgement.cosine,
            task_id=judgement.task_id,
        )
        self._stub.Feedback(request, timeout=SHORT_SECONDS)


def _recalled(match: memory_pb2.Match) -> Recalled:
    found = match.experience
    return Recalled(
        id=found.id,
        cosine=match.cosine,
        domain=found.domain,
        procedure=found.procedure,
        outcome=_OUTCOME_NAMES.get(found.outcome, "unknown"),
        tes=found.tes if found.HasField("tes") else None,
        rehearsal=found.context.get("rehearsal") == "true",
        objective=found.objective,
        at=_time(found.occurred_at) if found.HasField("occurred_at") else None,
        source=match.source,
        standing=_STANDINGS.get(match.standing, "unknown"),
        harmful=match.harmful,
    )


def peers_over(channels: Mapping[str, Any], station_id: str) -> Peers:
    """All ports over channels by service name: memory, governor, guardian, analytics."""
    return Peers(
        memory=MemoryPeer(channels["memory"], station_id),
        governor=GovernorPeer(channels["governor"]),
        guardian=GuardianPeer(channels["guardian"]),
        analytics=AnalyticsPeer(channels["analytics"]),
        probers={name: ProbePeer(channels[name], name) for name in ("guardian", "governor")},
    )
