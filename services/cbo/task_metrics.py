"""What Prometheus sees of each domain's tasks: how many, how old, how long to a claim and to its ack, what died.

A figure that nobody can know (an answer of the exchange itself, a second attempt's wait, clocks that disagree) is not
counted; a gauge that can't be told is NaN, and what does not exist has no line.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from chassis.clock import parse_iso
from chassis.exchange.manifest import TaskId
from services.cbo.bridge import Bridge
from services.cbo.tasks import Task

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LOOKED_AT = 50
"""How many of a domain's oldest tasks are asked for in the exchange; the table may be a pulse behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds; None where they are not known."""

    claim: float | None
    ack: float | None
    reason: str = ""


def waits(task: Task) -> Waits:
    """From ready to claimed, and from claimed to acked, of a task that ended."""
    ack = task.ack
    if ack is None or ack.get("agent") != task.owner:
        return Waits(claim=None, ack=None, reason="its owner did not answer it")
    try:
        began, ended = parse_iso(ack["started_at"]), parse_iso(ack["ended_at"])
    except (KeyError, TypeError, ValueError):
        return Waits(claim=None, ack=None, reason="its ack has no times")
    if task.attempt != 1 or task.dispatched_at is None:
        return Waits(claim=None, ack=_positive(began, ended), reason="when its last attempt was ready is not kept")
    return Waits(claim=_positive(task.dispatched_at, began), ack=_positive(began, ended))


def _positive(begin: datetime, end: datetime) -> float | None:
    seconds = (end - begin).total_seconds()
    return seconds if seconds >= 0 else None


class TaskEnds:
    """Counters of ended tasks, by domain."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ends = Counter(
            "calyx_task_ends", "Tasks taken in as ended, by domain and state.", ["domain", "state"], registry=registry
        )
        self._claim = Histogram(
            "calyx_task_claim_seconds",
            "From ready to claimed, of tasks answered at their first attempt; by domain.",
            ["domain"], buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        self._ack = Histogram(
            "calyx_task_ack_seconds",
            "From claimed to acked, of tasks that their owner answered; by domain.",
            ["domain"], buckets=BUCKETS, registry=registry,
        )  # fmt: skip
        self._retries = Counter(
            "calyx_task_retries", "Epochs beyond the first, of ended tasks; by domain.", ["domain"], registry=registry
        )
        self._dead = Counter(
            "calyx_task_dead_letters", "Tasks given up, by domain; in the queue now: calyx_task_depth{state=\"dead\"}.",
            ["domain"], registry=registry,
        )  # fmt: skip

    def ended(self, task: Task) -> None:
        self._ends.labels(task.domain, task.state).inc()
        found = waits(task)
        if found.claim is not None:
            self._claim.labels(task.domain).observe(found.claim)
        if found.ack is not None:
            self._ack.labels(task.domain).observe(found.ack)
        self._retries.labels(task.domain).inc(max(0, task.attempt - 1))
        dead = self._dead.labels(task.domain)  # there from the first task on, so that the first dead one is a rise
        if task.state == "dead":
            dead.inc()


def standing(bridge: Bridge) -> Iterable[Metric]:
    """Gauges, read at the scrape."""
    depth = GaugeMetricFamily(
        "calyx_task_depth", "Tasks that have not ended, and the dead, as of the last pulse.", labels=["domain", "state"]
    )
    ready = []
    for domain, state, count in bridge.store.rows("task_depth"):
        depth.add_metric([domain, state], count)
        if state == "ready" and count:
            ready.append(domain)
    yield depth
    age = GaugeMetricFamily(
        "calyx_task_oldest_ready_seconds",
        "Since the domain's oldest ready task was given to the exchange; NaN when it can't be told, no line for none.",
        labels=["domain"],
    )
    for domain in ready:
        seconds = _oldest(bridge, domain)
        if seconds is not None:
            age.add_metric([domain], seconds)
    yield age


def _oldest(bridge: Bridge, domain: str) -> float | None:
    """None when no task of the domain is ready any more."""
    rows = bridge.store.rows("tasks_ready", domain, LOOKED_AT)
    for row in rows:
        if bridge.exchange.get(TaskId(row["id"])).state == "ready":
            return max(0.0, (bridge.clock.now() - parse_iso(row["dispatched_at"])).total_seconds())
    return math.nan if len(rows) == LOOKED_AT else None
