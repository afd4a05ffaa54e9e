"""Compressing a file as a stream: the same bytes in give the same bytes out, and both ends are hashed."""

import gzip
import hashlib
import lzma
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard

CHUNK = 1024 * 1024

Wrap = Callable[[IO[bytes], int], IO[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How one procedure compresses. `wrap` takes the output and the size of the content."""

    name: str
    suffix: str
    wrap: Wrap
    unwrap: Callable[[IO[bytes]], IO[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An archive and what is in it; sizes in bytes, digests sha256 in hex."""

    archive: Path
    codec: str
    sha256: str
    size: int
    content_sha256: str
    content_size: int


def _gzip(level: int) -> Wrap:
    # no name and no time in the header: they would make each archive of the same content different
    return lambda out, _: cast(
        "IO[bytes]", gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=out, mtime=0)
    )


def _zstd(level: int) -> Wrap:
    return lambda out, _: cast(
        "IO[bytes]", zstandard.ZstdCompressor(level=level, write_checksum=True).stream_writer(out, closefd=False)
    )


def _xz(preset: int) -> Wrap:
    def wrap(out: IO[bytes], size: int) -> IO[bytes]:
        # a dictionary beyond the content costs memory (94 MiB at preset 6) and gains nothing
        dictionary = min(8 << 20, max(1 << 16, 1 << max(0, size - 1).bit_length()))
        filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]
        return cast("IO[bytes]", lzma.LZMAFile(out, "wb", check=lzma.CHECK_CRC64, filters=filters))

    return wrap


def _unzstd(raw: IO[bytes]) -> IO[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    return cast("IO[bytes]", reader)


def _unxz(raw: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", lzma.LZMAFile(raw, "rb"))


def _gunzip(raw: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))


PROCEDURES: Mapping[str, Codec] = {
    "gzip-6": Codec(name="gzip", suffix=".gz", wrap=_gzip(6), unwrap=_gunzip),
    "zstd-3": Codec(name="zstd", suffix=".zst", wrap=_zstd(3), unwrap=_unzstd),
    "zstd-9": Codec(name="zstd", suffix=".zst", wrap=_zstd(9), unwrap=_unzstd),
    "xz-6": Codec(name="xz", suffix=".xz", wrap=_xz(6), unwrap=_unxz),
}
"""Procedure of `log_rotation` → its codec."""


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """A regular file for reading, no link followed. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        yield cast("IO[bytes]", file)


def chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes in pieces; ends early at the end of the file."""
    left = size
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk


def digest_prefix(path: Path, size: int) -> str:
    """sha256 (hex) of the first `size` bytes. Raises OSError when there are fewer."""
    seen, count = hashlib.sha256(), 0
    with open_regular(path) as file:
        for chunk in chunks(file, size):
            seen.update(chunk)
            count += len(chunk)
    if count != size:
        raise OSError(f"{path} became shorter while it was read")
    return seen.hexdigest()


def pack(source: Path, archive: Path, codec: Codec) -> Packed:
    """Compress `source` as it is now into the new file `archive`, fsynced. Raises OSError."""
    content, count = hashlib.sha256(), 0
    with open_regular(source) as file, archive.open("xb") as out:
        size = os.fstat(file.fileno()).st_size
        with codec.wrap(out, size) as packer:
            for chunk in chunks(file, size):
                content.update(chunk)
                count += len(chunk)
                packer.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    packed_size = archive.stat().st_size
    return Packed(
        archive=archive,
        codec=codec.name,
        sha256=digest_prefix(archive, packed_size),
        size=packed_size,
        content_sha256=content.hexdigest(),
        content_size=count,
    )


def content_of(archive: Path, codec: Codec) -> str:
    """sha256 (hex) of what the archive decompresses to. Raises what the codec raises, or OSError."""
    seen = hashlib.sha256()
    with open_regular(archive) as file, codec.unwrap(file) as content:
        while chunk := content.read(CHUNK):
            seen.update(chunk)
    return seen.hexdigest()
