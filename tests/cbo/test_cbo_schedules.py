"""What comes up by itself: how often, that it is not doubled while it waits, and what an absent agent means."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cbo_station import Station
from test_cbo_replay import verdicts

from chassis.domains import DomainManifest, Level, load_domains
from chassis.errors import InvalidInput
from chassis.layout import DEPLOY

NewStation = Callable[..., Station]
HOUR = 3600.0


def test_the_shipped_domains_come_up_as_their_manifests_say() -> None:
    said = {name: each.every for name, each in load_domains(DEPLOY / "domains").items() if not each.every_pulse}
    hour, day = timedelta(hours=1), timedelta(days=1)
    assert said == {
        "metrics_summary": hour, "log_rotation": hour, "config_drift": hour,
        "disk_cleanup": day, "index_maintenance": day, "cleanup": None,
    }  # fmt: skip


def test_a_schedule_that_there_is_not_is_refused() -> None:
    raw = {
        "domain": "d", "title": "t", "serial": 1, "owner": "governor", "prober": "guardian", "effects": "reversible",
        "procedures": ["a"], "probes": ["absent"],
    }  # fmt: skip
    assert DomainManifest.from_mapping(raw).every is None
    assert DomainManifest.from_mapping({**raw, "schedule": "daily"}).every == timedelta(days=1)
    with pytest.raises(InvalidInput, match="weekly"):
        DomainManifest.from_mapping({**raw, "schedule": "weekly"})


def waiting(station: Station, domain: str) -> list[str]:
    items, _ = station.cbo.waiting.items()
    return [each.id for each in items if each.domain == domain]


def test_in_three_days_one_plan_of_each_domain_waits_the_newest(new_station: NewStation) -> None:
    station = new_station(every_pulse_only=False, interval=HOUR)
    for name, manifest in station.domains.items():
        if manifest.every is not None:  # as it was on the first day: nobody has said yes yet
            station.cbo.desk.set_level(name, Level.GUIDE, "stay", station.cbo.pulse_number(), "operator")
    seen: dict[str, set[str]] = {}
    for hour in range(72):
        station.pulse()
        for domain in ("disk_cleanup", "index_maintenance", "config_drift"):
            found = waiting(station, domain)
            assert len(found) <= 1, f"{domain} waits {len(found)} times after {hour} h"
            seen.setdefault(domain, set()).update(found)
    assert {domain: len(tasks) for domain, tasks in seen.items()} == {
        "disk_cleanup": 3, "index_maintenance": 3, "config_drift": 71,
    }  # fmt: skip


@pytest.mark.parametrize("level", [Level.GUIDE, Level.EXECUTE])
def test_where_the_agent_is_absent_nothing_piles_up_and_nothing_failed(new_station: NewStation, level: Level) -> None:
    station = new_station(every_pulse_only=False, interval=1800.0, owners=("guardian", "analytics", "memory"))
    station.cbo.desk.set_level("disk_cleanup", level, "for the test", station.cbo.pulse_number(), "operator")
    station.cbo.desk.set_level("log_rotation", level, "for the test", station.cbo.pulse_number(), "operator")
    before = station.cbo.bridge.ladder.standing("log_rotation")
    for _ in range(45):
        station.pulse()
        open_tasks = [each for each in station.cbo.bridge.store.tasks("tasks_open") if each.owner == "governor"]
        assert len({each.domain for each in open_tasks}) == len(open_tasks) <= 2
    after = station.cbo.bridge.ladder.standing("log_rotation")
    assert (after.level, after.window, after.failures) == (before.level, before.window, before.failures)
    ended = [each for each in station.cbo.bridge.store.tasks("tasks", "expired", "", 1000) if each.owner == "governor"]
    assert len(ended) >= 20 and {each.tes for each in ended} == {None}
    assert {each.tes_note for each in ended} == {"nobody took it: neither success nor failure"}
    assert not any(each.domain == "log_rotation" for each in station.memory.experiences.values())
    assert {each.status for each in verdicts(station)} == {"identical"}


def test_a_plan_that_waits_is_not_overtaken_by_a_run_that_nobody_took(new_station: NewStation) -> None:
    station = new_station(every_pulse_only=False, interval=HOUR)
    station.pulse(3)
    station.owners = ("governor", "analytics", "memory")
    station.pulse()
    (plan,) = waiting(station, "config_drift")
    station.pulse(5)
    expired = station.cbo.bridge.store.tasks("tasks", "expired", "config_drift", 100)
    assert sum(each.untaken for each in expired) >= 4
    assert waiting(station, "config_drift") == [plan]
