"""What an ended task is worth and what a later look found: pure, so that a replay decides the same from the record.

Whoever is asked (a prober, the database) is handed in; what they answered stays on the result, for the record.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol, Self

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import Limits
from services.cbo import tes
from services.cbo.autonomy_evaluator import Entry
from services.cbo.comparison import compare
from services.cbo.ports import Probed
from services.cbo.tasks import Task

Heard = Probed | str
"""What a prober answered, or why it did not."""
VERDICTS = {"confirmed": "held", "refuted": "regressed", "inconclusive": "inconclusive"}


class Declared(Protocol):
    """What the critique looks at in a manifest."""

    @property
    def limits(self) -> Limits: ...
    @property
    def probes(self) -> tuple[str, ...]: ...
    @property
    def prober(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The same, by value."""

    limits: Limits
    probes: tuple[str, ...]
    prober: str
    watched: bool = False
    """Whether its folders were looked at before and after, so that it is asked about also where nothing is claimed."""

    @classmethod
    def of(cls, manifest: Declared, *, watched: bool = False) -> Self:
        return cls(limits=manifest.limits, probes=manifest.probes, prober=manifest.prober, watched=watched)

    def to_json(self) -> Json:
        return {
            "limits": asdict(self.limits),
            "probes": list(self.probes),
            "prober": self.prober,
            "watched": self.watched,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            limits=Limits(**value["limits"]),
            probes=tuple(value["probes"]),
            prober=value["prober"],
            watched=bool(value.get("watched", False)),  # records of before did not say
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A task with its score; `probed` None where no probe was due. `terms` None: its domain is not there any more."""

    task: Task
    score: tes.Score
    probed: Probed | None
    waiting: str = ""
    """Why there is no score yet; the next pulse tries again."""
    terms: Terms | None = None
    heard: Heard | None = None
    """What its prober answered; None where it was not asked."""


def judge(task: Task, terms: Terms | None, ask: Callable[[Sequence[Json]], Heard], tries: int) -> Judged:
    """Probe and score. A prober that can't be reached is asked in `tries` pulses; then the TES stays unknown."""
    ack: dict[str, Any] = task.ack or {}
    heard: Heard | None = None
    probed: Probed | None = None
    idle = ack.get("status") == "no_work"
    due = task.state in ("rehearsed", "done") and not task.undo_of
    if terms is not None and due and (not idle or terms.watched):
        claims = list(ack.get("claims", ()))
        missing = set(terms.probes) - {str(each.get("kind")) for each in claims} if not idle else set()
        if not missing or terms.watched:
            heard = ask([] if missing or idle else claims)
        if isinstance(heard, Probed) and heard.verdict == "refuted":
            probed = heard
        elif idle:
            probed = None  # it says that it did nothing, and nothing says otherwise
        elif missing:
            found = f"the ack claims nothing that {', '.join(sorted(missing))} could check"
            probed = Probed(verdict="inconclusive", prober=terms.prober, found=found)
        elif isinstance(heard, Probed):
            probed = heard
        elif task.probe_tries + 1 < tries:
            score = tes.Score(tes=None, stability=None, velocity=None, footprint=None, worked=False, note=heard or "")
            waiting = f"waits for its probe: {heard}"
            return Judged(task=task, score=score, probed=None, waiting=waiting, terms=terms, heard=heard)
        else:
            probed = Probed(verdict="inconclusive", prober=terms.prober, found="it could not be reached")
    limits = terms.limits if terms is not None else Limits()
    score = tes.score(end_of(task, None if probed is None else probed.verdict), limits)
    return Judged(task=task, score=score, probed=probed, terms=terms, heard=heard)


def end_of(task: Task, verdict: tes.Verdict | None) -> tes.End:
    """What the score looks at."""
    ack: dict[str, Any] = task.ack or {}
    return tes.End(
        state=task.state,
        no_work=ack.get("status") == "no_work" and verdict != "refuted",
        applied=bool(ack.get("applied")),
        reverted=bool(ack.get("reverted")),
        verdict=verdict,
        duration_s=_duration(task, ack),
        files=files_of(task, ack),
        undo=bool(task.undo_of),
        untaken=task.untaken,
    )


def _duration(task: Task, ack: Mapping[str, Any]) -> float:
    if task.state in ("expired", "dead") or "duration_seconds" not in ack:
        if task.ended_at is None or task.dispatched_at is None:
            return math.inf
        return max(0.0, (task.ended_at - task.dispatched_at).total_seconds())
    return float(ack["duration_seconds"])


def files_of(task: Task, ack: Mapping[str, Any]) -> int:
    """Changed ones; of a rehearsal those it plans to change."""
    changed = int(ack.get("files_changed", 0))
    if task.state != "rehearsed":
        return changed
    planned = {str(each.get("target")) for each in ack.get("plan", {}).get("changes", ())}
    return max(changed, len(planned))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a due verification window rests on. `later` is a task that changed the same target since; `late_seconds`
    is how long after it was due it is looked at. What was not asked is None."""

    undone: bool
    there: bool
    prober: str = ""
    late_seconds: float = 0.0
    grace_seconds: float = 0.0
    later: str | None = None
    heard: Heard | None = None
    doubted: bool = False
    """That later task was itself refuted, so that nobody knows what it left."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Readings of each metric that the domain names: `before`, `after`, by how many points it may rise (`bound`)."""

    def to_json(self) -> Json:
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "heard": heard_json(self.heard)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "heard": heard_from_json(value["heard"])})

    @property
    def decided(self) -> bool:
        """Whether it can be said without a probe."""
        return self.undone or not self.there or bool(self.later) or self.late_seconds > self.grace_seconds

    def verdict(self) -> tuple[str, str, str]:
        """held, regressed, inconclusive, superseded, cancelled or pending; who looked; what was found."""
        if self.undone:
            return "cancelled", "", "undone"
        if not self.there:
            return "inconclusive", "", "the domain is no longer there"
        if self.later and self.doubted:
            return "inconclusive", "", f"{self.later} changed it since, and was not what it said"
        if self.later:
            return "superseded", "", f"{self.later} changed it since"
        if self.late_seconds > self.grace_seconds:
            return "inconclusive", "", f"missed by downtime: {self.late_seconds:.0f} s late"
        if not isinstance(self.heard, Probed):
            return "pending", self.prober, self.heard or ""
        moved = {name: compare(each["before"], each["after"]) for name, each in sorted(self.metrics.items())}
        found = "; ".join([self.heard.found, *(f"{name} {each.reason}" for name, each in moved.items())])
        worse = [
            name
            for name, each in moved.items()
            if each.low is not None
            and self.metrics[name]["bound"] is not None
            and each.low > self.metrics[name]["bound"]
        ]
        if worse:
            return "regressed", self.heard.prober, f"{worse[0]} rose by more than it may; {found}"
        return VERDICTS[self.heard.verdict], self.heard.prober, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One verification window looked at."""

    task: Task
    window: str
    due_at: datetime
    look: Look
    verdict: str
    prober: str
    detail: str

    def to_json(self) -> Json:
        return {
            "task_id": self.task.id,
            "domain": self.task.domain,
            "window": self.window,
            "verdict": self.verdict,
            "prober": self.prober,
            "detail": self.detail,
            "due_at": iso(self.due_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One verification window, as far as the ladder is concerned."""

    domain: str
    window: str
    verdict: str


def entries_of(
    pulse: int, domains: Iterable[str], judged: Sequence[Judged], seen: Sequence[Seen]
) -> dict[str, tuple[tes.PulseTes, Entry | None]]:
    """What this pulse says of each domain: its TES, and what the ladder takes in (None: nothing)."""
    ended = [each for each in judged if not each.waiting]
    found: dict[str, tuple[tes.PulseTes, Entry | None]] = {}
    for domain in domains:
        scores = [each.score for each in ended if each.task.domain == domain]
        made = tes.pulse_tes(scores)
        failed = sum(e.task.has_effects and e.score.failed for e in ended if e.task.domain == domain)
        looks = [each for each in seen if each.domain == domain]
        regressed = sum(each.verdict == "regressed" for each in looks)
        entry = Entry(
            pulse=pulse,
            worked=made.worked,
            tes=made.tes,
            failures=made.failures + regressed,
            effects_held=sum(each.verdict == "held" and each.window == "+1m" for each in looks),
            effects_failed=failed + regressed,
        )
        found[domain] = (made, entry if entry != Entry(pulse=pulse) else None)
    return found


def probe_json(probed: Probed) -> Json:
    return {"verdict": probed.verdict, "prober": probed.prober, "found": probed.found}


def heard_json(heard: Heard | None) -> Json | str | None:
    return probe_json(heard) if isinstance(heard, Probed) else heard


def heard_from_json(value: Any) -> Heard | None:
    return Probed(**value) if isinstance(value, dict) else value
