"""While the command runs: signals are handed on, heartbeats kept up, orders obeyed, until it has ended."""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from chassis.clock import Clock
from chassis.errors import (
    CalyxError,
    DeadlineExceeded,
    LeaseLost,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from chassis.killswitch import KillSwitch
from cli.run.child import Child, Ended
from cli.run.orders import Action, Known, Order, decide
from cli.run.throttle import Bucket, Cgroup

TICK_SECONDS = 0.1
_FROM_KERNEL = 0x80
"""si_code of what a terminal sends: the whole foreground group has it already."""
FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
BLOCKED = frozenset({*FORWARDED, signal.SIGCHLD})
"""Taken by `sigtimedwait`, never by a handler. Stop and continue keep their meaning for job control."""


class Beat(Protocol):
    """One heartbeat with what the tree uses: percent of one core, bytes. None is unknown."""

    def __call__(self, cpu_percent: float | None, rss_bytes: int | None) -> Order: ...


@dataclass
class Pulse:
    """Heartbeats from a thread of their own, so that a silent station delays neither signals nor the kill switch."""

    beat: Beat
    clock: Clock
    every_seconds: float
    child: Child | None = None
    order: Order = field(default_factory=lambda: Order(kind="GO_ON"))
    answered: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.answered = self.clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def silent_seconds(self) -> float:
        return self.clock.monotonic() - self.answered

    def _run(self) -> None:
        last: tuple[float, float] | None = None
        while not self._stop.is_set():
            sample = self.child.tree.sample() if self.child is not None else None
            now, percent = self.clock.monotonic(), None
            if sample is not None and sample.cpu_seconds is not None:
                if last is not None and now > last[0]:
                    percent = max(0.0, 100 * (sample.cpu_seconds - last[1]) / (now - last[0]))
                last = (now, sample.cpu_seconds)
            try:
                self.order = self.beat(percent, None if sample is None else sample.rss_bytes)
                self.answered = self.clock.monotonic()
            except (LeaseLost, NotFound, PermissionDenied, Unauthenticated) as error:
                self.order = Order(kind="LOST", reason=error.message)
                return
            except (Unavailable, DeadlineExceeded):
                pass  # the lease tells how long that may last
            except CalyxError:
                pass  # a fault of the station's own counts as silence too
            self.clock.wait(self.every_seconds, self._stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How it went. `action` is the one that ended it; kind run when it ended by itself."""

    ended: Ended
    action: Action
    seconds: float
    throttled_by: str = ""


def watch(
    child: Child,
    pulse: Pulse,
    *,
    switch: KillSwitch,
    clock: Clock,
    lease_seconds: float,
    ttl_seconds: float,
    cgroup: Cgroup | None,
    say: Callable[[str], None],
) -> Watched:
    """Until the command has ended. Main thread, with the signals of BLOCKED blocked."""
    keeper = _Keeper(child, cgroup, clock, say)
    began = clock.monotonic()
    while True:
        _hand_on(child, TICK_SECONDS)
        ended = child.ended()
        if ended is not None:
            return Watched(
                ended=ended,
                action=keeper.final or Action(kind="run"),
                seconds=clock.monotonic() - began,
                throttled_by=keeper.throttled_by,
            )
        known = Known(
            order=pulse.order,
            now=clock.now(),
            silent_seconds=pulse.silent_seconds,
            lease_seconds=lease_seconds,
            switch=switch.why() if switch.engaged() else None,
            seconds=clock.monotonic() - began,
            ttl_seconds=ttl_seconds,
        )
        keeper.obey(decide(known))


def _hand_on(child: Child, wait_seconds: float) -> None:
    """Wait a tick for signals; those that were sent to us alone are the command's."""
    got = signal.sigtimedwait(BLOCKED, wait_seconds)
    while got is not None:
        if got.si_signo != signal.SIGCHLD and got.si_code != _FROM_KERNEL:
            child.tree.forward(got.si_signo)
        got = signal.sigtimedwait(BLOCKED, 0)


class _Keeper:
    """Does what was decided, and says each change of it once."""

    def __init__(self, child: Child, cgroup: Cgroup | None, clock: Clock, say: Callable[[str], None]) -> None:
        self._child, self._cgroup, self._clock, self._say = child, cgroup, clock, say
        self._doing = Action(kind="run")
        self._bucket: Bucket | None = None
        self._paused = False
        self._kill_at: float | None = None
        self.final: Action | None = None
        self.throttled_by = ""

    def obey(self, action: Action) -> None:
        if self.final is not None:
            self._finish()
            return
        if (action.kind, action.cpu_percent) != (self._doing.kind, self._doing.cpu_percent):
            self._change(action)
        if action.kind == "sleep":
            self._pause(True)  # again each time: a shell's `fg` would have woken it
        elif self._bucket is not None:
            used = self._child.tree.sample().cpu_seconds
            self._pause(used is not None and not self._bucket.may_run(self._clock.monotonic(), used))
        else:
            self._pause(False)

    def _change(self, action: Action) -> None:
        because = f" ({action.reason})" if action.reason else ""
        if self._doing.kind == "throttle" and self._cgroup is not None:
            self._cgroup.limit(None)
        self._bucket = None
        if action.kind == "run":
            self._say(f"goes on{because}")
        elif action.kind == "sleep":
            self._say(f"put to sleep{because}")
        elif action.kind == "throttle":
            self.throttled_by = "its control group" if self._cgroup is not None else "stopping and going on"
            if self._cgroup is not None:
                self._cgroup.limit(action.cpu_percent)
            else:
                self._bucket = Bucket(action.cpu_percent)
            self._say(f"held to {action.cpu_percent:.0f} % of one core by {self.throttled_by}{because}")
        elif action.kind in ("stop", "late"):
            self.final = action
            self._say(f"stopped: {action.reason}; it has {action.grace_seconds:.0f} s to end by itself")
            self._child.tree.terminate()
            self._kill_at = self._clock.monotonic() + action.grace_seconds
        else:
            self.final = action
            self._say(f"ended: {action.reason}")
            self._child.kill()
        self._doing = action

    def _finish(self) -> None:
        if self._kill_at is not None and self._clock.monotonic() >= self._kill_at:
            self._child.kill()
            self._kill_at = None

    def _pause(self, wanted: bool) -> None:
        if wanted:
            self._child.tree.pause()
        elif self._paused:
            self._child.tree.resume()
        self._paused = wanted
