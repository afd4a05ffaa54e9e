"""Ed25519 by hand (RFC 8032, section 5.1), so that signatures can be made which no library makes. Slow, for tests."""

import hashlib
from dataclasses import dataclass

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
ZERO: Point = (0, 1)


def x_of(y: int, sign: int) -> int | None:
    """The x that belongs to it; None where there is no such point."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return P - x if x & 1 != sign and x else x


_BASE_Y = 4 * pow(5, -1, P) % P
BASE: Point = (x_of(_BASE_Y, 0) or 0, _BASE_Y)
_Extended = tuple[int, int, int, int]


def _add(a: _Extended, b: _Extended) -> _Extended:
    one, two = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    three, four = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = two - one, four - three, four + three, two + one
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(scalar: int, point: Point) -> Point:
    found, each = (0, 1, 1, 0), (point[0], point[1], 1, point[0] * point[1] % P)
    while scalar:
        if scalar & 1:
            found = _add(found, each)
        each, scalar = _add(each, each), scalar >> 1
    inverse = pow(found[2], -1, P)
    return (found[0] * inverse % P, found[1] * inverse % P)


def plus(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1]
    return (
        (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P) % P,
        (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P,
    )


def encoded(point: Point) -> bytes:
    return spelled(point[1], point[0] & 1)


def spelled(y: int, sign: int) -> bytes:
    """These 255 bits and this sign, whether they are a point or not."""
    return (y | sign << 255).to_bytes(32, "little")


def hashed(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def low_order() -> list[Point]:
    """The eight points whose order divides 8, the last first by order 1."""
    y = 2
    while True:
        x = x_of(y, 0)
        eighth = ZERO if x is None else times(L, (x, y))
        if times(4, eighth) != ZERO:
            return [times(n, eighth) for n in range(8)]
        y += 1


@dataclass(frozen=True)
class Signer:
    """A key made from its seed."""

    seed: bytes

    @property
    def secret(self) -> int:
        raw = bytearray(hashlib.sha512(self.seed).digest()[:32])
        raw[0] &= 248
        raw[31] = raw[31] & 127 | 64
        return int.from_bytes(raw, "little")

    @property
    def public(self) -> bytes:
        return encoded(times(self.secret, BASE))

    def nonce(self, message: bytes) -> int:
        return hashed(hashlib.sha512(self.seed).digest()[32:], message)

    def sign(self, message: bytes) -> bytes:
        nonce = self.nonce(message)
        r = encoded(times(nonce, BASE))
        return r + self.s(nonce, r, message).to_bytes(32, "little")

    def s(self, nonce: int, r: bytes, message: bytes) -> int:
        """The half of a signature that fits this R, however it is written."""
        return (nonce + hashed(r, self.public, message) * self.secret) % L
