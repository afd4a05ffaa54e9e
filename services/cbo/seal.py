"""The seal of a pulse record: a digest over all of it, and a short one for each part, so that damage has a place.

The seal stands in the record itself, under `seal`. What is sealed is every other byte of its canonical JSON. The parts
are the values two levels down, each with its length, so that a damaged part is named even where the JSON is broken.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from chassis.canonical import Json, canonical_json, sha256_hex

SEALED = "record_sealed"
"""The fact that names the newest record and its seal."""
DEPTH = 2
_SHORT = 8
"""Hex digits: these only say where; whether anything differs is decided by the whole digest."""
_SEAL = re.compile(
    rb'"seal":\{"digest":"(?P<digest>[0-9a-f]{64})","parts":'
    rb'(?P<parts>\[(?:\["[^"]*",[1-9][0-9]*,"[0-9a-f]{8}"\],?)+\])\},'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What does not fit its seal: a part of the record by its path, or the seal itself."""

    path: str
    reason: str


def sealed(body: Json) -> bytes:
    """The canonical JSON of the record with its seal, which is never its last key."""
    parts = list(_pieces(body, "", DEPTH))
    whole = b"".join(piece for _, piece in parts)
    seal = {"digest": sha256_hex(whole), "parts": [[path, len(piece), _short(piece)] for path, piece in parts]}
    at = 1 + sum(len(piece) for path, piece in parts if path.partition(".")[0] < "seal")  # after the brace or comma
    return b'%b"seal":%b,%b' % (whole[:at], canonical_json(seal), whole[at:])


def digest_of(raw: bytes) -> str:
    """What its seal says; empty where there is none that can be read."""
    found = _SEAL.search(raw)
    return "" if found is None else found["digest"].decode()


def check(raw: bytes) -> tuple[Broken, ...]:
    """Where the bytes of a sealed record differ from what was sealed; empty when nowhere."""
    found = _SEAL.search(raw)
    if found is None:
        return (Broken(path="seal", reason="it can't be read"),)
    body = raw[: found.start()] + raw[found.end() :]
    end, body = (b"", body.removesuffix(b"\n")) if body.endswith(b"\n") else (body[-1:], body[:-1])
    broken = [Broken(path="end of file", reason=f"it ends with {end!r} instead of a line end")] if end else []
    if sha256_hex(body) == found["digest"].decode():
        if sealed(json.loads(body)) != raw.removesuffix(b"\n") and not broken:
            broken.append(Broken(path="seal.parts", reason="the seal was changed"))
        return tuple(broken)
    differing = _differing(body, json.loads(found["parts"]))
    broken += [Broken(path=each, reason="it is not what was sealed") for each in differing]
    if not differing:
        broken.append(Broken(path="seal.digest", reason="the seal was changed"))
    return tuple(broken)


def _differing(body: bytes, parts: list[tuple[str, int, str]]) -> list[str]:
    """By their places; where what was put in or left out has moved them, by their paths."""
    if sum(length for _, length, _ in parts) != len(body):
        try:
            now = {path: _short(piece) for path, piece in _pieces(json.loads(body), "", DEPTH)}
        except ValueError:
            return _at_their_places(body, parts)[:1]
        return [path for path, _, short in parts if now.pop(path, "") != short] + sorted(now)
    return _at_their_places(body, parts)


def _at_their_places(body: bytes, parts: list[tuple[str, int, str]]) -> list[str]:
    differing, at = [], 0
    for path, length, short in parts:
        if _short(body[at : at + length]) != short:
            differing.append(path)
        at += length
    return differing


def _pieces(value: object, path: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """Cut canonical JSON at its keys; what is between two values goes with the second."""
    if not depth or not isinstance(value, dict) or not value:
        yield path, canonical_json(value)
        return
    kept: tuple[str, bytes] | None = None
    for number, key in enumerate(sorted(value)):
        head = (b"," if number else b"{") + canonical_json(key) + b":"
        for place, piece in _pieces(value[key], f"{path}.{key}" if path else key, depth - 1):
            if kept is not None:
                yield kept
            kept, head = (place, head + piece), b""
    assert kept is not None
    yield kept[0], kept[1] + b"}"


def _short(piece: bytes) -> str:
    return sha256_hex(piece)[:_SHORT]
