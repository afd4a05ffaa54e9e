"""Collects what can be known when a fault is seen. Reads only; what can't be read stays unknown."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import psutil

from chassis.clock import parse_iso
from chassis.logging import redact_text

TAIL_BYTES = 64 * 1024
MAX_LINES = 5
RECENT = timedelta(minutes=2)


class Machine(Protocol):
    """Readings of this moment; None where there is none."""

    def ram_percent(self) -> float | None: ...
    def disk_percent(self) -> float | None: ...
    def disk_free_bytes(self) -> int | None: ...
    def booted_at(self) -> datetime | None: ...


class HostMachine:
    """psutil and the file system of the station folder."""

    def __init__(self, station: Path, ram: Callable[[], float] | None = None) -> None:
        self._station = station
        self._ram = ram or (lambda: float(psutil.virtual_memory().percent))

    def ram_percent(self) -> float | None:
        try:
            return self._ram()
        except OSError:
            return None

    def disk_percent(self) -> float | None:
        try:
            usage = shutil.disk_usage(self._station)
        except OSError:
            return None
        return 100.0 * usage.used / usage.total if usage.total else None

    def disk_free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self._station).free
        except OSError:
            return None

    def booted_at(self) -> datetime | None:
        return datetime.fromtimestamp(psutil.boot_time(), UTC)


class UnknownMachine:
    """Knows nothing, as on a virtual station."""

    def ram_percent(self) -> float | None:
        return None

    def disk_percent(self) -> float | None:
        return None

    def disk_free_bytes(self) -> int | None:
        return None

    def booted_at(self) -> datetime | None:
        return None


def last_words(folder: Path, service: str, now: datetime) -> tuple[str, ...]:
    """The last errors of a service within two minutes: from its log, then what Python itself said at its end."""
    output = folder / f"{service}.out"
    try:
        fresh = now.timestamp() - output.stat().st_mtime <= RECENT.total_seconds()
        lines = output.read_bytes()[-TAIL_BYTES:].decode(errors="replace").split("\n") if fresh else []
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    last = (redact_text(said[-1])[:300],) if said else ()
    return (*last_errors(folder / f"{service}.log", now), *last)[-MAX_LINES:]


def last_errors(log_file: Path, now: datetime) -> tuple[str, ...]:
    """The last error events of a service's JSON log within two minutes, oldest first, one short line each."""
    try:
        with log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - TAIL_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return ()
    found: list[str] = []
    for raw in lines:
        try:
            entry = json.loads(raw)
            if entry.get("level") not in ("error", "critical"):
                continue
            at = parse_iso(str(entry["at"]))
        except (ValueError, KeyError, AttributeError):
            continue
        if now - at <= RECENT:
            why = entry.get("why") or entry.get("error") or str(entry.get("exception", "")).strip().rsplit("\n", 1)[-1]
            found.append(f"{entry.get('event', '')}: {why}"[:300] if why else str(entry.get("event", ""))[:300])
    return tuple(found[-MAX_LINES:])
