"""Randomness that a replay can repeat: our own small generator, since library streams change between versions.

SplitMix64 (Steele, Lea, Flood 2014) underneath; normal by Marsaglia's polar method; gamma by Marsaglia and
Tsang (2000); beta from two gammas. Integer steps are exact everywhere; the rest is as exact as `math.log`,
`math.sqrt` and `**` are.
"""

import hashlib
import math

VERSION = "splitmix64/1"
"""Goes into every record that holds a draw. Any change to a stream is a new version."""

_MASK = (1 << 64) - 1


class Rng:
    """One stream. Not thread-safe: make one per decision."""

    def __init__(self, seed: int) -> None:
        self.seed = seed & _MASK
        self._state = self.seed

    @classmethod
    def of(cls, *parts: str) -> "Rng":
        """Seeded from sha256 over the parts (e.g. station_id, pulse_id), each with its length before it."""
        hashed = hashlib.sha256()
        for part in parts:
            data = part.encode()
            hashed.update(len(data).to_bytes(8, "big") + data)
        return cls(int.from_bytes(hashed.digest()[:8], "big"))

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def uniform(self) -> float:
        """In [0, 1), 53 bits."""
        return (self.bits() >> 11) * 2.0**-53

    def normal(self) -> float:
        """Mean 0, variance 1. One value a call: nothing is kept back, so the state is one integer."""
        while True:
            x = 2.0 * self.uniform() - 1.0
            y = 2.0 * self.uniform() - 1.0
            square = x * x + y * y
            if 0.0 < square < 1.0:
                return x * math.sqrt(-2.0 * math.log(square) / square)

    def gamma(self, shape: float) -> float:
        """Scale 1. Raises ValueError unless shape is a finite number above 0."""
        if not (shape > 0.0 and math.isfinite(shape)):
            raise ValueError(f"gamma needs a finite shape above 0, not {shape}")
        if shape < 1.0:
            below = 1.0 - self.uniform()  # (0, 1]: 0 would make the whole draw 0
            return float(self.gamma(shape + 1.0) * below ** (1.0 / shape))
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        while True:
            x = self.normal()
            v = (1.0 + c * x) ** 3
            if v <= 0.0:
                continue
            u = 1.0 - self.uniform()
            if math.log(u) < 0.5 * x * x + d - d * v + d * math.log(v):
                return d * v

    def beta(self, a: float, b: float) -> float:
        """In [0, 1]. Raises ValueError unless both are finite and above 0."""
        x, y = self.gamma(a), self.gamma(b)
        return x / (x + y) if x + y > 0.0 else 0.5
