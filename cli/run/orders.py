"""What becomes of the command now: the station's last order, the kill switch's flag, and how old the lease is."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

OrderKind = Literal["GO_ON", "THROTTLE", "SLEEP", "STOP", "LOST"]
ActionKind = Literal["run", "throttle", "sleep", "stop", "late", "lost"]
"""`late`: its time is over; stopped as by an order, but a failure of its own."""

GRACE_SECONDS, SWITCH_GRACE_SECONDS = 5.0, 1.0
"""Between asking a command to end and ending it. Short under the kill switch, which has 2 s altogether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The answer to a heartbeat."""

    kind: OrderKind
    reason: str = ""
    until: datetime | None = None
    cpu_percent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the wrapper knows at a moment. `switch`: why the kill switch is engaged, None when it isn't."""

    order: Order
    now: datetime
    silent_seconds: float
    """Since the station last answered a heartbeat."""
    lease_seconds: float
    switch: str | None
    seconds: float = 0.0
    """How long the command has been running, and how long it may."""
    ttl_seconds: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What to do with the command, and why."""

    kind: ActionKind
    reason: str = ""
    cpu_percent: float = 0.0
    grace_seconds: float = GRACE_SECONDS


def decide(known: Known) -> Action:
    """The flag goes before all: it holds also when the station can't be reached. A lost lease ends the command."""
    order = known.order
    if known.switch is not None:
        reason = f"the kill switch is on: {known.switch or 'no reason given'}"
        return Action(kind="stop", reason=reason, grace_seconds=SWITCH_GRACE_SECONDS)
    if order.kind == "LOST":
        return Action(kind="lost", reason=order.reason or "the station gave the task up")
    if known.silent_seconds >= known.lease_seconds:
        silent = f"the station has not answered for {known.silent_seconds:.0f} s, so the lease is lost"
        return Action(kind="lost", reason=silent)
    if order.kind == "STOP":
        return Action(kind="stop", reason=order.reason or "the station stopped it")
    if known.seconds >= known.ttl_seconds:
        return Action(kind="late", reason=f"its {known.ttl_seconds:.0f} s are over (--ttl)")
    if order.until is not None and known.now >= order.until:
        return Action(kind="run", reason="the lease of the governor has run out")
    if order.kind == "SLEEP":
        return Action(kind="sleep", reason=order.reason)
    if order.kind == "THROTTLE":
        return Action(kind="throttle", reason=order.reason, cpu_percent=max(1.0, order.cpu_percent))
    return Action(kind="run")
