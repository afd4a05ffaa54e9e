"""What the guardian still knows after its own restart: quarantines, open outages, recent recoveries, how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog

from chassis.atomic import read_json, write_json
from chassis.clock import iso, parse_iso
from services.guardian.incidents import Class, Outage, Terms, Track
from services.guardian.records import Incidents
from services.guardian.slots import OpenSlot

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A sign of life: when it was given, and how far the uptime slot of that moment was."""

    at: datetime
    slot: OpenSlot


class Running:
    """guardian/running: there while the guardian runs, rewritten each round, removed when it stops in order."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def last(self) -> Sign | None:
        """The last sign of life of a run that did not stop in order; None after a clean stop or on a new station."""
        try:
            value = read_json(self._file)
            slot = OpenSlot(start=parse_iso(value["slot"]), rounds=int(value["rounds"]), up_rounds=int(value["up"]))
            return Sign(at=parse_iso(value["at"]), slot=slot)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("guardian/running can't be read; the end of the run before is not known", error=str(error))
            return None

    def alive(self, sign: Sign) -> None:
        """Not durable: after a power cut the slot is lost, and it is lost anyway then."""
        slot = {"slot": iso(sign.slot.start), "rounds": sign.slot.rounds, "up": sign.slot.up_rounds}
        try:
            write_json(self._file, {"at": iso(sign.at), **slot}, durable=False)
        except OSError as error:
            log.error("guardian/running can't be written", error=str(error))

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
