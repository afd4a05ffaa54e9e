"""Making removed bytes again from their compressed form."""

import gzip
import hashlib
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from chassis.errors import InvalidInput


def _opened(codec: str, source: Path) -> BinaryIO:
    if codec == "gzip":
        return cast(BinaryIO, gzip.open(source, "rb"))
    if codec == "xz":
        return cast(BinaryIO, lzma.open(source, "rb"))
    if codec == "zstd":
        return cast(BinaryIO, zstandard.open(source, "rb"))
    raise InvalidInput(f"no codec {codec!r}; gzip, zstd and xz are known")


def decompressed(codec: str, source: Path) -> Iterator[bytes]:
    """The content in parts. Raises InvalidInput for what can't be decompressed."""
    try:
        with _opened(codec, source) as reader:
            while part := reader.read(1 << 20):
                yield part
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise InvalidInput(f"{source} can't be decompressed as {codec} ({error})") from error


def inverted_sha256(codec: str, source: Path) -> str:
    digest = hashlib.sha256()
    for part in decompressed(codec, source):
        digest.update(part)
    return digest.hexdigest()
