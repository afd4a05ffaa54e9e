"""The diagnostics domain: looks at the station and writes a report.

Procedures: `quick` reads the databases' headers and checks small ones; `rolling` besides reads one large database
through, in turn, so that some runs together have seen all of them; `full` checks every database and asks memory to
verify itself. A report is measured when it is written, so a plan names its files but not their
content: `after_sha256` is null and the size 0 in both rehearsal and approval. A run under an approval writes
to the name that its rehearsal planned.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from chassis.canonical import Json, canonical_json, sha256_hex
from chassis.clock import Clock, iso
from chassis.errors import CalyxError
from chassis.exchange.manifest import Manifest
from chassis.layout import Layout
from chassis.work import Change, Effects, Outcome, Plan
from services.guardian.evidence import Machine
from services.guardian.guardian import Overview

Result = Literal["ok", "warn", "fail", "unknown"]
KEPT_REPORTS = 1500
"""A day of them at one a minute, so that a report can still be checked a day later."""
QUICK_CHECK_BYTES = 256 * 1024
CHECK_AGAIN_SECONDS = 900.0
LOW_DISK_BYTES = 512 * 1024 * 1024
HIGH_RAM_PERCENT = 90.0
MAX_DRIFT_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing looked at."""

    check: str
    result: Result
    found: str


class Diagnostics:
    """`overview` is the guardian's own table; `verify_memory` says (ok, in a line) or raises CalyxError.

    `file_seconds` gives a file's modification time since the epoch, or None where that clock is not this one.
    Params: `folder`, where the reports go (default: the station's reports/diagnostics).
    """

    domain = "diagnostics"
    procedures = ("quick", "rolling", "full")

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        machine: Machine,
        overview: Callable[[], Overview],
        verify_memory: Callable[[], tuple[bool, str]],
        station_id: str,
        file_seconds: Callable[[Path], float | None] = lambda path: path.stat().st_mtime,
        cpu_seconds: Callable[[], float] = time.thread_time,
        kept: int | None = None,
    ) -> None:
        self._layout, self._clock, self._machine, self._kept = layout, clock, machine, kept
        self._overview, self._verify_memory, self._station_id = overview, verify_memory, station_id
        self._file_seconds, self._cpu_seconds = file_seconds, cpu_seconds
        self._elsewhere = 0.0
        self._began, self._began_at = clock.monotonic(), clock.now()
        self._whole: dict[str, tuple[float, Item]] = {}
        self._read: dict[Path, float] = {}

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Write the report into scratch only."""
        report = self._write(task, scratch)
        targets = self._targets(task)
        creates = [
            Change(op="create", target=str(target), before_sha256=None, after_sha256=None, size_bytes=0)
            for target in targets
        ]
        removes = [
            Change(
                op="remove",
                target=str(old),
                before_sha256=sha256_hex(old.read_bytes()),
                after_sha256=None,
                size_bytes=old.stat().st_size,
            )
            for old in self._oldest(task)
        ]
        return Plan(
            changes=(*creates, *removes),
            claims=self._claims(task, report[0]),
            notes="the report's content is measured at run time; the plan fixes its files",
        )

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        """Write the report, then put it in place and drop the oldest beyond the kept ones."""
        started, used, self._elsewhere = self._clock.monotonic(), self._cpu_seconds(), 0.0
        written, targets = self._write(task, scratch), self._targets(task)
        claims = tuple({**claim, "target": str(targets[0])} for claim in self._claims(task, written[0]))
        size = sum(path.stat().st_size for path in written)
        for source, target in zip(written, targets, strict=True):
            effects.create(target, source)
        for old in self._oldest(task):
            effects.remove(old)
        cost = {
            "seconds": self._clock.monotonic() - started,
            "cpu_seconds": round(self._cpu_seconds() - used + self._elsewhere, 6),
            "bytes_written": float(size),
        }
        return Outcome(detail=f"report in {targets[0].name}", claims=claims, cost=cost)

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "older-report.json").write_text('{"schema":"calyx.diagnostics/1"}\n')
        return {"folder": str(folder)}

    def _folder(self, task: Manifest) -> Path:
        given = task.params.get("folder")
        return Path(given) if given else self._layout.root / "reports" / "diagnostics"

    def _targets(self, task: Manifest) -> tuple[Path, Path]:
        name = task.rehearsal_of or task.task_id
        folder = self._folder(task)
        return folder / f"{name}.json", folder / f"{name}.md"

    def _oldest(self, task: Manifest) -> list[Path]:
        """The one report (both files) to drop for this one; names order by pulse, hence by time."""
        own = self._targets(task)[0].name
        if not self._folder(task).is_dir():
            return []
        found = os.listdir(self._folder(task))  # noqa: PTH208 — thousands of names, a path for each costs ten times as much
        names = [each for each in found if each.endswith(".json") and each != own]
        if len(names) < (self._kept or KEPT_REPORTS):
            return []
        oldest = self._folder(task) / min(names)
        return [path for path in (oldest, oldest.with_suffix(".md")) if path.is_file()]

    def _claims(self, task: Manifest, report: Path) -> tuple[Json, ...]:
        data = report.read_bytes()
        return (
            {
                "kind": "file_digest",
                "target": str(report),
                "expect": {"sha256": sha256_hex(data), "size": str(len(data))},
            },
            {
                "kind": "json_fields",
                "target": str(report),
                "expect": {"station_id": self._station_id, "task_id": str(task.task_id)},
            },
        )

    # --- the report ----------------------------------------------------------------------------------------

    def _write(self, task: Manifest, scratch: Path) -> tuple[Path, Path]:
        now = self._clock.now()
        report, text = scratch / "report.json", scratch / "report.md"
        report.write_bytes(b"")  # its time is compared with the clock below
        items = list(self._look(task.procedure, report))
        worst: Result = max((i.result for i in items), key=("ok", "unknown", "warn", "fail").index, default="unknown")
        value = {
            "schema": "calyx.diagnostics/1",
            "station_id": self._station_id,
            "task_id": str(task.task_id),
            "procedure": task.procedure,
            "at": iso(now),
            "result": worst,
            "items": [{"check": each.check, "result": each.result, "found": each.found} for each in items],
        }
        report.write_bytes(canonical_json(value) + b"\n")
        text.write_text(_markdown(task, now, worst, items))
        return report, text

    def _look(self, procedure: str, written: Path) -> Iterator[Item]:
        full = procedure == "full"
        yield self._disk()
        yield self._memory()
        overview = self._overview()
        for row in overview.services:
            results: dict[str, Result] = {"up": "ok", "sleeping": "ok", "starting": "warn", "unknown": "unknown"}
            age = "never" if row.age_seconds is None else f"{row.age_seconds:.0f} s ago"
            found = f"{row.state}, probed {age}" + (f": {row.detail}" if row.detail else "")
            yield Item(check=f"service {row.service}", result=results.get(row.state, "fail"), found=found)
        databases = self._databases()
        turn = self._turn(databases) if procedure == "rolling" else None
        for database in databases:
            if database == turn:
                yield self._database(database, True)
            elif full and _size(database) > QUICK_CHECK_BYTES:
                yield self._seldom(partial(self._database, database, full), str(database))
            else:
                yield self._database(database, full)
        if full:
            yield self._seldom(self._verified_memory, "memory store")
        yield self._wall_clock()
        yield self._file_clock(written)

    def _databases(self) -> list[Path]:
        """One below the station's folder. By names: its folders hold thousands of files, and a glob looks at each; the
        journal, with a folder for each task, holds none.
        """
        found = []
        for folder in set(self._layout.root.glob("*")) - {self._layout.journal}:
            try:
                names = os.listdir(folder)  # noqa: PTH208 — thousands of names, a path for each costs ten times as much
            except (NotADirectoryError, PermissionError, FileNotFoundError):  # as a glob takes them
                continue
            found += [folder / name for name in names if name.endswith(".sqlite")]
        return sorted(found)

    def _turn(self, databases: Sequence[Path]) -> Path | None:
        """The large database that was not read through for longest."""
        large = [each for each in databases if _size(each) > QUICK_CHECK_BYTES]
        if not large:
            return None
        turn = min(large, key=lambda each: (self._read.get(each, float("-inf")), each))
        self._read[turn] = self._clock.monotonic()
        return turn

    def _disk(self) -> Item:
        free, used = self._machine.disk_free_bytes(), self._machine.disk_percent()
        if free is None or used is None:
            return Item(check="disk", result="unknown", found="the station's file system can't be read")
        low = free < LOW_DISK_BYTES
        return Item(
            check="disk", result="warn" if low else "ok", found=f"{used:.1f} % used, {free // 1024**2} MiB free"
        )

    def _memory(self) -> Item:
        ram = self._machine.ram_percent()
        if ram is None:
            return Item(check="memory", result="unknown", found="can't be read")
        return Item(check="memory", result="warn" if ram > HIGH_RAM_PERCENT else "ok", found=f"{ram:.1f} % used")

    def _seldom(self, check: Callable[[], Item], name: str) -> Item:
        """What was whole is read through again after a quarter of an hour: on a large station it takes seconds."""
        now = self._clock.monotonic()
        known = self._whole.get(name)
        if known is not None and now - known[0] < CHECK_AGAIN_SECONDS:
            return replace(known[1], found=f"{known[1].found}, {now - known[0]:.0f} s ago")
        item = check()
        if item.result == "ok":
            self._whole[name] = (now, item)
        else:
            self._whole.pop(name, None)
        return item

    def _database(self, path: Path, full: bool) -> Item:
        check = f"database {path.parent.name}/{path.name}"
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = file.read(16)
            if size and header != b"SQLite format 3\0":
                return Item(check=check, result="fail", found="its header is not SQLite's")
            if not full and size > QUICK_CHECK_BYTES:
                return Item(check=check, result="ok", found=f"{size} bytes, header only (`full` checks the rest)")
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2.0)) as database:
                answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.OperationalError as error:
            return Item(check=check, result="unknown", found=f"could not be checked: {error}")
        except sqlite3.DatabaseError as error:
            return Item(check=check, result="fail", found=str(error))
        except OSError as error:
            return Item(check=check, result="unknown", found=f"could not be read: {error.strerror}")
        return Item(check=check, result="ok" if answer == "ok" else "fail", found=f"{size} bytes, integrity {answer}")

    def _verified_memory(self) -> Item:
        began = self._clock.monotonic()
        try:
            ok, found = self._verify_memory()
        except CalyxError as error:
            return Item(check="memory store", result="unknown", found=error.message)
        finally:
            self._elsewhere += self._clock.monotonic() - began  # the memory's work for us; its CPU time is not told
        return Item(check="memory store", result="ok" if ok else "fail", found=found)

    def _wall_clock(self) -> Item:
        passed = self._clock.monotonic() - self._began
        drift = (self._clock.now() - self._began_at).total_seconds() - passed
        found = f"{drift:+.3f} s against the monotonic clock over {passed:.0f} s"
        return Item(check="wall clock", result="ok" if abs(drift) <= MAX_DRIFT_SECONDS else "warn", found=found)

    def _file_clock(self, written: Path) -> Item:
        seconds = self._file_seconds(written)
        if seconds is None:
            return Item(check="file system clock", result="unknown", found="not compared here")
        off = seconds - self._clock.now().timestamp()
        result: Result = "ok" if abs(off) <= MAX_DRIFT_SECONDS else "warn"
        return Item(check="file system clock", result=result, found=f"{off:+.3f} s against the wall clock")


def _markdown(task: Manifest, now: datetime, worst: str, items: list[Item]) -> str:
    lines = [
        f"# Diagnostics {task.task_id}",
        "",
        f"{iso(now)}, procedure {task.procedure}: **{worst}**",
        "",
        "| what | result | found |",
        "|---|---|---|",
        *(f"| {i.check} | {i.result} | {i.found.replace('|', '/').replace(chr(10), ' ')} |" for i in items),
    ]
    return "\n".join(lines) + "\n"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
