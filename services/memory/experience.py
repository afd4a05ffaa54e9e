"""One experience: event, context, outcome and confidence, what makes it valid, and what its digest covers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from chassis.canonical import Json, digest
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput

MAX_OBJECTIVE = 8_000
MAX_EVIDENCE = 64_000
MAX_WORD = 512
MAX_FACTS = 64
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc and Cs."""
MAX_FACT = 4_000
REHEARSAL = ("rehearsal", "true")
"""The fact of a context that marks a rehearsal: it was tried on copies and says nothing about effects."""


class Outcome(StrEnum):
    """How it ended. Only success and failure count as evidence for or against a procedure."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"
    NO_WORK = "no_work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """As the caller tells it. None is unknown; `confidence` is the prediction made before the act, 0 to 1."""

    id: str
    station_id: str
    namespace: str
    origin: str
    kind: str
    objective: str
    domain: str
    procedure: str
    task_id: str
    pulse_id: str
    occurred_at: datetime
    outcome: Outcome
    context: Mapping[str, str] = field(default_factory=dict)
    tes: float | None = None
    duration_seconds: float | None = None
    files_changed: int | None = None
    confidence: float | None = None
    evidence: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)


_NAMES = tuple(each.name for each in fields(Experience))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of `outcome`: the first of an event, or an amendment of it."""

    amendment_id: str | None
    outcome: Outcome
    tes: float | None
    duration_seconds: float | None
    files_changed: int | None
    cost: Mapping[str, float]
    evidence: str
    recorded_at: str

    def digest(self, event_id: str) -> str:
        return digest(
            {
                "event": event_id,
                "amendment_id": self.amendment_id,
                "outcome": self.outcome.value,
                "tes": self.tes,
                "duration_seconds": self.duration_seconds,
                "files_changed": self.files_changed,
                "cost": dict(self.cost),
                "evidence": self.evidence,
                "recorded_at": self.recorded_at,
            }
        )


def told(experience: Experience) -> Json:
    """The experience by value, as JSON holds it; `experience_of` is the way back."""
    plain: Json = {name: getattr(experience, name) for name in _NAMES}
    plain["occurred_at"] = iso(experience.occurred_at)
    plain["outcome"] = experience.outcome.value
    plain["context"] = dict(experience.context)
    plain["cost"] = dict(experience.cost)
    return plain


def experience_of(plain: Mapping[str, Any]) -> Experience:
    """What `told` gave. KeyError, TypeError or ValueError if it is something else."""
    return Experience(**{**plain, "occurred_at": parse_iso(plain["occurred_at"]), "outcome": Outcome(plain["outcome"])})


def told_finding(finding: Finding) -> Json:
    """The finding by value; `finding_of` is the way back."""
    plain = {each.name: getattr(finding, each.name) for each in fields(finding)}
    return {**plain, "outcome": finding.outcome.value, "cost": dict(finding.cost)}


def finding_of(plain: Mapping[str, Any]) -> Finding:
    return Finding(**{**plain, "outcome": Outcome(plain["outcome"])})


def first_finding(experience: Experience, recorded_at: str) -> Finding:
    return Finding(
        amendment_id=None,
        outcome=experience.outcome,
        tes=experience.tes,
        duration_seconds=experience.duration_seconds,
        files_changed=experience.files_changed,
        cost=experience.cost,
        evidence=experience.evidence,
        recorded_at=recorded_at,
    )


def event_digest(experience: Experience, recorded_at: str) -> str:
    """sha256 over what tables event, context and confidence hold of it; its outcomes have digests of their own."""
    return digest(
        {
            "id": experience.id,
            "station_id": experience.station_id,
            "namespace": experience.namespace,
            "origin": experience.origin,
            "kind": experience.kind,
            "objective": experience.objective,
            "domain": experience.domain,
            "procedure": experience.procedure,
            "task_id": experience.task_id,
            "pulse_id": experience.pulse_id,
            "occurred_at": iso(experience.occurred_at),
            "recorded_at": recorded_at,
            "context": dict(experience.context),
            "predicted": experience.confidence,
        }
    )


def check_text(text: str, what: str, limit: int, *, lines: bool = False) -> str:
    """The text itself, or InvalidInput: too long, or control characters (`lines` allows line feed and tab)."""
    if len(text) > limit:
        raise InvalidInput(f"{what} has {len(text):,} characters, at most {limit:,} are kept; shorten it")
    if not text.isprintable() and (found := (_CONTROL_BUT_LINES if lines else _CONTROL).search(text)):
        raise InvalidInput(f"{what} has a control character (U+{ord(found[0]):04X}) at {found.start()}; remove it")
    return text


def check_objective(text: str) -> str:
    """What recall compares: words, not empty, at most 8,000 characters, no control characters."""
    if not text.strip():
        raise InvalidInput("objective is empty; say in words what is wanted")
    return check_text(text, "objective", MAX_OBJECTIVE)


def check_number(value: float | None, what: str, low: float, high: float = math.inf) -> None:
    """InvalidInput if known and NaN, infinite or outside [low, high]."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        span = f"from {low:g} up" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise InvalidInput(f"{what} is {value}; it must be {span}, or left unset when it is unknown")


def check(experience: Experience) -> Experience:
    """The experience itself, or InvalidInput that names the field."""
    for what, word in (("id", experience.id), ("station_id", experience.station_id), ("origin", experience.origin)):
        if not word.strip():
            raise InvalidInput(f"{what} is empty; the caller chooses it, so that a repeat is harmless")
    if not experience.namespace:
        raise InvalidInput("namespace is empty; say whose memory it belongs to, `default` if nobody's in particular")
    for what in ("id", "station_id", "namespace", "origin", "kind", "domain", "procedure", "task_id", "pulse_id"):
        check_text(getattr(experience, what), what, MAX_WORD)
    check_objective(experience.objective)
    check_text(experience.evidence, "evidence", MAX_EVIDENCE, lines=True)
    if len(experience.context) > MAX_FACTS or len(experience.cost) > MAX_FACTS:
        raise InvalidInput(f"context and cost hold at most {MAX_FACTS} entries each; keep what recall filters by")
    for key, value in experience.context.items():
        check_text(key, "a context key", MAX_WORD)
        check_text(value, f"context {key!r}", MAX_FACT, lines=True)
    for key, amount in experience.cost.items():
        check_text(key, "a cost name", MAX_WORD)
        check_number(amount, f"cost {key!r}", -math.inf)
    check_number(experience.tes, "tes", 0, 100)
    check_number(experience.duration_seconds, "duration_seconds", 0)
    check_number(experience.files_changed, "files_changed", 0)
    check_number(experience.confidence, "confidence", 0, 1)
    return experience
