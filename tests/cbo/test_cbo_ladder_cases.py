"""The ladder's rule by hand: what happened, pulse by pulse, and the level and words that follow from design §5.

One word is one pulse, `*n` repeats it:

    96      work ended, mean TES 96         ?       work ended, no TES is known
    96!     and one failure in it (!! two)  !       a regression found, no other work
    .       a pulse without work            +  x    an effect held at +1 min, one failed (no work beside it)
    >GUIDE  a person sets the level         ~       before a word: still in the pulse before
    #b      another manifest                $2      other code
    max:L   the manifest allows at most L   void:W  it gives no right to act because of W; `valid` ends that
"""

import re
from dataclasses import replace
from typing import NamedTuple

import pytest

from chassis.domains import Level
from services.cbo.autonomy_evaluator import Decision, Entry, Standing, Terms, decide, run_required, step


class After(NamedTuple):
    standing: Standing
    decision: Decision
    required: int


def live(start: str, story: str) -> After:
    terms = Terms()
    standing = Standing(level=Level[start], reason="start", digest="a", code="1")
    pulse = 0
    for word in story.split():
        word, _, times = word.partition("*")
        for _ in range(int(times or 1)):
            if word.startswith("max:"):
                terms = replace(terms, max_level=Level[word[4:]])
                continue
            if word.startswith("void:") or word == "valid":
                terms = replace(terms, void=word[5:].replace("_", " "))
                continue
            pulse += not word.startswith("~")
            standing = step(standing, entry_of(word.removeprefix("~"), pulse), terms)
    return After(standing, decide(standing, terms), run_required(standing, terms))


def entry_of(word: str, pulse: int) -> Entry:
    if word.startswith(">"):
        return Entry(pulse=pulse, forced=Level[word[1:]], why="I say so")
    if word.startswith("#"):
        return Entry(pulse=pulse, digest=word[1:])
    if word.startswith("$"):
        return Entry(pulse=pulse, code=word[1:])
    found = re.fullmatch(r"(?P<tes>\d+(?:\.\d+)?|\?|)(?P<bad>!*)(?P<held>\+*)(?P<failed>x*)\.?", word)
    assert found, word
    tes = found["tes"]
    return Entry(
        pulse=pulse,
        worked=tes != "",
        tes=None if tes in ("", "?") else float(tes),
        failures=len(found["bad"]),
        effects_held=len(found["held"]),
        effects_failed=len(found["failed"]),
    )


RISE = [
    # story, level, words in the reason, what set it, or what would change it
    ("", "GUIDE", "0 of 5"),
    ("96*4", "GUIDE", "1 more in a row"),
    ("96*5", "EXECUTE", "each of 5 pulses"),
    ("96*5 96", "EXECUTE", "mean TES 96.0 of 1 pulses"),
    ("95.0*50", "GUIDE", "0 of 5"),
    ("95.1*5", "EXECUTE", "each of 5 pulses"),
    ("95.00000000000001*5", "GUIDE", "0 of 5"),  # as the mean of six tasks' 95.4 95.9 93.9 96.1 94.1 94.6 comes out
    ("96*4 95.0 96*4", "GUIDE", "4 of 5"),
    ("96*4 95.0 96*5", "EXECUTE", "each of 5 pulses"),
    ("96*4 10 96*4", "GUIDE", "4 of 5"),
    ("10*60", "GUIDE", "0 of 5"),
    ("96*4 .*500 96", "EXECUTE", "each of 5 pulses"),
    ("96 . 96 . 96 . 96 . 96", "EXECUTE", "each of 5 pulses"),
    (".*500", "GUIDE", "0 of 5"),
    ("96*4 ? 96*4", "GUIDE", "4 of 5"),
    ("96*4 ? 96*5", "EXECUTE", "each of 5 pulses"),
    ("96*4 ! 96", "EXECUTE", "each of 5 pulses"),
    ("96*4 96!!!", "EXECUTE", "each of 5 pulses"),
    ("+*40 96*4", "GUIDE", "4 of 5"),
]  # fmt: skip

FALL = [
    ("96", "EXECUTE", "mean TES 96.0"),
    ("92.0", "EXECUTE", "mean TES 92.0"),
    ("91.9", "GUIDE", "mean TES 91.9 of the last pulse with work is below 92"),
    ("91.99999999999999", "EXECUTE", "mean TES 92.0"),
    ("92.0*30", "EXECUTE", "mean TES 92.0 of 12 pulses"),
    ("92.0*11 91.9", "GUIDE", "mean TES 91.99 of the last 12 pulses"),
    ("91.9 92.1", "GUIDE", "0 of 10"),
    ("92.1 91.9", "EXECUTE", "mean TES 92.0 of 2 pulses"),
    ("92.3 91.8 91.9", "EXECUTE", "mean TES 92.0 of 3 pulses"),
    ("100*11 50", "EXECUTE", "mean TES 95.8 of 12 pulses"),
    ("100*10 50*2", "GUIDE", "mean TES 91.67"),
    ("100*40 91.9*12", "GUIDE", "mean TES 91.9 of the last 12 pulses"),
    ("100*40 91.9*11", "EXECUTE", "mean TES 92.6"),
    ("99*12 85*6", "EXECUTE", "mean TES 92.0 of 12 pulses"),
    ("99*12 85*7", "GUIDE", "mean TES 90.83"),
    ("96! 96!", "EXECUTE", "1 more failure "),
    ("96! 96! 96!", "GUIDE", "3 failures in the last 20 pulses with work, more than 2"),
    ("96!!!", "GUIDE", "3 failures"),
    ("96!! 96*19 96!", "EXECUTE", "mean TES 96.0 of 12 pulses, 1 failure;"),
    ("96!! 96*18 96!", "GUIDE", "3 failures"),
    ("96!! .*500 96!", "GUIDE", "3 failures"),
    ("! ! !", "GUIDE", "3 failures"),
    ("96!! !", "GUIDE", "3 failures"),
    ("96*5 ! 96*10 !!", "GUIDE", "3 failures"),
    (".*500", "EXECUTE", "no work with a TES yet"),
    ("?", "EXECUTE", "no work with a TES yet"),
    ("93 ? ?", "EXECUTE", "mean TES 93.0"),
    ("x*30", "EXECUTE", "no work with a TES yet"),
]  # fmt: skip

AGAIN = [
    ("EXECUTE", "91.9 96*9", "GUIDE", "1 more in a row: pulses with work and TES above 95 (10 instead of 5"),
    ("EXECUTE", "91.9 96*10", "EXECUTE", "each of 10 pulses"),
    ("EXECUTE", "91.9 96*10 91.9 96*19", "GUIDE", "19 of 20"),
    ("EXECUTE", "91.9 96*10 91.9 96*20", "EXECUTE", "each of 20 pulses"),
    ("EXECUTE", "91.9 96*10 91.9 96*20 91.9 96*39", "GUIDE", "39 of 40"),
    ("EXECUTE", "91.9 96*10 91.9 96*20 91.9 96*40", "EXECUTE", "each of 40 pulses"),
    ("EXECUTE", "91.9 96*10 91.9 96*20 91.9 96*40 91.9 96*39", "GUIDE", "39 of 40"),
    ("EXECUTE", "91.9 .*287 96", "GUIDE", "1 of 5"),
    ("EXECUTE", "91.9 .*286 96", "GUIDE", "1 of 10"),
    ("EXECUTE", "91.9 .*287 96*5", "EXECUTE", "each of 5 pulses"),
    ("EXECUTE", "91.9 96*5 .*281 96", "GUIDE", "6 of 10"),
    ("EXECUTE", "91.9 96*5 .*282 96", "EXECUTE", "each of 6 pulses"),
    ("EXECUTE", ">GUIDE 96*5", "EXECUTE", "each of 5 pulses"),
    ("EXECUTE", "max:GUIDE 96 max:EXECUTE 96*5", "EXECUTE", "each of 5 pulses"),
]  # fmt: skip

FROZEN = [
    ("GUIDE", "? ?", "GUIDE", "0 of 5"),
    ("GUIDE", "? ? ?", "GUIDE", "frozen: 3 pulses in a row whose work has no known TES"),
    ("GUIDE", "? . ? . ?", "GUIDE", "frozen: 3 pulses"),
    ("GUIDE", "? ? 96 ? ?", "GUIDE", "0 of 5"),
    ("GUIDE", "?*9 96*5", "EXECUTE", "each of 5 pulses"),
    ("GUIDE", "?*3 >GUIDE", "GUIDE", "0 of 5"),
    ("EXECUTE", "?*3", "EXECUTE", "a person sets the level, or a pulse with a known TES"),
    ("EXECUTE", "?*40 96", "EXECUTE", "mean TES 96.0"),
    ("EXECUTE", "?*3 91.9", "GUIDE", "mean TES 91.9"),
    ("EXECUTE", "?*3 >EXECUTE ?", "EXECUTE", "no work with a TES yet"),
    ("EXECUTE", "?*3 ! !", "EXECUTE", "frozen"),
    ("EXECUTE", "?*3 ! ! !", "GUIDE", "3 failures"),
    ("EXECUTE", "?! ?! ?!", "GUIDE", "3 failures"),
]  # fmt: skip

PROBATION = [
    ("GUIDE", "96*5", "EXECUTE", "probation ends when 18 more effects held and none failed"),
    ("GUIDE", "96*5 +*17", "EXECUTE", "on probation, evidence 18.6 of 20"),
    ("GUIDE", "96*5 +*18", "EXECUTE", "no work with a TES yet, 0 failures;\n"),
    ("GUIDE", "96*5 +*18 x", "EXECUTE", "no work with a TES yet, 0 failures;\n"),
    ("GUIDE", "96*5 x +*18", "EXECUTE", "evidence 5.51 of 20"),
    ("GUIDE", "96*5 x +*26", "EXECUTE", "no work with a TES yet, 0 failures;\n"),
    ("GUIDE", "96*5 96x 91.9x 96*10", "EXECUTE", "on probation, evidence 0.0625 of 20"),
    ("GUIDE", "96*5 +*18 91.9 96*10", "EXECUTE", "no work with a TES yet, 0 failures;\n"),
    ("GUIDE", "96*5 +*18 91.9x 96*10", "EXECUTE", "on probation, evidence 5.51 of 20"),
    ("GUIDE", "96*5 +*18 #b", "EXECUTE", "on probation, evidence 1 of 20"),
    ("GUIDE", "96*5 +*18 $2", "EXECUTE", "on probation, evidence 1 of 20"),
    ("GUIDE", "96*5 +*18 #a", "EXECUTE", "no work with a TES yet, 0 failures;\n"),
    ("GUIDE", "96*5 x*9 #b", "EXECUTE", "on probation, evidence 1 of 20"),
    ("GUIDE", "100*4 #b 100", "EXECUTE", "each of 5 pulses"),
    ("GUIDE", "+*18 96*5", "EXECUTE", "each of 5 pulses"),
]  # fmt: skip

PERSONS = [
    ("GUIDE", ">OBSERVE 96*50", "OBSERVE", "a person sets the level"),
    ("GUIDE", ">SUGGEST 10!!!*50", "SUGGEST", "a person sets the level"),
    ("OBSERVE", ">EXECUTE", "EXECUTE", "set by a person: I say so"),
    ("GUIDE", "96*4 >EXECUTE >GUIDE 96", "GUIDE", "1 of 5"),
    ("GUIDE", "96*4 >GUIDE 96", "EXECUTE", "each of 5 pulses"),
    ("EXECUTE", "96! 96! >EXECUTE 96!", "GUIDE", "3 failures"),
    ("EXECUTE", "96!! 96! ~>EXECUTE", "GUIDE", "demotion beats the approval in the same pulse"),
    ("EXECUTE", "96!! >EXECUTE ~96!", "GUIDE", "3 failures"),
    ("EXECUTE", "91.9 ~>EXECUTE", "GUIDE", "demotion beats the approval in the same pulse"),
    ("GUIDE", ">EXECUTE ~91.9 ~>EXECUTE", "GUIDE", "demotion beats the approval"),
    ("EXECUTE", "91.9 ~>SUGGEST", "SUGGEST", "set by a person"),
    ("EXECUTE", "91.9 >EXECUTE", "EXECUTE", "set by a person"),
    ("GUIDE", "96*5 ~>GUIDE", "GUIDE", "set by a person"),
]  # fmt: skip

LIMITS = [
    ("GUIDE", "max:GUIDE 100*50", "GUIDE", "the manifest allows at most GUIDE"),
    ("GUIDE", "max:SUGGEST .", "SUGGEST", "the manifest allows at most SUGGEST"),
    ("EXECUTE", "96*9 max:GUIDE .", "GUIDE", "the manifest allows at most GUIDE"),
    ("GUIDE", "max:GUIDE >EXECUTE", "GUIDE", "the manifest allows at most GUIDE"),
    ("GUIDE", "max:GUIDE 96*7 max:EXECUTE #b", "EXECUTE", "each of 7 pulses"),
    ("GUIDE", "96*3 void:expired_at_noon", "OBSERVE", "the manifest gives no right to act: expired at noon"),
    ("GUIDE", "96*3 void:expired_at_noon", "OBSERVE", "brings GUIDE back"),
    ("EXECUTE", "96*3 void:expired_at_noon", "OBSERVE", "brings EXECUTE back"),
    ("GUIDE", "96*4 void:expired 96", "OBSERVE", "expired"),
    ("GUIDE", "96*4 void:expired 96 valid", "EXECUTE", "each of 5 pulses"),
    ("GUIDE", "96*4 void:expired valid #b 96", "EXECUTE", "each of 5 pulses"),
    ("GUIDE", "96*3 void:expired .*9 valid #b", "GUIDE", "3 of 5"),
    ("EXECUTE", "96*3 void:expired .*9 valid #b", "EXECUTE", "on probation, evidence 1 of 20"),
    ("EXECUTE", "96!! void:expired 96! valid", "GUIDE", "3 failures"),
    ("EXECUTE", "void:revoked 91.9 valid .", "GUIDE", "0 of 10"),
]  # fmt: skip

CASES = [
    *(("GUIDE", *each) for each in RISE),
    *(("EXECUTE", *each) for each in FALL),
    *AGAIN, *FROZEN, *PROBATION, *PERSONS, *LIMITS,
]  # fmt: skip


@pytest.mark.parametrize(("start", "story", "level", "words"), CASES)
def test_by_hand(start: str, story: str, level: str, words: str) -> None:
    after = live(start, story)
    said = "\n".join((f"{after.decision.reason};", after.decision.next, after.standing.reason))
    assert after.decision.level.name == level, said
    assert words in said


def test_the_table_is_as_long_as_was_promised() -> None:
    assert len({(start, story) for start, story, *_ in CASES}) >= 60


def test_two_domains_in_the_same_pulses_rise_and_fall_apart() -> None:
    pulses = [("96", "96"), ("96", "96!"), ("96", "?"), ("96", "96!"), ("96", "96!")]
    rising = live("GUIDE", " ".join(one for one, _ in pulses))
    falling = live("EXECUTE", " ".join(other for _, other in pulses))
    assert (rising.decision.level, falling.decision.level) == (Level.EXECUTE, Level.GUIDE)
    assert (rising.required, falling.required) == (5, 10)
