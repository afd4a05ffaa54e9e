"""Many byte texts under one signature: a Merkle tree as in RFC 9162 (2.1), and the proof that a text is one of them.

A leaf is hashed as 0x00 and the text, a node as 0x01 and its two children, so that neither is ever taken for the
other. What is signed, the head, is a label of its own, the number of leaves and the root: a proof says for which
leaf of how many it is, and by that how many hashes it must hold.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

PREFIX = "tree."
MAX_LEAVES = 1024
_LABEL = b"calyx grants, a tree\n"  # a manifest begins with a brace, a DSSE letter of the same key with "DSSEv1"
_TEXT = re.compile(r"tree\.(0|[1-9][0-9]{0,3})\.([1-9][0-9]{0,3})\.([A-Za-z0-9+/]+={0,2})", re.ASCII)
_SIGNATURE_BYTES, _HASH_BYTES = 64, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That one text is leaf `index` of `size` under a signed root: the hashes beside its way up, lowest first."""

    index: int
    size: int
    signature: bytes
    path: tuple[bytes, ...]

    def text(self) -> str:
        data = base64.b64encode(b"".join((self.signature, *self.path))).decode()
        return f"{PREFIX}{self.index}.{self.size}.{data}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for anything that `text` would not write exactly so."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("not the text of a proof")
        index, size = int(found[1]), int(found[2])
        if not index < size <= MAX_LEAVES:
            raise ValueError("a leaf that its tree does not have")
        data = base64.b64decode(found[3], validate=True)
        if len(data) != _SIGNATURE_BYTES + _HASH_BYTES * len(_sides(index, size)):
            raise ValueError("more or fewer hashes than from this leaf to the root")
        if base64.b64encode(data).decode() != found[3]:
            raise ValueError("base64 with bits left over")
        steps = range(_SIGNATURE_BYTES, len(data), _HASH_BYTES)
        path = tuple(data[at : at + _HASH_BYTES] for at in steps)
        return cls(index=index, size=size, signature=data[:_SIGNATURE_BYTES], path=path)

    def head(self, text: bytes) -> bytes:
        """What must have been signed if the text is that leaf."""
        found = _leaf(text)
        for left, beside in zip(_sides(self.index, self.size), self.path, strict=True):
            found = _node(beside, found) if left else _node(found, beside)
        return _head(self.size, found)


class Tree:
    """Of 1 to `MAX_LEAVES` texts, in their order."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        if not 0 < len(texts) <= MAX_LEAVES:
            raise ValueError(f"a tree has 1 to {MAX_LEAVES} leaves")
        level = [_leaf(text) for text in texts]
        self._levels = [level]
        while len(level) > 1:
            odd = level[len(level) & ~1 :]  # one without a neighbour goes up as it is
            level = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
            self._levels.append(level)
        self.head = _head(len(texts), level[0])

    def proof(self, index: int, signature: bytes) -> Proof:
        beside = [((index >> height) ^ 1, level) for height, level in enumerate(self._levels)]
        path = [level[at] for at, level in beside if at < len(level)]
        return Proof(index=index, size=len(self._levels[0]), signature=signature, path=tuple(path))


def _sides(index: int, size: int) -> list[bool]:
    """On the way up from a leaf, for each hash beside it whether that lies to the left."""
    sides, last = [], size - 1
    while last:
        if index & 1 or index < last:
            sides.append(bool(index & 1))
        index, last = index >> 1, last >> 1
    return sides


def _leaf(text: bytes) -> bytes:
    return sha256(b"\0" + text).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _head(size: int, root: bytes) -> bytes:
    return _LABEL + size.to_bytes(4, "big") + root
