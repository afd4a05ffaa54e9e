"""Ed25519 points that must not count, though a library takes them.

OpenSSL checks neither that a public key is of full order (under one of low order, anybody can sign anything) nor that
it is written in the one canonical way (the same key would count twice). Points: RFC 8032, section 5.1; the low orders:
the torsion subgroup of order 8 of edwards25519.
"""

FIELD = 2**255 - 19
_D = -121665 * pow(121666, -1, FIELD) % FIELD
_EIGHTH = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_LOW_ORDER = frozenset({0, 1, FIELD - 1, _EIGHTH, FIELD - _EIGHTH})
"""The y of every point whose order divides 8."""


def weakness(point: bytes) -> str:
    """Why these 32 bytes are no point to trust; empty when they are one."""
    if len(point) != 32:
        return f"it has {len(point)} bytes, not 32"
    y = int.from_bytes(point, "little") & (2**255 - 1)
    if y >= FIELD:
        return "it is not written canonically"
    if y in _LOW_ORDER:
        return "it is a point of low order, under which anybody can sign"
    if pow((y * y - 1) * (_D * y * y + 1), (FIELD - 1) // 2, FIELD) != 1:
        return "it is no point of the curve"
    return ""
