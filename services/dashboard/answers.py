"""The last answer to each question, with its time: what is shown when a service stops answering."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from chassis.clock import Clock
from chassis.errors import CalyxError, DeadlineExceeded, Unavailable
from services.dashboard.ports import Peers

Lost = Literal["", "gone", "late"]
UPTIME_WINDOW = timedelta(hours=24)
ASKED_PER_PULSE_SECONDS = 10.0
PULSES_SHOWN, INCIDENTS_SHOWN, INBOX_SHOWN = 96, 20, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Asked of `peer` at most every `every_seconds` while somebody watches; `ask` takes its deadline in seconds."""

    name: str
    peer: str
    every_seconds: float
    ask: Callable[[float], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`value` as of `at` (monotonic; None: never answered). `trouble`: why the latest attempt gave nothing newer.

    `lost`: the peer was not there at all, or too late; empty when it answered, be it with an error.
    """

    value: Any = None
    at: float | None = None
    trouble: str = ""
    lost: Lost = ""


def questions(peers: Peers, clock: Clock) -> tuple[Question, ...]:
    """Everything the page asks. Cheap things every round; what changes slowly less often."""

    def slots(timeout: float) -> Any:
        return peers.guardian.health(clock.now() - UPTIME_WINDOW, timeout)

    return (
        Question(name="station", peer="cbo", every_seconds=1, ask=peers.cbo.station),
        Question(
            name="inbox", peer="cbo", every_seconds=2, ask=lambda t: peers.cbo.tasks(INBOX_SHOWN, "", "", True, t)
        ),
        Question(
            name="pulses",
            peer="cbo",
            every_seconds=ASKED_PER_PULSE_SECONDS,
            ask=lambda t: peers.cbo.pulses(PULSES_SHOWN, t),
        ),
        Question(name="ladder", peer="cbo", every_seconds=ASKED_PER_PULSE_SECONDS, ask=peers.cbo.ladder),
        Question(name="kpis", peer="cbo", every_seconds=ASKED_PER_PULSE_SECONDS, ask=peers.cbo.kpis),
        Question(name="agents", peer="cbo", every_seconds=3, ask=peers.cbo.agents),
        Question(name="waiting", peer="cbo", every_seconds=5, ask=peers.cbo.waiting),
        Question(name="capacity", peer="governor", every_seconds=1, ask=peers.governor.capacity),
        Question(name="leases", peer="governor", every_seconds=10, ask=peers.governor.leases),
        Question(name="health", peer="guardian", every_seconds=1, ask=lambda t: peers.guardian.health(None, t)),
        Question(
            name="incidents",
            peer="guardian",
            every_seconds=2,
            ask=lambda t: peers.guardian.incidents(INCIDENTS_SHOWN, t),
        ),
        Question(name="slots", peer="guardian", every_seconds=20, ask=slots),
        Question(name="trends", peer="analytics", every_seconds=15, ask=peers.analytics.trends),
        Question(name="charts", peer="analytics", every_seconds=30, ask=peers.analytics.charts),
        Question(name="memory", peer="memory", every_seconds=15, ask=peers.memory.stats),
    )


class Answers:
    """Asks and remembers. `ask(peer)` blocks for at most `deadline_seconds` and never raises for a peer's trouble.

    A peer that was not there last time gets `retry_seconds` only: the dead must not slow the living ones' figures.
    """

    def __init__(
        self, asked: Sequence[Question], clock: Clock, *, deadline_seconds: float = 1.5, retry_seconds: float = 0.4
    ) -> None:
        self._clock, self._deadline, self._retry = clock, deadline_seconds, retry_seconds
        self._questions: dict[str, list[Question]] = {}
        for question in asked:
            self._questions.setdefault(question.peer, []).append(question)
        self._answers = {question.name: Answer() for question in asked}
        self._fresh_from = float("-inf")
        self._lock = threading.Lock()

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(self._questions)

    def snapshot(self) -> Mapping[str, Answer]:
        with self._lock:
            return dict(self._answers)

    def forget_ages(self) -> None:
        """Ask everything in the next round, however fresh: a person has just changed something."""
        with self._lock:
            self._fresh_from = self._clock.monotonic()

    def ask(self, peer: str) -> None:
        """Put to the peer what is due. After one question fails for want of the peer, the others are not tried."""
        known = self.snapshot()
        gone_before = any(known[question.name].lost == "gone" for question in self._questions[peer])
        allowed = self._retry if gone_before else self._deadline
        ends = self._clock.monotonic() + allowed
        trouble = ""
        lost: Lost = ""
        pulse_before = self._last_pulse()
        for question in self._questions[peer]:
            if not trouble and not self._is_due(question, pulse_before != self._last_pulse()):
                continue
            left = ends - self._clock.monotonic()
            if not trouble and left <= 0:
                trouble = f"{peer} took longer than {allowed:g} s to answer"
                lost = "late"
            if trouble:
                self._fail(question, trouble, lost)
                continue
            try:
                value = question.ask(left)
            except (Unavailable, DeadlineExceeded) as error:
                trouble = f"{peer} does not answer: {error.message}"
                lost = "gone" if isinstance(error, Unavailable) else "late"
                self._fail(question, trouble, lost)
            except CalyxError as error:
                self._fail(question, f"{peer}: {error.message}")
            else:
                with self._lock:
                    self._answers[question.name] = Answer(value=value, at=self._clock.monotonic())

    def _is_due(self, question: Question, pulse_ended: bool) -> bool:
        """Also when a pulse has just ended: then ladder, KPIs and pulses have new answers."""
        with self._lock:
            answer, fresh_from = self._answers[question.name], self._fresh_from
        if answer.at is None or answer.trouble or pulse_ended or answer.at < fresh_from:
            return True
        return self._clock.monotonic() - answer.at >= question.every_seconds

    def _last_pulse(self) -> str:
        with self._lock:
            station = self._answers["station"].value if "station" in self._answers else None
        return str(((station or {}).get("last_pulse") or {}).get("id") or "")

    def _fail(self, question: Question, trouble: str, lost: Lost = "") -> None:
        with self._lock:
            kept = self._answers[question.name]
            self._answers[question.name] = replace(kept, trouble=trouble, lost=lost)
