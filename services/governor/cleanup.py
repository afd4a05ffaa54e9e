"""The `cleanup` domain: removes stale scratch files that belong to no live task."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from chassis.canonical import Json
from chassis.clock import Clock
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest
from chassis.work import Change, Effects, Outcome, Plan
from services.governor.codecs import digest_prefix

DEFAULT_MAX_AGE_SECONDS = 3600.0
MAX_FILES = 500


class Cleanup:
    """Looks through `<station>/work/<agent>/<task>/…`. `live` says whether a task still needs its scratch.

    Params: `max_age_seconds` (0: whatever its age); `folder`, below the station's work folder, for the drill.
    `modified` is when a file was last written.
    """

    domain = "cleanup"
    procedures = ("scratch",)

    def __init__(
        self,
        *,
        work: Path,
        live: Callable[[str], bool],
        clock: Clock,
        modified: Callable[[Path], datetime],
    ) -> None:
        self._work, self._live, self._clock, self._modified = work, live, clock, modified

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Remove copies. The claims show that they are gone, and that what the plan names is there, untouched."""
        changes: list[Change] = []
        claims: list[Json] = []
        for number, path in enumerate(self._stale(task, scratch)):
            size = path.lstat().st_size
            sha256 = digest_prefix(path, size)
            copy = scratch / f"{number:03d}-{path.name}"
            shutil.copyfile(path, copy)
            copy.unlink()
            changes.append(
                Change(op="remove", target=str(path), before_sha256=sha256, after_sha256=None, size_bytes=size)
            )
            claims += [
                {"kind": "absent", "target": str(copy), "expect": {}},
                {"kind": "file_digest", "target": str(path), "expect": {"sha256": sha256, "size": str(size)}},
            ]
        return Plan(changes=tuple(changes), claims=tuple(claims))

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        claims: list[Json] = []
        freed = 0
        for path in self._stale(task, scratch):
            freed += path.lstat().st_size
            effects.remove(path)
            claims.append({"kind": "absent", "target": str(path), "expect": {}})
        if not claims:
            return Outcome(detail="no stale scratch files", no_work=True)
        return Outcome(
            detail=f"{len(claims)} stale scratch files removed, {freed} bytes",
            claims=tuple(claims),
            cost={"bytes_saved": float(freed)},
        )

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "left").mkdir()
        for name in ("part.tmp", "left/copy.log"):
            (folder / name).write_text(f"scratch of a task that has ended: {name}\n")
        return {"folder": str(folder), "max_age_seconds": "0"}

    def _stale(self, task: Manifest, scratch: Path) -> list[Path]:
        age = timedelta(seconds=_max_age(task))
        before = self._clock.now() - age
        if given := task.params.get("folder", ""):
            folder = Path(given).resolve()
            if not folder.is_relative_to(self._work.resolve()):
                raise Refused(f"cleanup looks only below {self._work}, not at {given}")
            places: Iterator[Path] = iter((folder,))
        else:
            places = self._ended(scratch)
        found: list[Path] = []
        for place in places:
            for path in _files(place):
                if not age or self._modified(path) <= before:
                    found.append(path)
                if len(found) == MAX_FILES:
                    return found
        return found

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
