"""Does SQLite's write-ahead log hold commits that SQLite will not read? It stops at the first frame that fails its
checksum and drops all that follows without a word. Format: https://www.sqlite.org/fileformat2.html#walformat
"""

import struct
from pathlib import Path

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF


def dropped_commits(path: Path) -> int:
    """How many commits of the log's newest generation lie beyond what SQLite will read; 0 if there is no log.

    A commit that a power cut tore counts too; nobody was told that it is durable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    if len(data) < _HEADER.size + _FRAME.size:
        return 0
    magic, _, page, _, salt1, salt2, *stated = _HEADER.unpack_from(data)
    if page < 512 or page > 65536 or page & (page - 1):
        page = 4096
    order = "<" if magic == _MAGIC else ">"
    sums = _checksum(data[:24], order, (0, 0))
    believed = magic & ~1 == _MAGIC and sums == tuple(stated)
    # Frames of older generations follow with other salts; the first frame belongs to the newest.
    newest = {(salt1, salt2)} if believed else {_FRAME.unpack_from(data, _HEADER.size)[2:4]}
    dropped = 0
    for start in range(_HEADER.size, len(data) - _FRAME.size - page + 1, _FRAME.size + page):
        _, commit, *salts, sum1, sum2 = _FRAME.unpack_from(data, start)
        if believed:
            sums = _checksum(data[start : start + 8], order, sums)
            sums = _checksum(data[start + _FRAME.size : start + _FRAME.size + page], order, sums)
            believed = tuple(salts) in newest and sums == (sum1, sum2)
        if not believed and commit and tuple(salts) in newest:
            dropped += 1
    return dropped


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(order + "2I", data):
        one = (one + first + two) & _MASK
        two = (two + second + one) & _MASK
    return one, two
