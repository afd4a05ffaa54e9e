"""The `log_rotation` domain: rename, wait until nobody writes any more, compress, verify, remove the plain copy."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chassis.canonical import Json
from chassis.clock import Clock
from chassis.consent import AllowedPath
from chassis.errors import Damaged, InvalidInput, NotFound, Refused
from chassis.exchange.manifest import Manifest
from chassis.work import Change, Effects, Outcome, Plan
from services.governor.codecs import PROCEDURES, Codec, Packed, content_of, digest_prefix, open_regular, pack
from services.governor.holders import Holders, Holding

LOG = re.compile(r".+\.(?:log|out)")
SEGMENT = re.compile(r".+\.(?:log|out)\.\d{8}T\d{12}")
DEFAULT_MIN_BYTES = 65536
MAX_FILES = 200
"""Logs and left-over segments taken up by one task; the rest waits for the next."""

WAIT_SECONDS = 3.0
"""In all, for writers to let go of what was renamed."""
LOOK_EVERY_SECONDS = 0.1
STILL_SECONDS = 1.0
"""Where the kernel won't say who writes, a segment counts as released once it has not changed for so long."""

EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass
class _Run:
    """What one run has done so far."""

    claims: list[Json] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    archived: int = 0
    rotated: int = 0
    bytes_in: int = 0
    """Of the logs themselves: what the other costs are compared by."""
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_saved: int = 0


def _none_allowed() -> Sequence[AllowedPath]:
    return ()


class LogRotation:
    """Rotates `*.log` and `*.out` of at least `min_bytes`, and takes up segments that an earlier run had to leave.

    Params: `folders` (absolute, separated by `:`; default the station's logs and what was allowed), `min_bytes`.
    `roots` are the paths it may read and change, `allowed` the folders that a person added; what it changes goes
    through `Effects` all the same. `cpu_seconds` is the CPU time used so far by this thread.
    """

    domain = "log_rotation"
    procedures = tuple(PROCEDURES)

    def __init__(
        self,
        *,
        default_folder: Path,
        roots: Callable[[], Sequence[Path]],
        holders: Holders,
        clock: Clock,
        cpu_seconds: Callable[[], float],
        allowed: Callable[[], Sequence[AllowedPath]] = _none_allowed,
    ) -> None:
        self._default, self._roots, self._holders, self._allowed = default_folder, roots, holders, allowed
        self._clock, self._cpu_seconds = clock, cpu_seconds

    # --- rehearse ------------------------------------------------------------------------------------------

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Compress snapshots. The claims let a prober see that the archives hold the logs and the logs are intact."""
        codec, (logs, segments, notes) = _codec(task), self._find(task)
        changes: list[Change] = []
        claims: list[Json] = []
        for number, path in enumerate((*segments, *logs)):
            segment = path if path in segments else _segment(path, task)
            snapshot = scratch / f"{number:03d}-{segment.name}"
            _snapshot(path, snapshot)
            packed = pack(snapshot, snapshot.with_name(snapshot.name + codec.suffix), codec)
            _verify(packed, codec)
            snapshot.unlink()
            before = {"sha256": packed.content_sha256, "size": str(packed.content_size)}
            if segment != path:
                changes.append(_change("rotate", path, packed.content_sha256, EMPTY_SHA256, packed.content_size))
            changes.append(_change("create", _archive(segment, codec), None, packed.sha256, packed.size))
            changes.append(_change("remove", segment, packed.content_sha256, None, packed.content_size))
            claims += [_archive_claim(packed.archive, packed), _claim("prefix_digest", path, before)]
        return Plan(changes=tuple(changes), claims=tuple(claims), notes="; ".join(notes))

    # --- perform -------------------------------------------------------------------------------------------

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        """Rotate everything first, so that one wait serves all, then archive what nobody writes to any more."""
        started = self._cpu_seconds()
        codec, (logs, segments, notes) = _codec(task), self._find(task)
        if not logs and not segments:
            return Outcome(detail="; ".join(("nothing to rotate", *notes)), no_work=True)
        run = _Run(left=notes)
        for log in logs:
            segment = _segment(log, task)
            effects.rotate(log, segment)
            run.rotated += 1
            segments.append(segment)
        for segment, holding in self._settle(segments):
            if holding.state == "held":
                self._leave(run, segment, _held_by(holding))
            else:
                self._archive_one(run, segment, codec, scratch, effects)
        detail = f"{run.rotated} rotated, {run.archived} compressed with {task.procedure}"
        return Outcome(
            detail="; ".join((detail, *run.left)),
            claims=tuple(run.claims),
            cost={
                "cpu_seconds": round(self._cpu_seconds() - started, 6),
                "bytes_in": float(run.bytes_in),
                "bytes_read": float(run.bytes_read),
                "bytes_written": float(run.bytes_written),
                "bytes_saved": float(run.bytes_saved),
            },
        )

    def _settle(self, segments: Iterable[Path]) -> list[tuple[Path, Holding]]:
        """Wait, within bounds, until nobody writes to them; each with what was last seen."""
        deadline = self._clock.monotonic() + WAIT_SECONDS
        pending = {segment: (_shape(segment), self._clock.monotonic()) for segment in segments}
        settled: list[tuple[Path, Holding]] = []
        while pending:
            now = self._clock.monotonic()
            for segment, (shape, since) in list(pending.items()):
                holding, seen = self._holders.writers(segment), _shape(segment)
                if seen != shape:
                    pending[segment] = (seen, now)
                still = seen == shape and now - since >= STILL_SECONDS
                if holding.state == "free" or (holding.state == "unseen" and still):
                    settled.append((segment, holding))
                    del pending[segment]
                elif now >= deadline:
                    settled.append((segment, holding if holding.by else Holding(state="held")))
                    del pending[segment]
            if pending:
                self._clock.wait(LOOK_EVERY_SECONDS)
        return settled

    def _archive_one(self, run: _Run, segment: Path, codec: Codec, scratch: Path, effects: Effects) -> None:
        shape = _shape(segment)
        target = _archive(segment, codec)
        packed = pack(segment, scratch / f"{run.archived:03d}-{target.name}", codec)  # verified before the removal
        run.bytes_read += packed.content_size + 2 * packed.size
        if self._holders.writers(segment).state == "held":
            packed.archive.unlink()
            self._leave(run, segment, "it was opened again")
            return
        if _shape(segment) != shape or packed.content_size != shape[0]:
            packed.archive.unlink()
            self._leave(run, segment, "it changed while it was read")
            return
        effects.create(target, packed.archive, mode=segment.stat().st_mode & 0o777)
        effects.remove(segment, inverse={"kind": "decompress", "codec": codec.name, "source": str(target)})
        run.claims.append(_archive_claim(target, packed))
        run.archived += 1
        run.bytes_in += packed.content_size
        run.bytes_written += packed.size
        run.bytes_saved += packed.content_size - packed.size

    def _leave(self, run: _Run, segment: Path, why: str) -> None:
        """It stays uncompressed and goes on receiving lines; a later run takes it up."""
        size = segment.stat().st_size
        run.bytes_read += size
        run.claims.append(_claim("prefix_digest", segment, {"size": str(size), "sha256": digest_prefix(segment, size)}))
        run.left.append(f"{segment.name} left uncompressed: {why}")

    # --- drill ---------------------------------------------------------------------------------------------

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        for name, lines in (("app.log", 400), ("batch.out", 50)):
            text = "".join(f"{n:06d} {procedure} drill line of {name}\n" for n in range(lines))
            (folder / name).write_text(text)
        return {"folders": str(folder), "min_bytes": "1"}

    # --- what there is -------------------------------------------------------------------------------------

    def _find(self, task: Manifest) -> tuple[list[Path], list[Path], list[str]]:
        """Logs to rotate, left-over segments that are free by now, and notes on what is passed over."""
        codec, least = _codec(task), _min_bytes(task)
        logs: list[Path] = []
        segments: list[Path] = []
        notes: list[str] = []
        for folder in self._folders(task):
            with os.scandir(folder) as entries:
                found = sorted(e.name for e in entries if e.is_file(follow_symlinks=False))
            for path in (folder / name for name in found):
                if LOG.fullmatch(path.name) and path.lstat().st_size >= max(1, least):
                    if _segment(path, task).name in found:
                        notes.append(f"{path.name} was rotated by this task before")
                    elif (why := _not_ours(path)) is not None:
                        notes.append(f"{path.name} passed over: {why}")
                    else:
                        logs.append(path)
                elif SEGMENT.fullmatch(path.name):
                    if _archive(path, codec).name in found:
                        notes.append(f"{path.name} kept: its archive is there, and it is not removed twice")
                    elif (holding := self._holders.writers(path)).state == "held":
                        notes.append(f"{path.name} left uncompressed: {_held_by(holding)}")
                    else:
                        segments.append(path)
        segments = segments[:MAX_FILES]
        return logs[: MAX_FILES - len(segments)], segments, notes

    def _folders(self, task: Manifest) -> list[Path]:
        """Raises InvalidInput, NotFound, or Refused for a folder without consent."""
        given = task.params.get("folders", "")
        consents = [each for each in self._allowed() if each.domain == self.domain]
        # the first effect under an allowed folder is an approved one, whatever the level
        open_to = [each.path for each in consents if each.confirmed_at or task.rehearsal or task.approval]
        if not given:
            return [*([self._default] if self._default.is_dir() else []), *open_to]
        roots = [*(root.resolve() for root in self._roots()), *open_to]
        folders = []
        for text in given.split(":"):
            path = Path(text)
            if not path.is_absolute():
                raise InvalidInput(f"folder {text!r} is not absolute; name folders by their full path")
            resolved = path.resolve()
            if not any(resolved.is_relative_to(root) for root in roots):
                if any(resolved.is_relative_to(each.path) for each in consents):
                    raise Refused(f"the first effect under {text} needs an approval")
                raise Refused(f"no consent for {text}; `calyx domain allow-path {self.domain} {text}` gives it")
            if not resolved.is_dir():
                raise NotFound(f"there is no folder {text}")
            folders.append(resolved)
        return folders


def _codec(task: Manifest) -> Codec:
    try:
        return PROCEDURES[task.procedure]
    except KeyError:
        raise InvalidInput(f"log_rotation knows no procedure {task.procedure!r}") from None


def _min_bytes(task: Manifest) -> int:
    text = task.params.get("min_bytes", str(DEFAULT_MIN_BYTES))
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"min_bytes is a number of bytes, not {text!r}")
    return int(text)


def _segment(log: Path, task: Manifest) -> Path:
    """Named by the task's own time, so that the rehearsed plan names the files of the performance."""
    return log.with_name(f"{log.name}.{task.created_at.strftime('%Y%m%dT%H%M%S%f')}")


def _archive(segment: Path, codec: Codec) -> Path:
    return segment.with_name(segment.name + codec.suffix)


def _not_ours(path: Path) -> str | None:
    status = path.lstat()
    if status.st_nlink != 1:
        return "it has a second name"
    if os.geteuid() not in (0, status.st_uid):
        return "it belongs to another user"
    return None


def _shape(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_size, status.st_mtime_ns


def _snapshot(source: Path, target: Path) -> None:
    """Copy what is there now; lines added meanwhile belong to the next look."""
    with open_regular(source) as file, target.open("xb") as out:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            out.write(chunk)
            left -= len(chunk)
    if left:
        raise Refused(f"{source.name} became shorter while it was copied; nothing was changed")


def _verify(packed: Packed, codec: Codec) -> None:
    if content_of(packed.archive, codec) != packed.content_sha256:
        raise Damaged(f"{packed.archive.name} does not decompress to what went in; the log is untouched")


def _held_by(holding: Holding) -> str:
    return f"still written by {', '.join(holding.by)}" if holding.by else "still open for writing"


def _change(op: str, target: Path, before: str | None, after: str | None, size: int) -> Change:
    return Change(op=op, target=str(target), before_sha256=before, after_sha256=after, size_bytes=size)


def _claim(kind: str, target: Path, expect: Mapping[str, str]) -> Json:
    return {"kind": kind, "target": str(target), "expect": dict(expect)}


def _archive_claim(target: Path, packed: Packed) -> Json:
    return _claim(
        "archive_of",
        target,
        {"codec": packed.codec, "sha256": packed.sha256, "content_sha256": packed.content_sha256},
    )
