"""How far a domain may act unattended. Earned one level at a time, lost at once. The rule of design §5.

A domain's standing is a fold over its entries, one for each pulse in which something concerned it, so it can
be rebuilt at any time (`ladder_log.rebuild`). `decide` is pure: the standing and the terms in, the level, the reason
and what would change it out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from chassis.domains import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The rule's numbers, and what the manifest allows: at most `max_level`; nothing at all while it is `void`."""

    max_level: Level = Level.EXECUTE
    void: str = ""
    """Why the manifest gives no right to act now (expired, not valid yet, revoked); empty while it does."""
    promote_above: float = 95.0
    promote_run: int = 5
    promote_run_cap: int = 40
    doubling_pulses: int = 288
    demote_below: float = 92.0
    mean_pulses: int = 12
    max_failures: int = 2
    failure_pulses: int = 20
    freeze_after: int = 3
    evidence_goal: float = 20.0
    held_factor: float = 0.95 / 0.80
    failed_factor: float = 0.05 / 0.20
    evidence_ceiling: float = 1e12
    """Far above the goal, so that a good past can't hide a bad present for ever. There is no floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one pulse (by number) says about a domain.

    `worked` with `tes` None: work ended, but no TES is known. `failures` are failed runs and regressions found;
    `effects_held` (at +1 min) and `effects_failed` feed probation's evidence only. `forced` is a person's level.
    `digest` and `code` are set when the domain's manifest or the code behind it is another one.
    Raises ValueError for what no pulse can say: a score that is no number would never demote.
    """

    pulse: int
    worked: bool = False
    tes: float | None = None
    failures: int = 0
    effects_held: int = 0
    effects_failed: int = 0
    forced: Level | None = None
    why: str = ""
    digest: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        if self.tes is not None and not (self.worked and 0.0 <= self.tes <= 100.0):
            raise ValueError(f"a TES is 0 to 100 and belongs to work that ended, not {self.tes!r}")
        if min(self.failures, self.effects_held, self.effects_failed) < 0:
            raise ValueError("failures and effects are counted from 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All the rule needs to know of a domain's past. `level` is what was earned or set; `decide` says what it is
    worth now. `window` and `failures` are oldest first; `evidence_ln` is the logarithm of probation's score."""

    level: Level
    reason: str
    pulse: int = 0
    run: int = 0
    window: tuple[float, ...] = ()
    failures: tuple[int, ...] = ()
    unknown_run: int = 0
    frozen: bool = False
    demotions: tuple[int, ...] = ()
    evidence_ln: float = 0.0
    probation: bool = False
    tes_last: float | None = None
    changed_pulse: int = 0
    digest: str = ""
    code: str = ""

    @property
    def failures_in_window(self) -> int:
        return sum(self.failures)

    @property
    def mean(self) -> float | None:
        """Mean TES of the last pulses with known work, to a millionth; None without any."""
        return _exact(math.fsum(self.window) / len(self.window)) if self.window else None

    @property
    def evidence(self) -> float:
        """Probation's score. It starts at 1."""
        return math.exp(self.evidence_ln)

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in _FIELDS}
        lists = {name: list(plain[name]) for name in _LISTS}
        return {**plain, **lists, "level": int(self.level)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """As `to_json` wrote it, in this version or before the score was kept as a logarithm."""
        known = dict(value)
        if (evidence := known.pop("evidence", None)) is not None:
            known["evidence_ln"] = math.log(max(evidence, 5e-324))
        return cls(**{**known, **{name: tuple(known[name]) for name in _LISTS}, "level": Level(known["level"])})


_FIELDS = tuple(each.name for each in fields(Standing))
_LISTS = ("window", "failures", "demotions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The level the past supports, why, and what would change it."""

    level: Level
    reason: str
    next: str


def run_required(standing: Standing, terms: Terms) -> int:
    """5, doubled for each demotion by the rule in the last 288 pulses, at most 40."""
    return min(terms.promote_run_cap, terms.promote_run << demotions_recent(standing, terms))


def demotions_recent(standing: Standing, terms: Terms) -> int:
    """Demotions by the rule in the last 288 pulses, with or without work."""
    return sum(standing.pulse - each < terms.doubling_pulses for each in standing.demotions)


def effects_missing(standing: Standing, terms: Terms) -> int:
    """How many effects in a row have to hold before probation's score reaches its goal."""
    return max(0, math.ceil((math.log(terms.evidence_goal) - standing.evidence_ln) / math.log(terms.held_factor)))


def decide(standing: Standing, terms: Terms) -> Decision:
    """The level now: what was earned, or nothing while the manifest is void."""
    if terms.void:
        return Decision(
            level=Level.OBSERVE,
            reason=f"the manifest gives no right to act: {terms.void}",
            next=f"an edition that is valid and approved brings {standing.level.name} back",
        )
    return earned(standing, terms)


def earned(standing: Standing, terms: Terms) -> Decision:
    """Apply the rule once. It moves between GUIDE and EXECUTE only; lower levels belong to people and manifests.

    The order is the meaning: what takes away comes before what keeps, and what keeps before what gives.
    """
    level = standing.level
    if level > terms.max_level:
        return Decision(level=terms.max_level, reason=_at_most(terms), next="a manifest that allows more")
    if level is Level.EXECUTE and (why := _lost_because(standing, terms)):
        again = run_required(replace(standing, demotions=(*standing.demotions, standing.pulse)), terms)
        return Decision(level=Level.GUIDE, reason=why, next=_needs(again, again, terms))
    if standing.frozen:
        return Decision(
            level=level,
            reason=f"frozen: {standing.unknown_run} pulses in a row whose work has no known TES",
            next="a person sets the level, or a pulse with a known TES",
        )
    if level is Level.EXECUTE:
        return Decision(level=level, reason=_so_far(standing, terms), next=_would_demote(standing, terms))
    if level is Level.GUIDE:
        return _promote(standing, terms)
    return Decision(
        level=level,
        reason=f"{level.name} is set by a person or the manifest",
        next="a person sets the level",
    )


def _lost_because(standing: Standing, terms: Terms) -> str:
    """Why EXECUTE is lost; empty if it is not. An unknown TES never demotes, but a failure is known."""
    failures, mean = standing.failures_in_window, standing.mean
    if failures > terms.max_failures:
        return (
            f"{failures} failures in the last {terms.failure_pulses} pulses with work, more than {terms.max_failures}"
        )
    if mean is not None and mean < terms.demote_below:
        counted = len(standing.window)
        pulses = "the last pulse" if counted == 1 else f"the last {counted} pulses"
        return f"mean TES {mean:.4g} of {pulses} with work is below {terms.demote_below:g}"
    return ""


def _so_far(standing: Standing, terms: Terms) -> str:
    mean, failures = standing.mean, standing.failures_in_window
    so_far = "no work with a TES yet" if mean is None else f"mean TES {mean:.1f} of {len(standing.window)} pulses"
    counted = f"{failures} failure{'' if failures == 1 else 's'}"
    if not standing.probation:
        return f"{so_far}, {counted}"
    return f"{so_far}, {counted}; on probation, evidence {standing.evidence:.3g} of {terms.evidence_goal:g}"


def _would_demote(standing: Standing, terms: Terms) -> str:
    more = terms.max_failures + 1 - standing.failures_in_window
    said = (
        f"mean TES under {terms.demote_below:g} over up to {terms.mean_pulses} pulses with work, or {more} more "
        f"failure{'' if more == 1 else 's'} (more than {terms.max_failures} in {terms.failure_pulses}), demotes"
    )
    if not standing.probation:
        return said
    missing = effects_missing(standing, terms)
    return f"{said}; probation ends when {missing} more effect{'' if missing == 1 else 's'} held and none failed"


def _promote(standing: Standing, terms: Terms) -> Decision:
    required = run_required(standing, terms)
    if terms.max_level < Level.EXECUTE:
        return Decision(level=Level.GUIDE, reason=_at_most(terms), next="a manifest that allows EXECUTE")
    if standing.run >= required:
        return Decision(
            level=Level.EXECUTE,
            reason=f"TES above {terms.promote_above:g} in each of {standing.run} pulses with work in a row",
            next=_would_demote(replace(standing, failures=(), probation=_unproven(standing, terms)), terms),
        )
    return Decision(
        level=Level.GUIDE,
        reason=f"TES above {terms.promote_above:g} in {standing.run} of {required} pulses with work in a row",
        next=_needs(required - standing.run, required, terms),
    )


def _needs(missing: int, required: int, terms: Terms) -> str:
    said = f"{missing} more in a row: pulses with work and TES above {terms.promote_above:g}"
    if required <= terms.promote_run:
        return said
    return f"{said} ({required} instead of {terms.promote_run}: demoted within {terms.doubling_pulses} pulses)"


def _at_most(terms: Terms) -> str:
    return f"the manifest allows at most {terms.max_level.name}"


def step(standing: Standing, entry: Entry, terms: Terms) -> Standing:
    """Take one entry in and apply the rule. While the manifest is void nothing rises; what was earned can be lost."""
    standing = replace(standing, pulse=max(standing.pulse, entry.pulse))
    standing = _count(_obey(_renew(standing, entry), entry, terms), entry, terms)
    decision = earned(standing, terms)
    if decision.level == standing.level or (terms.void and decision.level > standing.level):
        return standing
    if standing.level is Level.EXECUTE and decision.level is Level.GUIDE and terms.max_level is Level.EXECUTE:
        recent = tuple(each for each in standing.demotions if standing.pulse - each < terms.doubling_pulses)
        standing = replace(standing, demotions=(*recent, standing.pulse))
    return _move(standing, decision.level, decision.reason, terms)


def fold(start: Standing, entries: Iterable[Entry], terms: Terms) -> Standing:
    """The standing after all entries, in order."""
    for entry in entries:
        start = step(start, entry, terms)
    return start


def _renew(standing: Standing, entry: Entry) -> Standing:
    """Another manifest or other code has proved nothing yet."""
    digest, code = entry.digest or standing.digest, entry.code or standing.code
    if (digest, code) == (standing.digest, standing.code):
        return standing
    probation = standing.probation or standing.level is Level.EXECUTE
    return replace(standing, digest=digest, code=code, evidence_ln=0.0, probation=probation)


def _obey(standing: Standing, entry: Entry, terms: Terms) -> Standing:
    """A person's level; but demotion beats approval, whichever came first in the pulse."""
    if entry.forced is None:
        return standing
    forced = min(entry.forced, terms.max_level)
    if forced > standing.level and just_demoted(standing, entry.pulse):
        return replace(standing, reason=f"{standing.reason}; demotion beats the approval in the same pulse")
    return _move(standing, forced, f"set by a person: {entry.why}", terms)


def just_demoted(standing: Standing, pulse: int) -> bool:
    """Whether the rule took the level away in this very pulse, or after what is said of this pulse was asked for."""
    return bool(standing.demotions) and pulse <= standing.demotions[-1]


def _count(standing: Standing, entry: Entry, terms: Terms) -> Standing:
    counted: dict[str, Any] = {}
    if entry.effects_held or entry.effects_failed:
        log = entry.effects_held * math.log(terms.held_factor) + entry.effects_failed * math.log(terms.failed_factor)
        counted["evidence_ln"] = log = min(standing.evidence_ln + log, math.log(terms.evidence_ceiling))
        counted["probation"] = standing.probation and log < math.log(terms.evidence_goal)
    if entry.worked or entry.failures:
        # A regression found in a pulse without other work still is a failure of that pulse.
        counted["failures"] = (*standing.failures, entry.failures)[-terms.failure_pulses :]
    if entry.worked and entry.tes is None:
        unknown = standing.unknown_run + 1
        counted |= {"run": 0, "unknown_run": unknown, "frozen": standing.frozen or unknown >= terms.freeze_after}
    elif entry.tes is not None:
        counted |= {
            "run": standing.run + 1 if _exact(entry.tes) > terms.promote_above else 0,
            "window": (*standing.window, entry.tes)[-terms.mean_pulses :],
            "unknown_run": 0,
            "frozen": False,
            "tes_last": entry.tes,
        }
    return replace(standing, **counted) if counted else standing


def _unproven(standing: Standing, terms: Terms) -> bool:
    return standing.evidence_ln < math.log(terms.evidence_goal)


def _exact(score: float) -> float:
    """Scores have one decimal: binary dust in a mean of them must not decide at exactly 95 or 92."""
    return round(score, 6)


def _move(standing: Standing, level: Level, reason: str, terms: Terms) -> Standing:
    """A level change clears run and windows, but a person who sets the same level only frees and explains it."""
    if level == standing.level:
        return replace(standing, reason=reason, unknown_run=0, frozen=False)
    return replace(
        standing,
        level=level,
        reason=reason,
        run=0,
        window=(),
        failures=(),
        unknown_run=0,
        frozen=False,
        probation=level is Level.EXECUTE and _unproven(standing, terms),
        changed_pulse=standing.pulse,
    )
