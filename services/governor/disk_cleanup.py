"""The `disk_cleanup` domain: removes what the station itself wrote and no longer needs.

Diagnostics reports and exports, log archives and memory backups, each only beyond its age and never the newest backups;
nothing but names that the station gives. Procedures differ in what goes first, for the case that not all has to:
`expendable` what is missed least, `oldest`, and `largest`, which makes the fewest changes for the space.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from chassis.clock import Clock
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest
from chassis.layout import Layout
from chassis.work import Effects, Outcome, Plan
from services.governor.removal import rehearse_removal, remove_all

DEFAULT_DAYS, LEAST_DAYS = 30, 2
"""Never younger than two days: the last look at a task's effects comes after one."""
KEPT_BACKUPS, LEAST_BACKUPS = 7, 3
MAX_FILES = 200

REPORT = re.compile(r"t-[\w-]+\.(?:json|md)")
EXPORT = re.compile(r".+\.zip")
ARCHIVE = re.compile(r".+\.(?:log|out)\.\d{8}T\d{12}\.(?:gz|zst|xz)")
BACKUP = re.compile(r"experience-\d{8}T\d{12}Z\.sqlite")
DAMAGED = re.compile(r"experience-\d{8}T\d{12}Z\.sqlite\.damaged(?:\.sha256)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What goes together: one file, or a backup with its digest. `rank`: the lower, the less it is missed."""

    paths: tuple[Path, ...]
    size: int
    modified: datetime
    rank: int


ORDERS: Mapping[str, Callable[[Piece], tuple[object, ...]]] = {
    "expendable": lambda piece: (piece.rank, piece.modified, piece.paths),
    "oldest": lambda piece: (piece.modified, piece.paths),
    "largest": lambda piece: (-piece.size, piece.paths),
}


class DiskCleanup:
    """Params: `max_age_days`, `keep_backups`, `enough_bytes` (stop once so much was removed; 0: all that is old), and
    `station`, below the governor's scratch, for the drill. `modified` is when a file was last written."""

    domain = "disk_cleanup"
    procedures = tuple(ORDERS)

    def __init__(
        self,
        *,
        layout: Layout,
        scratch_root: Path,
        clock: Clock,
        modified: Callable[[Path], datetime],
        cpu_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        self._layout, self._scratch_root, self._clock = layout, scratch_root, clock
        self._modified, self._cpu_seconds = modified, cpu_seconds

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return rehearse_removal(self._due(task), scratch)

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        return remove_all(self._due(task), effects, self._cpu_seconds, "old files of the station")

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        layout = Layout(folder)
        stamp = "20200101T000000000000"
        for path in (
            layout.root / "reports" / "diagnostics" / "t-000000001-1.json",
            layout.root / "reports" / "exports" / "diagnostics.zip",
            layout.logs / f"app.log.{stamp}.gz",
            *(layout.memory / "backups" / f"experience-2020010{n}T000000000000Z.sqlite" for n in range(1, 6)),
            layout.memory / "backups" / "experience-20200101T000000000000Z.sqlite.sha256",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"drill of {procedure}: {path.name}\n")
            os.utime(path, (0, 0))
        return {"station": str(folder), "keep_backups": "3"}

    def _due(self, task: Manifest) -> list[Path]:
        if task.procedure not in ORDERS:
            raise InvalidInput(f"disk_cleanup knows no procedure {task.procedure!r}")
        before = self._clock.now() - timedelta(days=_number(task, "max_age_days", DEFAULT_DAYS, LEAST_DAYS))
        enough = _number(task, "enough_bytes", 0, 0)
        keep = _number(task, "keep_backups", KEPT_BACKUPS, LEAST_BACKUPS)
        old = (piece for piece in self._pieces(self._at(task), keep) if piece.modified <= before)
        chosen: list[Path] = []
        removed = 0
        for piece in sorted(old, key=ORDERS[task.procedure]):
            if len(chosen) + len(piece.paths) > MAX_FILES or (enough and removed >= enough):
                break
            chosen += piece.paths
            removed += piece.size
        return chosen

    def _at(self, task: Manifest) -> Layout:
        given = task.params.get("station", "")
        if not given:
            return self._layout
        if not Path(given).resolve().is_relative_to(self._scratch_root.resolve()):
            raise Refused(f"disk_cleanup works on its own station, not on {given}")
        return Layout(Path(given).resolve())

    def _pieces(self, layout: Layout, keep: int) -> Iterator[Piece]:
        places = (
            (layout.root / "reports" / "exports", EXPORT),
            (layout.root / "reports" / "diagnostics", REPORT),
            (layout.memory / "backups", DAMAGED),
            (layout.logs, ARCHIVE),
        )
        for rank, (folder, pattern) in enumerate(places):
            for path in _named(folder, pattern):
                yield self._piece((path,), rank)
        backups = _named(layout.memory / "backups", BACKUP)  # the time is in the name: in order, oldest first
        for path in backups[: max(0, len(backups) - keep)]:
            beside = path.with_name(f"{path.name}.sha256")
            yield self._piece((path, beside) if beside.is_file() else (path,), len(places))

    def _piece(self, paths: tuple[Path, ...], rank: int) -> Piece:
        return Piece(
            paths=paths,
            size=sum(path.lstat().st_size for path in paths),
            modified=self._modified(paths[0]),
            rank=rank,
        )


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Plain files that have this one name, which is one that the station gives."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        found = sorted(e.path for e in entries if pattern.fullmatch(e.name) and e.is_file(follow_symlinks=False))
    return [path for path in map(Path, found) if path.lstat().st_nlink == 1]


def _number(task: Manifest, name: str, default: int, least: int) -> int:
    text = task.params.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise InvalidInput(f"{name} is a whole number from {least} up, not {text!r}")
    return int(text)
