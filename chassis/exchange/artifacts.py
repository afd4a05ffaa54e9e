"""Payloads too large for a manifest: files named by the sha256 of their content, so only the digest travels."""

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.errors import InvalidInput, NotFound, ResourceExhausted
from chassis.exchange.moves import remove

MAX_ARTIFACT_BYTES = 1024 * 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artifacts:
    """`svf/artifacts/sha256/<2 hex>/<digest>`. What is read is checked against its name and size."""

    def __init__(self, svf: Path) -> None:
        self._root = svf / "artifacts" / "sha256"

    def put(self, blocks: Iterable[bytes]) -> dict[str, str | int]:
        """Keep the content, durable when this returns: what a manifest says of it, `{"sha256", "size"}`.

        Raises ResourceExhausted beyond 1 GiB; OSError (a full disk) leaves nothing behind.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        fresh, digest, size = self._root / f".{secrets.token_hex(8)}.tmp", hashlib.sha256(), 0
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            for block in blocks:
                size += len(block)
                if size > MAX_ARTIFACT_BYTES:
                    raise ResourceExhausted(f"an artifact holds at most {MAX_ARTIFACT_BYTES} bytes; split it")
                digest.update(block)
                left = memoryview(block)
                while left:
                    left = left[os.write(fd, left) :]
            os.fsync(fd)
            target = self._path(digest.hexdigest())
            target.parent.mkdir(exist_ok=True)
            fresh.replace(target)  # the same name is the same content; a damaged one is mended by this
            fsync_dir(target.parent)
            fsync_dir(self._root)
        finally:
            os.close(fd)
            remove(fresh)
        return {"sha256": digest.hexdigest(), "size": size}

    def get(self, sha256: str, size: int) -> bytes:
        """The content. Raises NotFound, or InvalidInput where it is not what its name and size say."""
        path = self._path(sha256)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"artifact {sha256} is not here; put it again") from None
        except OSError as error:
            raise InvalidInput(f"artifact {sha256} is no plain file ({error.strerror})") from error
        with contextlib.closing(os.fdopen(fd, "rb")) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size or size > MAX_ARTIFACT_BYTES:
                raise InvalidInput(f"artifact {sha256} has {found.st_size} bytes, not {size}; it is not used")
            content = file.read(size)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidInput(f"artifact {sha256} is damaged: its content has another digest; put it again")
        return content

    def _path(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise InvalidInput("an artifact is named by 64 hex digits")
        return self._root / sha256[:2] / sha256
