"""One byte sequence per value: what gets signed, hashed and replayed."""

import hashlib
import json
from typing import Any

Json = dict[str, Any]

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN or infinity.

    Floats are written as Python's shortest round-trip form, so that reading and writing again gives
    the same bytes. Raises ValueError for what JSON can't hold.
    """
    return _encode(value).encode()


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """sha256 (hex) of the value's canonical JSON."""
    return sha256_hex(canonical_json(value))
