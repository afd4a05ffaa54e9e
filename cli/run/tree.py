"""All processes beneath a governed command: pause, go on, end, and what they use."""

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

_ROUNDS = 20
"""A tree that forks while it is being stopped is caught after a few looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the tree has used so far and holds now. None is unknown."""

    cpu_seconds: float | None
    rss_bytes: int | None
    processes: int


class Tree:
    """The descendants of the supervisor process, found through /proc at each look.

    `init`: the first process of the command's own namespace, which is never paused; 0 where there is none.
    """

    def __init__(self, supervisor: int, init: int) -> None:
        self._supervisor, self._init = supervisor, init

    def processes(self) -> list[psutil.Process]:
        """Those that do the command's work."""
        try:
            beneath = psutil.Process(self._supervisor).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [each for each in beneath if each.pid != self._init]

    def command(self) -> int | None:
        """The command's own process: the first in its namespace after the one that keeps it, or the only child."""
        try:
            children = psutil.Process(self._init or self._supervisor).children()
        except psutil.NoSuchProcess:
            return None
        return min(children, key=lambda each: (each.create_time(), each.pid)).pid if children else None

    def pause(self) -> None:
        """Stop all of it, also what is being forked meanwhile."""
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            new = [each for each in self.processes() if each.pid not in seen]
            if not new:
                return
            self._signal(new, signal.SIGSTOP)
            seen |= {each.pid for each in new}

    def resume(self) -> None:
        self._signal(self.processes(), signal.SIGCONT)

    def terminate(self) -> None:
        """Ask all of it to end."""
        self._signal(self.processes(), signal.SIGTERM)
        self.resume()  # what is paused can't hear it

    def forward(self, signum: int) -> None:
        """Hand a signal on to the command."""
        pid = self.command()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def sample(self) -> Sample:
        """Of the whole tree: CPU of the living and of those that they have buried, memory of the living."""
        cpu, rss, count = 0.0, 0, 0
        try:
            everyone = [psutil.Process(self._supervisor), *psutil.Process(self._supervisor).children(recursive=True)]
        except psutil.NoSuchProcess:
            return Sample(cpu_seconds=None, rss_bytes=None, processes=0)
        for each in everyone:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = each.cpu_times()
                cpu += times.children_user + times.children_system
                if each.pid not in (self._supervisor, self._init):
                    cpu += times.user + times.system
                    rss += each.memory_info().rss
                    count += 1
        return Sample(cpu_seconds=cpu, rss_bytes=rss, processes=count)

    @staticmethod
    def _signal(processes: list[psutil.Process], signum: int) -> None:
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.send_signal(signum)  # checks that the pid has not been given to another meanwhile


def end_own_descendants() -> None:
    """When the supervisor itself is gone: what it held is ours by adoption; end it. For the wrapper only."""
    for _ in range(_ROUNDS):
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, timeout=1)
