"""Samples, the minute rows, and what may be said about the machine: never an old or invented number."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest
from calyx.governor.v1 import governor_pb2 as pb
from governor_fakes import CALM, Bench

from chassis.clock import VirtualClock
from services.governor.readings import Gpu, GpuDevice, Machine, Reading
from services.governor.rows import COLUMNS
from services.governor.wire import capacity_to_wire


def rows(bench: Bench) -> list[dict[str, str]]:
    with (bench.state / "capacity.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_full_minute_gives_one_row_with_mean_max_and_full_coverage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for n in range(13):
        bench.meter.set(cpu=Reading.ok(float(n)))
        bench.run(1)
    (row,) = rows(bench)
    assert tuple(row) == COLUMNS
    assert row["slot_start"] == "2026-01-01T00:00:00.000000Z"
    assert (row["station_id"], row["samples"], row["coverage"]) == ("st-1", "12", "1")
    assert (row["cpu_percent_mean"], row["cpu_percent_max"], row["cpu_percent_coverage"]) == ("5.5", "11", "1")
    assert (row["ram_percent_mean"], row["ram_source"]) == ("40", "cgroup-v1")


def test_what_was_not_measured_is_an_empty_cell_and_lower_coverage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(6)
    bench.meter.set(cpu=Reading.unknown("gone"))
    bench.run(7)
    (row,) = rows(bench)
    assert (row["cpu_percent_mean"], row["cpu_percent_coverage"]) == ("10", "0.5")
    assert (row["swap_percent_mean"], row["swap_percent_max"], row["swap_percent_coverage"]) == ("", "", "0")
    assert (row["psi_io_full_percent_mean"], row["gpu_utilization_percent_mean"]) == ("", "")
    assert row["psi_cpu_some_percent_mean"] == "3"


def test_missed_slots_leave_no_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(12)
    bench.clock.advance(600)
    bench.run(13)
    assert [(r["slot_start"][14:16], r["samples"]) for r in rows(bench)] == [("00", "12"), ("11", "12")]


def test_a_torn_last_row_is_set_aside_and_the_next_row_is_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(13)
    path = bench.state / "capacity.csv"
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:0")
    bench.run(12)
    assert len(rows(bench)) == 2
    assert (bench.state / "capacity.csv.torn").read_bytes() == b"2026-01-01T00:0\n"


def test_a_file_with_other_columns_is_kept_beside_and_a_new_one_is_begun(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.state / "capacity.csv").write_text("when,cpu\n1,2\n")
    bench.run(13)
    assert len(rows(bench)) == 1
    (kept,) = bench.state.glob("capacity.csv.until-*")
    assert kept.read_text() == "when,cpu\n1,2\n"


def test_a_full_disk_loses_the_row_but_not_the_figures(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.state / "capacity.csv").mkdir()
    bench.run(13)
    assert bench.governor.capacity().capacity.figures["cpu"].value == 10.0


def test_before_the_first_sample_everything_is_unknown(tmp_path: Path) -> None:
    now = Bench(tmp_path).governor.capacity().capacity
    assert {figure.state for figure in now.figures.values()} == {"unknown"}
    assert all(figure.value is None for figure in now.figures.values())
    assert (now.sequence, now.age_seconds, now.coverage, now.gpu_state) == (0, None, 0.0, "unknown")


@pytest.mark.parametrize(
    ("age", "state", "value"),
    [(0.0, "ok", 40.0), (10.0, "ok", 40.0), (10.5, "stale", 40.0), (50.0, "stale", 40.0), (50.5, "unknown", None)],
)
def test_a_figure_is_ok_then_stale_then_unknown(tmp_path: Path, age: float, state: str, value: float | None) -> None:
    bench = Bench(tmp_path)
    bench.run(1, every=age)
    figure = bench.governor.capacity().capacity.figures["ram"]
    assert (figure.state, figure.value, figure.age_seconds) == (state, value, age)


def test_a_reading_that_fails_is_unknown_at_once_and_not_the_value_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(3)
    bench.meter.set(ram=Reading.unknown("no answer"))
    bench.run(1)
    figure = bench.governor.capacity().capacity.figures["ram"]
    assert (figure.state, figure.value, figure.note) == ("unknown", None, "no answer")
    assert figure.coverage == pytest.approx(3 / 12)


def test_coverage_is_of_the_last_minute_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(40)
    assert bench.governor.capacity().capacity.coverage == 1.0
    bench.clock.advance(30)
    assert bench.governor.capacity().capacity.coverage < 0.6


def test_a_repeat_shows_in_the_sequence(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    assert [bench.governor.capacity().capacity.sequence for _ in range(2)] == [2, 2]


def test_no_swap_is_absent_and_stays_absent_when_old_but_not_when_too_old(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(1, every=20)
    assert bench.governor.capacity().capacity.figures["swap"].state == "absent"


def test_each_gpu_figure_carries_its_own_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    device = GpuDevice(
        index=0,
        name="H100",
        utilization_percent=Reading.ok(30.0),
        memory_percent=Reading.unknown("lost"),
        temperature_celsius=Reading.absent("not reported"),
    )
    bench.meter.set(gpu=Gpu(state="ok", devices=(device,)))
    bench.run(1)
    (gpu,) = bench.governor.capacity().capacity.gpus
    figures = (gpu.utilization_percent, gpu.memory_percent, gpu.temperature_celsius)
    assert [f.state for f in figures] == ["ok", "unknown", "absent"]
    bench.clock.advance(60)
    now = bench.governor.capacity().capacity
    assert (now.gpu_state, now.gpus) == ("unknown", ()), "an old answer is not an error of the driver"
    assert capacity_to_wire(now).gpu.state == pb.GPU_STATE_UNSPECIFIED


def test_health_fails_once_the_sampler_has_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.governor.check()
    bench.clock.advance(51)
    with pytest.raises(RuntimeError, match="no sample"):
        bench.governor.check()
    bench.run(1)
    bench.governor.check()


def pulse(bench: Bench, number: int, ram: Reading) -> bool:
    """One 60 s pulse at this RAM; whether an intent is open after it."""
    bench.meter.set(ram=ram)
    bench.run(12)
    return bool(bench.governor.capacity(f"bp-{number:09d}").intents)


def test_three_pulses_of_high_ram_raise_the_intent_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    bench, high, low = Bench(tmp_path), Reading.ok(85.0), Reading.ok(60.0)
    assert [pulse(bench, n, high) for n in (1, 2)] == [False, False]
    bench.start()
    assert pulse(bench, 3, high)
    (intent,) = bench.governor.capacity().intents
    assert (intent.kind, intent.domain) == ("cleanup", "cleanup")
    assert [pulse(bench, n, low) for n in (4, 5)] == [True, False]
    assert bench.events.count("intent.raised") == bench.events.count("intent.cleared") == 1


def test_asking_without_a_pulse_or_twice_for_the_same_pulse_counts_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.meter.set(ram=Reading.ok(95.0))
    for _ in range(5):
        bench.run(1)
        assert not bench.governor.capacity().intents
        assert not bench.governor.capacity("bp-000000001").intents


def test_a_pulse_is_judged_on_the_mean_since_the_pulse_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in (1, 2, 3):
        bench.meter.set(ram=Reading.ok(100.0))
        bench.run(2)
        bench.meter.set(ram=Reading.ok(50.0))
        bench.run(10)
        assert not bench.governor.capacity(f"bp-{number}").intents
    for number in (4, 5, 6):
        bench.meter.set(ram=Reading.ok(100.0))
        bench.run(11)
        bench.meter.set(ram=Reading.ok(50.0))
        bench.run(1)
        assert bool(bench.governor.capacity(f"bp-{number}").intents) == (number == 6)


def test_a_pulse_without_a_sample_since_the_one_before_neither_counts_nor_clears(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.meter.set(ram=Reading.ok(95.0))
    bench.run(1)
    for number in range(1, 10):
        assert not bench.governor.capacity(f"bp-{number}").intents


def test_a_damaged_rule_file_is_kept_aside_and_said_in_the_audit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    pulse(bench, 1, Reading.ok(85.0))
    (bench.state / "ram_rule.json").write_text('{"high_run":')
    bench.start()
    assert (bench.state / "ram_rule.json.damaged").exists()
    assert bench.events[-1] == "ram_rule.damaged"


def test_watchers_are_woken_after_every_sample_until_they_stop(tmp_path: Path) -> None:
    bench, woken = Bench(tmp_path), []
    stop = bench.governor.watch(lambda: woken.append(bench.governor.capacity().capacity.sequence))
    bench.run(2)
    stop()
    bench.run(1)
    assert woken == [1, 2]


def test_slots_are_whole_minutes_of_the_wall_clock(tmp_path: Path) -> None:
    bench = Bench(tmp_path, clock=VirtualClock(datetime(2026, 3, 4, 5, 6, 58, tzinfo=UTC)))
    bench.run(2)
    (row,) = rows(bench)
    assert (row["slot_start"], row["samples"], row["coverage"]) == ("2026-03-04T05:06:00.000000Z", "1", "0.0833")


def test_gpu_rows_hold_the_mean_over_devices(tmp_path: Path) -> None:
    def device(index: int, use: Reading) -> GpuDevice:
        none = Reading.absent("not reported")
        return GpuDevice(index=index, name="x", utilization_percent=use, memory_percent=none, temperature_celsius=none)

    both = Gpu(state="ok", devices=(device(0, Reading.ok(20.0)), device(1, Reading.ok(60.0))))
    bench = Bench(tmp_path)
    bench.meter.machine = Machine(cpu=CALM.cpu, ram=CALM.ram, swap=CALM.swap, disk=CALM.disk, gpu=both)
    bench.run(13)
    (row,) = rows(bench)
    assert (row["gpu_state"], row["gpu_utilization_percent_mean"], row["gpu_memory_percent_mean"]) == ("ok", "40", "")
