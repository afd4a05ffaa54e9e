"""One task's journal: an append-only file of records, and what they add up to."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chassis.atomic import append_line, fsync_dir, read_json, whole_lines
from chassis.canonical import Json, canonical_json
from chassis.clock import Clock, iso
from chassis.errors import Damaged, InvalidInput, Unavailable

State = Literal["none", "open", "finished", "undoing", "undone"]


@dataclass(slots=True, kw_only=True)
class Entry:
    """One change: its intent, and how far it got."""

    n: int
    intent: Json
    committed: bool = False
    dropped: bool = False
    """Rolled back before its commit, or undone since."""
    join: Json | None = None
    """For a rotate that is being undone: what had been copied when."""


@dataclass(slots=True, kw_only=True)
class TaskJournal:
    """What a task's records say."""

    task_id: str
    state: State = "none"
    epoch: int = 0
    entries: list[Entry] = field(default_factory=list)
    outcome: Json | None = None
    answered: bool = False
    """It was finished at some time, whatever became of it."""
    ended_at: str = ""
    pruned: str = ""
    pruned_at: str = ""
    watched: tuple[str, ...] = ()
    """The folders of a program that knows nothing of the journal (`chassis.journal.watched`)."""
    undoes: str = ""
    """The task that this one, an undo, took back; `watched` are its targets then."""
    whole: bool = False
    """All of what was announced, or nothing (`chassis.journal.announced`)."""
    boot: str = ""
    """That of the machine when the folders were kept; empty for none known."""
    settled: bool = True
    """False while what such a program changed has not been listed."""

    @property
    def standing(self) -> list[Entry]:
        """Changes that are in the world now."""
        return [entry for entry in self.entries if entry.committed and not entry.dropped]

    @property
    def half_done(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.committed and not entry.dropped]


class TaskLog:
    """Reads and appends the records of one task under `<journal>/<task_id>/`."""

    def __init__(self, root: Path, task_id: str, clock: Clock, *, in_order: bool = False) -> None:
        """`in_order`: its file system syncs earlier names with each later record (`chassis.journal.boot`)."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,119}", task_id):
            raise InvalidInput(f"{task_id!r} is no task id")
        self.task_id, self._clock, self.in_order = task_id, clock, in_order
        self.folder = root / task_id
        self._open_mark = root / ".open" / task_id
        self._path = self.folder / "records.jsonl"

    @property
    def pre(self) -> Path:
        return self.folder / "pre"

    @property
    def before(self) -> Path:
        """What a watched program found."""
        return self.folder / "before.json"

    @property
    def after(self) -> Path:
        """What it changed, once settled."""
        return self.folder / "after.json"

    @property
    def announced(self) -> Path:
        """What its caller said it would make of the watched folders."""
        return self.folder / "announced.json"

    def start(self) -> None:
        """Make the folder and the mark by which an unfinished task is found again."""
        for folder in (self.folder, self.pre):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.mark()

    def mark(self) -> None:
        """It is unfinished. Found again after the end of this process; after a power cut by its records."""
        self._open_mark.touch(mode=0o600)

    def close(self) -> None:
        self._open_mark.unlink(missing_ok=True)

    def append(self, kind: str, *, durable: bool = True, **facts: object) -> None:
        """Not durable: on the disk with the next record that is, or found out by `recovery.settle` without it."""
        line = canonical_json({"at": iso(self._clock.now()), "kind": kind, **facts})
        append_line(self._path, line, mode=0o600, durable=durable)

    def promise(self, **facts: Any) -> None:
        """The intent, on the disk with what was kept for it; only then may the change be made.

        The record's own sync takes with it the new folders on any journaling file system, and the names in `pre`
        where it keeps the order.
        """
        if not self.in_order:
            fsync_dir(self.pre)
        self.append("intent", **facts)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the task; yields False if a living process has it."""
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the task or raise Unavailable."""
        with self.held() as ours:
            if not ours:
                raise Unavailable(f"task {self.task_id} is being worked on; try again when it has ended")
            yield

    def read(self) -> TaskJournal:
        """Raises Damaged: what a torn record says is believed in no part."""
        journal = TaskJournal(task_id=self.task_id)
        by_number: dict[int, Entry] = {}
        for number, line in enumerate(whole_lines(self._path), 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise Damaged(f"record {number} of task {self.task_id} can't be read; see {self._path}") from error
            kind, n = record["kind"], record.get("n", 0)
            if kind == "begin":
                journal.state, journal.epoch = "open", record["epoch"]
            elif kind == "intent":
                by_number[n] = Entry(n=n, intent=record)
                journal.entries.append(by_number[n])
            elif kind == "staged":
                by_number[n].intent = {**by_number[n].intent, "after": record["after"]}
            elif kind == "commit":
                by_number[n].committed = True
            elif kind == "watch":
                journal.watched, journal.settled = tuple(record["roots"]), False
                journal.undoes, journal.boot = record.get("undoes", ""), record.get("boot", "")
                journal.whole = record.get("whole", False)
            elif kind == "settled":
                changes = [Entry(n=each["n"], intent=each, committed=True) for each in read_json(self.after)]
                by_number |= {entry.n: entry for entry in changes}
                journal.entries, journal.settled = journal.entries + changes, True
            elif kind in ("rolled_back", "undid"):
                by_number[n].dropped = True
            elif kind == "join":
                by_number[n].join = record
            elif kind == "finished":
                journal.state, journal.outcome, journal.ended_at = "finished", record["outcome"], record["at"]
                journal.answered = True
            elif kind == "undo":
                journal.state = "undoing"
            elif kind == "undone":
                journal.state, journal.ended_at, journal.outcome = "undone", record["at"], None
            elif kind == "pruned":
                journal.pruned, journal.pruned_at = record["reason"], record["at"]
        return journal
