"""The governor's sleep leases as another agent sees them through the file on the shared volume."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chassis.agent import LeaseFile
from chassis.atomic import write_json
from chassis.clock import VirtualClock, iso
from chassis.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    found.state("governor").mkdir()
    return found


def write(layout: Layout, clock: VirtualClock, *leases: tuple[str, str, int]) -> None:
    """(kind, target, seconds from now)."""
    rows: list[dict[str, Any]] = [
        {"kind": kind, "target": target, "expires_at": iso(clock.now() + timedelta(seconds=s)), "reason": "a test"}
        for kind, target, s in leases
    ]
    write_json(layout.state("governor") / "leases.json", {"leases": rows})


def test_no_file_is_no_lease(layout: Layout) -> None:
    assert LeaseFile(layout, VirtualClock())("analytics") is None


def test_a_sleep_lease_holds_for_its_target_until_its_time_is_over(layout: Layout) -> None:
    clock = VirtualClock()
    leases = LeaseFile(layout, clock)
    write(layout, clock, ("sleep", "analytics", 60), ("throttle", "guardian", 60))
    found = leases("analytics")
    assert found is not None
    assert (found.kind, found.target, found.reason) == ("sleep", "analytics", "a test")
    assert leases("guardian") is None, "a throttle is not a sleep"
    clock.advance(60)
    assert leases("analytics") is None


def test_a_change_of_the_file_is_seen_at_the_next_look(layout: Layout) -> None:
    clock = VirtualClock()
    leases = LeaseFile(layout, clock)
    write(layout, clock, ("sleep", "analytics", 60))
    assert leases("analytics") is not None
    write(layout, clock)
    assert leases("analytics") is None


@pytest.mark.parametrize("content", ["", "{", '{"leases": [{"kind": "sleep"}]}', "[]"])
def test_an_unreadable_file_puts_everybody_to_sleep_with_the_reason(layout: Layout, content: str) -> None:
    (layout.state("governor") / "leases.json").write_text(content)
    found = LeaseFile(layout, VirtualClock())("analytics")
    assert found is not None
    assert "can't be read" in found.reason
    assert found.until is None
