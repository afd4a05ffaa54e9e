"""Incidents as they are kept: one JSON file each, written whole."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from chassis.atomic import read_json, write_json
from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.errors import NotFound
from chassis.ids import Ids
from services.guardian.causes import Cause
from services.guardian.incidents import Class

log = structlog.get_logger(__name__)

KEPT_IN_MEMORY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A fault seen. Open while `closed_at` is None; `recovered_seconds` is None unless the target answered again."""

    id: str
    severity: Class
    target: str
    symptom: str
    opened_at: datetime
    reported_by: str = "guardian"
    closed_at: datetime | None = None
    detected_seconds: float = 0.0
    recovered_seconds: float | None = None
    playbook: str = ""
    action: str = "none"
    action_at: datetime | None = None
    recovered_at: datetime | None = None
    attempts: int = 0
    causes: tuple[Cause, ...] = ()

    @property
    def open(self) -> bool:
        return self.closed_at is None

    @property
    def touched_at(self) -> datetime:
        """When it was opened or closed last."""
        return self.closed_at or self.opened_at

    def to_json(self) -> Json:
        def moment(value: datetime | None) -> str | None:
            return None if value is None else iso(value)

        return {
            "schema": "calyx.incident/1",
            "id": self.id,
            "class": self.severity.name.lower(),
            "target": self.target,
            "symptom": self.symptom,
            "opened_at": iso(self.opened_at),
            "closed_at": moment(self.closed_at),
            "detected_s": self.detected_seconds,
            "recovered_s": self.recovered_seconds,
            "recovery": {
                "playbook": self.playbook,
                "action": self.action,
                "started_at": moment(self.action_at),
                "recovered_at": moment(self.recovered_at),
                "attempts": self.attempts,
            },
            "root_cause": {"ranked": [cause.to_json() for cause in self.causes]},
            "reported_by": self.reported_by,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Incident":
        """Raises KeyError, TypeError, ValueError for what is no incident."""

        def moment(text: str | None) -> datetime | None:
            return None if text is None else parse_iso(text)

        recovery = value["recovery"]
        return cls(
            id=value["id"],
            severity=Class[value["class"].upper()],
            target=value["target"],
            symptom=value["symptom"],
            opened_at=parse_iso(value["opened_at"]),
            closed_at=moment(value["closed_at"]),
            detected_seconds=value["detected_s"],
            recovered_seconds=value["recovered_s"],
            playbook=recovery["playbook"],
            action=recovery["action"],
            action_at=moment(recovery["started_at"]),
            recovered_at=moment(recovery["recovered_at"]),
            attempts=recovery["attempts"],
            causes=tuple(
                Cause(
                    cause=c["cause"],
                    confidence=c["confidence"],
                    evidence=tuple(c["evidence"]),
                    disproved_by=c["disproved_by"],
                )
                for c in value["root_cause"]["ranked"]
            ),
            reported_by=value["reported_by"],
        )


class Incidents:
    """The store. A file that can't be read is logged and left as it is; the newest thousand are in memory."""

    def __init__(self, folder: Path, ids: Ids) -> None:
        self._folder, self._ids = folder, ids
        self._lock = threading.RLock()
        self._kept: dict[str, Incident] = {}
        self._open: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("inc-*.json"))[-KEPT_IN_MEMORY:]:
            try:
                incident = Incident.from_json(read_json(path))
                self._index(incident)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("an incident file can't be read; it stays as it is", file=path.name, error=str(error))

    def open(self, incident: Incident) -> Incident:
        """Give it an id (in order of time) and keep it."""
        suffix = self._ids.new("inc").rsplit("-", 1)[1][-8:]
        named = replace(incident, id=f"inc-{incident.opened_at:%Y%m%dt%H%M%S%f}-{suffix}")
        self._keep(named)
        return named

    def change(self, incident_id: str, change: Callable[[Incident], Incident]) -> Incident:
        with self._lock:
            changed = change(self.get(incident_id))
            self._keep(changed)
            return changed

    def get(self, incident_id: str) -> Incident:
        """Raises NotFound."""
        with self._lock:
            if incident_id not in self._kept:
                raise NotFound(f"no incident {incident_id!r}; `calyx incident list` shows them", id=incident_id)
            return self._kept[incident_id]

    def open_on(self, target: str) -> Incident | None:
        with self._lock:
            found = self._open.get(target)
            return None if found is None else self._kept[found]

    def newest(
        self, *, limit: int = 50, open_only: bool = False, since: datetime | None = None, target: str | None = None
    ) -> list[Incident]:
        """Newest first; `since`: only those opened or closed later."""
        with self._lock:
            found = [
                i
                for i in sorted(self._kept.values(), key=lambda i: (i.opened_at, i.id), reverse=True)
                if (not open_only or i.open)
                and (since is None or i.touched_at > since)
                and (target is None or i.target == target)
            ]
        return found[:limit]

    def _keep(self, incident: Incident) -> None:
        with self._lock:
            self._index(incident)
            if len(self._kept) > KEPT_IN_MEMORY:
                self._kept.pop(next(i.id for i in self._kept.values() if not i.open))
            # In memory first: on a full disk the guardian still has to heal and to tell.
            try:
                write_json(self._folder / f"{incident.id}.json", incident.to_json())
            except OSError as error:
                log.error("an incident could not be written", incident=incident.id, error=str(error))

    def _index(self, incident: Incident) -> None:
        self._kept[incident.id] = incident
        if incident.open:
            self._open[incident.target] = incident.id
        elif self._open.get(incident.target) == incident.id:
            del self._open[incident.target]
