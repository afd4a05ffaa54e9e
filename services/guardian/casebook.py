"""Opens, raises and closes incidents: evidence, root causes, audit lines, counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from chassis.audit import Audit
from chassis.clock import Clock
from chassis.layout import Layout
from chassis.runtime.port import TargetState
from services.guardian.causes import Evidence, root_cause
from services.guardian.configs import Configs
from services.guardian.evidence import Machine, last_words
from services.guardian.health import Probe
from services.guardian.incidents import Action, Class, Decision
from services.guardian.records import Incident, Incidents

log = structlog.get_logger(__name__)

STATION = "station"
"""Target of an incident that is nobody's own: more than half of the services down."""


class Tally(Protocol):
    """What is counted for Prometheus."""

    def opened(self, severity: Class) -> None: ...
    def acted(self, action: Action) -> None: ...
    def recovered(self, seconds: float) -> None: ...
    def slot(self, state: str) -> None: ...


class NoTally:
    """Counts nothing."""

    def opened(self, severity: Class) -> None:
        """Not counted."""

    def acted(self, action: Action) -> None:
        """Not counted."""

    def recovered(self, seconds: float) -> None:
        """Not counted."""

    def slot(self, state: str) -> None:
        """Not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Casebook:
    """The guardian's record of faults. Not locked: the guardian's lock is around it."""

    layout: Layout
    clock: Clock
    incidents: Incidents
    configs: Configs
    machine: Machine
    audit_log: Audit
    tally: Tally = field(default_factory=NoTally)

    def record(
        self,
        target: str,
        decision: Decision,
        probe: Probe,
        process: TargetState,
        *,
        silent_since: float,
        down_too: Sequence[str],
    ) -> Incident | None:
        """Write down what a decision means; the target's incident, if it has one. One incident per outage."""
        incident = self.incidents.open_on(target)
        outage = decision.track.outage
        if decision.opened and outage is not None and incident is None:
            evidence = self._evidence(target, probe, process, down_too)
            return self.open(
                target,
                f"{evidence.answer}; the runtime says: {process.detail or process.state}",
                outage.severity,
                evidence,
                detected_seconds=self.clock.monotonic() - silent_since,
            )
        if (decision.opened or decision.escalated) and outage is not None and incident is not None:
            return self.raise_to(incident, outage.severity)
        answers = probe.state == "serving" and not decision.track.quarantined
        if answers and incident is not None and (decision.closed or incident.severity < Class.CRITICAL):
            return self.close(incident)
        return incident

    def open(
        self,
        target: str,
        symptom: str,
        severity: Class,
        evidence: Evidence,
        *,
        by: str = "guardian",
        detected_seconds: float = 0.0,
    ) -> Incident:
        incident = self.incidents.open(
            Incident(
                id="",
                severity=severity,
                target=target,
                symptom=symptom,
                opened_at=self.clock.now(),
                reported_by=by,
                detected_seconds=round(detected_seconds, 3),
                causes=root_cause(evidence),
            )
        )
        self.tally.opened(severity)
        facts = {"incident": incident.id, "target": target, "severity": severity.name.lower(), "symptom": symptom}
        log.warning("incident opened", **facts, cause=incident.causes[0].cause)
        self.audit("incident.opened", **facts, by=by)
        return incident

    def open_mass(self, down: Sequence[str], of: int, playbook: str) -> Incident:
        """More than half of the services are down: one more incident, for a person to see."""
        process = TargetState(target=STATION, state="unknown", pid=None)
        silent = Probe(service=STATION, state="unreachable")
        evidence = replace(self._evidence(STATION, silent, process, down), answer=f"{len(down)} services are down")
        symptom = f"{len(down)} of {of} services are down: {', '.join(down)}"
        incident = self.open(STATION, symptom, Class.CRITICAL, evidence)
        return self.acted(incident, playbook, "restart")

    def raise_to(self, incident: Incident, severity: Class) -> Incident:
        """Never down."""
        if severity <= incident.severity:
            return incident
        self.tally.opened(severity)
        self.audit("incident.escalated", incident=incident.id, target=incident.target, to=severity.name.lower())
        return self.incidents.change(incident.id, lambda i: replace(i, severity=severity))

    def acted(self, incident: Incident, playbook: str, action: Action) -> Incident:
        now = self.clock.now()
        return self.incidents.change(
            incident.id,
            lambda i: replace(
                i, playbook=playbook, action=action, action_at=i.action_at or now, attempts=i.attempts + 1
            ),
        )

    def close(self, incident: Incident) -> Incident:
        """It answers again."""
        now = self.clock.now()
        seconds = round(max(0.0, (now - incident.opened_at).total_seconds()), 3)
        closed = self.incidents.change(
            incident.id, lambda i: replace(i, closed_at=now, recovered_at=now, recovered_seconds=seconds)
        )
        self.tally.recovered(seconds)
        log.info("incident closed", incident=closed.id, target=closed.target, recovered_seconds=seconds)
        self.audit("incident.closed", incident=closed.id, target=closed.target, recovered_seconds=seconds)
        return closed

    def let_go(self, incident: Incident, by: str) -> None:
        """A person closes what did not close itself."""
        now = self.clock.now()
        self.audit("incident.released", incident=incident.id, target=incident.target, by=by)
        self.incidents.change(incident.id, lambda i: replace(i, closed_at=now))

    def unclean_start(self, target: str, silent_since: datetime, evidence: Evidence) -> Incident:
        """The guardian's own: it was not stopped in order, and is back by the time it can say so."""
        seconds = max(0.0, (self.clock.now() - silent_since).total_seconds())
        symptom = "it was not stopped in order before this start"
        cut_short = self.incidents.open_on(target)  # by a kill between opening and closing it
        if cut_short is not None and cut_short.severity < Class.CRITICAL:
            self.close(cut_short)
        return self.close(self.open(target, symptom, Class.MINOR, evidence, detected_seconds=seconds))

    def audit(self, event: str, **facts: object) -> None:
        try:
            self.audit_log.write(event, **facts)
        except OSError as error:
            # A full disk must not keep the guardian from healing; the log line is what is left of the audit.
            log.error("audit line could not be written", audit_event=event, failed=str(error), facts=facts)

    def _evidence(self, target: str, probe: Probe, process: TargetState, down_too: Sequence[str]) -> Evidence:
        now = self.clock.now()
        return Evidence(
            target=target,
            answer=f"{probe.state}: {probe.detail}" if probe.detail else probe.state,
            process=process.state,
            process_detail=process.detail,
            exit_code=process.exit_code,
            signal=process.signal,
            oom_killed=process.oom_killed,
            ram_percent=self.machine.ram_percent(),
            disk_percent=self.machine.disk_percent(),
            disk_free_bytes=self.machine.disk_free_bytes(),
            config_changed_seconds=self.configs.changed_seconds(target, now),
            config_suspect=self.configs.suspect(target),
            down_too=tuple(down_too),
            recent_faults=len(self.incidents.newest(limit=50, since=now - timedelta(hours=1), target=target)),
            errors=last_words(self.layout.logs, target, now),
        )
