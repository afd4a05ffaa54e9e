"""Figures of each domain's tasks at /metrics: what is known is counted, what is not has no line or is NaN."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cbo_station import Station
from prometheus_client import CollectorRegistry, generate_latest

from chassis.clock import iso
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from services.cbo.metrics import PulseMetrics
from services.cbo.task_metrics import LOOKED_AT, TaskEnds, Waits, waits
from services.cbo.tasks import Task

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def _ended(**changed: Any) -> Task:
    ack = {
        "agent": "governor",
        "started_at": iso(NOW + timedelta(seconds=2)),
        "ended_at": iso(NOW + timedelta(seconds=5)),
    }
    task = Task(
        id=TaskId("t-1"), domain="cleanup", procedure="p", owner="governor", state="done", level=Level.EXECUTE,
        created_at=NOW, dispatched_at=NOW, ended_at=NOW, attempt=1, ack=ack,
    )  # fmt: skip
    return replace(task, **changed)


def _lines(registry: CollectorRegistry) -> dict[str, str]:
    text = generate_latest(registry).decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def _figures(station: Station) -> dict[str, str]:
    registry = CollectorRegistry()
    PulseMetrics(station.cbo, registry)
    return _lines(registry)


def test_waits_are_told_from_the_dispatch_and_the_owners_ack() -> None:
    assert waits(_ended()) == Waits(claim=2.0, ack=3.0)


@pytest.mark.parametrize(
    "changed",
    [{"ack": None}, {"ack": {"agent": "exchange"}}, {"ack": {"agent": "governor", "started_at": "yesterday"}}],
)
def test_a_task_that_its_owner_did_not_answer_has_no_waits(changed: dict[str, Any]) -> None:
    found = waits(_ended(**changed))
    assert (found.claim, found.ack) == (None, None)
    assert found.reason


def test_how_long_a_second_attempt_was_ready_is_not_known() -> None:
    found = waits(_ended(attempt=2))
    assert (found.claim, found.ack) == (None, 3.0)


def test_clocks_that_disagree_give_no_wait() -> None:
    assert waits(_ended(dispatched_at=NOW + timedelta(seconds=9))).claim is None


def test_retries_and_dead_letters_are_counted_by_domain() -> None:
    registry = CollectorRegistry()
    ends = TaskEnds(registry)
    ends.ended(_ended())
    ends.ended(_ended(attempt=3, state="dead", ack=None))
    lines = _lines(registry)
    assert lines['calyx_task_retries_total{domain="cleanup"}'] == "2.0"
    assert lines['calyx_task_dead_letters_total{domain="cleanup"}'] == "1.0"
    assert lines['calyx_task_claim_seconds_count{domain="cleanup"}'] == "1.0"
    assert lines['calyx_task_ends_total{domain="cleanup",state="dead"}'] == "1.0"


def test_what_was_never_seen_has_no_line(station: Station) -> None:
    assert not [line for line in _figures(station) if line.startswith("calyx_task_") and "{" in line]


def test_a_ready_task_ages_until_it_is_claimed(station: Station) -> None:
    station.cbo.run_pulse()
    station.clock.advance(7)
    lines = _figures(station)
    assert lines['calyx_task_depth{domain="diagnostics",state="ready"}'] == "1.0"
    assert lines['calyx_task_oldest_ready_seconds{domain="diagnostics"}'] == "7.0"
    assert station.agent() > 0
    assert 'calyx_task_oldest_ready_seconds{domain="diagnostics"}' not in _figures(station)


def test_the_oldest_is_nan_when_too_many_have_moved_on_since_the_pulse(station: Station) -> None:
    store = station.cbo.bridge.store
    for number in range(LOOKED_AT):
        store.add_task(_ended(id=TaskId(f"t-gone-{number}"), state="ready", ack=None))
    assert _figures(station)['calyx_task_oldest_ready_seconds{domain="cleanup"}'] == "NaN"


def test_a_pulse_takes_in_the_waits_of_what_ended(station: Station) -> None:
    registry = CollectorRegistry()
    station.cbo.watch(PulseMetrics(station.cbo, registry).ended)
    station.pulse(3)
    lines = _lines(registry)
    assert lines['calyx_task_ack_seconds_count{domain="diagnostics"}'] == "2.0"
    assert lines['calyx_task_ack_seconds_sum{domain="diagnostics"}'] == "6.0"
