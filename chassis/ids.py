"""Identifiers as a port: random on a real station, counted on a virtual one."""

import secrets
from typing import Protocol


class Ids(Protocol):
    """Gives a new id `<prefix>-<suffix>` that was never given before; the suffix is [0-9a-z]."""

    def new(self, prefix: str) -> str: ...


class RandomIds:
    """128 random bits an id."""

    def new(self, prefix: str) -> str:
        return f"{prefix}-{secrets.token_hex(16)}"


class CountedIds:
    """Ids in order, for tests and the virtual station. `salt` keeps two runs on one folder apart."""

    def __init__(self, salt: str = "") -> None:
        self._salt = salt
        self._next = 0

    def new(self, prefix: str) -> str:
        self._next += 1
        return f"{prefix}-{self._salt}{self._next:012d}"
