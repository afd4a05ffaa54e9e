"""What may happen on this station, by rules: read from top to bottom, the first that matches decides; no match is no.

Pure: `decide` looks at its arguments alone. `chassis.policy_yaml` reads the rules from a file. It lies in the chassis
because two sides need it: the CBO, which asks, and `calyx policy check`, which works without a station.
"""

import os.path
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = timedelta(hours=24)

Does = Literal["rehearse", "act"]
Kind = Literal["built-in", "signed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One wish to run a task. `agent` would do it; `asked_by` is `station`, `inbox` or `agent:<name>`.

    `folders` are all that it could change, in full with links resolved. `utc_offset_seconds`: the machine's local time.
    """

    agent: str
    asked_by: str
    domain: str
    procedure: str
    does: Does
    effects: str
    manifest: Kind
    folders: tuple[str, ...] = ()
    utc_offset_seconds: int = 0

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "folders": tuple(value["folders"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """How many requests a rule has let through: in this pulse, and in the last 24 h."""

    pulse: int = 0
    day: int = 0


NONE_YET = Used()
Names = frozenset[str] | None
"""None: whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `number` counts from 1, `line` is where it begins. `hours` are minutes of the day, from ≤ t < to."""

    number: int
    line: int
    name: str
    allow: bool
    agents: Names = None
    asked_by: Names = None
    domains: Names = None
    procedures: Names = None
    does: Names = None
    effects: Names = None
    manifest: Names = None
    paths: tuple[str, ...] = ()
    hours: tuple[int, int] | None = None
    days: frozenset[int] | None = None
    per_pulse: int | None = None
    per_day: int | None = None

    def __str__(self) -> str:
        return f'rule {self.number} "{self.name}", line {self.line}'

    @property
    def timed(self) -> bool:
        return self.hours is not None or self.days is not None

    def concerns(self, request: Request) -> bool:
        """Whether it matches, whatever the time. A deny rule with paths concerns whatever could touch one of them; an
        allow rule only what stays within them."""
        return (
            (self.domains is None or request.domain in self.domains)
            and (self.agents is None or request.agent in self.agents)
            and (self.does is None or request.does in self.does)
            and (self.procedures is None or request.procedure in self.procedures)
            and (self.effects is None or request.effects in self.effects)
            and (self.manifest is None or request.manifest in self.manifest)
            and (self.asked_by is None or request.asked_by in self.asked_by)
            and (not self.paths or self._covers(request.folders))
        )

    def _covers(self, folders: tuple[str, ...]) -> bool:
        if self.allow:
            return all(any(within(each, path) for path in self.paths) for each in folders)
        return any(within(each, path) or within(path, each) for path in self.paths for each in folders)

    def in_time(self, here: datetime) -> bool:
        """Whether it counts at this time of its own clock. Hours over midnight belong to the day they begin on."""
        day = here.weekday()
        if self.hours is None:
            return self.days is None or day in self.days
        start, end = self.hours
        minute = here.hour * 60 + here.minute
        if start < end:
            return start <= minute < end and (self.days is None or day in self.days)
        if minute >= start:
            return self.days is None or day in self.days
        return minute < end and (self.days is None or (day - 1) % 7 in self.days)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules in order. `fault` says why nothing at all may act; empty when the rules count. `local`: their hours
    and days are those of the machine's local time, else UTC."""

    rules: tuple[Rule, ...] = ()
    digest: str = ""
    local: bool = False
    fault: str = ""
    _of: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict, repr=False, compare=False)
    _rest: tuple[Rule, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, rules: Iterable[Rule], *, digest: str = "", local: bool = False) -> Self:
        """With the rules of each domain that any of them names sorted out, so that a decision reads no others."""
        known = tuple(rules)
        named = {domain for each in known for domain in each.domains or ()}
        return cls(
            rules=known,
            digest=digest,
            local=local,
            _of={d: tuple(each for each in known if each.domains is None or d in each.domains) for d in named},
            _rest=tuple(each for each in known if each.domains is None),
        )

    @classmethod
    def nothing(cls, fault: str) -> Self:
        """Nothing may act, and why."""
        return cls(fault=fault)

    def about(self, domain: str) -> tuple[Rule, ...]:
        return self._of.get(domain, self._rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May it run, why, and by which rule (None: no rule matched). `waits`: time or a mended file may change a no."""

    allowed: bool
    reason: str
    rule: Rule | None = None
    waits: bool = False


def decide(request: Request, policy: RuleSet, now: datetime, used: Mapping[str, Used]) -> Verdict:
    """The first rule that matches decides; what no rule matches is denied. `used` is by the rules' names."""
    if policy.fault:
        return Verdict(allowed=False, waits=True, reason=f"denied: nothing may act: {policy.fault}")
    here = now + timedelta(seconds=request.utc_offset_seconds) if policy.local else now
    sleeping: Rule | None = None
    for rule in policy.about(request.domain):
        if not rule.concerns(request):
            continue
        if rule.timed and not rule.in_time(here):
            if rule.allow and sleeping is None:
                sleeping = rule
            continue
        if not rule.allow:
            return Verdict(allowed=False, waits=rule.timed, rule=rule, reason=f"denied by {rule}")
        return _within_budget(rule, used.get(rule.name, NONE_YET))
    wish = f"{request.agent} to {request.does} in {request.domain} ({request.procedure})"
    if sleeping is not None:
        why = f"denied: no rule allows {wish} now; {sleeping}, does later"
        return Verdict(allowed=False, waits=True, rule=sleeping, reason=why)
    where = f" under {', '.join(request.folders[:3])}" if request.folders else ""
    return Verdict(allowed=False, reason=f"denied: no rule allows {wish}{where}")


def _within_budget(rule: Rule, used: Used) -> Verdict:
    if rule.per_pulse is not None and used.pulse >= rule.per_pulse:
        why = f"denied by {rule}: its {rule.per_pulse} a pulse are used up"
        return Verdict(allowed=False, waits=True, rule=rule, reason=why)
    if rule.per_day is not None and used.day >= rule.per_day:
        why = f"denied by {rule}: its {rule.per_day} in 24 h are used up"
        return Verdict(allowed=False, waits=True, rule=rule, reason=why)
    return Verdict(allowed=True, rule=rule, reason=f"allowed by {rule}")


def within(path: str, folder: str) -> bool:
    """Whether a normal absolute path is the folder or lies beneath it, by its text."""
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def placed(path: str, station: str) -> str:
    """A path as manifests and rules write it, in full: `{station}` filled in, links resolved, normal."""
    return os.path.realpath(path.replace("{station}", station))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
