"""Payloads too large for a task's params, in pieces: what to ask next, over HTTP or gRPC, blocking or not.

Each generator yields the fields of a call and is sent its answer; it raises ArtifactError for what is not as it should
be. Both go on where an earlier try was cut off: an upload at the station, a download anew.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

PIECE_BYTES = 512 * 1024
"""The most that the station takes or gives at once."""
_NAMED = re.compile(r"sha256:([0-9a-f]{64}):(\d{1,11})")

Fields = dict[str, Any]
T = TypeVar("T")


class ArtifactError(ValueError):
    """The file, or what came, is not what its name says."""


def name_of(source: Path) -> str:
    """What a task's params call this file: `sha256:<64 hex digits>:<bytes>`. OSError: it can't be read."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"sha256:{digest}:{file.tell()}"


def uploading(source: Path, name: str) -> Generator[Fields, Fields, str]:
    """Calls of PutArtifact for the file of this name (`name_of`, which reads all of it); returns the name."""
    answer = yield {"artifact": name, "offset": 0, "data": b""}
    with source.open("rb") as file:
        while not answer["complete"]:
            at = int(answer["received"])
            file.seek(at)
            if not (piece := file.read(PIECE_BYTES)):
                raise ArtifactError(f"{source} changed while it was read; put it again")
            answer = yield {"artifact": name, "offset": at, "data": piece}
    return name


def downloading(artifact: str, to: Path, task_id: str = "") -> Generator[Fields, Fields, None]:
    """Calls of GetArtifact; `to` is replaced when all of it is there and its digest is right."""
    found = _NAMED.fullmatch(artifact)
    if found is None:
        raise ArtifactError(f"{artifact[:100]!r} names no artifact; one is sha256:<64 hex digits>:<bytes>")
    size, at, digest = int(found[2]), 0, hashlib.sha256()
    fresh = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        with fresh.open("wb") as file:
            while at < size:
                data = (yield {"artifact": artifact, "task_id": task_id, "offset": at, "limit": PIECE_BYTES})["data"]
                if not data:
                    raise ArtifactError(f"{artifact} ended after {at} bytes")
                digest.update(data)
                file.write(data)
                at += len(data)
        if at != size or digest.hexdigest() != found[1]:
            raise ArtifactError(f"{artifact} came with another digest; it is damaged at the station, or on the way")
        fresh.replace(to)
    finally:
        fresh.unlink(missing_ok=True)


def drive(calls: Generator[Fields, Fields, T], ask: Callable[[Fields], Fields]) -> T:
    """Ask each in turn; what the generator returns. It is closed whatever happens."""
    with contextlib.closing(calls):
        try:
            asked = next(calls)
            while True:
                asked = calls.send(ask(asked))
        except StopIteration as end:
            done: T = end.value
            return done


async def adrive(calls: Generator[Fields, Fields, T], ask: Callable[[Fields], Awaitable[Fields]]) -> T:
    """`drive` in a coroutine."""
    with contextlib.closing(calls):
        try:
            asked = next(calls)
            while True:
                asked = calls.send(await ask(asked))
        except StopIteration as end:
            done: T = end.value
            return done
