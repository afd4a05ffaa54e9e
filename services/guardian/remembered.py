"""What the guardian still knows after its own restart: quarantines, open outages, recent recoveries, how it ended."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from chassis.atomic import read_json, write_json, write_whole
from chassis.clock import iso
from services.guardian.incidents import Class, Outage, Terms, Track
from services.guardian.records import Incidents

log = structlog.get_logger(__name__)


class Quarantine:
    """guardian/quarantine.json: who is kept stopped."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> frozenset[str]:
        try:
            return frozenset(read_json(self._file)["targets"])
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, KeyError, TypeError) as error:
            # The target stays stopped in the runtime; it will be started as any stopped one, and seen if it is bad.
            log.error("quarantine.json can't be read; nothing counts as quarantined", error=str(error))
            return frozenset()

    def keep(self, targets: Sequence[str], now: datetime) -> None:
        write_json(self._file, {"targets": sorted(targets), "written_at": iso(now)})


class Running:
    """guardian/running: there while the guardian runs, removed when it stops in order, touched as it lives."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self, now: datetime) -> datetime | None:
        """When the guardian was last alive, if it did not stop in order; None after a clean stop or the first start."""
        try:
            last = datetime.fromtimestamp(self._file.stat().st_mtime, UTC)
        except FileNotFoundError:
            last = None
        write_whole(self._file, f"since {iso(now)}\n".encode())
        return last

    def alive(self) -> None:
        try:
            self._file.touch()
        except OSError as error:
            log.error("guardian/running can't be touched", error=str(error))

    def end(self) -> None:
        self._file.unlink(missing_ok=True)


def track_of(
    target: str, incidents: Incidents, quarantined: frozenset[str], terms: Terms, *, mono: float, now: datetime
) -> Track:
    """What the record says of a target. A start that an earlier guardian asked for is judged anew."""
    track = Track(target=target, started=mono)
    for incident in incidents.newest(limit=200, target=target):
        if incident.recovered_at is not None and incident.action != "none":
            ago = max(0.0, (now - incident.recovered_at).total_seconds())
            if ago < terms.again_seconds:
                track = replace(track, last_recovered=mono - ago)
            break
    incident_open = incidents.open_on(target)
    if incident_open is not None and incident_open.action != "none":
        outage = Outage(severity=incident_open.severity, since=mono, due=mono, attempts=incident_open.attempts)
        track = replace(track, outage=outage)
    if target in quarantined:
        outage = track.outage or Outage(severity=Class.CRITICAL, since=mono, due=mono)
        track = replace(track, quarantined=True, outage=outage)
    return track
