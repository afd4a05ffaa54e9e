"""Ed25519 vectors of every kind that Project Wycheproof has a verdict on, made here, not copied.

A vector makes (public key, signature) for a message, since each of our two forms signs other bytes. `why` is the reason
that we give, empty where we accept; `library`: whether OpenSSL, by itself, accepts. Where the two differ, it is said.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from edwards import BASE, L, P, Signer, encoded, hashed, low_order, plus, spelled, times, x_of

Made = tuple[bytes, bytes]
ALICE, BOB = Signer(b"a" * 32), Signer(b"b" * 32)
FITS_NOT, UNKNOWN, TOO_SHORT = "does not fit: it was changed since", "nobody here knows", "not an Ed25519 one"
LOW, UNCANONICAL, OFF = "point of low order", "not written canonically", "no point of the curve"


@dataclass(frozen=True, kw_only=True)
class Vector:
    """`fault`: what is said of the key's file, where the key is what is wrong; `length`: SSH says that itself."""

    kind: str
    name: str
    make: Callable[[bytes], Made]
    why: str = FITS_NOT
    fault: str = ""
    library: bool = False
    payload: bytes = field(default=b'{"domain":"notes"}')
    length: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


@cache
def _signed(message: bytes) -> bytes:
    return ALICE.sign(message)


@cache
def _alice() -> bytes:
    return ALICE.public


def _changed(change: Callable[[bytes], bytes]) -> Callable[[bytes], Made]:
    return lambda message: (_alice(), change(_signed(message)))


def _s(change: Callable[[int], int]) -> Callable[[bytes], Made]:
    return _changed(lambda sig: sig[:32] + change(int.from_bytes(sig[32:], "little")).to_bytes(32, "little"))


def _flipped(bit: int) -> Callable[[bytes], bytes]:
    return lambda sig: bytes(each ^ (1 << bit % 8 if n == bit // 8 else 0) for n, each in enumerate(sig))


def _with_r(r: bytes, nonce: int) -> Callable[[bytes], Made]:
    return lambda message: (_alice(), r + ALICE.s(nonce, r, message).to_bytes(32, "little"))


def _under(public: bytes, secret: int = 0) -> Callable[[bytes], Made]:
    """A signature that fits the group equation under a key with an eighth-order part: a nonce is sought for it."""

    def make(message: bytes) -> Made:
        for nonce in range(1, 2000):
            r = encoded(times(nonce, BASE))
            h = hashed(r, public, message)
            if h % 8 == 0:
                return public, r + ((nonce + h * secret) % L).to_bytes(32, "little")
        raise AssertionError("no nonce fits")

    return make


def _mixed_r(message: bytes) -> Made:
    nonce = ALICE.nonce(message)
    r = encoded(plus(times(nonce, BASE), low_order()[1]))
    return _alice(), r + ALICE.s(nonce, r, message).to_bytes(32, "little")


def vectors() -> Iterator[Vector]:
    for size in (1, 2, 3, 20, 63, 64, 65, 127, 128, 1023, 16_384):
        yield Vector(
            kind="valid", name=f"{size} bytes", make=_changed(bytes), why="", library=True, payload=b"x" * size
        )
    yield Vector(kind="valid", name="no message", make=_changed(bytes), why="", library=True, payload=b"")
    yield Vector(kind="valid", name="bytes that are no text", make=_changed(bytes), why="", library=True,
                 payload=bytes(range(256)))  # fmt: skip
    for name, change in {
        "of another message": lambda m: m + b"x", "of no message": lambda _: b"", "of its first half": lambda m:
        m[: len(m) // 2], "of it with one bit changed": lambda m: bytes((m[0] ^ 1, *m[1:])),
    }.items():  # fmt: skip
        yield Vector(
            kind="altered message",
            name=name,
            make=lambda m, change=change: (_alice(), _signed(change(m))),  # type: ignore[misc]
        )
    bits = (0, 1, 2, 7, 8, 16, 31, 32, 63, 64, 97, 127, 240, 247, 248, 253, 254, 255)
    for bit in bits:
        yield Vector(kind="altered R", name=f"bit {bit}", make=_changed(_flipped(bit)))
        yield Vector(kind="altered S", name=f"bit {bit}", make=_changed(_flipped(256 + bit)))
    for n in (1, 2, 3, 4, 8, 14):
        yield Vector(kind="S not reduced", name=f"S + {n} L", make=_s(lambda s, n=n: s + n * L))  # type: ignore[misc]
    yield Vector(kind="S not reduced", name="S - L + 2^256", make=_s(lambda s: s - L + 2**256))
    for name, value in {
        "0": 0,
        "1": 1,
        "L - 1": L - 1,
        "L": L,
        "L + 1": L + 1,
        "2^253": 2**253,
        "2^256 - 1": 2**256 - 1,
    }.items():
        yield Vector(kind="special S", name=name, make=_s(lambda _, value=value: value))  # type: ignore[misc]
        for r_name, r in _special_r().items():
            yield Vector(
                kind="special R and S",
                name=f"R {r_name}, S {name}",
                make=lambda _, r=r, value=value: (_alice(), r + value.to_bytes(32, "little")),  # type: ignore[misc]
            )
    yield Vector(kind="altered S", name="negated", make=_s(lambda s: L - s))
    yield from _lengths()
    yield from _points()
    yield from _keys()


def _special_r() -> dict[str, bytes]:
    return {
        "all zero": bytes(32), "the identity": spelled(1, 0), "the identity, negative": spelled(1, 1),
        "p - 1": spelled(P - 1, 0), "p": spelled(P, 0), "p + 1": spelled(P + 1, 0), "all ones": b"\xff" * 32,
        "the base point": encoded(BASE),
    }  # fmt: skip


def _lengths() -> Iterator[Vector]:
    for name, change in {
        "empty": lambda s: b"", "one byte": lambda s: s[:1], "R alone": lambda s: s[:32], "S alone": lambda s: s[32:],
        "without its last byte": lambda s: s[:-1], "without its first byte": lambda s: s[1:],
        "a zero after it": lambda s: s + b"\0", "a zero before it": lambda s: b"\0" + s,
        "a zero before S": lambda s: s[:32] + b"\0" + s[32:], "the key after it": lambda s: s + _alice(),
        "twice": lambda s: s + s, "64 bytes of nothing after it": lambda s: s + bytes(64),
    }.items():  # fmt: skip
        kind = "appended" if "after" in name or name == "twice" else "truncated"
        yield Vector(kind=kind, name=name, make=_changed(change), length=True)
    yield Vector(kind="truncated", name="64 zeros", make=_changed(lambda _: bytes(64)))
    yield Vector(kind="altered R", name="R and S swapped", make=_changed(lambda s: s[32:] + s[:32]))
    yield Vector(kind="altered S", name="S big-endian", make=_changed(lambda s: s[:32] + s[:31:-1]))
    yield Vector(kind="altered R", name="R big-endian", make=_changed(lambda s: s[31::-1] + s[32:]))


def _points() -> Iterator[Vector]:
    """R of low order, or written otherwise, with the S that fits it: only its holder could sign so."""
    yield Vector(kind="low-order R", name="identity; the library accepts", make=_with_r(spelled(1, 0), 0), library=True)
    yield Vector(kind="non-canonical R", name="identity, negative", make=_with_r(spelled(1, 1), 0))
    yield Vector(kind="non-canonical R", name="identity as p + 1", make=_with_r(spelled(P + 1, 0), 0))
    yield Vector(kind="non-canonical R", name="identity as p + 1, negative", make=_with_r(spelled(P + 1, 1), 0))
    yield Vector(kind="low-order R", name="with a part of order 8, as cofactored verifiers accept", make=_mixed_r)


def _keys() -> Iterator[Vector]:
    yield Vector(kind="wrong public key", name="by Bob, said to be Alice's", make=lambda m: (_alice(), BOB.sign(m)))
    yield Vector(
        kind="wrong public key",
        name="Alice's, negated",
        make=lambda m: (bytes((*_alice()[:31], _alice()[31] ^ 128)), _signed(m)),
    )
    for n, point in enumerate(low_order()):
        public = encoded(point)
        yield Vector(kind="low-order key", name=f"{n} times the eighth; the library accepts", make=_under(public),
                     why=UNKNOWN, fault=LOW, library=True)  # fmt: skip
    for name, public in {
        "identity, negative": spelled(1, 1), "p - 1, negative": spelled(P - 1, 1), "p": spelled(P, 0),
        "p, negative": spelled(P, 1), "p + 1": spelled(P + 1, 0), "p + 1, negative": spelled(P + 1, 1),
    }.items():  # fmt: skip
        yield Vector(
            kind="non-canonical key", name=f"{name}; the library accepts", make=_under(public), why=UNKNOWN,
            fault=UNCANONICAL if "p" in name and "-" not in name else LOW, library=True,
        )  # fmt: skip
    for y in range(2, 19):
        fault = UNCANONICAL
        yield Vector(kind="non-canonical key", name=f"{y} as p + {y}", make=_under(spelled(P + y, 0)), why=UNKNOWN,
                     fault=fault)  # fmt: skip
    for y in (y for y in range(2, 40) if x_of(y, 0) is None):
        yield Vector(kind="key off the curve", name=f"y {y}", make=_under(spelled(y, 0)), why=UNKNOWN, fault=OFF)
    mixed = encoded(plus(times(ALICE.secret, BASE), low_order()[1]))
    yield Vector(kind="valid", name="a key with a part of order 8: its holder made it so",
                 make=_under(mixed, ALICE.secret), why="", library=True)  # fmt: skip
