"""From what a look at a service found to what is done about it. Pure: one target, one look, one decision.

A fault is two unanswered probes in a row, or at once a process that the runtime says has ended. The first
one restarts (minor); one more within ten minutes of the last recovery, or a bad start after a change of the
configuration, rolls back (major); six starts in a row that do not come up quarantine (critical).
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from chassis.runtime.port import State

Action = Literal["restart", "rollback", "quarantine"]


class Class(IntEnum):
    """How bad. The order is the meaning."""

    MINOR = 1
    MAJOR = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When a guardian acts; seconds on the monotonic clock.

    `backoff` is waited after each start that failed (the last one repeats), and before the restart of a process
    that ended within `stable_seconds` of coming up more than `free_flaps` times in a row. While more than half of
    the services are down, `mass_backoff` is waited instead.
    """

    faulty_after: int = 2
    hung_after: int = 4
    again_seconds: float = 600.0
    grace_seconds: float = 15.0
    max_grace_seconds: float = 60.0
    settle_seconds: float = 2.0
    stable_seconds: float = 10.0
    free_flaps: int = 2
    restarts: int = 2
    failed_starts: int = 6
    backoff: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    mass_backoff: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found. `held` says why the target is not to be healed now (maintenance, sleep)."""

    mono: float
    answered: bool
    process: State
    held: str = ""
    config_suspect: bool = False
    mass: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """An open fault of one target. `acted`: when the last start was asked for, None once it is judged."""

    severity: Class
    since: float
    due: float
    attempts: int = 0
    acted: float | None = None
    failed_starts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What the guardian remembers of one target between looks."""

    target: str
    fails: int = 0
    started: float = 0.0
    last_up: float | None = None
    up_since: float | None = None
    last_recovered: float | None = None
    flaps: int = 0
    quarantined: bool = False
    outage: Outage | None = None

    @property
    def starting(self) -> bool:
        """A start was asked for and is not judged yet."""
        return self.outage is not None and self.outage.acted is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The track after the look, what changed, what to do, and why."""

    track: Track
    reason: str
    opened: bool = False
    escalated: bool = False
    closed: bool = False
    action: Action | None = None


def decide(track: Track, look: Look, terms: Terms) -> Decision:
    """Judge one look at one target."""
    if track.quarantined:
        return Decision(track=replace(track, fails=0), reason="in quarantine until a person releases it")
    if look.answered:
        return _answered(track, look, terms)
    track = replace(track, fails=track.fails + 1)
    if look.held:
        return Decision(track=replace(track, fails=0), reason=look.held)
    if look.process == "stopping":
        return Decision(track=track, reason="it is being stopped")
    if track.outage is None:
        return _faulty(track, look, terms)
    return _pursue(track, track.outage, look, terms)


def acted(track: Track, mono: float) -> Track:
    """The track once its action has been asked for."""
    if track.outage is None:
        return replace(track, started=mono, fails=0)
    outage = replace(track.outage, acted=mono, attempts=track.outage.attempts + 1)
    return replace(track, outage=outage, started=mono, fails=0)


def not_acted(track: Track, mono: float, terms: Terms) -> Track:
    """The track when the runtime did not take the action: it is tried again after a while."""
    if track.outage is None:
        return track
    return replace(track, outage=replace(track.outage, due=mono + terms.backoff[1]))


def released(track: Track, mono: float) -> Track:
    """Out of quarantine: a start was asked for, and the count of failed ones begins anew."""
    outage = track.outage and replace(track.outage, acted=mono, failed_starts=0, attempts=track.outage.attempts + 1)
    return replace(track, quarantined=False, outage=outage, started=mono, fails=0)


def _answered(track: Track, look: Look, terms: Terms) -> Decision:
    up_since = look.mono if track.up_since is None else track.up_since
    stable = look.mono - up_since >= terms.stable_seconds
    track = replace(track, fails=0, last_up=look.mono, up_since=up_since, flaps=0 if stable else track.flaps)
    if track.outage is None:
        return Decision(track=track, reason="it answers")
    track = replace(track, outage=None, last_recovered=look.mono, up_since=look.mono)
    return Decision(track=track, closed=True, reason="it answers again")


def _ended(process: State) -> bool:
    return process in ("failed", "stopped")


def _faulty(track: Track, look: Look, terms: Terms) -> Decision:
    fresh = look.mono - track.started < terms.grace_seconds
    if look.process == "starting":
        return Decision(track=track, reason="it is starting")
    if fresh and look.process != "failed":
        return Decision(track=track, reason="it may still be starting")
    if not _ended(look.process) and track.fails < terms.faulty_after:
        return Decision(track=track, reason="one unanswered probe is no fault yet")
    up_for = None if track.up_since is None else look.mono - track.up_since
    short = up_for is None or up_for < terms.stable_seconds
    again = track.last_recovered is not None and look.mono - track.last_recovered < terms.again_seconds
    bad_start = look.config_suspect and short
    severity = Class.MAJOR if again or bad_start else Class.MINOR
    # Only a process that again and again does not stay up is made to wait; else it is restarted at once.
    flaps = track.flaps + 1 if again and short else 0
    wait = _backoff(flaps - terms.free_flaps - 1, look, terms) if flaps > terms.free_flaps else 0.0
    outage = Outage(severity=severity, since=look.mono, due=look.mono + wait)
    track = replace(track, outage=outage, up_since=None, flaps=flaps)
    why = "again within ten minutes" if again else "a bad start after a change" if bad_start else "first fault"
    decision = _pursue(track, outage, look, terms)
    return replace(decision, opened=True, reason=f"{why}: {decision.reason}")


def _pursue(track: Track, outage: Outage, look: Look, terms: Terms) -> Decision:
    if outage.acted is not None:
        grace = min(terms.max_grace_seconds, terms.grace_seconds * 2 ** max(0, outage.attempts - 1))
        waited = look.mono - outage.acted
        if waited < terms.settle_seconds or look.process == "starting":
            return Decision(track=track, reason="it is starting")
        if not _ended(look.process) and waited < grace:
            return Decision(track=track, reason="it has not answered yet")
        # Only a process that is gone counts as not coming up; a slow or busy one is tried again, never given up.
        gone = outage.failed_starts + 1 if _ended(look.process) else 0
        wait = _backoff(outage.attempts - 1, look, terms)
        outage = replace(outage, acted=None, failed_starts=gone, due=outage.acted + wait)
    elif not _ended(look.process) and track.fails < terms.hung_after:
        return Decision(track=track, reason="the runtime says it runs; it may only be busy")
    severity = outage.severity
    if outage.attempts >= terms.restarts or (outage.failed_starts and look.config_suspect):
        severity = max(severity, Class.MAJOR)
    give_up = outage.failed_starts >= terms.failed_starts and not look.mass
    if give_up:
        severity = Class.CRITICAL
    escalated = severity > outage.severity
    track = replace(track, outage=replace(outage, severity=severity))
    if give_up:
        track = replace(track, quarantined=True)
        reason = f"{outage.failed_starts} starts in a row did not come up"
        return Decision(track=track, action="quarantine", escalated=escalated, reason=reason)
    if look.mono < outage.due:
        return Decision(track=track, escalated=escalated, reason=f"next try in {outage.due - look.mono:.1f} s")
    action: Action = "rollback" if severity >= Class.MAJOR else "restart"
    return Decision(track=track, action=action, escalated=escalated, reason=f"try {outage.attempts + 1}")


def _backoff(step: int, look: Look, terms: Terms) -> float:
    return terms.mass_backoff if look.mass else terms.backoff[min(max(step, 0), len(terms.backoff) - 1)]
