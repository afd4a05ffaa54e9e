"""The diagnostics export: one redacted zip that can be given to somebody else."""

import io
import json
import os
import platform
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from chassis.canonical import Json
from chassis.clock import Clock, iso
from chassis.errors import CalyxError
from chassis.layout import Layout
from services.dashboard.redaction import redact

TAIL_BYTES = 2 * 1024 * 1024
PULSES = 50
MAX_ARCHIVE_BYTES = 32 * 1024 * 1024
_PACKAGES = ("station-calyx", "grpcio", "protobuf", "pydantic", "fastapi", "uvicorn", "psutil", "supervisor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A zip and the name to save it under."""

    file_name: str
    archive: bytes


@dataclass(slots=True)
class _Contents:
    known: tuple[str, ...]
    buffer: io.BytesIO = field(default_factory=io.BytesIO)
    left_out: list[Json] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def leave_out(self, name: str, why: str) -> None:
        self.left_out.append({"name": name, "why": redact(why, self.known)})


def export(
    *,
    layout: Layout,
    clock: Clock,
    documents: Mapping[str, Callable[[], Any]],
    environment: Mapping[str, str],
    known_secrets: Iterable[str] = (),
    max_bytes: int = MAX_ARCHIVE_BYTES,
) -> Export:
    """Logs (the last 2 MiB each), the last 50 pulses, `documents`, configuration and versions, all redacted.

    What can't be had (a service that is down, a full zip) is listed in MANIFEST.json, and the rest is there.
    Links are not followed: what lies outside the station folder stays there.
    """
    contents = _Contents(known=tuple(known_secrets))
    with zipfile.ZipFile(contents.buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:

        def put(name: str, text: str) -> None:
            data = redact(text, contents.known).encode()
            if contents.buffer.tell() + len(data) > max_bytes - 65536 and len(data) > 65536:
                return contents.leave_out(name, "the export would grow over its limit")
            archive.writestr(zipfile.ZipInfo(name, clock.now().timetuple()[:6]), data, zipfile.ZIP_DEFLATED)
            contents.files.append(name)
            return None

        put("versions.json", _pretty(versions()))
        for name, read in documents.items():
            try:
                put(f"{name}.json", _pretty(read()))
            except CalyxError as error:
                contents.leave_out(f"{name}.json", error.message)
        put("config/environment.json", _pretty({k: v for k, v in environment.items() if k.startswith("CALYX_")}))
        for name, path in _config_files(layout):
            _put_file(contents, put, name, path, TAIL_BYTES)
        for path in _last_pulses(layout):
            _put_file(contents, put, f"pulses/{path.name}", path, TAIL_BYTES)
        for path in sorted(layout.logs.glob("*.log")):
            _put_file(contents, put, f"logs/{path.name}", path, TAIL_BYTES)
        for service in sorted((layout.root / "audit").glob("*.jsonl")):
            _put_file(contents, put, f"audit/{service.name}", service, TAIL_BYTES // 4)
        manifest = {"schema": "calyx.export/1", "at": iso(clock.now()), "files": list(contents.files)}
        put("MANIFEST.json", _pretty({**manifest, "left_out": contents.left_out}))
    stamp = clock.now().strftime("%Y%m%dT%H%M%SZ")
    return Export(file_name=f"calyx-diagnostics-{stamp}.zip", archive=contents.buffer.getvalue())


def versions() -> Json:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {"python": sys.version.split()[0], "platform": platform.platform(), "packages": found}


def _config_files(layout: Layout) -> list[tuple[str, Path]]:
    listed = [("station.json", layout.identity), ("config/endpoints.json", layout.endpoints)]
    return listed + [(f"config/{path.name}", path) for path in sorted((layout.root / "config").glob("*.env"))]


def _last_pulses(layout: Layout) -> list[Path]:
    """Newest last; days are folders named yyyymmdd, ids grow."""
    found: list[Path] = []
    for day in sorted(layout.pulses.glob("[0-9]*"), reverse=True):
        found = sorted(day.glob("bp-*.json")) + found
        if len(found) >= PULSES:
            break
    return found[-PULSES:]


def _put_file(contents: _Contents, put: Callable[[str, str], None], name: str, path: Path, limit: int) -> None:
    try:
        text, cut = _tail(path, limit)
    except FileNotFoundError:
        return
    except OSError as error:
        contents.leave_out(name, f"can't be read: {error.strerror}")
        return
    put(name, text)
    if cut:
        contents.leave_out(name, f"its beginning: only the last {limit} bytes are here")


def _tail(path: Path, limit: int) -> tuple[str, bool]:
    """The last `limit` bytes from a line's beginning on, and whether something was cut. A link raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        file.seek(max(0, size - limit))
        data = file.read(limit)
    if size <= limit:
        return data.decode(errors="replace"), False
    return data.partition(b"\n")[2].decode(errors="replace"), True


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str)
