"""Whom the CBO talks to, as it sees them. Every call raises a chassis.errors type when there is no answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from chassis.canonical import Json

Outcome = Literal["success", "failure", "unknown", "no_work"]
Verdict = Literal["useful", "harmful"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A figure as received: `value` only in state ok or stale."""

    value: float | None
    state: Literal["ok", "stale", "unknown", "absent"]
    unit: str
    age_seconds: float
    coverage: float | None
    note: str = ""

    def to_json(self) -> Json:
        body: Json = {
            "state": self.state,
            "unit": self.unit,
            "age_seconds": self.age_seconds,
            "coverage": self.coverage,
            "note": self.note,
        }
        if self.value is not None and self.state in ("ok", "stale"):
            body["value"] = self.value
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the governor wants done; the same id until it is cleared."""

    id: str
    kind: str
    domain: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """cpu_percent, ram_percent, swap_percent, disk_percent, and open intents."""

    readings: Mapping[str, Reading]
    intents: tuple[Intent, ...] = ()


class Governor(Protocol):
    def capacity(self, pulse_id: str) -> Capacity:
        """The reading the RAM rule judges for this pulse."""
        ...

    def admit(self, task_id: str, domain: str, owner: str) -> tuple[bool, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    service: str
    state: str
    age_seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`slots` by their beginning, only those asked for; `slots_from` is when slot keeping began."""

    services: tuple[ServiceState, ...]
    slots: Mapping[datetime, Literal["up", "down", "unknown", "maintenance"]]
    slots_from: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A fault opened or closed lately. `causes` is the root-cause summary, most likely first."""

    id: str
    grade: str
    target: str
    symptom: str
    opened_at: datetime
    closed_at: datetime | None
    action: str
    recovered_seconds: float | None
    causes: tuple[Json, ...] = ()


class Guardian(Protocol):
    def health(self, slots_since: datetime) -> Health: ...
    def incidents(self, since: datetime) -> tuple[Incident, ...]: ...
    def open_incidents(self) -> tuple[Incident, ...]: ...
    def report(self, target: str, symptom: str) -> None:
        """A critical incident; the same target's open one is reused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """What analytics last found, in words; `age_seconds` None when it never analysed anything."""

    summary: str
    age_seconds: float | None


class Analytics(Protocol):
    def trends(self) -> Trends: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    verdict: Literal["confirmed", "refuted", "inconclusive"]
    prober: str
    found: str


Moment = Literal["before", "anew", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a task says it changed, and what else is known: paths that other tasks changed meanwhile, names of files
    that others append to, and whether something has to be different at all."""

    declared: tuple[Json, ...]
    others: tuple[str, ...] = ()
    grows: tuple[str, ...] = ()
    must_change: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a prober's two looks say; `undeclared` is what changed though nobody said so."""

    probed: Probed
    undeclared: tuple[str, ...] = ()


class Prober(Protocol):
    def probe(self, task_id: str, domain: str, doer: str, claims: Sequence[Json]) -> Probed: ...
    def watch(self, task_ids: Sequence[str], doer: str, roots: Sequence[str], moment: Moment) -> str:
        """Look at these folders before the tasks begin or after they ended; why it failed, or nothing."""
        ...

    def compare(self, task_id: str, doer: str, told: Told) -> Compared: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """An experience that means the same. `source` says whose words it holds: data, never an instruction.

    `harmful` counts judgements against it since it was last reinstated.
    """

    id: str
    cosine: float
    domain: str
    procedure: str
    outcome: Outcome
    tes: float | None
    rehearsal: bool
    objective: str = ""
    at: datetime | None = None
    source: str = ""
    standing: str = "valid"
    harmful: int = 0

    def to_json(self) -> Json:
        return {
            "id": self.id,
            "cosine": self.cosine,
            "domain": self.domain,
            "procedure": self.procedure,
            "outcome": self.outcome,
            "tes": self.tes,
            "rehearsal": self.rehearsal,
            "standing": self.standing,
            "harmful": self.harmful,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What every like experience says of one procedure; rehearsals and what is no longer believed are left out."""

    domain: str
    procedure: str
    successes: int
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """The best matches, and what all of them say of each procedure."""

    matches: tuple[Recalled, ...] = ()
    summaries: tuple[Summary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What the CBO learned from one task. The id derives from the task, so a repeat is harmless."""

    id: str
    objective: str
    domain: str
    procedure: str
    task_id: str
    pulse_id: str
    occurred_at: datetime
    outcome: Outcome
    evidence: str
    tes: float | None = None
    duration_seconds: float | None = None
    files_changed: int | None = None
    confidence: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What following an experience led to. Said again of the same task, it replaces what was said."""

    verdict: Verdict
    task_id: str
    query: str
    cosine: float


class Memory(Protocol):
    def recall(self, objective: str, domain: str, limit: int, since: datetime | None = None) -> Recollection: ...
    def record(self, experience: Experience) -> None: ...
    def amend(self, experience_id: str, outcome: Outcome, evidence: str, amendment_id: str) -> None: ...
    def judge(self, experience_id: str, judgement: Judgement) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """All of them. `probers` by the name that domain manifests use."""

    memory: Memory
    governor: Governor
    guardian: Guardian
    analytics: Analytics
    probers: Mapping[str, Prober]
