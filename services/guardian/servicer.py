"""GuardianService on the wire: decode, ask, encode."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from calyx.guardian.v1 import guardian_pb2 as pb
from calyx.guardian.v1 import guardian_pb2_grpc

from chassis.errors import InvalidInput
from chassis.executor import Executor
from chassis.rpc.auth import caller
from services.guardian.guardian import Guardian
from services.guardian.health import Health
from services.guardian.incidents import Class
from services.guardian.playbooks import Playbook
from services.guardian.records import Incident

FULL_NAME = "calyx.guardian.v1.GuardianService"
_READERS = frozenset({"cbo", "governor", "memory", "analytics", "dashboard", "operator"})
_PERSON = frozenset({"operator", "dashboard"})
ALLOW: Mapping[str, frozenset[str]] = {
    "ReportIncident": _READERS,
    "ListIncidents": _READERS,
    "GetIncident": _READERS,
    "ListPlaybooks": _READERS,
    "RunPlaybook": _PERSON,
    "ReleaseQuarantine": _PERSON,
    "GetHealth": _READERS,
}
DEFAULT_LIMIT, MAX_LIMIT = 50, 500

CLASSES: Mapping[Class, pb.IncidentClass.ValueType] = {
    Class.MINOR: pb.INCIDENT_CLASS_MINOR,
    Class.MAJOR: pb.INCIDENT_CLASS_MAJOR,
    Class.CRITICAL: pb.INCIDENT_CLASS_CRITICAL,
}


class GuardianServicer(guardian_pb2_grpc.GuardianServiceServicer):
    """`who` says who asks; the authenticated caller unless a test says otherwise."""

    def __init__(self, guardian: Guardian, executor: Executor, who: Callable[[], str] = caller) -> None:
        self._guardian, self._executor, self._who = guardian, executor, who

    async def ReportIncident(self, request: pb.ReportIncidentRequest, context: Any) -> pb.ReportIncidentResponse:
        severity = _class(getattr(request, "class"))
        incident = await self._executor.run(
            self._guardian.report, request.target, request.symptom, severity, self._who()
        )
        return pb.ReportIncidentResponse(incident=incident_to_wire(incident))

    async def ListIncidents(self, request: pb.ListIncidentsRequest, context: Any) -> pb.ListIncidentsResponse:
        if request.limit < 0:
            raise InvalidInput("limit is at least 0 (0: the default)")
        found = await self._executor.run(
            self._guardian.incidents,
            limit=min(request.limit or DEFAULT_LIMIT, MAX_LIMIT),
            open_only=request.open_only,
            since=_moment(request, "since"),
        )
        return pb.ListIncidentsResponse(incidents=[incident_to_wire(each) for each in found])

    async def GetIncident(self, request: pb.GetIncidentRequest, context: Any) -> pb.GetIncidentResponse:
        incident = await self._executor.run(self._guardian.incident, request.id)
        return pb.GetIncidentResponse(incident=incident_to_wire(incident))

    async def ListPlaybooks(self, request: pb.ListPlaybooksRequest, context: Any) -> pb.ListPlaybooksResponse:
        found = await self._executor.run(self._guardian.playbooks)
        return pb.ListPlaybooksResponse(playbooks=[playbook_to_wire(each) for each in found])

    async def RunPlaybook(self, request: pb.RunPlaybookRequest, context: Any) -> pb.RunPlaybookResponse:
        done, detail = await self._executor.run(
            self._guardian.run_playbook, request.name, request.target, dry_run=request.dry_run, by=self._who()
        )
        return pb.RunPlaybookResponse(done=done, detail=detail)

    async def ReleaseQuarantine(
        self, request: pb.ReleaseQuarantineRequest, context: Any
    ) -> pb.ReleaseQuarantineResponse:
        released = await self._executor.run(self._guardian.release, request.target, self._who())
        return pb.ReleaseQuarantineResponse(released=released)

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:
        overview = await self._executor.run(self._guardian.health, _moment(request, "slots_since"))
        response = pb.GetHealthResponse(
            services=[health_to_wire(row) for row in overview.services], quarantined=overview.quarantined
        )
        for slot in overview.slots:
            response.slots.add(state=slot.state).start.FromDatetime(slot.start)
        response.slots_from.FromDatetime(overview.slots_from)
        return response


def incident_to_wire(incident: Incident) -> pb.Incident:
    """The proto's incident; what is not over yet stays unset."""
    wire = pb.Incident(
        id=incident.id,
        target=incident.target,
        symptom=incident.symptom,
        detected_seconds=incident.detected_seconds,
        recovered_seconds=incident.recovered_seconds,
        recovery=pb.Recovery(playbook=incident.playbook, action=incident.action, attempts=incident.attempts),
        causes=[
            pb.Cause(cause=c.cause, confidence=c.confidence, evidence=c.evidence, disproved_by=c.disproved_by)
            for c in incident.causes
        ],
        reported_by=incident.reported_by,
    )
    setattr(wire, "class", CLASSES[incident.severity])
    wire.opened_at.FromDatetime(incident.opened_at)
    if incident.closed_at is not None:
        wire.closed_at.FromDatetime(incident.closed_at)
    if incident.action_at is not None:
        wire.recovery.started_at.FromDatetime(incident.action_at)
    if incident.recovered_at is not None:
        wire.recovery.recovered_at.FromDatetime(incident.recovered_at)
    return wire


def health_to_wire(row: Health) -> pb.ServiceHealth:
    """Ages of what was never probed are unset (probed_at says so)."""
    wire = pb.ServiceHealth(
        service=row.service,
        state=row.state,
        age_seconds=row.age_seconds or 0.0,
        pid=row.pid,
        version=row.version,
        uptime_seconds=row.uptime_seconds,
        detail=row.detail,
    )
    if row.probed_at is not None:
        wire.probed_at.FromDatetime(row.probed_at)
    if row.last_up_at is not None:
        wire.last_up_at.FromDatetime(row.last_up_at)
    return wire


def playbook_to_wire(playbook: Playbook) -> pb.Playbook:
    return pb.Playbook(
        name=playbook.name,
        description=playbook.description,
        answers=playbook.answers.name.lower(),
        action=playbook.action,
        cooldown_seconds=playbook.cooldown_seconds,
        max_attempts=playbook.max_attempts,
    )


def _class(value: int) -> Class:
    """Not said counts as minor."""
    try:
        return Class(value) if value else Class.MINOR
    except ValueError as error:
        raise InvalidInput(f"incident class {value} is none") from error


def _moment(request: Any, name: str) -> datetime | None:
    return getattr(request, name).ToDatetime(tzinfo=UTC) if request.HasField(name) else None
