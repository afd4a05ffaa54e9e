"""Who is alive: a worker's name is a lock that the kernel drops when its process dies."""

import contextlib
import errno
import fcntl
import os
import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from chassis.canonical import canonical_json
from chassis.exchange.holders import holder_of
from chassis.exchange.moves import names


class Slots:
    """Worker names `<agent>-<six digits>`, each held through flock on a file of that name.

    A lock says more than a pid: it holds across containers, is never reused by mistake, and is gone at once
    after kill -9. A dead worker's slot is taken again by the agent's next boot. The file says which process it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int | None] = {}
        self._turn = threading.RLock()

    def take(self, agent: str, bury: Callable[[str], None]) -> str:
        """A free slot of this agent, held from now on; `bury` is called for each slot whose holder is dead."""
        with self._turn:
            pattern = re.compile(re.escape(agent) + r"-(\d{6})\.lock")
            known = [name.removesuffix(".lock") for name in names(self._folder) if pattern.fullmatch(name)]
            mine: str | None = None
            for worker in known:
                if worker in self._held or (fd := self._lock(worker)) is None:
                    continue
                bury(worker)
                if mine is None:
                    mine, self._held[worker] = worker, fd
                else:
                    os.close(fd)
            number = len(known)
            while mine is None:
                number += 1
                worker = f"{agent}-{number:06d}"
                if worker not in self._held and (fd := self._lock(worker)) is not None:
                    mine, self._held[worker] = worker, fd
            return mine

    def hold(self, worker: str) -> None:
        """Hold the slot of a worker that claims under a name of its own choice; no matter if another has it."""
        with self._turn:
            if worker not in self._held:
                self._held[worker] = self._lock(worker)

    def free(self, worker: str) -> None:
        with self._turn:
            if (fd := self._held.pop(worker, None)) is not None:
                os.close(fd)

    def _lock(self, worker: str) -> int | None:
        path = self._folder / f"{worker}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                return None  # no file of ours: nobody holds it, and nobody can
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        me = holder_of(os.getpid())
        if me is not None:
            with contextlib.suppress(OSError):  # a full disk: then a stalled worker is fenced, but not killed
                os.ftruncate(fd, 0)
                os.pwrite(fd, canonical_json(asdict(me)), 0)
        return fd
