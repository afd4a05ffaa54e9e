"""What the guardian still knows after its own restart: quarantines, open outages, recent recoveries, how it ended."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog

from chassis.atomic import read_json, write_json
from chassis.canonical import canonical_json
from chassis.clock import iso, parse_iso
from services.guardian.incidents import Class, Outage, Terms, Track
from services.guardian.records import Incidents
from services.guardian.slots import OpenSlot

log = structlog.get_logger(__name__)

_LINE_BYTES = 256
"""More than a sign of life ever takes."""


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
    """guardian/running: there while the guardian runs, overwritten each round, removed when it stops in order.

    One padded line, written in place by one write: a kill leaves the line before or the line after.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fd: int | None = None

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
        value = {
            "at": iso(sign.at), "slot": iso(sign.slot.start), "rounds": sign.slot.rounds, "up": sign.slot.up_rounds
        }  # fmt: skip
        try:
            if self._fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._file, flags, 0o644)
            os.pwrite(self._fd, canonical_json(value).ljust(_LINE_BYTES - 1) + b"\n", 0)
        except OSError as error:
            log.error("guardian/running can't be written", error=str(error))

    def end(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
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
