"""Who embeds what is pending: threads beside the calls, woken by each record, at a lower priority than recall."""

import os
import threading
from collections.abc import Callable, Sequence

from chassis.periodic import Periodic

RETRY_SECONDS = 5.0
"""After a failure, or when nobody wakes it."""

NICE = 10


class Drain:
    """`catch_up` embeds a batch and returns how many; 0 ends the round. Its failure is logged and tried again later."""

    def __init__(self, threads: int) -> None:
        self._threads, self._more = threads, threading.Event()
        self._lowered = threading.local()

    def wake(self) -> None:
        self._more.set()

    def periodics(self, catch_up: Callable[[], int]) -> Sequence[Periodic]:
        """One for each thread."""

        def step() -> None:
            self._step_aside()
            if catch_up():
                self._more.set()  # for itself and for the other: a step stays short, so that stopping is quick

        return [
            Periodic(name=f"memory-embed-{number}", every_seconds=RETRY_SECONDS, step=step, rest=self._rest)
            for number in range(1, self._threads + 1)
        ]

    def _rest(self, seconds: float) -> bool:
        if not self._more.wait(seconds):
            return False
        self._more.clear()
        return True

    def _step_aside(self) -> None:
        if not getattr(self._lowered, "done", False):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # Linux: of this thread alone
            self._lowered.done = True
