"""From the model's token vectors to one vector a text: what the words say together counts, what is handed over less.

Plain mean pooling counts a word of four pieces four times, counts commas, and the two special tokens most of all in
short texts. Here each word counts once, a quoted or numbered word a quarter, and each piece by how far it agrees
with the rest: an objective is about what most of its words are about. Nothing is learned; one model pass as before.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.canonical import sha256_hex

POOLING = "central-1"
"""Names the rule below; a change of it is another vector space and must get another name."""

PARAMETER_WEIGHT = 0.25
AGREEMENT_POWER = 2
_PARAMETERS = re.compile(r"\"[^\"]{1,300}\"|“[^”]{1,300}”|`[^`]{1,300}`|(?<!\w)'[^']{1,300}'(?!\w)|(?<!\S)\S*\d\S*")
"""Text in quotes, and anything with a digit in it."""

Array = NDArray[np.float32]


def pool(hidden: Array, words: Sequence[int | None], offsets: Sequence[tuple[int, int]], text: str) -> Array:
    """One vector (not of unit length) for tokens `hidden` [n, dimension]. `words`: the word a token is a piece of."""
    weights = _weights(words, offsets, text)
    norms = np.linalg.norm(hidden, axis=1)
    agreement = hidden @ (weights @ hidden) / np.where(norms > 0, norms, np.nan)
    return np.asarray((weights * np.maximum(agreement, 0.0) ** AGREEMENT_POWER) @ hidden, dtype=np.float32)


def _weights(words: Sequence[int | None], offsets: Sequence[tuple[int, int]], text: str) -> Array:
    # Only as far as the model reads; the pattern never looks at the rest of a long text.
    parameters = np.zeros(max((end for _, end in offsets), default=0), dtype=np.bool_)
    for found in _PARAMETERS.finditer(text, 0, len(parameters)):
        parameters[found.start() : found.end()] = True
    pieces: dict[int, int] = {}
    for word in words:
        if word is not None:
            pieces[word] = pieces.get(word, 0) + 1
    weights = np.zeros(len(words), dtype=np.float32)
    for place, (word, (start, end)) in enumerate(zip(words, offsets, strict=True)):
        if word is not None and any(map(str.isalnum, text[start:end])):
            weights[place] = (PARAMETER_WEIGHT if parameters[start:end].all() else 1.0) / pieces[word]
    return weights if weights.any() else np.ones(len(words), dtype=np.float32)


class Basis:
    """The directions in which the packaged model's own vocabulary and plain English lines differ: see bench/basis.py.

    The rest is mostly noise of the quantised model. `sha256` belongs to the name of the vector space.
    """

    def __init__(self, content: bytes) -> None:
        self.sha256 = sha256_hex(content)
        self.matrix: Any = np.load(BytesIO(content), allow_pickle=False).astype(np.float32)

    @property
    def dimension(self) -> int:
        return int(self.matrix.shape[1])


def packaged_basis() -> Basis:
    return Basis(files("services.memory").joinpath("basis.npy").read_bytes())
