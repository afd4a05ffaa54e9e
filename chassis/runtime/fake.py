"""The runtime port without processes: for tests and for the station on a virtual clock."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from chassis.clock import Clock
from chassis.errors import NotFound, Unavailable
from chassis.runtime.port import State, TargetState


class FakeRuntime:
    """Keeps each target's state and a log of `(verb, target)`.

    `on_start` and `on_stop` are called per target when a verb takes effect, e.g. to put a servicer on a
    LocalChannel and take it off again; an `on_start` that raises leaves the target `failed`. `reachable = False`
    makes every call raise Unavailable. `crash` is what kill -9 does.
    """

    def __init__(
        self,
        targets: Iterable[str],
        *,
        clock: Clock | None = None,
        on_start: Mapping[str, Callable[[], None]] | None = None,
        on_stop: Mapping[str, Callable[[], None]] | None = None,
        running: bool = True,
    ) -> None:
        self._clock = clock
        self._on_start, self._on_stop = dict(on_start or {}), dict(on_stop or {})
        self._next_pid = os.getpid() * 1000
        self.reachable = True
        self.calls: list[tuple[str, str]] = []
        self._states = {t: TargetState(target=t, state="stopped", pid=None) for t in targets}
        if running:
            for target in self._states:
                self.set(target, "running")

    def targets(self) -> tuple[str, ...]:
        self._reach()
        return tuple(self._states)

    def state(self, target: str) -> TargetState:
        self._reach()
        if target not in self._states:
            raise NotFound(f"no target {target!r}", target=target)
        return self._states[target]

    def start(self, target: str) -> None:
        if self.state(target).state != "running":
            self.calls.append(("start", target))
            self._start(target)

    def stop(self, target: str) -> None:
        if self.state(target).state != "stopped":
            self.calls.append(("stop", target))
            self._stop(target, "stopped")

    def restart(self, target: str) -> None:
        if self.state(target).state == "running":
            self._stop(target, "stopped")
        self.calls.append(("restart", target))
        self._start(target)

    def crash(self, target: str, signal: str = "SIGKILL") -> None:
        """The target's process ends by a signal; nobody asked for it."""
        self._stop(target, "failed")
        self._states[target] = replace(self._states[target], signal=signal, detail=f"terminated by {signal}")

    def set(self, target: str, state: State, detail: str = "") -> None:
        """Say what the runtime shall report, without any callable."""
        alive = state in ("running", "starting", "stopping")
        self._next_pid += alive
        started: datetime | None = self._clock.now() if alive and self._clock is not None else None
        self._states[target] = TargetState(
            target=target,
            state=state,
            pid=self._next_pid if alive else None,
            detail=detail,
            started_at=started,
        )

    def _start(self, target: str) -> None:
        try:
            self._on_start.get(target, lambda: None)()
        except Exception as error:
            # What a supervisor sees of a service that can't start is a dead process, whatever it raised.
            self.set(target, "failed", f"did not start: {error}")
        else:
            self.set(target, "running")

    def _stop(self, target: str, state: State) -> None:
        self._on_stop.get(target, lambda: None)()
        self.set(target, state)

    def _reach(self) -> None:
        if not self.reachable:
            raise Unavailable("the runtime does not answer")
