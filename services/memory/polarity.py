"""Opposites look alike to an embedding: "enable x" and "disable x" pass any useful floor. This tells them apart.

A lexicon of axes (each word on one side), negations, and words that differ by a negating prefix. Simple on
purpose: it errs towards silence, since no recall is better than the opposite one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_AXES = (
    ("enable activate engage turn_on switch_on power_on", "disable deactivate disengage turn_off switch_off power_off"),
    ("start begin began launch resume continue unpause", "stop end halt terminate pause suspend abort finish kill"),
    ("add insert create attach append include install", "remove delete detach drop exclude uninstall erase"),
    ("open reopen", "close shut closure"),
    ("increase raise grow grew expand enlarge extend", "decrease reduce lower shrink shrank lessen shorten"),
    ("allow permit grant accept approve", "deny forbid prohibit block revoke reject refuse decline ban"),
    ("up upward upgrade upscale", "down downward downgrade downscale"),
    ("on", "off"),
    ("lock", "unlock"),
    ("connect join", "disconnect leave"),
    ("show shown reveal display", "hide hid hidden conceal"),
    ("compress zip pack archive", "decompress unzip unpack extract unarchive"),
    ("encrypt", "decrypt"),
    ("mount", "unmount umount eject"),
    ("backup save", "restore discard"),
    ("push upload export send", "pull download import receive"),
    ("subscribe follow", "unsubscribe unfollow"),
    ("like upvote", "dislike downvote"),
    (
        "most max maximum highest largest biggest longest more best top",
        "least min minimum lowest smallest shortest fewest less fewer worst bottom",
    ),
    ("before earlier earliest oldest older first", "after later latest newest newer last"),
    ("above over", "below under"),
    ("success succeed successful pass", "failure fail unsuccessful"),
    ("online available", "offline unavailable"),
    ("buy bought purchase", "sell sold"),
    ("win won", "lose lost"),
    ("hot warm heat", "cold cool"),
    ("speed_up accelerate faster", "slow_down decelerate slower"),
    ("mute silence", "unmute"),
    ("freeze", "unfreeze thaw"),
    ("always", "never"),
)
_NEGATIONS = frozenset(
    {
        *("not", "no", "never", "none", "nothing", "without", "neither", "nor", "avoid", "except", "refrain"),
        *("cannot", "cant", "dont", "doesnt", "didnt", "wont", "wouldnt", "shouldnt"),
        *("isnt", "arent", "wasnt", "werent"),
    }
)
_PREFIXES = ("un", "dis", "de", "non")
_PARTICLES = {"on": "_on", "off": "_off", "up": "_up", "down": "_down"}
_PHRASAL = ("turn", "switch", "power", "speed", "slow")
_REACH = 5
"""A particle this many words after its verb still belongs to it: "turn the kitchen lights off"."""


def _forms(word: str) -> Iterator[str]:
    yield word
    if "_" in word or len(word) < 3:
        return
    stem = word[:-1] if word.endswith("e") else word
    yield from (word + "s", word + "es", stem + "ed", stem + "ing", stem + "er")
    yield from (word + word[-1] + "ed", word + word[-1] + "ing")
    if word.endswith("y"):
        yield from (word[:-1] + "ies", word[:-1] + "ied")


_SIDES: dict[str, tuple[int, int]] = {}
for _axis, _sides in enumerate(_AXES):
    for _sign, _words in zip((1, -1), _sides, strict=True):
        for _word in _words.split():
            for _form in _forms(_word):
                _SIDES.setdefault(_form, (_axis, _sign))


@dataclass(frozen=True, slots=True, kw_only=True)
class Polarity:
    """What a text says about direction: its words, the side it takes on each axis, whether it negates."""

    words: frozenset[str]
    sides: frozenset[tuple[int, int]]
    negated: bool


def polarity(text: str) -> Polarity:
    """Read a text's direction. Taking both sides of an axis counts as taking neither."""
    words = re.findall(r"[^\W_]+", text.lower().replace("n't", "nt").replace("n’t", "nt"))
    for place, word in enumerate(words):
        if word in _PARTICLES:
            for before in range(max(0, place - _REACH), place):
                if words[before].startswith(_PHRASAL):
                    words[before] = next(v for v in _PHRASAL if words[before].startswith(v)) + _PARTICLES[word]
                    words[place] = ""
                    break
    found = {_SIDES[word] for word in words if word in _SIDES}
    return Polarity(
        words=frozenset(word for word in words if word),
        sides=frozenset((axis, sign) for axis, sign in found if (axis, -sign) not in found),
        negated=sum(word in _NEGATIONS for word in words) % 2 == 1,
    )


def opposed(one: Polarity, other: Polarity) -> str | None:
    """Why two texts point in opposite directions, in a few words; None if nothing says so."""
    for axis, sign in one.sides:
        if (axis, -sign) in other.sides:
            return f"opposite directions ({_AXES[axis][0].split()[0]} / {_AXES[axis][1].split()[0]})"
    if one.negated != other.negated:
        return "one of the two negates"
    only_one, only_other = one.words - other.words, other.words - one.words
    for mine, theirs in ((only_one, only_other), (only_other, only_one)):
        for word in mine:
            if len(word) > 3 and any(prefix + word in theirs for prefix in _PREFIXES):
                return f"one of the two undoes it ({word})"
    return None
