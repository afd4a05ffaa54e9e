"""Rows out of the pages of a SQLite file that may no longer open: whatever a leaf still holds, read without its tree.

Format: sqlite.org/fileformat2.html. Pages come from the file and from its write-ahead log; nothing here is believed
before its digest was checked.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = b"SQLite format 3\x00"
USUAL_PAGE = 4096
WAL_HEADER, FRAME = 32, 24
INDEX_LEAF, INDEX_INTERIOR, TABLE_INTERIOR = 10, 2, 5
MOST_COLUMNS = 20
MOST_BYTES = 1 << 20
"""A record of ours is shorter: an objective, an evidence, sixty-four facts."""

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One row; `rowid` is None for an entry of an index or of a table without row numbers."""

    rowid: int | None
    values: Values


class Pages:
    """Every version of every page there is. The caller closes it, and not while SQLite has the same file open in this
    process: closing would drop the locks that SQLite holds on it (sqlite.org/howtocorrupt.html, 2.2).
    """

    def __init__(self, path: Path, *, newest_first: bool = True) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._wal: int | None = None
        head = os.pread(self._file, 100, 0)
        told = struct.unpack(">H", head[16:18])[0] if head.startswith(HEADER) else 0
        told = 65536 if told == 1 else told
        self.size = told if 512 <= told <= 65536 and not told & (told - 1) else USUAL_PAGE
        self.count = os.fstat(self._file).st_size // self.size
        self._frames: list[tuple[int, int]] = []
        wal = path.with_name(path.name + "-wal")
        if wal.exists():
            self._wal = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
            for place in range(max(0, os.fstat(self._wal).st_size - WAL_HEADER) // (FRAME + self.size)):
                start = WAL_HEADER + place * (FRAME + self.size)
                (number,) = struct.unpack(">I", os.pread(self._wal, 4, start))
                self._frames.append((number, start + FRAME))
        self._latest = dict(self._frames)
        self._newest_first = newest_first

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of each version of each page."""
        frames = reversed(self._frames) if self._newest_first else iter(self._frames)
        if self._wal is not None and self._newest_first:
            yield from ((number, os.pread(self._wal, self.size, start)) for number, start in frames)
        for number in range(1, self.count + 1):
            yield number, os.pread(self._file, self.size, (number - 1) * self.size)
        if self._wal is not None and not self._newest_first:
            yield from ((number, os.pread(self._wal, self.size, start)) for number, start in frames)

    def page(self, number: int) -> bytes:
        """The newest version; empty if there is none."""
        if self._wal is not None and number in self._latest:
            return os.pread(self._wal, self.size, self._latest[number])
        return os.pread(self._file, self.size, (number - 1) * self.size) if 1 <= number <= self.count else b""

    def records(self) -> Iterator[tuple[int, Record]]:
        """(page, row) of everything that can be decoded; the same row may come more than once."""
        for number, data in self:
            if len(data) == self.size:
                for record in self.on(number, data):
                    yield number, record

    def on(self, number: int, data: bytes) -> Iterator[Record]:
        """The rows on one version of a page."""
        return _records(self, number, data)

    def tree(self, root: int) -> set[int]:
        """The pages of a tree, as far as it holds together."""
        seen: set[int] = set()
        todo = [root]
        while todo:
            number = todo.pop()
            data = self.page(number)
            if number in seen or len(data) < self.size:
                continue
            seen.add(number)
            start = 100 if number == 1 else 0
            if data[start] in (INDEX_INTERIOR, TABLE_INTERIOR):
                todo.append(struct.unpack(">I", data[start + 8 : start + 12])[0])
                for place in _cells(data, start, 12):
                    todo.append(struct.unpack(">I", data[place : place + 4])[0])
        return seen

    def close(self) -> None:
        os.close(self._file)
        if self._wal is not None:
            os.close(self._wal)


def _cells(data: bytes, start: int, header: int) -> list[int]:
    """Where cells begin; a damaged count is no reason to leave any out."""
    told, content = struct.unpack(">HH", data[start + 3 : start + 7])
    first = start + header
    fits = max(0, (content or 65536) - first) // 2
    count = min(max(told, fits if fits * 2 + first <= len(data) else 0), (len(data) - first) // 2)
    places = struct.unpack(f">{count}H", data[first : first + 2 * count])
    return [place for place in dict.fromkeys(places) if first < place <= len(data) - 4]


def _records(pages: Pages, number: int, data: bytes) -> Iterator[Record]:
    start = 100 if number == 1 else 0
    kind = data[start]
    if kind == TABLE_INTERIOR:
        return
    index = kind in (INDEX_LEAF, INDEX_INTERIOR)
    for place in _cells(data, start, 12 if kind == INDEX_INTERIOR else 8):
        try:
            at = place + 4 if kind == INDEX_INTERIOR else place
            length, at = _varint(data, at)
            rowid: int | None = None
            if not index:
                rowid, at = _varint(data, at)
            if 2 <= length <= MOST_BYTES:
                payload = _payload(pages, data, at, length, index=index)
                yield Record(rowid, _values(payload))
        except (IndexError, ValueError, struct.error):
            continue


def _payload(pages: Pages, data: bytes, at: int, length: int, *, index: bool) -> bytes:
    usable = pages.size
    most = ((usable - 12) * 64 // 255) - 23 if index else usable - 35
    if length <= most:
        return data[at : at + length]
    least = ((usable - 12) * 32 // 255) - 23
    kept = least + (length - least) % (usable - 4)
    kept = kept if kept <= most else least
    payload = data[at : at + kept]
    (following,) = struct.unpack(">I", data[at + kept : at + kept + 4])
    while len(payload) < length:
        page = pages.page(following)
        if not page:
            raise ValueError("its overflow is gone")
        following = struct.unpack(">I", page[:4])[0]
        payload += page[4 : 4 + length - len(payload)]
    return payload


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = data[at + place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9


_FIXED = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}


def _values(payload: bytes) -> Values:
    end, at = _varint(payload, 0)
    types = []
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    if at != end or not 2 <= len(types) <= MOST_COLUMNS:
        raise ValueError("no record of ours")
    values: list[Any] = []
    for kind in types:
        size = _FIXED[kind] if kind <= 9 else (kind - 12) // 2
        if kind in (10, 11) or kind < 0:
            raise ValueError("no such type")
        raw = payload[at : at + size]
        if len(raw) != size:
            raise ValueError("cut off")
        at += size
        if kind == 0:
            values.append(None)
        elif kind == 7:
            values.append(struct.unpack(">d", raw)[0])
        elif kind <= 6:
            values.append(int.from_bytes(raw, "big", signed=True))
        elif kind <= 9:
            values.append(kind - 8)
        else:
            values.append(raw.decode() if kind % 2 else raw)
    if at != len(payload):
        raise ValueError("more than its columns")
    return tuple(values)
