"""A Merkle tree hash over leaves that come one at a time: RFC 6962, section 2.1, with sha256.

A leaf is hashed with the prefix 0x00, a node with 0x01, so that no inner node can pass for a leaf.
"""

import hashlib

EMPTY = hashlib.sha256().digest()
"""The root of no leaves."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Keeps one hash per power of two in the number of leaves, whatever that number is."""

    def __init__(self) -> None:
        self.leaves = 0
        self._peaks: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Append a leaf."""
        hashed = leaf_hash(data)
        self.leaves += 1
        # Each trailing zero of the new count is a pair of equal subtrees that become one.
        for _ in range((self.leaves & -self.leaves).bit_length() - 1):
            hashed = node_hash(self._peaks.pop(), hashed)
        self._peaks.append(hashed)

    def root(self) -> bytes:
        """The hash over all leaves so far."""
        if not self._peaks:
            return EMPTY
        *rest, root = self._peaks
        for left in reversed(rest):
            root = node_hash(left, root)
        return root
