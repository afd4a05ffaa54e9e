"""Nothing starts on a reading that can't be trusted, on a full machine, or in its sleep."""

from pathlib import Path
from typing import Any

import pytest
from governor_fakes import CALM, Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from services.governor.admission import AdmitTerms, admit
from services.governor.capacity import Freshness, capacity
from services.governor.readings import Machine, Reading, Sample
from services.governor.window import Ring


def ask(bench: Bench, **needs: float) -> Any:
    return bench.governor.admit(owner="governor", domain="log_rotation", needs=needs)


def test_a_calm_machine_admits_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(1)
    answer = ask(bench)
    assert answer.admitted
    assert answer.reason == "RAM 40 %, CPU 10 %, disk 50 %"


def test_before_the_first_sample_nothing_is_admitted(tmp_path: Path) -> None:
    assert not ask(Bench(tmp_path)).admitted


@pytest.mark.parametrize(("age", "word"), [(11, "stale"), (60, "unknown")])
def test_an_old_reading_admits_nothing(tmp_path: Path, age: float, word: str) -> None:
    bench = Bench(tmp_path)
    bench.run(1, every=age)
    answer = ask(bench)
    assert not answer.admitted
    assert answer.reason.startswith(f"capacity reading is {word}: CPU")


@pytest.mark.parametrize("figure", ["cpu", "ram", "disk"])
def test_a_reading_that_failed_admits_nothing(tmp_path: Path, figure: str) -> None:
    bench = Bench(tmp_path)
    bench.meter.set(**{figure: Reading.unknown("no answer")})
    bench.run(1)
    assert not ask(bench).admitted
    assert "unknown" in ask(bench).reason


@pytest.mark.parametrize(
    ("reading", "admitted"),
    [
        ({"ram": Reading.ok(89.9)}, True),
        ({"ram": Reading.ok(90.0)}, False),
        ({"disk": Reading.ok(94.9)}, True),
        ({"disk": Reading.ok(95.0)}, False),
        ({"psi": {"memory_full": Reading.ok(19.9)}}, True),
        ({"psi": {"memory_full": Reading.ok(20.0)}}, False),
        ({"psi": {}}, True),
    ],
)
def test_the_bounds_are_where_they_are_said_to_be(tmp_path: Path, reading: dict[str, Any], admitted: bool) -> None:
    bench = Bench(tmp_path)
    bench.meter.set(**reading)
    bench.run(1)
    assert ask(bench).admitted is admitted


@pytest.mark.parametrize(
    ("needs", "admitted"),
    [
        ({"ram_bytes": 3.9e9}, True),
        ({"ram_bytes": 4.1e9}, False),
        ({"disk_bytes": 4.4e10}, True),
        ({"disk_bytes": 4.6e10}, False),
        ({"cpu_cores": 4}, True),
        ({"cpu_cores": 5}, False),
        ({"ram_bytes": -1}, False),
        ({"ram_bytes": float("nan")}, False),
        ({"bananas": 1}, False),
    ],
)
def test_what_a_task_says_it_needs_has_to_fit(tmp_path: Path, needs: dict[str, float], admitted: bool) -> None:
    bench = Bench(tmp_path)
    bench.run(1)
    assert ask(bench, **needs).admitted is admitted


@pytest.mark.parametrize("target", ["log_rotation", "analytics"])
def test_a_sleeping_owner_or_domain_is_not_admitted_and_wakes_by_itself(tmp_path: Path, target: str) -> None:
    bench = Bench(tmp_path)
    bench.leases.sleep(target, 60, reason="backup runs", by="operator")
    bench.run(1)
    answer = bench.governor.admit(owner="analytics", domain="log_rotation", needs={})
    assert (answer.admitted, answer.reason) == (False, f"{target} sleeps: backup runs")
    bench.clock.advance(60)
    bench.run(1)
    assert bench.governor.admit(owner="analytics", domain="log_rotation", needs={}).admitted


def test_a_throttled_domain_gets_its_share_of_turns(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.leases.throttle("log_rotation", 3600, 0.25, reason="", by="cbo")
    bench.run(1)
    assert [ask(bench).admitted for _ in range(8)] == [False, False, False, True] * 2
    assert "throttled to 25%" in ask(bench).reason


readings = st.one_of(
    st.builds(Reading.ok, st.floats(0, 100)), st.just(Reading.unknown("x")), st.just(Reading.absent("x"))
)


@settings(deadline=None)
@given(cpu=readings, ram=readings, disk=readings, full=readings, age=st.floats(0, 1000))
def test_whatever_is_admitted_was_fresh_known_and_below_every_bound(
    cpu: Reading, ram: Reading, disk: Reading, full: Reading, age: float
) -> None:
    ring, terms = Ring(4), AdmitTerms()
    machine = Machine(cpu=cpu, ram=ram, swap=CALM.swap, disk=disk, psi={"memory_full": full})
    ring.add(Sample(at=VirtualClock().now(), monotonic=0.0, sequence=1, machine=machine))
    answer = admit(capacity(ring, age, Freshness()), [], owner="a", domain="b", needs={}, terms=terms)
    assert answer.reason and "\n" not in answer.reason
    fits = (
        age <= 10
        and cpu.value is not None
        and ram.value is not None
        and ram.value < terms.ram_percent
        and disk.value is not None
        and disk.value < terms.disk_percent
        and (full.value is None or full.value < terms.memory_full_percent)
    )
    assert answer.admitted is fits
