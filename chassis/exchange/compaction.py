"""Finished tasks go from the task folders into the archive, a bounded number at a time."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.clock import Clock
from chassis.exchange.commits import left_behind, sync_file_system
from chassis.exchange.folder import Folder
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.exchange.moves import folder_of, move, name_of, names, remove, there
from chassis.exchange.port import Compacted

STEP_BYTES = 32 * 1024 * 1024


class Compaction:
    """One step: append to the archive, durably; then the records go, then the files in done.

    A kill between any two of these is made good by the next step: what the archive holds is not added again,
    and what is still in done is looked at again.
    """

    def __init__(self, folder: Folder, clock: Clock) -> None:
        self._folder, self._archive, self._clock = folder, folder.archive, clock
        self._bin = folder.root / "archive" / "removing"
        self._left: set[str] = set()  # names in done that are no answered task's; they stay where they are

    def step(self, finished: timedelta, archive: timedelta, limit: int) -> Compacted:
        """Whole days only: what ended on one before `finished` ago; then the oldest segment, if of before `archive`."""
        now = self._clock.now()
        with left_behind(self._folder.root / "log"), self._archive.alone():  # no replay works on the same records
            self._archive.catch_up()
            shutil.rmtree(self._bin, ignore_errors=True)  # of a step cut short: all of it is in the archive
            fresh: list[tuple[Manifest, Ack]] = []
            gone: list[tuple[TaskId, str]] = []
            size = 0
            for path, task_id in self._due(now - finished):
                if len(gone) >= limit or size >= STEP_BYTES:
                    break
                if not self._archive.holds(task_id):
                    task, ack = self._folder.read_manifest(task_id), self._folder.read_ack(task_id)
                    if task is None or ack is None or self._folder.done(ack) != path:
                        self._left.add(name_of(path))
                        continue
                    size += Path(self._folder.ack(task_id)).stat().st_size
                    fresh.append((task, ack))
                gone.append((task_id, path))
            if fresh:
                self._archive.add(fresh, now.date())
            if gone:
                self._remove(gone)
            dropped = self._archive.drop((now - archive).date())
        return Compacted(archived=len(gone), dropped=dropped)

    def _due(self, before: datetime) -> Iterator[tuple[str, TaskId]]:
        done = f"{self._folder.at}/done"
        for day in names(done):
            if day >= before.strftime("%Y%m%d"):
                return
            for name in names(f"{done}/{day}"):
                path = f"{done}/{day}/{name}"
                place = None if name in self._left else self._folder.parse("done", path)
                if place is not None:
                    yield path, place.task_id

    def _remove(self, gone: list[tuple[TaskId, str]]) -> None:
        """Records first, durably: an ack without the file in done would no longer be believed.

        The task's goes before its ack's: whoever sees no task looks into the archive.
        """
        self._bin.mkdir(exist_ok=True)
        for task_id, _ in gone:
            remove(self._folder.task(task_id))
            remove(self._folder.ack(task_id))
            if there(marks := self._folder.marks(task_id)):
                move(marks, self._bin / task_id)
        sync_file_system(self._folder.root)
        for _, path in gone:
            remove(path)
        for day in {folder_of(path) for _, path in gone}:
            if not names(day):
                Path(day).rmdir()
        fsync_dir(self._folder.root / "done")
        shutil.rmtree(self._bin)
