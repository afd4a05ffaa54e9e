"""Leases end by themselves, survive a restart, and never put to sleep what keeps the station alive."""

from datetime import timedelta
from pathlib import Path

import pytest
from governor_fakes import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import InvalidInput, Refused


def sleep(bench: Bench, target: str = "analytics", seconds: float = 600.0) -> None:
    bench.leases.sleep(target, seconds, reason="quiet hours", by="operator")


def targets(bench: Bench) -> list[str]:
    return [lease.target for lease in bench.leases.in_force()]


def test_a_lease_ends_by_itself_and_the_audit_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench, seconds=600)
    bench.clock.advance(599)
    assert targets(bench) == ["analytics"]
    bench.clock.advance(1)
    assert targets(bench) == []
    assert bench.events == ["lease.granted", "lease.ended"]


@pytest.mark.parametrize("target", ["guardian", "cbo", "governor"])
def test_what_keeps_the_station_alive_is_never_put_to_sleep(tmp_path: Path, target: str) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(Refused, match="keeps the station alive"):
        sleep(bench, target)
    assert targets(bench) == []
    assert bench.events == ["lease.refused"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, 86400.1, float("nan"), float("inf")])
def test_a_lease_lasts_more_than_nothing_and_at_most_a_day(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="24 h"):
        sleep(Bench(tmp_path), seconds=seconds)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_throttle_leaves_some_but_not_all(tmp_path: Path, share: float) -> None:
    with pytest.raises(InvalidInput, match="share"):
        Bench(tmp_path).leases.throttle("analytics", 60, share, reason="", by="cbo")


@pytest.mark.parametrize("target", ["", "../x", "A B"])
def test_a_target_is_a_name(tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        sleep(Bench(tmp_path), target)


def test_resume_ends_every_lease_on_the_target_and_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench)
    bench.leases.throttle("analytics", 60, 0.5, reason="", by="cbo")
    sleep(bench, "dashboard")
    assert [e.kind for e in bench.leases.resume("analytics", by="operator")] == ["sleep", "throttle"]
    assert targets(bench) == ["dashboard"]
    assert bench.leases.resume("analytics", by="operator") == []


def test_a_newer_lease_takes_the_place_of_the_older_one_of_its_kind(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench, seconds=600)
    sleep(bench, seconds=60)
    (lease,) = bench.leases.in_force()
    assert lease.expires_at - lease.granted_at == timedelta(seconds=60)


def test_after_a_restart_a_lease_runs_for_what_is_left_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench, seconds=600)
    sleep(bench, "dashboard", seconds=100)
    before = bench.leases.in_force()[0]
    bench.clock.advance(200)
    bench.start()
    assert bench.leases.in_force() == [before]
    bench.clock.advance(399)
    assert targets(bench) == ["analytics"]
    bench.clock.advance(1)
    assert targets(bench) == []


def test_a_damaged_lease_file_is_kept_aside_and_nobody_sleeps_because_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench)
    (bench.state / "leases.json").write_text('{"leases": [{"id": "x"}]}')
    bench.start()
    assert targets(bench) == []
    assert (bench.state / "leases.json.damaged").exists()
    assert bench.events[-1] == "leases.damaged"


def test_sleeping_covers_an_agent_or_its_domain(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sleep(bench, "log_rotation")
    assert bench.leases.sleeping("governor", "log_rotation") is not None
    assert bench.leases.sleeping("governor", "cleanup") is None


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0.01, 0.99), asks=st.integers(1, 300))
def test_a_throttle_grants_its_share_of_asks_evenly(
    tmp_path_factory: pytest.TempPathFactory, share: float, asks: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("lease"))
    lease = bench.leases.throttle("analytics", 60, share, reason="", by="cbo")
    granted = sum(bench.leases.take_turn(lease) for _ in range(asks))
    assert abs(granted - share * asks) <= 1
