"""Planned downtime: the windows that `calyx down` and `calyx up` write to guardian/maintenance.jsonl."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from chassis.atomic import FileState, file_state, whole_lines
from chassis.clock import parse_iso

log = structlog.get_logger(__name__)

OPEN_FOR_AT_MOST = timedelta(minutes=10)
"""A window nobody closed stops holding the guardian back after this: a `down` that died must not end healing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """`end` None: not over yet, as far as the file says."""

    start: datetime
    end: datetime | None


class Maintenance:
    """Reads the file again only when it changed. A later line with the same `from` replaces the earlier."""

    def __init__(self, file: Path, guardian_started: datetime) -> None:
        self._file, self._guardian_started = file, guardian_started
        self._seen: FileState | None = None
        self._windows: tuple[Window, ...] = ()

    def covers(self, moment: datetime) -> bool:
        """Whether `moment` was planned downtime; an open window ends when the guardian started again."""
        return any(window.start <= moment < self._end(window) for window in self._read())

    def _end(self, window: Window) -> datetime:
        if window.end is not None:
            return window.end
        if window.start < self._guardian_started:
            return self._guardian_started
        return window.start + OPEN_FOR_AT_MOST

    def _read(self) -> tuple[Window, ...]:
        try:
            state = file_state(self._file)
        except FileNotFoundError:
            return ()
        if self._seen != state:
            windows: dict[datetime, Window] = {}
            for line in whole_lines(self._file):
                try:
                    value = json.loads(line)
                    start = parse_iso(value["from"])
                    end = parse_iso(value["to"]) if value.get("to") else None
                    windows[start] = Window(start=start, end=end)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    log.warning("a maintenance line can't be read; it counts for nothing", error=str(error))
            self._windows = tuple(windows.values())
            self._seen = state
        return self._windows
