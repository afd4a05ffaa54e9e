"""Waiting for a task instead of asking for it again and again: inotify on the ready folders of a pool."""

import contextlib
import os
import re
import select
import time
import weakref
from pathlib import Path

from inotify_simple import INotify, flags  # type: ignore[import-untyped] # it ships no types

from chassis.exchange.moves import names

RESCAN_SECONDS = 1.0
"""The safety net: so often the folders are looked into whatever inotify says."""
_HEARD_BYTES = 64 * 1024
_PRIORITY = re.compile(r"p\d")
_ARRIVES = flags.CREATE | flags.MOVED_TO | flags.ONLYDIR | flags.DONT_FOLLOW | flags.ONESHOT
"""Once a wait: what comes while nobody waits costs whoever puts it there nothing."""


class Bells:
    """One bell per pool and waiting thread, kept for the next wait."""

    def __init__(self, ready: Path) -> None:
        self._ready = ready
        self._idle: dict[str, list[_Bell]] = {}
        weakref.finalize(self, _close, self._idle)

    def wait(self, pool: str, seconds: float) -> bool:
        """At most `seconds` of real time; True as soon as something lies ready in the pool."""
        if seconds <= 0:
            return _any(f"{self._ready}/{pool}")
        try:
            bell = self._idle.setdefault(pool, []).pop()
        except IndexError:
            bell = _Bell(f"{self._ready}/{pool}")
        try:
            return bell.wait(seconds)
        finally:
            self._idle[pool].append(bell)


class _Bell:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._inotify: INotify | None = None
        with contextlib.suppress(OSError):  # the user's inotify limit is used up: then the rescan alone
            self._inotify = INotify(nonblocking=True)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            self._listen()  # before the look, so that nothing falls between
            if _any(self._folder):
                return True
            left = min(RESCAN_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return False
            if self._inotify is None:
                time.sleep(min(left, 0.1))
            else:
                self._hear(left)

    def _listen(self) -> None:
        """To the pool, for new priorities, and to each priority, each time anew. Adding what is watched is harmless."""
        if self._inotify is None:
            return
        with contextlib.suppress(OSError):
            try:
                self._inotify.add_watch(self._folder, _ARRIVES)
            except FileNotFoundError:
                Path(self._folder).mkdir(exist_ok=True)
                self._inotify.add_watch(self._folder, _ARRIVES)
            for folder in _priorities(self._folder):
                self._inotify.add_watch(folder, _ARRIVES)

    def _hear(self, seconds: float) -> None:
        """Until something arrives. What it was is not looked at: a wait after a rush would read every task's name."""
        assert self._inotify is not None
        fd, poll = self._inotify.fileno(), select.poll()
        poll.register(fd, select.POLLIN)
        if poll.poll(max(1, round(seconds * 1000))):
            with contextlib.suppress(BlockingIOError):
                while len(os.read(fd, _HEARD_BYTES)) > _HEARD_BYTES // 2:
                    pass

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()


def _priorities(pool: str) -> list[str]:
    return [f"{pool}/{name}" for name in names(pool) if _PRIORITY.fullmatch(name)]


def _any(pool: str) -> bool:
    for folder in _priorities(pool):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            if next(entries, None) is not None:
                return True
    return False


def _close(idle: dict[str, list[_Bell]]) -> None:
    for bells in idle.values():
        for bell in bells:
            bell.close()
