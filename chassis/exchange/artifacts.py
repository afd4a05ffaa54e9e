"""Payloads too large for a manifest: files named by the sha256 of their content, so only the digest travels.

A task names one in its params as `sha256:<64 hex digits>:<bytes>`; its manifest lists what its params name. They come
and go in pieces, so that a message stays small and whoever was cut off goes on where it was.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from chassis.atomic import fsync_dir
from chassis.errors import InvalidInput, NotFound, ResourceExhausted, Unavailable
from chassis.exchange.moves import lstats, move_into, names, remove

MAX_ARTIFACT_BYTES = 1024 * 1024 * 1024
MAX_TOTAL_BYTES, MAX_ARTIFACTS = 10 * MAX_ARTIFACT_BYTES, 10_000
PIECE_BYTES = 512 * 1024
"""At most so much in one message, which JSON makes a third larger."""

_NAMED = re.compile(r"sha256:([0-9a-f]{64}):(0|[1-9][0-9]{0,10})")
_WHO = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Named:
    """What a param says of an artifact."""

    sha256: str
    size: int

    @classmethod
    def parse(cls, text: str) -> "Named":
        """Raises InvalidInput for anything else, and for more than an artifact holds."""
        found = _NAMED.fullmatch(text)
        if found is None:
            raise InvalidInput("an artifact is named sha256:<64 hex digits>:<bytes>, as putting it answered")
        if (size := int(found[2])) > MAX_ARTIFACT_BYTES:
            raise ResourceExhausted(f"an artifact holds at most {MAX_ARTIFACT_BYTES} bytes; split it")
        return cls(sha256=found[1], size=size)

    def __str__(self) -> str:
        return f"sha256:{self.sha256}:{self.size}"

    def to_json(self) -> dict[str, Any]:
        """As a manifest lists it."""
        return {"sha256": self.sha256, "size": self.size}


def named_in(params: Mapping[str, str]) -> tuple[Named, ...]:
    """Each artifact that a task's params name, once, in order; also one that is too large to be anywhere."""
    found = (_NAMED.fullmatch(each) for each in params.values())
    return tuple(sorted({Named(sha256=each[1], size=int(each[2])) for each in found if each is not None}))


class Artifacts:
    """`svf/artifacts/sha256/<2 hex>/<digest>`, and beside it `partial/`, what has not come whole yet. Thread-safe.

    One process takes pieces in; any may read. What is read is held against its size; its digest was checked when it
    was kept, and whoever has read it all checks it again.
    """

    def __init__(self, svf: Path) -> None:
        self._root, self._partial = svf / "artifacts" / "sha256", svf / "artifacts" / "partial"
        self._turn = threading.Lock()
        self._checked: set[Named] = set()
        """Whose digest this process has seen to be right: a gibibyte is not read again for each who asks."""

    def put(self, who: str, named: Named, offset: int, data: bytes) -> int:
        """Take a piece in; how many bytes are here now, which is where the next piece begins. All of them: it is kept.

        A piece that begins elsewhere changes nothing, so `offset` 0 without data asks how far an upload got. Raises
        InvalidInput (more than its size, or a whole with another digest, which is then dropped), ResourceExhausted.
        """
        if not _WHO.fullmatch(who):
            raise InvalidInput("who puts an artifact is named like a task id")
        with self._turn, _told():
            if self.holds(named):
                if named in self._checked or _digest(self._path(named)) == named.sha256:
                    self._checked.add(named)
                    return named.size
                remove(self._path(named))  # damaged since
            path = self._partial / f"{who}.{named.sha256}"
            here = path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
            if here < named.size or not named.size:
                if offset != here or (not data and named.size):
                    return here
                self._append(path, here, data, named)
                here += len(data)
            if here == named.size:  # also where it had come whole, and could not be kept then
                self._keep(path, named)
            return here

    def _append(self, path: Path, here: int, data: bytes, named: Named) -> None:
        if here + len(data) > named.size:
            raise InvalidInput(f"the artifact has {named.size} bytes by its name; this piece goes beyond them")
        if not here:
            self._room(named)
        self._partial.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.seek(here)
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]

    def _room(self, named: Named) -> None:
        sizes = [size for _, size, _ in self._all()]
        if len(sizes) >= MAX_ARTIFACTS or sum(sizes) + named.size > MAX_TOTAL_BYTES:
            raise ResourceExhausted(
                f"the station keeps at most {MAX_ARTIFACTS} artifacts of {MAX_TOTAL_BYTES} bytes together, and has "
                f"{len(sizes)} of {sum(sizes)}; wait until old ones have gone"
            )

    def _keep(self, path: Path, named: Named) -> None:
        if _digest(path) != named.sha256:
            remove(path)
            raise InvalidInput(f"what came is not {named}: it has another digest, and was dropped; put it again")
        with path.open("rb") as file:
            os.fsync(file.fileno())
        target = self._path(named)
        remove(target)  # what is there has another size, so it is damaged
        move_into(str(path), str(target))
        fsync_dir(target.parent)
        fsync_dir(self._root)
        self._checked.add(named)

    def holds(self, named: Named) -> bool:
        with contextlib.suppress(OSError):
            path = self._path(named)
            return path.is_file() and not path.is_symlink() and path.lstat().st_size == named.size
        return False

    def get(self, named: Named, offset: int, limit: int = PIECE_BYTES) -> bytes:
        """At most `limit` bytes from `offset` on. Raises NotFound, or InvalidInput where it has another size."""
        path = self._path(named)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"artifact {named} is not here; put it again") from None
        except OSError as error:
            raise InvalidInput(f"artifact {named} is no plain file ({error.strerror})") from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != named.size:
                raise InvalidInput(f"artifact {named} is damaged: it has another size; put it again")
            return os.pread(fd, max(0, min(limit, PIECE_BYTES)), max(0, offset))
        finally:
            os.close(fd)

    def missing(self, params: Mapping[str, str]) -> str:
        """Why a task with these params can't be given out: what they name is not here. Empty: it can.

        What is here counts as named now, and stays as long as from a fresh start.
        """
        for named in named_in(params):
            try:
                if not self.holds(named):
                    return f"artifact {named} is not here; put it first (calyx artifact put)"
                os.utime(self._path(named), follow_symlinks=False)
            except OSError as error:
                return f"artifact {named} can't be read ({error.strerror})"
        return ""

    def sweep(self, kept: datetime, partial: datetime) -> int:
        """Drop what was last named before `kept`, and pieces that nobody went on with since `partial`; how many."""
        gone = 0
        with self._turn:
            for path, _, at in self._all():
                before = partial if path.parent == self._partial else kept
                if at < before.timestamp():
                    remove(path)
                    gone += 1
            self._checked = {each for each in self._checked if self.holds(each)}
        return gone

    def _all(self) -> Iterator[tuple[Path, int, float]]:
        """(path, bytes, when last written or named) of each."""
        for folder in (self._partial, *(self._root / each for each in names(self._root))):
            with contextlib.suppress(OSError):  # not there, or no folder
                for name, found in lstats(folder):
                    yield folder / name, found.st_size, found.st_mtime

    def _path(self, named: Named) -> Path:
        return self._root / named.sha256[:2] / named.sha256


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A disk that does not take it is the caller's to know."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(
                "no room on the disk for the artifact; what came so far is kept for a day"
            ) from error
        raise Unavailable(f"the artifact could not be kept: {error.strerror}") from error
