"""What the broker lets through: verb × service × rate, each answer with a reason and an audit line."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from chassis.audit import Audit
from chassis.clock import Clock
from chassis.errors import CalyxError, NotFound, Refused, ResourceExhausted
from chassis.layout import SERVICES
from services.guardian.broker.engine import Container

log = structlog.get_logger(__name__)

ACTS = ("start", "stop", "restart")
HEALED = tuple(service for service in SERVICES if service != "guardian")
"""The guardian and the broker itself are Docker's to restart, not the guardian's."""
STATION_WIDE = "*"


class Containers(Protocol):
    """The engine as the broker needs it."""

    def containers(self, station: str) -> list[Container]: ...
    def state(self, container: Container) -> dict[str, Any]: ...
    def act(self, container: Container, verb: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A bucket of `burst`, filled again at one per `every_seconds`."""

    burst: float
    every_seconds: float


RATES: Mapping[str, Rate] = {
    "act": Rate(burst=20, every_seconds=3),
    "state": Rate(burst=60, every_seconds=0.2),
}
"""Per target. Enough for twenty kills in a row, too little for a loop gone wild."""


class Buckets:
    """Token buckets on a monotonic clock. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, kind: str, target: str) -> None:
        """Raises ResourceExhausted when the bucket is empty."""
        rate, now = RATES[kind], self._clock.monotonic()
        with self._lock:
            left, at = self._left.get((kind, target), (rate.burst, now))
            left = min(rate.burst, left + (now - at) / rate.every_seconds)
            if left < 1:
                self._left[kind, target] = (left, now)
                raise ResourceExhausted(f"too many requests for {target}; one every {rate.every_seconds:g} s is served")
            self._left[kind, target] = (left - 1, now)


class Broker:
    """Decides and does. `run` starts what may take long (a stop waits for the process) off the request."""

    def __init__(
        self,
        engine: Containers,
        station: str,
        clock: Clock,
        audit: Audit,
        run: Callable[[Callable[[], None]], None],
        targets: Sequence[str] = HEALED,
    ) -> None:
        self._engine, self._station, self._audit, self._run = engine, station, audit, run
        self._targets = tuple(targets)
        self._buckets = Buckets(clock)

    def handle(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """One request: HTTP status and body. Every request but a granted look leaves an audit line."""
        try:
            return self._route(method, path)
        except CalyxError as error:
            self._note("broker.refused", method=method[:16], path=path[:200], reason=error.message)
            status = {NotFound: 404, ResourceExhausted: 429, Refused: 403}.get(type(error), 502)
            return status, {"reason": error.message}

    def _route(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        parts = path.strip("/").split("/")
        if (method, parts) == ("GET", ["v1", "targets"]):
            self._buckets.take("state", STATION_WIDE)
            found = {each.service for each in self._engine.containers(self._station)}
            return 200, {"targets": [target for target in self._targets if target in found]}
        if len(parts) not in (3, 4) or parts[:2] != ["v1", "targets"]:
            raise Refused("this broker has /v1/targets only")
        if parts[2] not in self._targets:
            raise NotFound(f"{parts[2][:64]!r} is not a target of this broker")
        if method == "GET" and len(parts) == 3:
            self._buckets.take("state", parts[2])
            return 200, self._engine.state(self._container(parts[2]))
        if method == "POST" and len(parts) == 4 and parts[3] in ACTS:
            self._buckets.take("act", parts[2])
            return self._act(self._container(parts[2]), parts[3])
        raise Refused(f"{method[:16]} {'/'.join(parts[3:])[:64]!r} is not allowed; the verbs are {', '.join(ACTS)}")

    def _act(self, container: Container, verb: str) -> tuple[int, dict[str, Any]]:
        facts = {"verb": verb, "target": container.service, "container": container.id[:12]}
        self._note("broker.accepted", **facts)

        def work() -> None:
            try:
                self._engine.act(container, verb)
            except CalyxError as error:
                self._note("broker.failed", **facts, reason=error.message)
            else:
                self._note("broker.done", **facts)

        self._run(work)
        return 202, {"accepted": True}

    def _note(self, event: str, **facts: str) -> None:
        try:
            self._audit.write(event, **facts)
        except OSError as error:
            # A full disk is when healing is needed most; the container's log still has the line.
            log.error("audit line could not be written", audit_event=event, failed=str(error), facts=facts)

    def _container(self, service: str) -> Container:
        found = [each for each in self._engine.containers(self._station) if each.service == service]
        if not found:
            raise NotFound(f"no container with the labels of {service} in station {self._station}")
        if len(found) > 1:
            raise Refused(f"{len(found)} containers carry the labels of {service}; remove the stray ones")
        return found[0]
