"""What keeps the journal bounded: a task leaves it some time after it ended; what was kept for its undo may go before.

.dropped.jsonl   one line for each task that left: when and why, so that an undo can still say it
.leaving/        folders on their way out; after a crash the next pruning ends it
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from chassis.atomic import append_line, whole_lines, write_whole
from chassis.canonical import canonical_json
from chassis.clock import iso, parse_iso
from chassis.errors import Damaged
from chassis.exchange.moves import move, names
from chassis.journal.extents import stored_bytes
from chassis.journal.records import TaskJournal, TaskLog

GONE_BYTES = 8 * 2**20
"""So much is remembered of tasks that left, some 40,000 of them; then the older half goes."""
AGE = "age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A task that ended, and the bytes that are kept for its undo. `dropped`: nothing is, any more."""

    task_id: str
    at: datetime
    kept_bytes: int
    dropped: bool


def readable(log: TaskLog) -> TaskJournal | None:
    """None for damaged records: the others go on, and each recovery tells of these."""
    try:
        return log.read()
    except Damaged:
        return None


def logs_in(root: Path, log_of: Callable[[str], TaskLog]) -> Iterator[TaskLog]:
    return (log_of(name) for name in names(root) if not name.startswith("."))


def ended(logs: Iterable[TaskLog]) -> list[Ended]:
    """Oldest first. Reads the records of each."""
    found = []
    for log in logs:
        journal = readable(log)
        if journal and journal.state in ("finished", "undone"):
            size = sum(stored_bytes(file) for file in log.pre.iterdir()) if log.pre.is_dir() else 0
            at, dropped = parse_iso(journal.ended_at), bool(journal.pruned)
            found.append(Ended(task_id=log.task_id, at=at, kept_bytes=size, dropped=dropped))
    return sorted(found, key=lambda each: (each.at, each.task_id))


def due(tasks: Sequence[Ended], max_bytes: int, max_age: timedelta, now: datetime) -> Iterator[tuple[Ended, str]]:
    """What these bounds drop now, oldest first, each with why: "age", or its contents for their size."""
    total = sum(each.kept_bytes for each in tasks)
    for each in tasks:
        if now - each.at > max_age:
            yield each, AGE
        elif total > max_bytes and not each.dropped:
            yield each, f"size: more than {max_bytes / 2**20:.0f} MiB were kept"
        total -= each.kept_bytes


def drop_contents(log: TaskLog, reason: str) -> None:
    """The records stay: what was done can still be told, and is not done twice."""
    log.append("pruned", reason=reason)
    shutil.rmtree(log.pre, ignore_errors=True)


def drop(root: Path, log: TaskLog, reason: str, now: datetime) -> None:
    """All of it, once that is written down."""
    journal = log.read()
    line = {"task_id": log.task_id, "at": journal.pruned_at or iso(now), "reason": journal.pruned or reason}
    _remember(root / ".dropped.jsonl", canonical_json(line))
    leaving = root / ".leaving"
    leaving.mkdir(mode=0o700, exist_ok=True)
    move(log.folder, leaving / log.task_id)
    shutil.rmtree(leaving / log.task_id)


def gone(root: Path) -> Mapping[str, tuple[str, str]]:
    """Of tasks that left the journal: when they could no longer be undone, and why."""
    lines = [json.loads(line) for line in whole_lines(root / ".dropped.jsonl")]
    return {each["task_id"]: (each["at"], each["reason"]) for each in lines}


def _remember(path: Path, line: bytes) -> None:
    if path.exists() and path.stat().st_size > GONE_BYTES:
        lines = list(whole_lines(path))
        write_whole(path, b"".join(each + b"\n" for each in lines[len(lines) // 2 :]), mode=0o600)
    append_line(path, line, mode=0o600)
