"""What was found damaged and taken out of use: listed here, kept where it lies, never thrown away silently."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_json
from chassis.canonical import Json
from chassis.clock import iso
from services.memory.damage import Damage
from services.memory.faults import explained

SCHEMA = "calyx.memory-quarantine/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """`rows` are numbers of experiences that recall leaves out; `kept` is the copy of a file, if one was made."""

    what: str
    why: str
    done: str
    rows: tuple[int, ...]
    since: str
    kept: str = ""


class Quarantine:
    """`<folder>/list.json`, and copies of damaged files beside it. Thread-safe. An unreadable list is set aside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._held: list[Held] = []
        path = folder / "list.json"
        with explained("read the quarantine", path):
            try:
                self._held = [_held(each) for each in json.loads(path.read_bytes())["held"]]
            except FileNotFoundError:
                return
            except (ValueError, KeyError, TypeError):
                path.replace(folder / "list.json.damaged")

    @property
    def held(self) -> tuple[Held, ...]:
        return tuple(self._held)

    @property
    def rows(self) -> frozenset[int]:
        """Numbers of experiences that recall leaves out."""
        return frozenset(row for each in self._held for row in each.rows)

    def put(self, damages: Sequence[Damage], done: str, now: datetime) -> None:
        """List what was taken out of use; what is listed already stays as it is."""
        with self._lock:
            known = {(each.what, each.why) for each in self._held}
            fresh = [
                Held(what=each.what, why=each.why, done=done, rows=each.numbers, since=iso(now))
                for each in damages
                if (each.what, each.why) not in known
            ]
            if fresh:
                self._write([*self._held, *fresh])

    def keep_copy(self, path: Path, why: str, now: datetime) -> Path:
        """Copy a damaged file into the quarantine before anything overwrites it."""
        kept = self.folder / f"{path.name}.{now:%Y%m%dT%H%M%S%fZ}"
        with self._lock, explained("keep a copy", kept):
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, kept.open("xb") as copy:
                while block := source.read(1 << 20):
                    copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
            held = Held(what=path.name, why=why, done="a copy was kept", rows=(), since=iso(now), kept=kept.name)
            self._write([*self._held, held])
        return kept

    def release(self, aside: Path) -> None:
        """Begin anew once what was listed has been replaced; the list goes to what was set aside."""
        with self._lock:
            if self._held:
                with explained("set the quarantine aside", aside):
                    write_json(aside / "quarantine.json", self._told(self._held))
                self._write([])

    def _told(self, held: list[Held]) -> Json:
        return {"schema": SCHEMA, "held": [_told(each) for each in held]}

    def _write(self, held: list[Held]) -> None:
        with explained("write the quarantine", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(self.folder.parent)
            write_json(self.folder / "list.json", self._told(held))
        self._held = held


def _told(held: Held) -> Json:
    return {
        "what": held.what,
        "why": held.why,
        "done": held.done,
        "rows": list(held.rows),
        "since": held.since,
        "kept": held.kept,
    }


def _held(value: Json) -> Held:
    return Held(
        what=str(value["what"]),
        why=str(value["why"]),
        done=str(value["done"]),
        rows=tuple(int(row) for row in value["rows"]),
        since=str(value["since"]),
        kept=str(value["kept"]),
    )
