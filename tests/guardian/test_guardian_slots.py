from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from services.guardian.maintenance import Maintenance
from services.guardian.slots import SLOT, Slots, judge
from tests.full_disk import full_disk

START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def slots(tmp_path: Path, clock: VirtualClock, planned: tuple[datetime, datetime] | None = None) -> Slots:
    return Slots(tmp_path / "uptime.csv", clock, 3.0, lambda m: planned is not None and planned[0] <= m < planned[1])


def rounds(kept: Slots, clock: VirtualClock, n: int, up: bool = True) -> None:
    for _ in range(n):
        kept.round(everybody_up=up)
        clock.advance(3.0)


@given(st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_a_slot_is_up_only_on_most_of_enough_rounds(total: int, up: int, planned: bool) -> None:
    up = min(up, total)
    state = judge(rounds=total, up_rounds=up, expected=20, maintenance=planned)
    assert (state == "up") == (total >= 10 and 2 * up > total)
    assert (state == "unknown") == (total < 10 and not planned)


def test_slots_are_aligned_to_minutes_and_survive_a_restart(tmp_path: Path) -> None:
    clock = VirtualClock(START + timedelta(seconds=20))
    kept = slots(tmp_path, clock)
    rounds(kept, clock, 60)
    again = slots(tmp_path, clock)
    found = again.slots(START)
    assert [slot.start for slot in found] == [START + n * SLOT for n in range(3)]
    assert {slot.state for slot in found} == {"up"}
    assert again.since == START


def test_minutes_without_a_guardian_are_unknown_and_planned_ones_maintenance(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    rounds(slots(tmp_path, clock), clock, 21)
    clock.advance(600)
    planned = (START + timedelta(minutes=5), START + timedelta(minutes=8))
    found = slots(tmp_path, clock, planned).slots(START)
    states = [slot.state for slot in found]
    assert states == ["up", *["unknown"] * 4, *["maintenance"] * 3, *["unknown"] * 3]


def test_a_torn_last_line_is_no_slot(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    rounds(slots(tmp_path, clock), clock, 41)
    file = tmp_path / "uptime.csv"
    file.write_bytes(file.read_bytes()[:-5])
    assert len(slots(tmp_path, clock).slots(START)) == 2  # the torn one is unknown again


def test_a_restart_in_a_minute_does_not_make_the_missed_part_good(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    rounds(slots(tmp_path, clock), clock, 33)
    clock.advance(12.0)
    kept = slots(tmp_path, clock)
    rounds(kept, clock, 5)
    assert [slot.state for slot in kept.slots(START)] == ["up", "unknown"]


def test_the_minute_in_which_the_guardian_was_killed_goes_on(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    before = slots(tmp_path, clock)
    rounds(before, clock, 33)
    clock.advance(6.0)
    again = Slots(tmp_path / "uptime.csv", clock, 3.0, lambda _: False, before.open)
    rounds(again, clock, 6)
    assert [slot.state for slot in again.slots(START)] == ["up", "up"]


def test_an_open_window_ends_when_the_guardian_starts_again(tmp_path: Path) -> None:
    file = tmp_path / "maintenance.jsonl"
    file.write_text(
        '{"from":"2026-01-01T12:00:00Z","to":null}\nnot json\n'
        '{"from":"2026-01-01T10:00:00Z","to":null}\n{"from":"2026-01-01T10:00:00Z","to":"2026-01-01T10:30:00Z"}\n'
    )
    windows = Maintenance(file, START + timedelta(minutes=30))
    assert windows.covers(START + timedelta(minutes=29))
    assert not windows.covers(START + timedelta(minutes=31))
    assert windows.covers(START - timedelta(minutes=100))
    assert not windows.covers(START - timedelta(minutes=80))


def test_slots_that_a_full_disk_kept_back_are_written_later(tmp_path: Path) -> None:
    clock = VirtualClock(START)
    rounds(slots(tmp_path, clock), clock, 21)
    clock.advance(120)
    with full_disk():
        kept = slots(tmp_path, clock)  # a guardian that starts on the full disk, too
        rounds(kept, clock, 61)
    rounds(kept, clock, 20)
    again = slots(tmp_path, clock).slots(START)
    assert again == kept.slots(START)
    assert [slot.state for slot in again].count("up") >= 4
