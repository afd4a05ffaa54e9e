"""Who waits for whom: the end of a task lets its dependants go on at once, without looking at all that wait."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable

from chassis.exchange.folder import Folder
from chassis.exchange.manifest import Manifest, TaskId
from chassis.exchange.moves import folder_of, names, remove, there

NO_FOLDERS = 2
"""The links of a folder with no folder in it, where the file system counts them; btrfs and overlays always say 1."""


class Dependants:
    """One mark per waiting task, `awaited/<dependency>/<task>`, at its last dependency that is still open.

    Marks are hints and never fsynced: a lost one only leaves its task to the next sweep. `go_on` places a task
    whose dependencies have all ended.
    """

    def __init__(self, folder: Folder, go_on: Callable[[TaskId, Manifest], None]) -> None:
        self._folder, self._go_on = folder, go_on
        self._root = f"{folder.at}/awaited"
        self._turn = threading.local()
        self.lately: deque[TaskId] = deque(maxlen=20_000)

    def watch(self, manifest: Manifest) -> None:
        """Mark the task at a dependency that is open, or let it go on if none is."""
        for dependency in reversed(manifest.dependencies):
            if self._folder.ended(dependency) is not None:
                continue
            mark = f"{self._root}/{dependency}/{manifest.task_id}"
            _set(mark)
            if self._folder.ended(dependency) is None:
                return  # whoever ends it from now on finds the mark
            _drop(mark)
        self._go_on(manifest.task_id, manifest)

    def ended(self, task_id: TaskId) -> None:
        """Its ack is there. What ends by that in turn is worked off here too, however long the chain."""
        self.lately.append(task_id)
        queue: deque[TaskId] | None = getattr(self._turn, "queue", None)
        if queue is not None:
            queue.append(task_id)
            return
        queue = self._turn.queue = deque([task_id])
        try:
            while queue:
                self._look_again(queue.popleft())
        finally:
            self._turn.queue = None

    def _look_again(self, dependency: TaskId) -> None:
        folder = f"{self._root}/{dependency}"
        if self._nobody_waits() or not there(folder):
            return
        for name in names(folder):
            _drop(f"{folder}/{name}")
            if there(self._folder.waiting(name)):
                manifest = self._folder.read_manifest(name)
                if manifest is not None:
                    self.watch(manifest)
        with contextlib.suppress(OSError):  # a newcomer's mark is in it
            os.rmdir(folder)  # noqa: PTH106 - it is a text

    def _nobody_waits(self) -> bool:
        """Surely, for anything: one look instead of one for each task, which the kernel would remember as not there."""
        with contextlib.suppress(OSError):
            return os.stat(self._root).st_nlink == NO_FOLDERS  # noqa: PTH116 - its path is a text
        return False

    def sweep(self) -> None:
        """Marks at what has ended meanwhile: whoever ended it was cut short."""
        for dependency in names(self._root):
            if self._folder.ended(TaskId(dependency)) is not None:
                self.ended(TaskId(dependency))


def _set(mark: str) -> None:
    for _ in range(100):
        try:
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644))
            return
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                os.mkdir(folder_of(mark))  # noqa: PTH102 - its folder is a text; whoever looks through it may be removing it right now
        except OSError:
            return  # a full disk, or something in the way: the sweep will do it


def _drop(mark: str) -> None:
    with contextlib.suppress(OSError):
        remove(mark)
