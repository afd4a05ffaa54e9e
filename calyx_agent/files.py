"""Whole files, changed so that it can be rehearsed and undone: copies for the plan, pre-images before the effect."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from calyx_agent.client import Json
from calyx_agent.work import Change, Plan, canonical, file_claim, sha256_of

REHEARSALS = ".calyx-rehearsal"
"""Beside the targets, because a prober may look into an agent's declared folders only."""
KEPT_SECONDS = 15 * 60.0
"""How long the copies of a rehearsal stay for its prober."""

UNDO_KEPT_SECONDS = 30 * 86400.0
"""How long what an undo needs is kept; the station's own journal is bounded too."""

Writes = Mapping[Path, bytes | None]
"""What each file is to hold; None: it is to go."""


class Drifted(Exception):
    """A file is no longer as it was left; it was not touched."""


class Unreverted(Exception):
    """A task failed, and what it had changed by then could not be put back."""


def changes_of(writes: Writes) -> list[Change]:
    """Those that change something. Raises ValueError for a link or a folder, FileNotFoundError for an absent folder."""
    made = []
    for path, content in writes.items():
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ValueError(f"{path} is no regular file")
        if content is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent}")
        change = (
            Change.write(path, content) if content is not None else (Change.remove(path) if path.exists() else None)
        )
        if change is not None and change.before_sha256 != change.after_sha256:
            made.append(change)
    return made


def rehearse(task_id: str, writes: Writes) -> Plan:
    """The plan, with a copy of each new content where a prober can see that it is what the plan says."""
    changes, claims = changes_of(writes), []
    for n, change in enumerate(changes):
        target = Path(change.target)
        content = next(content for path, content in writes.items() if path.absolute() == target)
        if content is None:
            claims.append({"kind": "file_digest", "target": change.target, "expect": {"sha256": change.before_sha256}})
            continue
        folder = target.parent / REHEARSALS
        prune(folder, KEPT_SECONDS)
        copy = folder / f"{task_id}-{n}"
        copy.parent.mkdir(exist_ok=True)
        _put(copy, content)
        claims.append(file_claim(copy))
    return Plan(changes=changes, claims=claims)


class Journal:
    """What one task did to files, in the agent's own state folder. Survives a crash between any two steps."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "journal.json"

    def apply(self, writes: Writes, before_each: Callable[[], None]) -> list[Change]:
        """Do it. What an attempt cut short had done is taken back first; a failure takes back what was done."""
        if self._file.exists():
            self.restore()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        changes = changes_of(writes)
        contents = {str(path.absolute()): content for path, content in writes.items()}
        entries: list[Json] = []
        try:
            for n, change in enumerate(changes):
                before_each()
                target, content = Path(change.target), contents[change.target]
                mode = target.stat().st_mode & 0o7777 if target.exists() else 0o644
                if change.before_sha256 is not None:
                    _put(self._folder / f"{n}.before", target.read_bytes())
                if sha256_of(self._folder / f"{n}.before") != change.before_sha256:
                    raise Drifted(f"{target} changed while it was about to be written; nothing was kept of this task")
                entries.append(change.to_json() | {"mode": mode})
                _put(self._file, canonical(entries).encode())
                if content is None:
                    target.unlink()
                else:
                    _put(target, content, mode)
        except BaseException as failure:
            try:
                self.restore()
            except (Drifted, OSError) as stuck:
                raise Unreverted(f"{failure or type(failure).__name__}; then {stuck}") from failure
            raise
        return changes

    def restore(self) -> list[Change]:
        """Put everything back, the last change first. Raises Drifted before it touches anything."""
        entries: list[Json] = json.loads(self._file.read_text()) if self._file.exists() else []
        for entry in entries:
            now = sha256_of(Path(entry["target"]))
            if now not in (entry["after_sha256"], entry["before_sha256"]):
                raise Drifted(f"{entry['target']} has been changed since; nothing was undone")
        undone = []
        for n, entry in reversed(list(enumerate(entries))):
            target, before = Path(entry["target"]), entry["before_sha256"]
            if sha256_of(target) == before:
                continue
            if before is None:
                undone.append(Change.remove(target))
                target.unlink()
            else:
                content = (self._folder / f"{n}.before").read_bytes()
                undone.append(Change.write(target, content))
                _put(target, content, entry["mode"])
        shutil.rmtree(self._folder, ignore_errors=True)
        return undone


def _put(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Whole or not at all, also across a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def prune(folder: Path, kept_seconds: float) -> None:
    """Remove what lies in the folder for longer."""
    for each in folder.iterdir() if folder.is_dir() else ():
        if time.time() - each.stat().st_mtime > kept_seconds:
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
