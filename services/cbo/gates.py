"""What stands between a planned task and its dispatch: six gates, each with an answer and a reason.

kill switch → policy → manifest → level → admission → budget. All of them answer, so that a person sees the whole
picture; only admission, which costs a call, is `not asked` once the task can't go anyway.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import CalyxError
from services.cbo.policy import Ruling

Answer = Literal["pass", "hold", "refuse", "not asked"]
Verdict = Literal["go", "hold", "propose", "record", "refuse"]
"""go: dispatch. hold: later. propose: SUGGEST, a person sees it. record: OBSERVE, nothing but a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateAnswer:
    """One gate's answer."""

    gate: str
    answer: Answer
    reason: str
    within: tuple[str, ...] = ()
    """Of the policy gate: the folders to which the rule keeps the task; empty for those of its manifest."""

    def to_json(self) -> Json:
        said: Json = {"gate": self.gate, "answer": self.answer, "reason": self.reason}
        return {**said, "within": list(self.within)} if self.within else said


class Declared(Protocol):
    """What the gates look at in a manifest."""

    @property
    def domain(self) -> str: ...
    @property
    def procedures(self) -> tuple[str, ...]: ...
    @property
    def serial(self) -> int: ...
    @property
    def signed_by(self) -> str: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def rehearses(self) -> bool: ...
    @property
    def per_pulse(self) -> int: ...
    @property
    def per_day(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How much of a domain's budget is used up."""

    this_pulse: int
    this_day: int
    effects_this_pulse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that the gates look at. `kill_switch` is the reason it is engaged, None when it is not."""

    kill_switch: str | None
    ruling: Ruling
    manifest: Declared
    revoked: str
    procedure: str
    level: Level
    approved_by: str
    use: Use
    probation: bool
    unconfirmed: tuple[str, ...] = ()
    """Allowed folders outside the station without an effect so far."""
    undrilled: str = ""
    """Why the procedure's undo counts as undrilled, where its agent says so."""
    admit: Callable[[], tuple[bool, str]]

    @property
    def effects(self) -> bool:
        """Whether the task would change anything."""
        return bool(self.approved_by) or self.level is Level.EXECUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """Every gate's answer and what follows from them."""

    verdict: Verdict
    answers: tuple[GateAnswer, ...]
    reason: str


def gone(domain: str) -> Gated:
    """For a task whose domain is not there any more: no rule, no manifest."""
    reason = f"there is no domain {domain} any more"
    answer = GateAnswer(gate="manifest", answer="refuse", reason=reason)
    return Gated(verdict="refuse", answers=(answer,), reason=f"manifest: {reason}")


def careful(level: Level, unconfirmed: Sequence[str], undrilled: str = "") -> Level:
    """Not above GUIDE while an allowed folder waits for its first effect, which a person approves, or the procedure for
    the drill of its undo."""
    return min(level, Level.GUIDE) if unconfirmed or undrilled else level


def evaluate(question: Question) -> Gated:
    """Ask all gates."""
    before = (_kill_switch(question), _policy(question), _manifest(question), _level(question))
    budget = _budget(question)
    blocked = next((each for each in (*before, budget) if each.answer != "pass"), None)
    if blocked is None:
        admission = _admission(question)
    else:
        admission = GateAnswer(gate="admission", answer="not asked", reason=f"{blocked.gate} already said no")
    answers = (*before, admission, budget)
    refused = next((each for each in answers if each.answer == "refuse" and each.gate != "level"), None)
    if refused:
        return Gated(verdict="refuse", answers=answers, reason=f"{refused.gate}: {refused.reason}")
    level = before[3]
    if level.answer != "pass":
        verdict: Verdict = "propose"
        if level.answer == "refuse":
            verdict = "refuse" if question.approved_by else "record"  # demotion beats approval
        return Gated(verdict=verdict, answers=answers, reason=f"level: {level.reason}")
    held = next((each for each in answers if each.answer == "hold"), None)
    if held:
        return Gated(verdict="hold", answers=answers, reason=f"{held.gate}: {held.reason}")
    return Gated(verdict="go", answers=answers, reason="every gate passed")


def _kill_switch(question: Question) -> GateAnswer:
    if question.kill_switch is None:
        return GateAnswer(gate="kill_switch", answer="pass", reason="released")
    return GateAnswer(gate="kill_switch", answer="hold", reason=f"engaged: {question.kill_switch or 'no reason given'}")


def _policy(question: Question) -> GateAnswer:
    ruling = question.ruling
    answer: Answer = "pass" if ruling.allowed else "hold" if ruling.waits else "refuse"
    return GateAnswer(gate="policy", answer=answer, reason=ruling.reason, within=ruling.within)


def _manifest(question: Question) -> GateAnswer:
    manifest = question.manifest
    if question.revoked:
        return GateAnswer(gate="manifest", answer="refuse", reason=f"revoked: {question.revoked}")
    if question.procedure not in manifest.procedures:
        return GateAnswer(
            gate="manifest", answer="refuse", reason=f"{manifest.domain} declares no procedure {question.procedure!r}"
        )
    if manifest.expires_at is None:
        end = "expires with its release"
    else:
        end = f"signed by {manifest.signed_by}, expires {iso(manifest.expires_at)}"
    return GateAnswer(gate="manifest", answer="pass", reason=f"serial {manifest.serial}, {end}")


def _level(question: Question) -> GateAnswer:
    if question.approved_by and question.level < Level.GUIDE:
        reason = f"lowered to {question.level.name} since {question.approved_by} approved it; nothing was done"
        return GateAnswer(gate="level", answer="refuse", reason=reason)
    if question.approved_by:
        return GateAnswer(gate="level", answer="pass", reason=f"approved by {question.approved_by}")
    if question.level is Level.OBSERVE:
        return GateAnswer(gate="level", answer="refuse", reason="OBSERVE: recorded only")
    if question.level is Level.SUGGEST:
        return GateAnswer(gate="level", answer="hold", reason="SUGGEST: proposed to the person, nothing runs")
    if question.level is Level.GUIDE and not question.manifest.rehearses:
        return GateAnswer(gate="level", answer="hold", reason="GUIDE: it can't be rehearsed, a person is asked first")
    if question.level is Level.GUIDE and question.unconfirmed:
        reason = f"GUIDE: the first effect under {', '.join(question.unconfirmed)} needs your approval"
        return GateAnswer(gate="level", answer="pass", reason=reason)
    if question.level is Level.GUIDE and question.undrilled:
        return GateAnswer(gate="level", answer="pass", reason=f"GUIDE: only rehearsed: {question.undrilled}")
    does = "rehearsed, a person may approve" if question.level is Level.GUIDE else "runs with effects"
    return GateAnswer(gate="level", answer="pass", reason=f"{question.level.name}: {does}")


def _admission(question: Question) -> GateAnswer:
    try:
        admitted, reason = question.admit()
    except CalyxError as error:
        return GateAnswer(gate="admission", answer="hold", reason=f"the governor can't be asked: {error.message}")
    return GateAnswer(gate="admission", answer="pass" if admitted else "hold", reason=reason)


def _budget(question: Question) -> GateAnswer:
    manifest, use = question.manifest, question.use
    if use.this_pulse >= manifest.per_pulse:
        return GateAnswer(gate="budget", answer="hold", reason=f"{manifest.per_pulse} a pulse are used up")
    if use.this_day >= manifest.per_day:
        return GateAnswer(gate="budget", answer="hold", reason=f"{manifest.per_day} in 24 h are used up")
    if question.probation and question.effects and use.effects_this_pulse >= 1:
        return GateAnswer(gate="budget", answer="hold", reason="on probation: at most one effect a pulse")
    return GateAnswer(
        gate="budget",
        answer="pass",
        reason=f"{use.this_pulse + 1} of {manifest.per_pulse} this pulse, "
        f"{use.this_day + 1} of {manifest.per_day} in 24 h",
    )
