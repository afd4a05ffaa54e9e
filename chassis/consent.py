"""Consent for folders outside the station's own: `config/paths.json`, written by the operator, read by everyone.

Nothing here gives consent by itself. A file that is unreadable, damaged or names a forbidden folder allows nothing.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from chassis.atomic import FileState, file_state, read_json, write_json
from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.errors import CalyxError, Damaged, InvalidInput, NotFound, Refused
from chassis.journal.targets import SECRET_FOLDERS
from chassis.layout import Layout

SCHEMA = "calyx.paths/1"
TAKE_FOLDERS = ("log_rotation",)
"""The domains whose work reaches outside the station at all."""

SYSTEM = tuple(
    Path(each)
    for each in ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin",
                 "/sys", "/usr")
)  # fmt: skip
"""Never, nor anything below."""
TOO_WIDE = frozenset(
    Path(each)
    for each in ("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib")  # noqa: S108 — refused, not used
)
"""Never as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedPath:
    """One consent. `confirmed_at` None: its first effect has not happened yet and needs an approval."""

    domain: str
    path: Path
    by: str
    at: datetime
    confirmed_at: datetime | None = None

    def covers(self, target: str) -> bool:
        """Whether the target lies below the folder, by its text."""
        return os.path.normpath(target).startswith(os.path.join(self.path, ""))  # noqa: PTH118 — a text prefix, no path

    def to_json(self) -> Json:
        return {
            "domain": self.domain,
            "path": str(self.path),
            "by": self.by,
            "at": iso(self.at),
            "confirmed_at": None if self.confirmed_at is None else iso(self.confirmed_at),
        }

    @classmethod
    def from_json(cls, raw: Any) -> "AllowedPath":
        confirmed = raw["confirmed_at"]
        return cls(
            domain=str(raw["domain"]),
            path=Path(raw["path"]),
            by=str(raw["by"]),
            at=parse_iso(raw["at"]),
            confirmed_at=None if confirmed is None else parse_iso(confirmed),
        )


def forbidden(path: Path, station: Path) -> str:
    """Why this folder may never be allowed, by its name alone; empty when it may."""
    if not path.is_absolute() or ".." in path.parts:
        return "it is not an absolute path"
    if ":" in str(path) or not str(path).isprintable():
        return "its name can't be told apart in a list of folders"
    if path in TOO_WIDE:
        return "it is too wide; name the folder with the files"
    if any(path.is_relative_to(each) for each in SYSTEM):
        return "it belongs to the system"
    if SECRET_FOLDERS & {part.lower() for part in path.parts}:
        return "it holds secrets"
    if path.is_relative_to(station) or station.is_relative_to(path):
        return "it overlaps the station's own folder, which its domains declare themselves"
    return ""


def folder_of(text: str, station: Path) -> Path:
    """The folder to allow, its links resolved. Raises InvalidInput, NotFound, Refused."""
    path = Path(text)
    if not path.is_absolute():
        raise InvalidInput(f"{text!r} is not an absolute path; name the folder in full")
    real = path.resolve()
    if why := forbidden(real, station.resolve()):
        raise Refused(f"{real} can't be allowed: {why}")
    if not real.is_dir():
        raise NotFound(f"there is no folder {real} here")
    try:
        inside = {entry.name.lower() for entry in os.scandir(real)}
    except OSError as error:
        raise Refused(f"{real} can't be allowed: it can't be listed ({error.strerror})") from error
    if secret := SECRET_FOLDERS & inside:
        raise Refused(f"{real} can't be allowed: it contains {sorted(secret)[0]}")
    return real


def with_path(paths: Sequence[AllowedPath], new: AllowedPath) -> tuple[AllowedPath, ...]:
    """With one consent more; one that is there already stays as it is."""
    if any((each.domain, each.path) == (new.domain, new.path) for each in paths):
        return tuple(paths)
    return (*paths, new)


def without_path(paths: Sequence[AllowedPath], domain: str, path: Path) -> tuple[AllowedPath, ...]:
    return tuple(each for each in paths if (each.domain, each.path) != (domain, path))


def confirmed(paths: Sequence[AllowedPath], these: Iterable[AllowedPath], at: datetime) -> tuple[AllowedPath, ...]:
    """`these` consents, if they still stand, have had their first approved effect."""
    keys = {(each.domain, each.path, each.at) for each in these}
    return tuple(
        replace(each, confirmed_at=at) if (each.domain, each.path, each.at) in keys and not each.confirmed_at else each
        for each in paths
    )


def read(layout: Layout) -> tuple[AllowedPath, ...]:
    """Every consent. Raises Damaged for a file that can't be trusted; no file is no consent."""
    station = layout.root.resolve()
    try:
        whole = read_json(layout.consents)
        if whole["schema"] != SCHEMA:
            raise ValueError(f"its schema is {whole['schema']!r}")
        paths = tuple(AllowedPath.from_json(each) for each in whole["paths"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CalyxError) as error:
        raise Damaged(f"{layout.consents} can't be read ({error}); no folder outside the station is allowed") from error
    for each in paths:
        if why := forbidden(each.path, station):
            raise Damaged(f"{layout.consents} allows {each.path}: {why}; no folder outside the station is allowed")
    return paths


def update(
    layout: Layout, change: Callable[[tuple[AllowedPath, ...]], tuple[AllowedPath, ...]]
) -> tuple[AllowedPath, ...]:
    """Read, change, write whole, one writer at a time. Raises Damaged rather than overwrite what it can't read."""
    layout.consents.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(layout.consents.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = read(layout)
        after = change(before)
        if after != before:
            write_json(layout.consents, {"schema": SCHEMA, "paths": [each.to_json() for each in after]})
        return after
    finally:
        os.close(fd)


class ConsentFile:
    """The consents as they are now: read again when the file changes. Thread-safe. `fault`: why it allows nothing."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._file, self._lock = layout, layout.consents, threading.Lock()
        self._seen: FileState | None = None
        self._paths: tuple[AllowedPath, ...] = ()
        self.fault = ""

    def all(self) -> tuple[AllowedPath, ...]:
        """As written: the folders may be missing where this is asked."""
        with self._lock:
            try:
                if (seen := file_state(self._file)) != self._seen:
                    self._paths, self._seen, self.fault = read(self._layout), seen, ""
            except FileNotFoundError:
                self._paths, self._seen, self.fault = (), None, ""
            except (OSError, Damaged) as error:
                self._paths, self._seen, self.fault = (), None, str(error)
            return self._paths

    def here(self) -> tuple[AllowedPath, ...]:
        """Those whose folder is there and is still what was allowed: none that became a link."""
        return tuple(each for each in self.all() if each.path.is_dir() and each.path.resolve() == each.path)

    def folders(self) -> list[Path]:
        return [each.path for each in self.here()]
