"""The write-ahead log against its own checksums, which SQLite reads only when it recovers.

Format: sqlite.org/fileformat2.html, "The Write-Ahead Log". The checksum is linear modulo 2³², so that many frames
are checked at once: each word's weight in the sum of a frame depends only on its place.
"""

import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEADER, FRAME = 32, 24
MAGIC = 0x377F0682
"""Little-endian words; one more: big-endian ones."""

BATCH = 512
"""Frames read at once: 2 MiB of 4 KiB pages."""

Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalCheck:
    """`fault` is empty when all that SQLite relies on holds; `frames` were looked at."""

    frames: int
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    order: str
    page: int
    salts: bytes
    state: tuple[int, int]


def check_wal(path: Path, committed: int | None = None) -> WalCheck:
    """`committed` is how many frames are in use (None: nobody has the file open; then up to the last whole commit).

    A torn end is what a crash leaves and no fault; a frame that does not hold with a commit behind it is one.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return WalCheck(frames=0, fault="")
    with file:
        raw = file.read(HEADER)
        size = os.fstat(file.fileno()).st_size
        if size <= HEADER or committed == 0:
            return WalCheck(frames=0, fault="")
        header = _header(raw)
        if header is None:
            return WalCheck(frames=0, fault="its header does not match its checksum: SQLite would pass over all of it")
        frames = (size - HEADER) // (FRAME + header.page)
        if committed is not None:
            if committed > frames:
                return WalCheck(frames=frames, fault=f"{committed} frames are in use, the file holds {frames}")
            frames = committed
        state, bad, done = header.state, 0, 0
        while done < frames:
            count = min(BATCH, frames - done)
            block = np.frombuffer(file.read(count * (FRAME + header.page)), dtype=np.uint8)
            holds, commits, state = _frames(block.reshape(count, -1), header, state)
            if not bad and not holds.all():
                bad = done + int(np.argmin(holds)) + 1
            if bad and (committed is not None or bool((holds & commits)[max(0, bad - done) :].any())):
                return WalCheck(frames=frames, fault=f"frame {bad} does not match its checksum")
            done += count
    return WalCheck(frames=frames, fault="")


def _header(raw: bytes) -> _Header | None:
    magic, _, page = struct.unpack(">III", raw[:12])
    if magic not in (MAGIC, MAGIC + 1) or not 512 <= page <= 65536 or page & (page - 1):
        return None
    order = "<u4" if magic == MAGIC else ">u4"
    told = struct.unpack(">II", raw[24:32])
    words = np.frombuffer(raw[:24], dtype=order).astype(np.uint32)[None, :]
    zero = np.zeros((1, 2), dtype=np.uint32)
    if tuple(_sums(words, zero)[0].tolist()) != told:
        return None
    return _Header(order=order, page=page, salts=raw[16:24], state=(int(told[0]), int(told[1])))


def _frames(
    block: NDArray[np.uint8], header: _Header, state: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[int, int]]:
    """(does each frame follow from the one before it, is it a commit, what the last one says its sum is)."""
    told = np.ascontiguousarray(block[:, 16:24]).view(">u4").astype(np.uint32)
    before = np.concatenate([np.array([state], dtype=np.uint32), told[:-1]])
    words = np.ascontiguousarray(np.concatenate([block[:, :8], block[:, FRAME:]], axis=1)).view(header.order)
    same = np.concatenate(
        [_sums(words.astype(np.uint32), before) == told, block[:, 8:16] == np.frombuffer(header.salts, dtype=np.uint8)],
        axis=1,
    )
    holds: NDArray[np.bool_] = np.logical_and.reduce(same, axis=1)
    commits: NDArray[np.bool_] = np.logical_or.reduce(block[:, 4:8], axis=1)
    return holds, commits, (int(told[-1, 0]), int(told[-1, 1]))


def _sums(words: Words, before: Words) -> Words:
    """Both sums of each row of words, beginning with those in `before`."""
    weights, start = _weights(words.shape[1])
    sums = [(words * weights[k]).sum(axis=1, dtype=np.uint32) for k in (0, 1)]
    carried = [(before * start[k]).sum(axis=1, dtype=np.uint32) for k in (0, 1)]
    return np.stack([sums[0] + carried[0], sums[1] + carried[1]], axis=1)


@lru_cache(maxsize=4)
def _weights(count: int) -> tuple[Words, Words]:
    """What each of `count` words, and each of the sums before them, adds to both sums at the end, modulo 2³².

    A pair x, y turns s, t into s + t + x and s + 2 t + x + y.
    """
    mask = 0xFFFFFFFF
    weights = np.zeros((2, count), dtype=np.uint32)
    # Columns of the matrix power: what s and t of that place become at the end.
    s, t = (1, 0), (0, 1)
    for place in range(count - 2, -1, -2):
        weights[:, place] = (s[0] + t[0]) & mask, (s[1] + t[1]) & mask
        weights[:, place + 1] = t
        s, t = (
            ((s[0] + t[0]) & mask, (s[1] + t[1]) & mask),
            ((s[0] + 2 * t[0]) & mask, (s[1] + 2 * t[1]) & mask),
        )
    return weights, np.array([[s[0], t[0]], [s[1], t[1]]], dtype=np.uint32)


class WalIndex:
    """How many frames of the log are in use, as `-shm` says.

    The file is opened once and kept: closing any descriptor of it would drop the locks that SQLite holds on it in
    this process (sqlite.org/howtocorrupt.html, 2.2). Close it after the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def committed(self) -> int | None:
        """None while it can't be told."""
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            for _ in range(100):
                first, second = os.pread(self._fd, 48, 0), os.pread(self._fd, 48, 48)
                if first == second and len(first) == 48:
                    return int(struct.unpack("=I", first[16:20])[0]) if first[12] else None
        except FileNotFoundError:
            return None
        return None

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
