"""The governor as an agent: both works pass their drill, and are wired to the station's own folders only."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from governor_fakes import Bench

from chassis.agent import declared_roots
from chassis.clock import Clock, SystemClock, VirtualClock
from chassis.domains import load_domains
from chassis.drill import drill
from chassis.exchange.memory import MemoryExchange
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY, Layout
from chassis.work import Work
from services.governor.agent import AGENT, governor_works, live_in, sleep_leases
from services.governor.holders import KernelHolders


def exchange(root: Path) -> MemoryExchange:
    return MemoryExchange(VirtualClock(), lambda _: True, KillSwitch(root / "manual_shutdown.flag"))


def works(root: Path, clock: Clock) -> dict[str, Work]:
    layout = Layout(root)
    roots = declared_roots(layout, load_domains(DEPLOY / "domains").values(), AGENT)
    made = governor_works(
        layout=layout,
        roots=roots,
        exchange=exchange(root),
        holders=KernelHolders(),
        clock=clock,
        cpu_seconds=lambda: 0.0,
    )
    return {work.domain: work for work in made}


@pytest.mark.parametrize("clock", [SystemClock(), VirtualClock()], ids=["system", "virtual"])
@pytest.mark.parametrize("domain", ["log_rotation", "cleanup", "disk_cleanup"])
def test_every_procedure_passes_its_drill(tmp_path: Path, domain: str, clock: Clock) -> None:
    work = works(tmp_path, clock)[domain]
    folder = Layout(tmp_path).work(AGENT) / ".drill"
    assert work.procedures
    for procedure in work.procedures:
        fault = drill(work, procedure, folder, clock, agent=AGENT, station_id="st-1", effectless=False)
        assert fault is None
    assert not folder.exists()


def test_its_roots_are_the_paths_of_its_own_domains(tmp_path: Path) -> None:
    roots = declared_roots(Layout(tmp_path), load_domains(DEPLOY / "domains").values(), AGENT)
    own = ("logs", "memory/backups", "reports/diagnostics", "reports/exports", "work", "work/governor")
    assert sorted(set(roots)) == [tmp_path / each for each in own]


def test_scratch_whose_name_is_no_task_or_an_unknown_one_is_nobodys(tmp_path: Path) -> None:
    live = live_in(exchange(tmp_path))
    assert not live(".drill")
    assert not live("t-never-submitted")


def test_the_worker_sees_sleep_and_not_throttle(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    look = sleep_leases(bench.leases)
    bench.leases.throttle("cleanup", 60, 0.5, reason="", by="cbo")
    assert look("cleanup") is None
    bench.leases.sleep("cleanup", 60, reason="quiet", by="operator")
    view = look("cleanup")
    assert view is not None
    assert (view.kind, view.target, view.reason) == ("sleep", "cleanup", "quiet")
    assert view.until == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
