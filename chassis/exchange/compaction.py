"""Finished tasks go from the task folders into the archive, a bounded number at a time."""

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.clock import Clock
from chassis.exchange.commits import left_behind, sync_file_system
from chassis.exchange.folder import Folder, there
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.exchange.moves import move, names
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
            gone: list[tuple[TaskId, Path]] = []
            size = 0
            for path, task_id in self._due(now - finished):
                if len(gone) >= limit or size >= STEP_BYTES:
                    break
                if not self._archive.holds(task_id):
                    task, ack = self._folder.read_manifest(task_id), self._folder.read_ack(task_id)
                    if task is None or ack is None or self._folder.done(ack) != path:
                        self._left.add(path.name)
                        continue
                    size += (self._folder.record(task_id) / "ack.json").stat().st_size
                    fresh.append((task, ack))
                gone.append((task_id, path))
            if fresh:
                self._archive.add(fresh, now.date())
            if gone:
                self._remove(gone)
            dropped = self._archive.drop((now - archive).date())
        return Compacted(archived=len(gone), dropped=dropped)

    def _due(self, before: datetime) -> Iterator[tuple[Path, TaskId]]:
        for day in names(self._folder.root / "done"):
            if day >= before.strftime("%Y%m%d"):
                return
            for name in names(self._folder.root / "done" / day):
                path = self._folder.root / "done" / day / name
                place = None if name in self._left else self._folder.parse("done", path)
                if place is not None:
                    yield path, place.task_id

    def _remove(self, gone: list[tuple[TaskId, Path]]) -> None:
        """Records first, durably: one without its file in done would no longer be believed."""
        self._bin.mkdir(exist_ok=True)
        for task_id, _ in gone:
            record = self._folder.record(task_id)
            if there(record):
                move(record, self._bin / task_id)
        sync_file_system(self._folder.root)
        for _, path in gone:
            path.unlink(missing_ok=True)
        for day in {path.parent for _, path in gone}:
            if not names(day):
                day.rmdir()
        fsync_dir(self._folder.root / "done")
        shutil.rmtree(self._bin)
