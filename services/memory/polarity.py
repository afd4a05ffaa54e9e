"""Opposites look alike to an embedding: "enable x" and "disable x" pass any useful floor. This tells them apart.

The guard refuses a match if the two texts exchange source and target, if the words in which they differ stand on
opposite sides of an axis, or if one of them negates more often than the other (odd or even), by "not" or by "un-".
Words that both have say nothing: "start the job that stops x" and "launch the job which halts x" agree.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from services.memory.opposites import (
    ARTICLES,
    AXES,
    BENIGN,
    INSTEAD,
    MOVES,
    NEGATIONS,
    NOUNS_TOO,
    PARTICLES,
    PHRASES,
    SEGMENT_ENDS,
    TOWARDS,
    VERBS,
    joined,
)

_REACH = 5
"""A particle this many words after its verb still belongs to it ("turn the kitchen lights off"), and so does a
negation before what it negates."""

_BENIGN_REACH = 3
_STOPS = frozenset({",", ";", ".", ":", "and", "but", "then"})
_WORD = re.compile(r"[^\W_]+(?:[-.:@/][^\W_]+)*|[,;.:]|at_most|at_least")
_PHRASES = tuple((re.compile(pattern), to) for pattern, to in PHRASES)
_ADJECTIVE = re.compile(r"(?:ive|[ai]ble|ete|ent|ant|al|ar|ect|id|ate|ure|act|ite|ous)$")
_PREFIXES = ("un", "dis", "non", "de", "in", "im", "il", "ir", "mis")
_NOT_UNDONE = frozenset(
    {"unless", "discover", "display", "discount", "dispatch", "discharge", "disease", "district", "understand"}
)
_BEFORE_A_SIDE = frozenset({"the", "my", "your", "to", "on", "turn", "from"})
_BEING = frozenset({"is", "are", "was", "were", "be", "been", "being", "stay", "stays"})
_AFTER_A_STATE = frozenset({"", "or", "and", "off", "down", ",", ".", ";"})
_QUOTED = re.compile(r"\"[^\"]{1,300}\"|“[^”]{1,300}”|`[^`]{1,300}`|(?<!\w)'[^']{1,300}'(?!\w)")
_Role = frozenset[str]


def _forms(word: str) -> Iterator[str]:
    yield word
    if "-" in word or len(word) < 3:
        return
    stem = word[:-1] if word.endswith("e") else word
    yield from (word + "s", word + "es", stem + "ed", stem + "ing", stem + "er", stem + "est")
    yield from (word + word[-1] + "ed", word + word[-1] + "ing", word + word[-1] + "er", word + word[-1] + "est")
    if word.endswith("y"):
        yield from (word[:-1] + "ies", word[:-1] + "ied")


_SIDES: dict[str, set[tuple[int, int]]] = {}
for _own in (True, False):  # a word of its own comes before a form of another: "later" is no form of "late"
    _known = frozenset(_SIDES)
    for _axis, _sides in enumerate(AXES):
        for _sign, _words in zip((1, -1), _sides, strict=True):
            for _word in _words.split():
                for _form in [_word] if _own else _forms(_word):
                    if _own or _form not in _known:
                        _SIDES.setdefault(_form, set()).add((_axis, _sign))
_BASE = {form: verb for verb in sorted(VERBS) for form in _forms(verb)} | {
    **dict.fromkeys(("took", "taken"), "take"),
    **dict.fromkeys(("brought",), "bring"),
    **dict.fromkeys(("woke",), "wake"),
    **dict.fromkeys(("tore", "torn"), "tear"),
    **dict.fromkeys(("gave", "given"), "give"),
    **dict.fromkeys(("laid",), "lay"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Polarity:
    """What a text says about direction. `sides` counts the words on each side of an axis, with negation applied;
    `negated`: an odd number of negations; `denied`: the axes of the words that the negation reaches; `source` and
    `target`: the words of "from source to target".
    """

    words: frozenset[str]
    sides: dict[tuple[int, int], int]
    negated: bool
    denied: frozenset[int]
    source: _Role
    target: _Role


def _read(text: str) -> list[str]:
    lowered = text.lower().replace("n't", "nt").replace("n’t", "nt")
    for pattern, to in _PHRASES:
        lowered = pattern.sub(to, lowered)
    return _WORD.findall(lowered)


def _with_particles(words: list[str]) -> list[str]:
    """Each particle joined to its verb, if it has one within reach; the particle's place stays empty."""
    made = list(words)
    for place, word in enumerate(words):
        if word not in PARTICLES:
            continue
        for before in range(place - 1, max(-1, place - 1 - _REACH), -1):
            if words[before] in _STOPS:
                break
            if (verb := _BASE.get(words[before])) is None or "_" in made[before]:
                continue
            phrasal = joined(verb, word)
            if (phrasal in BENIGN and place - before <= _BENIGN_REACH) or phrasal in _SIDES:
                made[before] = phrasal
                if word not in TOWARDS:
                    made[place] = ""
                break
    return made


def _stands(words: list[str], place: int) -> set[tuple[int, int]]:
    word = words[place]
    before = words[place - 1] if place else ""
    after = next((found for found in words[place + 1 :] if found), "")
    if (
        (word in ("left", "right") and before not in _BEFORE_A_SIDE)
        or (word in ("on", "up") and not (before in _BEING or after in _AFTER_A_STATE))  # elsewhere a preposition
        or (word in ("over", "under") and not after[:1].isdigit())
        or (word in ("send", "share") and after in ("me", "us"))  # that is: show
    ):
        return set()
    if word in NOUNS_TOO and (before in ARTICLES or before in ("from", "of", "into")):
        return set()
    if word in _SIDES:
        return _SIDES[word]
    first, _, rest = word.partition("-")
    return _SIDES.get(first, set()) if rest and first not in PARTICLES else set()


def _between(words: list[str], start: int) -> _Role:
    found: list[str] = []
    for word in words[start:]:
        if word in SEGMENT_ENDS or word in _STOPS - {"and"}:
            break
        found.append(word)
    return frozenset(found)


def _roles(words: list[str]) -> tuple[_Role, _Role]:
    """(source, target); both empty where the text has none. Words on both sides tell nothing apart."""
    source: _Role = frozenset()
    target: _Role = frozenset()
    if "from" in words:
        at = words.index("from")
        later = [place for place, word in enumerate(words) if word in TOWARDS and place > at]
        sooner = [place for place, word in enumerate(words) if word in TOWARDS and place < at]
        if later or sooner:
            source, target = _between(words, at + 1), _between(words, (later or sooner[::-1])[0] + 1)
    else:
        swaps = bool({"replace", "swap", "substitute"} & set(words))
        instead = [place for place, word in enumerate(words) if word in INSTEAD and (word != "with" or swaps)]
        moved = bool(MOVES & set(words))
        towards = [place for place, word in enumerate(words) if word in TOWARDS and (word != "to" or moved)]
        if instead or towards:
            at = (instead or towards)[0]
            source, target = frozenset(words[:at]), frozenset(words[at + 1 :])
    return source - target, target - source


@lru_cache(maxsize=4096)
def polarity(text: str) -> Polarity:
    """Read a text's direction."""
    words = _with_particles(_read(_QUOTED.sub(" ", text)))  # quoted text is handed over; it directs nothing
    plain = _read(text)
    negations = [place for place, word in enumerate(words) if word in NEGATIONS]
    negated = len(negations) % 2 == 1
    sides: Counter[tuple[int, int]] = Counter()
    denied: set[int] = set()
    for place in range(len(words)):
        stands = _stands(words, place)
        if not stands or place in negations:
            continue
        under = negated and _reached(words, place, negations)
        lessened = place > 0 and words[place - 1] in ("less", "least") and words[place] not in PARTICLES
        turned = under != lessened
        for axis, sign in stands:
            sides[axis, -sign if turned else sign] += 1
            if under:
                denied.add(axis)
    source, target = _roles(plain)
    return Polarity(
        words=frozenset(word.replace("-", "") for word in plain),
        sides=dict(sides),
        negated=negated,
        denied=frozenset(denied),
        source=source,
        target=target,
    )


def _reached(words: list[str], place: int, negations: list[int]) -> bool:
    return any(0 < place - negation <= _REACH and not _STOPS & set(words[negation:place]) for negation in negations)


def opposed(one: Polarity, other: Polarity) -> str | None:
    """Why two texts point in opposite directions, in a few words; None if nothing says so."""
    if one.source & other.target and one.target & other.source:
        return "source and target are exchanged"
    axes = {axis for axis, _ in one.sides} & {axis for axis, _ in other.sides}
    for axis in sorted(axes):
        up, down = (one.sides.get((axis, sign), 0) - other.sides.get((axis, sign), 0) for sign in (1, -1))
        if up * down < 0:
            return f"opposite directions ({AXES[axis][0].split()[0]} / {AXES[axis][1].split()[0]})"
    # A negation that was set against a word of the other text has had its say.
    denies = [side.negated and not (side.denied & axes) for side in (one, other)]
    if one.negated == other.negated:
        denies = [False, False]
    differing = one.words ^ other.words
    rest = {word for word in differing if not any(axis in axes for axis, _ in _SIDES.get(word, ()))}
    undone = _undone(one.words & rest, other.words & rest)
    if (denies[0] != denies[1]) != (undone is not None):
        return "one of the two negates" if undone is None else f"one of the two undoes it ({undone})"
    return None


def _undone(mine: frozenset[str], theirs: frozenset[str]) -> str | None:
    """A word of one side that the other has with a negating prefix."""
    for some, others in ((mine, theirs), (theirs, mine)):
        stems = {_stem(word) for word in others}
        for word in sorted(some - _NOT_UNDONE):
            for prefix in _PREFIXES:
                base = word.removeprefix(prefix)
                if base == word or len(base) < (6 if prefix == "de" else 3):
                    continue
                if prefix in ("in", "im", "il", "ir") and not (len(base) > 4 and _ADJECTIVE.search(base)):
                    continue
                if _stem(base) in stems:
                    return base
    return None


def _stem(word: str) -> str:
    for end in ("able", "ing", "ed", "es", "s"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            return word[: -len(end)]
    return word
