"""Once a day, at night: compaction, a verified backup, a fresh index. Recording and recall go on meanwhile.

The kill switch does not stop it: it changes nothing outside the memory's own folder (station.md, "Kill switch").
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from services.memory.store import Store
from services.memory.upkeep import Upkeep

log = structlog.get_logger(__name__)

EVERY_SECONDS = 60.0
"""How often it is asked whether it is time."""

SETTLE_SECONDS = 300.0
"""So long after a start nothing is done: the first pulses come first."""

RETRY_SECONDS = 3600.0
"""When something failed, the night is tried again after this."""

DONE = "nightly_at"
"""The key in `meta`: when a night was last done in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    due: bool
    reason: str


def due(now: datetime, last: datetime | None, hour: int) -> Due:
    """Whether the last night that has begun was done. A station that was off then does it when it is on again."""
    mark = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    if mark > now:
        mark -= timedelta(days=1)
    if last is None:
        return Due(due=True, reason="it was never done")
    if last > now:
        return Due(due=True, reason=f"it was last done at {iso(last)}, which is still to come: the clock went back")
    if last < mark:
        return Due(due=True, reason=f"it was last done at {iso(last)} and is due since {iso(mark)}")
    return Due(due=False, reason=f"it was done at {iso(last)}; next at {iso(mark + timedelta(days=1))}")


class Nightly:
    """`step` is called every minute. A part that fails is said, the others are done, and all is tried again later."""

    def __init__(self, *, upkeep: Upkeep, store: Store, clock: Clock, audit: Audit, backups: Path, hour: int) -> None:
        self._upkeep, self._store, self._clock, self._audit = upkeep, store, clock, audit
        self._backups, self._hour = backups, hour
        self._not_before = clock.monotonic() + SETTLE_SECONDS

    def step(self) -> None:
        if self._clock.monotonic() < self._not_before:
            return
        last = self._store.meta(DONE)
        found = due(self._clock.now(), parse_iso(last) if last else None, self._hour)
        if not found.due:
            return
        self._not_before = self._clock.monotonic() + RETRY_SECONDS
        failed = [name for name, part in self._parts() if not self._done(name, part)]
        if not failed and not self._done("its end", lambda: self._store.set_meta(DONE, iso(self._clock.now()))):
            failed = ["its end"]
        self._audit.write("memory.nightly", why=found.reason, failed=failed)

    def _parts(self) -> tuple[tuple[str, Callable[[], object]], ...]:
        return (
            ("compaction", lambda: self._upkeep.compact(dry_run=False)),
            ("backup", lambda: self._upkeep.backup(self._backups)),
            ("index", self._upkeep.rebuild_index),
        )

    def _done(self, name: str, part: Callable[[], object]) -> bool:
        try:
            part()
        except Exception:  # a full disk must not cost the other parts; it is said, and tried again
            log.exception("a part of the night's upkeep failed; it is tried again in an hour", part=name)
            return False
        return True
