"""Finished tasks in few files: one append-only segment a day, one line a task; later only their ids.

`archive/<yyyymmdd>.jsonl` holds canonical `{"ack", "manifest"}` lines of the tasks that were compacted that day,
`archive/<yyyymmdd>.ids` what is kept of them once the segment is dropped. Both are the truth; `index.sqlite` is
derived from them. A record among the task files counts before the archive.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import structlog

from chassis.atomic import FileState, append_lines, file_state, fsync_dir, write_whole
from chassis.canonical import canonical_json
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput
from chassis.exchange.index import Index, Lost, Row
from chassis.exchange.manifest import MAX_MANIFEST_BYTES, TASK_ID, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.moves import names
from chassis.exchange.rules import bare_ack, disbelieved

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 16 * 1024 * 1024 + MAX_MANIFEST_BYTES + 1024
_SEGMENT = re.compile(r"\d{8}\.(jsonl|ids)")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A task of the archive; `manifest` None when only its id and how it ended are kept."""

    manifest: Manifest | None
    ack: Ack


class Archive:
    """Everybody may read; who adds or drops does so inside `alone()`."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "archive"
        self._folder.mkdir(exist_ok=True)
        self._index = Index(root / "index.sqlite")
        self._seen: FileState | None = None
        self._empty = False
        self._caught_up = False
        self._looked: dict[str, tuple[int, int]] = {}

    # Reading

    def holds(self, task_id: TaskId) -> bool:
        return self._row(task_id) is not None

    def find(self, task_id: TaskId) -> Archived | None:
        row = self._row(task_id)
        if row is None:
            return None
        if row.segment.endswith(".ids"):
            return Archived(manifest=None, ack=_kept(row))
        line, aligned = self._line(row)
        found = _parse(line)
        if found is None and not aligned:  # the index is wrong about where it lies
            self._make()
            row = self._asked(lambda: self._index.get(task_id)) or row
            found = _parse(self._line(row)[0])
        if found is None or found[0].task_id != task_id:
            return Archived(manifest=None, ack=bare_ack(_kept(row), "its archived record can't be read"))
        return Archived(manifest=found[0], ack=found[1])

    def ids(self, *, cancelled: bool) -> list[TaskId]:
        return [] if self._nothing() else self._asked(lambda: self._index.ids(cancelled=cancelled))

    def _row(self, task_id: TaskId) -> Row | None:
        return None if self._nothing() else self._asked(lambda: self._index.get(task_id))

    def _nothing(self) -> bool:
        """Is there no segment at all? Asked of the folder again only when it has changed."""
        if (state := file_state(self._folder)) != self._seen:
            self._empty = not self._segments()
            self._seen = state
        return self._empty

    def _asked(self, ask: Callable[[], T]) -> T:
        if not self._caught_up:
            with self.alone():
                self.catch_up()
        try:
            return ask()
        except Lost:
            self._make()
            return ask()

    def _line(self, row: Row) -> tuple[bytes, bool]:
        """The bytes of a row, and whether they are one whole line there."""
        try:
            with _plain(self._folder / row.segment) as file:
                file.seek(max(0, row.start - 1))
                before = b"\n" if row.start == 0 else file.read(1)
                data = file.read(min(row.size, MAX_LINE_BYTES) + 1)
        except OSError:
            return b"", self._missing(row.segment)
        whole = len(data) == row.size + 1 and data.count(b"\n") == 1
        return data[:-1], before == b"\n" and whole and data.endswith(b"\n")

    def _missing(self, segment: str) -> bool:
        return segment not in self._segments() and segment.replace(".jsonl", ".ids") not in self._segments()

    # Writing

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One process and thread at a time writes segments or makes the index."""
        with (self._folder / ".lock").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def add(self, tasks: Sequence[tuple[Manifest, Ack]], day: date) -> None:
        """Durable and findable when it returns. OSError (full disk): nothing was added."""
        lines = [canonical_json({"manifest": task.to_json(), "ack": ack.to_json()}) for task, ack in tasks]
        path = self._folder / f"{day:%Y%m%d}.jsonl"
        if os.path.lexists(path) and path.name not in self._segments():
            path.rename(path.with_name(f"{path.name}.{secrets.token_hex(3)}.stray"))  # no file of ours
        if path.with_suffix(".ids").exists():  # a clock that went back; that day's lines are gone, later ones stay
            path = max(self._folder / name for name in self._segments())
            path = self._folder / f"{int(path.stem) + 1:08d}.jsonl"
        start = append_lines(path, lines)
        rows = []
        for (task, ack), line in zip(tasks, lines, strict=True):
            rows.append(_row(task, ack, path.name, start, len(line)))
            start += len(line) + 1
        self._index.put(rows, path.name, start)

    def drop(self, before: date) -> int:
        """Keep only the ids of the oldest segment, if it is of a day before this; how many tasks that were."""
        for name in self._segments():
            if not name.endswith(".jsonl") or name >= f"{before:%Y%m%d}.jsonl":
                continue
            path = self._folder / name
            ids = path.with_suffix(".ids")
            rows = list(self._read(ids.name)) if ids.exists() else []
            if not ids.exists():
                read = {row.task_id: row for row in [*self._index.of(name), *self._read(name)]}
                rows = [replace(row, segment=ids.name, start=0, size=0) for row in read.values()]
                write_whole(ids, b"".join(_id_line(row) for row in rows))
            self._index.put(rows, ids.name, ids.stat().st_size)
            path.unlink()
            fsync_dir(self._folder)
            return len(rows)
        return 0

    def catch_up(self) -> None:
        """Bring the index to what the segments say; inside `alone()`. What is read here is durable afterwards."""
        try:
            known = self._index.indexed()
            for name in self._segments():
                size = (self._folder / name).lstat().st_size
                if self._looked.get(name) == (size, known.get(name, -1)):
                    continue  # what follows there is no line, and was not one last time
                if known.get(name, 0) > size:
                    raise Lost(f"it knows more of {name} than there is")
                if known.get(name, -1) < size and not (name.endswith(".jsonl") and self._dropped(name)):
                    rows = list(self._read(name, known.get(name, 0)))
                    _sync(self._folder / name)
                    read = max((row.start + row.size + 1 for row in rows), default=known.get(name, 0))
                    read = size if name.endswith(".ids") else read
                    self._index.put(rows, name, read)
                    self._looked[name] = (size, read)
        except Lost as lost:
            if self._segments():
                log.warning("the archive's index is made again", why=str(lost))
            self._make_alone()
        self._caught_up = True

    def _make(self) -> None:
        with self.alone():
            self._make_alone()

    def _make_alone(self) -> None:
        indexed: dict[str, int] = {}

        def rows() -> Iterator[Row]:
            for name in self._segments():
                if name.endswith(".jsonl") and self._dropped(name):
                    continue
                _sync(self._folder / name)
                indexed[name] = 0
                for row in self._read(name):
                    indexed[name] = row.start + row.size + 1
                    yield row
                if name.endswith(".ids"):
                    indexed[name] = (self._folder / name).lstat().st_size

        self._index.make(rows(), indexed)
        self._caught_up = True

    def _dropped(self, segment: str) -> bool:
        return (self._folder / segment).with_suffix(".ids").exists()

    def _segments(self) -> list[str]:
        """Plain files with a segment's name, oldest first."""
        found = [name for name in names(self._folder) if _SEGMENT.fullmatch(name)]
        return [name for name in found if stat.S_ISREG((self._folder / name).lstat().st_mode)]

    def _read(self, name: str, start: int = 0) -> Iterator[Row]:
        """The rows of a segment from a byte on. What is no task is passed over; a torn last line is not read."""
        with _plain(self._folder / name) as file:
            file.seek(start)
            while line := file.readline(MAX_LINE_BYTES):
                at, start = start, start + len(line)
                if not line.endswith(b"\n"):
                    continue
                if (row := _listed(line[:-1], name, at)) is not None:
                    yield row
                else:
                    log.warning("a line of the archive is no task", segment=name, offset=at)


def _kept(row: Row) -> Ack:
    ended = parse_iso(row.ended_at)
    return bare_ack(
        Ack(
            task_id=row.task_id, epoch=row.epoch, agent=row.agent, status=row.status, started_at=ended,
            ended_at=ended, duration_seconds=0.0,
        )
    )  # fmt: skip


def _row(task: Manifest, ack: Ack, segment: str, start: int, size: int) -> Row:
    return Row(
        task_id=task.task_id, segment=segment, start=start, size=size, status=ack.status, epoch=ack.epoch,
        agent=ack.agent, domain=task.domain, owner=task.owner, ended_at=iso(ack.ended_at),
    )  # fmt: skip


def _parse(line: bytes) -> tuple[Manifest, Ack] | None:
    try:
        value = json.loads(line)
        task, ack = Manifest.from_json(value["manifest"]), Ack.from_json(value["ack"])
    except (InvalidInput, ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if disbelieved(task, ack) else (task, ack)


_KEPT = ("task_id", "status", "epoch", "agent", "domain", "owner", "ended_at")


def _id_line(row: Row) -> bytes:
    return canonical_json({name: getattr(row, name) for name in _KEPT}) + b"\n"


def _listed(line: bytes, segment: str, at: int) -> Row | None:
    """What the index keeps of a line; whether it is believed is looked at when it is read."""
    try:
        value: dict[str, Any] = json.loads(line)
        if segment.endswith(".ids"):
            return _checked(Row(segment=segment, start=0, size=0, **{name: value[name] for name in _KEPT}))
        task, ack = value["manifest"], value["ack"]
        if task["task_id"] != ack["task_id"]:
            return None
        return _checked(
            Row(
                task_id=ack["task_id"], segment=segment, start=at, size=len(line), status=ack["status"],
                epoch=ack["epoch"], agent=ack["agent"], domain=task["domain"], owner=task["owner"],
                ended_at=ack["ended_at"],
            )
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checked(row: Row) -> Row | None:
    texts = all(isinstance(each, str) for each in (row.agent, row.domain, row.owner))
    known = TASK_ID.fullmatch(row.task_id) and row.status in get_args(AckStatus)
    parse_iso(row.ended_at)
    return row if texts and known and type(row.epoch) is int and row.epoch > 0 else None


def _plain(path: Path) -> BinaryIO:
    """Open for reading, never through a link and never waiting. OSError if it is no regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(fd, "rb")


def _sync(path: Path) -> None:
    with _plain(path) as file:
        os.fsync(file.fileno())
