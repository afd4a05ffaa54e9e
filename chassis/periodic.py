"""Work that repeats: on real threads in a service, in time order on a virtual station."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from chassis.clock import Clock, VirtualClock

log = structlog.get_logger(__name__)

TELL_AGAIN_SECONDS = 60.0
REST_SECONDS = 0.25
"""A thread that rests by other means than the clock looks this often whether it is to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic:
    """`step` is called every `every_seconds`; it is blocking and must be short against the interval.

    `rest` is how a thread waits in between: for at most so many seconds, True when the next step is due at once.
    """

    name: str
    every_seconds: float
    step: Callable[[], None]
    rest: Callable[[float], bool] | None = None


class Failures:
    """Steps in a row that raised: what is new is told with its traceback, what goes on in a line a minute."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._said, self._told_at, self._count = "", 0.0, 0

    def add(self, error: Exception) -> None:
        now, self._count = self._clock.monotonic(), self._count + 1
        if (said := repr(error)) != self._said:
            self._said, self._told_at = said, now
            log.error("periodic step failed", periodic=self._name, exc_info=error)
        elif now - self._told_at >= TELL_AGAIN_SECONDS:
            self._told_at = now
            log.error("periodic step still fails", periodic=self._name, why=said, times=self._count)

    def end(self) -> None:
        if self._count:
            log.info("periodic step works again", periodic=self._name, failed=self._count)
            self._said, self._count = "", 0


class PeriodicThreads:
    """One daemon thread per periodic on a real clock. A step that raises is logged, and the next one runs."""

    def __init__(self, periodics: Iterable[Periodic], clock: Clock) -> None:
        self._stop = threading.Event()
        self._clock = clock
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=each.name, daemon=True) for each in periodics
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, grace_seconds: float = 5.0) -> None:
        self._stop.set()
        deadline = self._clock.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _run(self, periodic: Periodic) -> None:
        due, failures = self._clock.monotonic(), Failures(periodic.name, self._clock)
        while not self._stop.is_set():
            try:
                periodic.step()
            except Exception as error:
                failures.add(error)
            else:
                failures.end()
            due = max(due + periodic.every_seconds, self._clock.monotonic())
            if periodic.rest is None:
                self._clock.wait(due - self._clock.monotonic(), self._stop)
            elif self._woken(periodic.rest, due):
                due = self._clock.monotonic()

    def _woken(self, rest: Callable[[float], bool], due: float) -> bool:
        while not self._stop.is_set() and (left := due - self._clock.monotonic()) > 0:
            if rest(min(left, REST_SECONDS)):
                return True
        return False


class VirtualSchedule:
    """The same periodics on a virtual clock, in one thread: due times in order, ties by the order added."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._due: dict[str, tuple[float, int, Periodic]] = {}
        self._added = 0

    def add(self, periodic: Periodic, *, first_in: float = 0.0) -> None:
        self._due[periodic.name] = (self._clock.monotonic() + first_in, self._added, periodic)
        self._added += 1

    def remove(self, name: str) -> None:
        self._due.pop(name, None)

    def run_until(self, monotonic: float) -> None:
        """Step everything that falls due up to and including `monotonic`; errors are the caller's to see."""
        while self._due:
            name, (due, order, periodic) = min(self._due.items(), key=lambda item: item[1][:2])
            if due > monotonic:
                break
            self._clock.advance(max(0.0, due - self._clock.monotonic()))
            self._due[name] = (due + periodic.every_seconds, order, periodic)
            periodic.step()
        self._clock.advance(max(0.0, monotonic - self._clock.monotonic()))
