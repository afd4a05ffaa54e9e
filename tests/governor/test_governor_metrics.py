"""What Prometheus sees: numbers that are true now, and gaps."""

import math
from pathlib import Path

from governor_fakes import Bench
from prometheus_client import CollectorRegistry

from services.governor.metrics import GovernorCollector
from services.governor.readings import Gpu, GpuDevice, Reading


def scrape(bench: Bench) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GovernorCollector(bench.governor))
    return registry


def test_fresh_readings_are_shown_and_unknown_ones_are_nan(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.meter.set(ram=Reading.unknown("x"))
    bench.run(1)
    seen = scrape(bench).get_sample_value
    assert seen("calyx_cpu_percent") == 10.0
    assert math.isnan(seen("calyx_ram_percent") or 0.0)
    assert math.isnan(seen("calyx_swap_percent") or 0.0)
    assert seen("calyx_psi_percent", {"resource": "memory", "kind": "full"}) == 0.0
    assert math.isnan(seen("calyx_psi_percent", {"resource": "io", "kind": "some"}) or 0.0)
    assert seen("calyx_capacity_age_seconds") == 5.0
    assert seen("calyx_gpu_state", {"state": "absent"}) == 1.0
    assert seen("calyx_gpu_state", {"state": "ok"}) == 0.0


def test_an_old_reading_leaves_a_gap_and_its_age_grows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(12)
    assert scrape(bench).get_sample_value("calyx_capacity_coverage") == 1.0
    bench.clock.advance(30)
    seen = scrape(bench).get_sample_value
    assert math.isnan(seen("calyx_cpu_percent") or 0.0)
    assert seen("calyx_capacity_age_seconds") == 35.0


def test_before_the_first_sample_every_figure_is_nan(tmp_path: Path) -> None:
    seen = scrape(Bench(tmp_path)).get_sample_value
    assert math.isnan(seen("calyx_cpu_percent") or 0.0)
    assert math.isnan(seen("calyx_capacity_age_seconds") or 0.0)
    assert seen("calyx_gpu_utilization_percent", {"index": "0"}) is None
    states = [seen("calyx_gpu_state", {"state": state}) for state in ("absent", "ok", "error", "unsupported")]
    assert all(state is not None and math.isnan(state) for state in states), "nobody has asked NVML yet"


def test_leases_intents_and_gpus_are_counted(tmp_path: Path) -> None:
    bench, none = Bench(tmp_path), Reading.absent("x")
    device = GpuDevice(
        index=0, name="x", utilization_percent=Reading.ok(33.0), memory_percent=none, temperature_celsius=none
    )
    bench.meter.set(ram=Reading.ok(99.0), gpu=Gpu(state="ok", devices=(device,)))
    bench.leases.sleep("analytics", 600, reason="", by="cbo")
    for number in range(3):
        bench.run(1)
        bench.governor.capacity(f"bp-{number}")
    seen = scrape(bench).get_sample_value
    assert seen("calyx_intents_total", {"kind": "cleanup"}) == 1.0
    assert (seen("calyx_leases", {"kind": "sleep"}), seen("calyx_leases", {"kind": "throttle"})) == (1.0, 0.0)
    assert seen("calyx_gpu_utilization_percent", {"index": "0"}) == 33.0
