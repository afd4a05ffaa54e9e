"""How far a domain may act unattended. Earned one level at a time, lost at once. The rule of design §5.

A domain's standing is a fold over its entries, one for each pulse in which something concerned it, so it can
be rebuilt at any time. `decide` is pure: the standing and the terms in, the level, the reason and what would
change it out.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from chassis.domains import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The rule's numbers, and the manifest's `max_level`."""

    max_level: Level = Level.EXECUTE
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
    """Only so that the number stays representable; far above the goal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one pulse (by number) says about a domain.

    `worked` with `tes` None: work ended, but no TES is known. `failures` are failed runs and regressions found;
    `effects_held` (at +1 min) and `effects_failed` feed probation's evidence only. `forced` is a person's level.
    `digest` is set when the domain's manifest is another one.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All the rule needs to know of a domain's past. `window` and `failures` are oldest first."""

    level: Level
    reason: str
    pulse: int = 0
    run: int = 0
    window: tuple[float, ...] = ()
    failures: tuple[int, ...] = ()
    unknown_run: int = 0
    frozen: bool = False
    demotions: tuple[int, ...] = ()
    evidence: float = 1.0
    probation: bool = False
    tes_last: float | None = None
    changed_pulse: int = 0
    digest: str = ""

    @property
    def failures_in_window(self) -> int:
        return sum(self.failures)

    @property
    def mean(self) -> float | None:
        """Mean TES of the last pulses with known work; None without any."""
        return sum(self.window) / len(self.window) if self.window else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "level": int(self.level)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tuples = {name: tuple(value[name]) for name in ("window", "failures", "demotions")}
        return cls(**{**value, **tuples, "level": Level(value["level"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The level the past supports, why, and what would change it."""

    level: Level
    reason: str
    next: str


def run_required(standing: Standing, terms: Terms) -> int:
    """5, doubled for each demotion by the rule in the last 288 pulses, at most 40."""
    recent = sum(standing.pulse - each < terms.doubling_pulses for each in standing.demotions)
    required = terms.promote_run
    for _ in range(recent):
        required = min(terms.promote_run_cap, required * 2)
    return required


def decide(standing: Standing, terms: Terms) -> Decision:
    """Apply the rule once. It moves between GUIDE and EXECUTE only; lower levels belong to people and manifests."""
    level, required = standing.level, run_required(standing, terms)
    if level > terms.max_level:
        return Decision(
            level=terms.max_level,
            reason=f"the manifest allows at most {terms.max_level.name}",
            next="a manifest that allows more",
        )
    if standing.frozen:
        return Decision(
            level=level,
            reason=f"frozen: {standing.unknown_run} pulses in a row whose work has no known TES",
            next="a person sets the level, or a pulse with a known TES",
        )
    if level is Level.EXECUTE:
        return _keep_or_demote(standing, terms)
    if level is Level.GUIDE:
        return _keep_or_promote(standing, terms, required)
    return Decision(
        level=level,
        reason=f"{level.name} is set by a person or the manifest",
        next="a person sets the level",
    )


def _keep_or_demote(standing: Standing, terms: Terms) -> Decision:
    failures, mean = standing.failures_in_window, standing.mean
    if failures > terms.max_failures:
        return Decision(
            level=Level.GUIDE,
            reason=f"{failures} failures in the last {terms.failure_pulses} pulses with work, "
            f"more than {terms.max_failures}",
            next="",
        )
    if mean is not None and mean < terms.demote_below:
        return Decision(
            level=Level.GUIDE,
            reason=f"mean TES {mean:.1f} of the last {len(standing.window)} pulses with work is below "
            f"{terms.demote_below:g}",
            next="",
        )
    so_far = "no work with a TES yet" if mean is None else f"mean TES {mean:.1f} of {len(standing.window)} pulses"
    on_probation = (
        f"; on probation, evidence {standing.evidence:.2f} of {terms.evidence_goal:g}" if standing.probation else ""
    )
    return Decision(
        level=Level.EXECUTE,
        reason=f"{so_far}, {failures} failures{on_probation}",
        next=f"mean TES under {terms.demote_below:g} over {terms.mean_pulses} pulses with work, or more than "
        f"{terms.max_failures} failures in {terms.failure_pulses}, demotes",
    )


def _keep_or_promote(standing: Standing, terms: Terms, required: int) -> Decision:
    if terms.max_level < Level.EXECUTE:
        return Decision(
            level=Level.GUIDE,
            reason=f"the manifest allows at most {terms.max_level.name}",
            next="a manifest that allows EXECUTE",
        )
    if standing.run >= required:
        return Decision(
            level=Level.EXECUTE,
            reason=f"TES above {terms.promote_above:g} in each of {standing.run} pulses with work in a row",
            next="",
        )
    missing = required - standing.run
    return Decision(
        level=Level.GUIDE,
        reason=f"TES above {terms.promote_above:g} in {standing.run} of {required} pulses with work in a row",
        next=f"{missing} more in a row: pulses with work and TES above {terms.promote_above:g}",
    )


def step(standing: Standing, entry: Entry, terms: Terms) -> Standing:
    """Take one entry in and apply the rule."""
    standing = replace(standing, pulse=max(standing.pulse, entry.pulse))
    if entry.digest and entry.digest != standing.digest:
        standing = replace(standing, digest=entry.digest, evidence=1.0)
        if standing.level is Level.EXECUTE:
            standing = replace(standing, probation=True)
    if entry.forced is not None:
        forced = min(entry.forced, terms.max_level)
        standing = _move(standing, forced, f"set by a person: {entry.why}", terms)
    standing = _count(standing, entry, terms)
    decision = decide(standing, terms)
    if decision.level == standing.level:
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


def _count(standing: Standing, entry: Entry, terms: Terms) -> Standing:
    evidence = standing.evidence * terms.held_factor**entry.effects_held * terms.failed_factor**entry.effects_failed
    evidence = min(evidence, terms.evidence_ceiling)
    standing = replace(standing, evidence=evidence, probation=standing.probation and evidence < terms.evidence_goal)
    if entry.worked or entry.failures:
        # A regression found in a pulse without other work still is a failure of that pulse.
        counted = (*standing.failures, entry.failures)[-terms.failure_pulses :]
        standing = replace(standing, failures=counted)
    if not entry.worked:
        return standing
    if entry.tes is None:
        unknown = standing.unknown_run + 1
        frozen = standing.frozen or unknown >= terms.freeze_after
        return replace(standing, run=0, unknown_run=unknown, frozen=frozen)
    return replace(
        standing,
        run=standing.run + 1 if entry.tes > terms.promote_above else 0,
        window=(*standing.window, entry.tes)[-terms.mean_pulses :],
        unknown_run=0,
        frozen=False,
        tes_last=entry.tes,
    )


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
        probation=level is Level.EXECUTE and standing.evidence < terms.evidence_goal,
        changed_pulse=standing.pulse,
    )
