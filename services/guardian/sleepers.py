"""Who sleeps: the governor's leases, asked for rarely and only as good as its last answer."""

import threading
from collections.abc import Callable, Sequence

import structlog

from chassis.clock import Clock
from chassis.errors import CalyxError
from chassis.worker import LeaseView

log = structlog.get_logger(__name__)


class Sleepers:
    """Leases by target, at most `max_age_seconds` old; without an answer of the governor nobody is known to sleep."""

    def __init__(
        self, leases: Callable[[], Sequence[LeaseView]], clock: Clock, *, max_age_seconds: float = 10.0
    ) -> None:
        self._leases, self._clock, self._max_age = leases, clock, max_age_seconds
        self._lock = threading.Lock()
        self._asked: float | None = None
        self._known: tuple[LeaseView, ...] = ()

    def lease_on(self, target: str) -> LeaseView | None:
        """The lease on an agent or domain, a sleep before a throttle."""
        found = [lease for lease in self._now() if lease.target == target]
        return min(found, key=lambda lease: lease.kind != "sleep", default=None)

    def sleeping(self) -> frozenset[str]:
        return frozenset(lease.target for lease in self._now() if lease.kind == "sleep")

    def _now(self) -> tuple[LeaseView, ...]:
        with self._lock:
            mono = self._clock.monotonic()
            if self._asked is None or mono - self._asked >= self._max_age:
                self._asked = mono
                try:
                    self._known = tuple(self._leases())
                except CalyxError as error:
                    self._known = ()
                    log.debug("the governor's leases are not known", why=error.message)
            now = self._clock.now()
            return tuple(lease for lease in self._known if lease.until is None or lease.until > now)
