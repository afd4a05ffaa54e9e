"""The Tool Efficacy Score of one finished task: 100·(0.5·stability + 0.3·velocity + 0.2·footprint), design §5."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chassis.domains import Limits

Verdict = Literal["confirmed", "refuted", "inconclusive"]
SCORED_STATES = ("rehearsed", "done", "failed", "expired", "dead")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a task ended. `verdict` is the independent probe's; None when nobody has looked."""

    state: str
    no_work: bool = False
    applied: bool = False
    reverted: bool = False
    verdict: Verdict | None = None
    duration_s: float = 0.0
    files: int = 0
    undo: bool = False
    untaken: bool = False
    """Nobody ever began it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`tes` None is unknown, unless `worked` is false: then there was nothing to score."""

    tes: float | None
    stability: float | None
    velocity: float | None
    footprint: float | None
    worked: bool
    note: str

    @property
    def failed(self) -> bool:
        """A known score of a run that did not do what its level allows."""
        return self.tes is not None and self.stability is not None and self.stability < 1.0


def falling(value: float, full: float, none: float) -> float:
    """1 at or under `full`, 0 at or over `none`, linear between. With full ≥ none it is a step at `full`."""
    if value <= full:
        return 1.0
    if value >= none:
        return 0.0
    return (none - value) / (none - full)


def combine(stability: float, velocity: float, footprint: float) -> float:
    """The weighted score, one decimal."""
    return round(100.0 * (0.5 * stability + 0.3 * velocity + 0.2 * footprint), 1)


def stability(end: End) -> tuple[float | None, str]:
    """Stability by the table of §5, and what it rests on; None is unknown."""
    if end.state in ("rehearsed", "done"):
        did = "the rehearsal equals its plan" if end.state == "rehearsed" else "the effect is there"
        if end.verdict == "confirmed":
            return 1.0, f"an independent probe confirmed that {did}"
        if end.verdict == "refuted":
            return 0.0, "an independent probe found something else than was claimed"
        return None, "probe inconclusive" if end.verdict == "inconclusive" else "no probe"
    if end.state == "failed" and not end.applied:
        return 0.6, "stopped by a failed test, nothing applied"
    if end.state == "failed" and end.reverted:
        return 0.2, "applied, then failed and undone"
    if end.state == "failed":
        return 0.0, "applied, then failed, not undone"
    return 0.0, f"ended as {end.state}"


def score(end: End, limits: Limits) -> Score:
    """Score one finished task once and for all. Cancelled tasks, undos and `no work` are not scored."""
    if end.undo:
        return _unscored("an undo is not scored")
    if end.no_work:
        return _unscored("no work")
    if end.untaken:
        return _unscored("nobody took it: neither success nor failure")
    if end.state not in SCORED_STATES:
        return _unscored(f"{end.state}: neither success nor failure")
    stable, note = stability(end)
    velocity = falling(end.duration_s, limits.fast_s, limits.slow_s)
    footprint = falling(end.files, limits.small_files, limits.large_files)
    tes = None if stable is None else combine(stable, velocity, footprint)
    return Score(tes=tes, stability=stable, velocity=velocity, footprint=footprint, worked=True, note=note)


def _unscored(note: str) -> Score:
    return Score(tes=None, stability=None, velocity=None, footprint=None, worked=False, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulseTes:
    """A domain's score in one pulse: the mean of its tasks with a known TES that ended in it."""

    tes: float | None
    worked: bool
    known: int
    unknown: int
    failures: int
    note: str


def pulse_tes(scores: Iterable[Score]) -> PulseTes:
    """Mean over the known ones; `no work` if none ended, unknown if none of those that ended is known."""
    worked = [each for each in scores if each.worked]
    known = [each.tes for each in worked if each.tes is not None]
    failures = sum(each.failed for each in worked)
    unknown = len(worked) - len(known)
    if not worked:
        return PulseTes(tes=None, worked=False, known=0, unknown=0, failures=0, note="no work")
    if not known:
        return PulseTes(tes=None, worked=True, known=0, unknown=unknown, failures=0, note="unknown: no probe answered")
    note = f"mean of {len(known)}" + (f", {unknown} unknown left out" if unknown else "")
    return PulseTes(
        tes=sum(known) / len(known), worked=True, known=len(known), unknown=unknown, failures=failures, note=note
    )


def unreachable_because(made: Score, limits: Limits, above: float = 95.0) -> str:
    """Name the limit that keeps a perfectly stable run at or under `above`; empty if none does."""
    if made.tes is None or made.stability != 1.0 or made.tes > above:
        return ""
    assert made.velocity is not None and made.footprint is not None
    if 0.3 * (1.0 - made.velocity) >= 0.2 * (1.0 - made.footprint):
        return f"runs this long score {made.tes}: fast_s is {limits.fast_s:g} s, slow_s {limits.slow_s:g} s"
    return (
        f"runs of this size score at most {made.tes}: "
        f"small_files is {limits.small_files:g}, large_files {limits.large_files:g}"
    )
