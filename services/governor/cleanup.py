"""The `cleanup` domain: removes stale scratch files that belong to no live task.

Procedures differ in what a run takes up, for the case that it can't take all: `scratch` folder by folder, `oldest` and
`largest` a few files only; the last makes the fewest changes for each byte set free.
"""

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from chassis.clock import Clock
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest
from chassis.work import Effects, Outcome, Plan
from services.governor.removal import rehearse_removal, remove_all

DEFAULT_MAX_AGE_SECONDS = 3600.0
MAX_FILES = 500
FEW_FILES = 100
"""What `oldest` and `largest` take up; as many as the domain calls small."""


class Cleanup:
    """Looks through `<station>/work/<agent>/<task>/…`. `live` says whether a task still needs its scratch.

    Params: `max_age_seconds` (0: whatever its age); `folder`, below the station's work folder, for the drill.
    `modified` is when a file was last written.
    """

    domain = "cleanup"
    procedures = ("scratch", "oldest", "largest")

    def __init__(
        self,
        *,
        work: Path,
        live: Callable[[str], bool],
        clock: Clock,
        modified: Callable[[Path], datetime],
        cpu_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        self._work, self._live, self._clock, self._modified = work, live, clock, modified
        self._cpu_seconds = cpu_seconds

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return rehearse_removal(self._stale(task, scratch), scratch)

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        return remove_all(self._stale(task, scratch), effects, self._cpu_seconds, "stale scratch files")

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "left").mkdir()
        for name in ("part.tmp", "left/copy.log"):
            (folder / name).write_text(f"scratch of a task that has ended: {name}\n")
        return {"folder": str(folder), "max_age_seconds": "0"}

    def _stale(self, task: Manifest, scratch: Path) -> list[Path]:
        if task.procedure not in self.procedures:
            raise InvalidInput(f"cleanup knows no procedure {task.procedure!r}")
        age = timedelta(seconds=_max_age(task))
        before = self._clock.now() - age
        if given := task.params.get("folder", ""):
            folder = Path(given).resolve()
            if not folder.is_relative_to(self._work.resolve()):
                raise Refused(f"cleanup looks only below {self._work}, not at {given}")
            places: Iterator[Path] = iter((folder,))
        else:
            places = self._ended(scratch)
        old = (path for place in places for path in _files(place) if not age or self._modified(path) <= before)
        if task.procedure == "scratch":
            return list(islice(old, MAX_FILES))
        if task.procedure == "oldest":
            return heapq.nsmallest(FEW_FILES, old, key=lambda path: (self._modified(path), path))
        return heapq.nsmallest(FEW_FILES, old, key=lambda path: (-path.lstat().st_size, path))

    def _ended(self, scratch: Path) -> Iterator[Path]:
        """Scratch folders of tasks that are over: `<agent>/<task>`, without our own."""
        for agent in _folders(self._work):
            for place in _folders(agent):
                if not scratch.is_relative_to(place) and not self._live(place.name):
                    yield place


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below, links neither followed nor named."""
    for place, _, names in sorted(os.walk(folder)):
        for path in (Path(place) / name for name in sorted(names)):
            if path.is_file() and not path.is_symlink():
                yield path


def _max_age(task: Manifest) -> float:
    text = task.params.get("max_age_seconds", str(DEFAULT_MAX_AGE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        raise InvalidInput(f"max_age_seconds is a number of seconds, not {text!r}")
    return seconds
