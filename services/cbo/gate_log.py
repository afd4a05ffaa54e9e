"""Every question to the gates, by value, with what they answered: what the pulse records keep of it, and the replay.

`Asked` is all that the six gates looked at, so that `answer` gives the same answers again, or those that another
policy or level would have given. `Tally` counts what each rule let through; the running CBO and the replay use the
same one, so that both count alike.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.domains import Level
from chassis.errors import Unavailable
from chassis.policy import DAY, Does, Request, Rule, RuleSet, Used, decide
from services.cbo.gates import Declared, Gated, Question, Use, evaluate
from services.cbo.policy import Ruling, both


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the gates look at in a manifest, by value."""

    domain: str
    procedures: tuple[str, ...]
    serial: int
    signed_by: str
    expires_at: datetime | None
    rehearses: bool
    per_pulse: int
    per_day: int

    @classmethod
    def of(cls, manifest: Declared) -> Self:
        return cls(**{name: getattr(manifest, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The governor's answer; `silent` when there was none."""

    admitted: bool
    reason: str
    silent: bool = False

    def give(self) -> tuple[bool, str]:
        """As the gate hears it."""
        if self.silent:
            raise Unavailable(self.reason)
        return self.admitted, self.reason


NOBODY_ASKED = Admission(admitted=True, reason="the governor was not asked then")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One task before the gates. `earned` is the domain's standing by then, `ladder` the newest entry under it."""

    request: Request
    manifest: Terms
    pinned: Ruling
    kill_switch: str | None
    revoked: str
    level: Level
    approved_by: str
    use: Use
    probation: bool
    unconfirmed: tuple[str, ...]
    earned: Level
    most: Level
    """What the manifest allows at most."""
    ladder: int
    undrilled: str = ""  # records of before did not say

    def to_json(self) -> Json:
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        manifest = {**asdict(self.manifest), "procedures": list(self.manifest.procedures)}
        end = self.manifest.expires_at
        return {
            **body,
            "request": self.request.to_json(),
            "manifest": {**manifest, "expires_at": None if end is None else iso(end)},
            "pinned": {"allowed": self.pinned.allowed, "reason": self.pinned.reason},
            "use": asdict(self.use),
            "level": int(self.level),
            "earned": int(self.earned),
            "most": int(self.most),
            "unconfirmed": list(self.unconfirmed),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        terms = value["manifest"]
        end = terms["expires_at"]
        return cls(
            **{
                **value,
                "request": Request.from_json(value["request"]),
                "manifest": Terms(
                    **{
                        **terms,
                        "procedures": tuple(terms["procedures"]),
                        "expires_at": None if end is None else parse_iso(end),
                    }
                ),
                "pinned": Ruling(**value["pinned"]),
                "use": Use(**value["use"]),
                "level": Level(value["level"]),
                "earned": Level(value["earned"]),
                "most": Level(value["most"]),
                "unconfirmed": tuple(value["unconfirmed"]),
            }
        )

    def at_level(self, level: Level, *, probation: bool) -> Self:
        """The same task, had its domain stood elsewhere."""
        does: Does = "act" if self.approved_by or level is Level.EXECUTE else "rehearse"
        return replace(self, level=level, probation=probation, request=replace(self.request, does=does))


def answer(
    asked: Asked, rules: RuleSet, now: datetime, used: Mapping[str, Used], admit: Callable[[], tuple[bool, str]]
) -> tuple[Gated, str]:
    """All six gates, and the name of the rule that let it through or not (empty: none)."""
    ruling = both(asked.pinned, decide(asked.request, rules, now, used))
    question = Question(
        kill_switch=asked.kill_switch,
        ruling=ruling,
        manifest=asked.manifest,
        revoked=asked.revoked,
        procedure=asked.request.procedure,
        level=asked.level,
        approved_by=asked.approved_by,
        use=asked.use,
        probation=asked.probation,
        unconfirmed=asked.unconfirmed,
        undrilled=asked.undrilled,
        admit=admit,
    )
    return evaluate(question), ruling.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One task gated once. `asked` None: its domain was not there any more, and nothing else was looked at."""

    at: datetime
    pulse: int
    task: str
    domain: str
    rules: str
    """Digest of the policy in force; empty while nothing might act."""
    asked: Asked | None
    admission: Admission | None
    verdict: str
    rule: str
    answers: tuple[tuple[str, str, str], ...]
    """(gate, answer, reason), in the gates' order."""
    used: Mapping[str, Used] = field(default_factory=dict)
    """By then, of the rules with a budget that concern its domain."""
    fault: str = ""
    """Why nothing might act at all."""

    @property
    def policy_passed(self) -> bool:
        return any(gate == "policy" and said == "pass" for gate, said, _ in self.answers)

    def to_json(self) -> Json:
        return {
            "at": iso(self.at),
            "pulse": self.pulse,
            "task": self.task,
            "domain": self.domain,
            "rules": self.rules,
            "asked": None if self.asked is None else self.asked.to_json(),
            "admission": None if self.admission is None else asdict(self.admission),
            "verdict": self.verdict,
            "rule": self.rule,
            "answers": [list(each) for each in self.answers],
            "used": {name: asdict(each) for name, each in self.used.items()},
            "fault": self.fault,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        asked, admission = value["asked"], value["admission"]
        return cls(
            **{
                **value,
                "at": parse_iso(value["at"]),
                "asked": None if asked is None else Asked.from_json(asked),
                "admission": None if admission is None else Admission(**admission),
                "answers": tuple((gate, said, why) for gate, said, why in value["answers"]),
                "used": {name: Used(**each) for name, each in value.get("used", {}).items()},
            }
        )


def answers_of(gated: Gated) -> tuple[tuple[str, str, str], ...]:
    return tuple((each.gate, each.answer, each.reason) for each in gated.answers)


class Tally:
    """How many tasks each rule has let through in this pulse and in the last 24 h. A task that is gated again counts
    anew, or not at all when it may not go any more. Entries come in their order in time."""

    def __init__(self) -> None:
        self._passed: dict[str, deque[tuple[datetime, int, str]]] = {}
        self._rule_of: dict[str, tuple[str, datetime]] = {}

    def take(self, at: datetime, pulse: int, task: str, rule: str, verdict: str) -> None:
        """One task gated by the policy; `rule` is empty where none decided."""
        before = self._rule_of.pop(task, None)
        if before is not None:
            name, when = before
            kept = (each for each in self._passed[name] if (each[0], each[2]) != (when, task))
            self._passed[name] = deque(kept)
        if verdict == "go" and rule:
            passed = self._passed.setdefault(rule, deque())
            self._forget(passed, at)
            passed.append((at, pulse, task))
            self._rule_of[task] = (rule, at)

    def used(self, rules: Iterable[Rule], pulse: int, now: datetime) -> dict[str, Used]:
        """By rule name, for those of the rules that have a budget."""
        found = {}
        for rule in rules:
            if rule.per_pulse is None and rule.per_day is None:
                continue
            passed = self._passed.get(rule.name)
            if passed is None:
                continue
            self._forget(passed, now)
            found[rule.name] = Used(pulse=_newest(passed, pulse), day=len(passed))
        return found

    def _forget(self, passed: deque[tuple[datetime, int, str]], now: datetime) -> None:
        while passed and now - passed[0][0] >= DAY:
            self._rule_of.pop(passed.popleft()[2], None)


def _newest(passed: Sequence[tuple[datetime, int, str]], pulse: int) -> int:
    count = 0
    for _, each, _ in reversed(passed):
        if each != pulse:
            break
        count += 1
    return count
