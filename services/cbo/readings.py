"""The governor's readings as the pulses took them in, kept so that the time before an effect can be held against it."""

from datetime import datetime, timedelta

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import METRICS, DomainManifest
from services.cbo.ports import Capacity
from services.cbo.store import Store
from services.cbo.tasks import Task

KEPT = timedelta(hours=49)
SPAN = timedelta(hours=1)
MOST = 30
"""So many readings at most, out of so long a time, on either side of an effect."""


def keep(store: Store, capacity: Capacity | None, at: datetime) -> None:
    """Only what was read just now; what is stale or unknown is no reading."""
    for name in METRICS:
        found = None if capacity is None else capacity.readings.get(name)
        if found is not None and found.state == "ok" and found.value is not None:
            store.run("reading_keep", name, iso(at), found.value)
        store.run("readings_forget", name, iso(at - KEPT))


def around(store: Store, manifest: DomainManifest, task: Task, now: datetime) -> Json:
    """Each metric that the domain names, before the task was sent and after it ended, with its bound."""
    if task.dispatched_at is None or task.ended_at is None:
        return {}
    sent, ended = task.dispatched_at, task.ended_at
    return {
        name: {
            "before": [row[0] for row in store.rows("readings_last", name, iso(sent - SPAN), iso(sent), MOST)],
            "after": [row[0] for row in store.rows("readings_last", name, iso(max(ended, now - SPAN)), iso(now), MOST)],
            "bound": bound,
        }
        for name, bound in manifest.metrics.items()
    }
