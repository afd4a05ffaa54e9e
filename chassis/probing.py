"""Read-only checks of the real world: what an agent claims, looked at by somebody who did not do it.

Nothing here writes, follows a link or opens anything but a regular file. What can't be checked (unknown kind,
unknown key, no permission, a file that changes while it is read) is inconclusive, never confirmed.
"""

import errno
import fnmatch
import gzip
import hashlib
import json
import lzma
import os
import sqlite3
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

import zstandard

from chassis.errors import Refused
from chassis.journal.targets import refuse_secret

CHUNK = 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_CONTENT_BYTES = 64 * 1024**3
"""More than this out of one archive is not unpacked: the check is inconclusive."""


class Verdict(Enum):
    """What a check found, and what all checks of a task say together."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One look at one thing; `expect` by the kind's own keys (see KINDS)."""

    kind: str
    target: str
    expect: Mapping[str, str]

    @classmethod
    def from_claim(cls, claim: Mapping[str, Any]) -> "Check":
        """From an ack's claim `{"kind", "target", "expect"}`; what is missing reads as empty, thus inconclusive."""
        expect = claim.get("expect") or {}
        return cls(
            kind=str(claim.get("kind", "")),
            target=str(claim.get("target", "")),
            expect={str(k): str(v) for k, v in dict(expect).items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, in one line."""

    check: Check
    verdict: Verdict
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks of one task together. One refuted refutes; no check at all is inconclusive."""

    verdict: Verdict
    findings: tuple[Finding, ...]


class _Refuted(Exception):
    """The world is not as claimed."""


class _Inconclusive(Exception):
    """The world could not be looked at."""


Health = Callable[[str], str | None]
"""Service name → its state as the prober knows it (`up`, `down`, …); None if the prober does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    roots: tuple[Path, ...] | None
    proc: Path
    health: Health | None


def run_checks(
    checks: Sequence[Check],
    *,
    roots: Sequence[Path] | None = None,
    proc: Path = Path("/proc"),
    health: Health | None = None,
) -> Report:
    """Run every check and join the verdicts. With `roots`, files elsewhere are not looked at (inconclusive)."""
    look = _Look(roots=None if roots is None else tuple(roots), proc=proc, health=health)
    findings = tuple(_run(check, look) for check in checks)
    return Report(verdict=join(f.verdict for f in findings), findings=findings)


def join(verdicts: Iterable[Verdict]) -> Verdict:
    """One refuted → refuted; else one inconclusive, or none at all → inconclusive; else confirmed."""
    seen = set(verdicts)
    if Verdict.REFUTED in seen:
        return Verdict.REFUTED
    return Verdict.CONFIRMED if seen == {Verdict.CONFIRMED} else Verdict.INCONCLUSIVE


def _run(check: Check, look: _Look) -> Finding:
    try:
        if check.kind not in KINDS:
            raise _Inconclusive(f"no check of kind {check.kind!r} here")
        runner, known, needed = KINDS[check.kind]
        if known is not None and (unknown := set(check.expect) - known):
            raise _Inconclusive(f"{check.kind} can't check {sorted(unknown)[0]!r}")
        if missing := needed - set(check.expect):
            raise _Inconclusive(f"{check.kind} needs {sorted(missing)[0]!r}")
        verdict, found = Verdict.CONFIRMED, runner(check, look)
    except _Refuted as error:
        verdict, found = Verdict.REFUTED, str(error)
    except _Inconclusive as error:
        verdict, found = Verdict.INCONCLUSIVE, str(error)
    except (OSError, ValueError, sqlite3.Error) as error:
        verdict, found = Verdict.INCONCLUSIVE, f"could not look: {error}"
    return Finding(check=check, verdict=verdict, found=found)


# --- opening -----------------------------------------------------------------------------------------------


@contextmanager
def _folder_of(target: str, look: _Look) -> Iterator[tuple[int | None, str]]:
    """The target's folder (as an open descriptor, below a root without following links) and its last name."""
    path = Path(target)
    if not path.is_absolute() or ".." in path.parts or "\0" in target:
        raise _Inconclusive(f"{target!r} is not an absolute path")
    try:
        refuse_secret(path)  # what a check found is shown; a claim must not read a secret through it
    except Refused as error:
        raise _Inconclusive(error.message) from None
    if look.roots is None:
        yield None, target
        return
    root = next((r for r in look.roots if path != r and path.is_relative_to(r)), None)
    if root is None:
        raise _Inconclusive(f"{target} is outside the paths this prober looks at")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(root, flags)
    try:
        for part in path.relative_to(root).parts[:-1]:
            fd, old = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd), fd
            os.close(old)
        yield fd, path.name
    finally:
        os.close(fd)


@contextmanager
def _regular(target: str, look: _Look) -> Iterator[IO[bytes]]:
    """The target opened for reading; _Refuted when absent or no regular file."""
    try:
        with _folder_of(target, look) as (folder, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _Refuted("it is not a regular file")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise _Refuted("it is not there") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _Refuted("it is a symbolic link") from None
        raise
    with os.fdopen(fd, "rb", buffering=0) as raw:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _Refuted("it is not a regular file")
        yield cast("IO[bytes]", raw)


def _unchanged(file: IO[bytes], before: os.stat_result) -> None:
    after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _Inconclusive("it changed while it was read")


def _hash(file: IO[bytes], limit: int | None = None) -> tuple[str, int]:
    seen, total = hashlib.sha256(), 0
    while limit is None or total < limit:
        chunk = file.read(CHUNK if limit is None else min(CHUNK, limit - total))
        if not chunk:
            break
        seen.update(chunk)
        total += len(chunk)
        if total > MAX_CONTENT_BYTES:
            raise _Inconclusive("too large to check")
    return seen.hexdigest(), total


def _same(what: str, expected: str | None, found: object) -> None:
    if expected is not None and expected != str(found):
        raise _Refuted(f"{what} is {found}, not {expected}")


# --- kinds -------------------------------------------------------------------------------------------------


def _file_digest(check: Check, look: _Look) -> str:
    with _regular(check.target, look) as file:
        before = os.fstat(file.fileno())
        sha256, size = _hash(file)
        _unchanged(file, before)
    _same("size", check.expect.get("size"), size)
    _same("sha256", check.expect["sha256"], sha256)
    return f"{size} bytes, sha256 {sha256}"


def _absent(check: Check, look: _Look) -> str:
    try:
        with _folder_of(check.target, look) as (folder, name):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        # A volume that is not mounted also looks empty: some folder around the target has to be there.
        around = [Path(check.target).parent, *(r for r in look.roots or () if Path(check.target).is_relative_to(r))]
        if not any(folder.is_dir() for folder in around):
            raise _Inconclusive("its folder is not there either") from None
        return "it is not there"
    raise _Refuted("it is there")


def _none_left(check: Check, look: _Look) -> str:
    with _folder_of(os.path.join(check.target, "-"), look) as (folder, _):  # noqa: PTH118 - the folder itself, opened
        try:
            names = os.listdir(check.target if folder is None else folder)  # noqa: PTH208 - of a descriptor
        except NotADirectoryError:
            raise _Refuted("it is not a folder") from None
    left = sorted(name for name in names if fnmatch.fnmatchcase(name, check.expect["pattern"]))
    if left:
        raise _Refuted(f"{len(left)} are left that match {check.expect['pattern']}, as {left[0]}")
    return f"none of {len(names)} match {check.expect['pattern']}"


CODECS: Mapping[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda raw: cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb")),
    "xz": lambda raw: cast("IO[bytes]", lzma.LZMAFile(raw, "rb")),  # noqa: SIM115 - wraps a file that its opener closes
    "zstd": lambda raw: cast(
        "IO[bytes]", zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    ),
}


def _archive_of(check: Check, look: _Look) -> str:
    codec = check.expect["codec"]
    if codec not in CODECS:
        raise _Inconclusive(f"no codec {codec!r} here")
    with _regular(check.target, look) as file:
        before = os.fstat(file.fileno())
        sha256, size = _hash(file)
        _same("archive size", check.expect.get("size"), size)
        _same("archive sha256", check.expect.get("sha256"), sha256)
        file.seek(0)
        try:
            content, content_size = _hash(CODECS[codec](file))
        except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
            raise _Refuted(f"it does not decompress: {error}") from error
        _unchanged(file, before)
    _same("content size", check.expect.get("content_size"), content_size)
    _same("content sha256", check.expect["content_sha256"], content)
    return f"{codec}, {size} bytes of {content_size}, content sha256 {content}"


def _prefix_digest(check: Check, look: _Look) -> str:
    size = int(check.expect["size"])
    with _regular(check.target, look) as file:
        if os.fstat(file.fileno()).st_size < size:
            raise _Refuted(f"it is shorter than {size} bytes")
        sha256, seen = _hash(file, size)
        if seen != size:
            raise _Inconclusive("it became shorter while it was read")
    _same(f"sha256 of the first {size} bytes", check.expect["sha256"], sha256)
    return f"the first {size} bytes are as they were"


def _json_fields(check: Check, look: _Look) -> str:
    if not check.expect:
        raise _Inconclusive("json_fields needs at least one field")
    with _regular(check.target, look) as file:
        if os.fstat(file.fileno()).st_size > MAX_JSON_BYTES:
            raise _Inconclusive("too large to parse")
        try:
            value = json.loads(file.read())
        except ValueError as error:
            raise _Refuted(f"it is not JSON: {error}") from error
    for key, expected in sorted(check.expect.items()):
        _same(key, expected, _field(value, key))
    return f"{len(check.expect)} fields are as claimed"


def _field(value: Any, key: str) -> str:
    """A dotted key; text as it is, anything else as JSON."""
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise _Refuted(f"it has no field {key}")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sqlite(check: Check, look: _Look) -> str:
    with _regular(check.target, look) as file:
        if not file.read(16).startswith(b"SQLite format 3\0"):
            raise _Refuted("it is not a SQLite database")
    with closing(sqlite3.connect(f"file:{quote(check.target)}?mode=ro", uri=True, timeout=2.0)) as database:
        try:
            answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            answer = str(error)
    _same("integrity", check.expect["integrity"], answer)
    return f"integrity {answer}"


def _process(check: Check, look: _Look) -> str:
    if not check.target.isdigit() or check.expect["state"] not in ("running", "gone"):
        raise _Inconclusive("process takes a pid as its target and the state running or gone")
    if not (look.proc / "self").exists() and not (look.proc / "1").exists():
        raise _Inconclusive("processes can't be seen from here")
    try:
        raw = (look.proc / check.target / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        _same("state", check.expect["state"], "gone")
        return "gone"
    name, fields = raw[raw.index("(") + 1 : raw.rindex(")")], raw[raw.rindex(")") + 1 :].split()
    gone = fields[0] in "ZX" or check.expect.get("start_ticks", fields[19]) != fields[19]
    _same("state", check.expect["state"], "gone" if gone else "running")
    if not gone:
        _same("name", check.expect.get("name"), name)
    return "gone" if gone else f"running as {name}, started at tick {fields[19]}"


def _service_health(check: Check, look: _Look) -> str:
    state = look.health(check.target) if look.health is not None else None
    if state is None or state == "unknown":
        raise _Inconclusive(f"the health of {check.target!r} is not known here")
    _same("state", check.expect["state"], state)
    return f"{check.target} is {state}"


KINDS: Mapping[str, tuple[Callable[[Check, _Look], str], frozenset[str] | None, frozenset[str]]] = {
    "file_digest": (_file_digest, frozenset({"sha256", "size"}), frozenset({"sha256"})),
    "absent": (_absent, frozenset(), frozenset()),
    "none_left": (_none_left, frozenset({"pattern"}), frozenset({"pattern"})),
    "archive_of": (
        _archive_of,
        frozenset({"codec", "sha256", "size", "content_sha256", "content_size"}),
        frozenset({"codec", "content_sha256"}),
    ),
    "prefix_digest": (_prefix_digest, frozenset({"size", "sha256"}), frozenset({"size", "sha256"})),
    "json_fields": (_json_fields, None, frozenset()),
    "sqlite": (_sqlite, frozenset({"integrity"}), frozenset({"integrity"})),
    "process": (_process, frozenset({"state", "name", "start_ticks"}), frozenset({"state"})),
    "service_health": (_service_health, frozenset({"state"}), frozenset({"state"})),
}
"""kind → how it looks, the keys it knows (None: any), the keys it needs."""
