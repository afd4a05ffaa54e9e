"""What a periodic step that keeps failing says, and when."""

import pytest
import structlog

from chassis.clock import VirtualClock
from chassis.errors import Unavailable
from chassis.periodic import TELL_AGAIN_SECONDS, Failures


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_what_goes_on_failing_is_told_at_once_then_in_a_line_a_minute_and_at_its_end(clock: VirtualClock) -> None:
    failures = Failures("agent", clock)
    with structlog.testing.capture_logs() as lines:
        failures.end()
        assert lines == [], "nothing had failed"
        for _ in range(2 * int(TELL_AGAIN_SECONDS) + 1):
            failures.add(Unavailable("no key"))
            clock.advance(1)
        failures.end()
        failures.end()
    assert [(line["event"], line.get("times", line.get("failed"))) for line in lines] == [
        ("periodic step failed", None), ("periodic step still fails", 61), ("periodic step still fails", 121),
        ("periodic step works again", 121),
    ]  # fmt: skip
    assert ["exc_info" in line for line in lines] == [True, False, False, False]


def test_another_error_and_the_same_one_after_a_success_are_told_at_once(clock: VirtualClock) -> None:
    failures = Failures("agent", clock)
    with structlog.testing.capture_logs() as lines:
        failures.add(Unavailable("no key"))
        failures.add(OSError(28, "No space left on device"))
        failures.end()
        failures.add(Unavailable("no key"))
    assert [line["event"] for line in lines if "exc_info" in line] == ["periodic step failed"] * 3
