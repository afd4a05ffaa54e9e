"""Hash-chained JSONL: one chain and one writer per service, so that a changed past shows.

A full file moves to `<service>.d/<number>.jsonl`; the next one begins with the head that it ended in.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from chassis.atomic import append_line, fsync_dir, whole_lines
from chassis.canonical import canonical_json, sha256_hex
from chassis.clock import Clock, iso

log = structlog.get_logger(__name__)

GENESIS = "0" * 64
SEGMENT_BYTES = 8 * 2**20
"""So much is walked when a service starts: half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCheck:
    """`first_bad` is the 1-based line of the chain that breaks it, None when all hold; `where` is its file and line.

    `marks` tells at which line of the chain each of the heads asked for was reached.
    """

    lines: int
    head: str
    first_bad: int | None
    reason: str
    where: str = ""
    marks: Mapping[str, int] = field(default_factory=dict)


def archive_of(path: Path) -> Path:
    """The folder of a chain's full files."""
    return path.with_suffix(".d")


def segments(path: Path) -> list[Path]:
    """The files of a chain, oldest first; the last one is being written."""
    archived = sorted(archive_of(path).glob("[0-9]*.jsonl"))
    return [*archived, path] if path.exists() else archived


def _line(prev: str, body: dict[str, Any]) -> tuple[str, bytes]:
    head = sha256_hex(prev.encode() + canonical_json(body))
    return head, canonical_json({**body, "prev": prev, "hash": head})


def _read(raw: bytes, head: str) -> tuple[str, str]:
    """(the line's hash, what is wrong with it)."""
    try:
        entry = json.loads(raw)
        if canonical_json(entry) != raw:
            return "", "it is not written as an audit line is"
        prev, said = entry.pop("prev"), entry.pop("hash")
        computed = sha256_hex(prev.encode() + canonical_json(entry))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", "not an audit line"
    if prev != head:
        return "", "does not follow the line before it"
    return (said, "") if computed == said else ("", "content does not match its hash")


def verify(path: Path, marks: Collection[str] = ()) -> ChainCheck:
    """Walk the chain over all its files; a missing chain is an empty one."""
    head, count, found, wanted = GENESIS, 0, dict[str, int](), frozenset(marks)
    for number, segment in enumerate(segments(path), start=1):
        if segment != path and segment.name != f"{number:08d}.jsonl":
            missing = f"{archive_of(path).name}/{number:08d}.jsonl"
            return ChainCheck(
                lines=count, head=head, first_bad=count + 1, reason=f"{missing} is missing", where=missing, marks=found
            )
        for place, raw in enumerate(whole_lines(segment), start=1):
            count += 1
            said, why = _read(raw, head)
            if why:
                where = f"{segment.name} line {place}"
                return ChainCheck(lines=count, head=head, first_bad=count, reason=why, where=where, marks=found)
            head = said
            if head in wanted:
                found[head] = count
    return ChainCheck(lines=count, head=head, first_bad=None, reason="chain holds", marks=found)


def head_of(path: Path) -> str:
    """The hash in the last whole line of a file; empty when no line of its last 64 KiB has one."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65536))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        marker = line.find(b'"hash":"')
        if marker >= 0:
            return line[marker + 8 : marker + 72].decode("ascii", "replace")
    return ""


def heads(folder: Path) -> dict[str, str]:
    """The head of every chain in the folder, as its last whole line gives it."""
    names = {path.stem for path in (*folder.glob("*.jsonl"), *folder.glob("*.d"))}
    found = {}
    for name in sorted(names):
        for segment in reversed(segments(folder / f"{name}.jsonl")):
            if head := head_of(segment):
                found[name] = head
                break
    return found


class Audit:
    """The one writer of a service's chain.

    Opening walks the file being written. If it is broken it is kept as `<name>.broken-<head>`, and a new file
    goes on from the last full one with a line that says so: the station goes on, and the break stays visible.
    """

    def __init__(self, path: Path, clock: Clock, service: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._path, self._clock, self._service, self._limit = path, clock, service, segment_bytes
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        archived = sorted(archive_of(path).glob("[0-9]*.jsonl"))
        self._archived = int(archived[-1].stem) if archived else 0
        start = head_of(archived[-1]) if archived else GENESIS
        self._head = start
        for place, raw in enumerate(whole_lines(path), start=1):
            said, why = _read(raw, self._head)
            if why:
                kept = self._set_aside()
                self._head = start
                self.write("audit.broken", kept=kept, line=place, reason=why)
                return
            self._head = said

    def _set_aside(self) -> str:
        kept = self._path.with_name(f"{self._path.name}.broken-{self._head[:12]}")
        again = 1
        while kept.exists():  # broken at the same place once before
            again += 1
            kept = self._path.with_name(f"{self._path.name}.broken-{self._head[:12]}-{again}")
        self._path.rename(kept)
        return kept.name

    @property
    def head(self) -> str:
        return self._head

    def write(self, event: str, **facts: Any) -> str:
        """Append one event durably and return the new head. Facts must be JSON and hold no secret."""
        with self._lock:
            self._rotate()
            body = {"at": iso(self._clock.now()), "service": self._service, "event": event, **facts}
            head, line = _line(self._head, body)
            append_line(self._path, line, mode=0o640)
            self._head = head
            return head

    def _rotate(self) -> None:
        """Move a full file away. Where that fails the chain goes on in the same file."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size < self._limit:
                return
            archive = archive_of(self._path)
            try:
                archive.mkdir(mode=0o750, exist_ok=True)
                self._path.rename(archive / f"{self._archived + 1:08d}.jsonl")
                self._archived += 1
                fsync_dir(archive)
                fsync_dir(self._path.parent)
            except OSError as error:
                log.warning("the audit file could not be rotated; it grows on", file=self._path.name, why=str(error))
