"""24 virtual hours of the whole station in one process: two seeded crashes, KPIs by hand, what memory returns."""

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import structlog
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
from calyx.guardian.v1 import guardian_pb2
from calyx.guardian.v1.guardian_pb2_grpc import GuardianServiceStub
from calyx.memory.v1 import memory_pb2
from calyx.memory.v1.memory_pb2_grpc import MemoryServiceStub

from chassis.audit import verify
from chassis.clock import iso, parse_iso
from chassis.layout import SERVICES
from chassis.rng import Rng
from services.cbo.history import from_records
from services.cbo.ladder_log import rebuild, standings_of
from services.cbo.policy_desk import tried
from services.cbo.time_machine import replay
from tests.virtual.virtual_station import Killed, VirtualStation, packaged

HOURS = 24
SEED = "a day"
WORDINGS = {
    "log_rotation": ("rotate the logs", "compress the old log files", "rotate and compress log files now"),
    "metrics_summary": ("summarise the metrics", "roll up the capacity figures", "write the daily metrics summary"),
    "diagnostics": (
        "check the health of the station",
        "run diagnostics on the station",
        "report disk and memory health",
    ),
    "cleanup": ("clean up the scratch space", "remove stale scratch files"),
}


class Day:
    """The station after its day, with its pulse records."""

    def __init__(self, station: VirtualStation, kills: list[tuple[str, float]]) -> None:
        self.station, self.kills = station, kills
        paths = sorted(station.layout.pulses.glob("*/bp-*.json"))
        self.records: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in paths]


def live(station: VirtualStation) -> Day:
    """A log that grows a little every minute, objectives in different words, one service and one pulse killed."""
    chance = Rng.of("crashes", SEED)
    cbo = CboServiceStub(station.channel("operator"))
    station.layout.logs.mkdir(exist_ok=True)
    victim = [name for name in SERVICES if name not in ("cbo", "dashboard")][int(chance.uniform() * 4)]
    first, second = (3600 * (2 + 8 * chance.uniform()), 3600 * (12 + 10 * chance.uniform()))
    kills: list[tuple[str, float]] = []

    def in_mid_pulse(point: str) -> None:
        if point == "dispatched" and station.clock.monotonic() >= second and len(kills) == 1:
            kills.append(("cbo", station.clock.monotonic()))
            raise Killed

    station.fault = in_mid_pulse
    for minute in range(0, HOURS * 60, 10):
        with (station.layout.logs / "app.log").open("a") as log:
            log.writelines(f"{minute} something happened, number {n}\n" for n in range(400))
        if minute % 30 == 0:
            domain = list(WORDINGS)[(minute // 30) % len(WORDINGS)]
            words = WORDINGS[domain][(minute // 120) % len(WORDINGS[domain])]
            cbo.SubmitObjective(cbo_pb2.SubmitObjectiveRequest(text=words, domain=domain))
        station.step(300)
        if not kills and station.clock.monotonic() >= first:
            kills.append((victim, station.clock.monotonic()))
            station.kill(victim)
        station.step(300)
    return Day(station, kills)


@pytest.fixture(scope="module")
def day() -> Iterator[Day]:
    # a folder in memory where there is one: what is tested is the logic, durability has its own tests
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="calyx-day-", dir=base))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    station = VirtualStation(root / "station", packaged(), seed=SEED, busy_hours=frozenset({6}))
    try:
        yield live(station)
    finally:
        station.close()
        structlog.reset_defaults()
        shutil.rmtree(root)


def test_every_minute_had_its_pulse_and_no_id_was_used_twice(day: Day) -> None:
    numbers = [int(record["id"].removeprefix("bp-")) for record in day.records]
    assert numbers == list(range(1, len(numbers) + 1))
    assert HOURS * 60 <= len(numbers) <= HOURS * 60 + 2
    assert Counter(record["status"] for record in day.records)["interrupted"] == 1, "the pulse that was killed"


def test_both_crashes_were_healed_and_are_entries_of_a_pulse(day: Day) -> None:
    assert len(day.kills) == 2
    guardian = GuardianServiceStub(day.station.channel("operator"))
    incidents = guardian.ListIncidents(guardian_pb2.ListIncidentsRequest(limit=100)).incidents
    entries = {entry["target"] for record in day.records for entry in record["reflect"]["incidents"] or ()}
    for target, _ in day.kills:
        assert any(each.target == target and each.HasField("closed_at") for each in incidents), target
        assert target in entries
        assert day.station.starts[target] == 2


def test_no_task_was_lost_or_answered_twice(day: Day) -> None:
    planned = [task["task_id"] for record in day.records for task in record["plan"]["tasks"] if task["new"]]
    assert len(planned) == len(set(planned))
    ended = [task["task_id"] for record in day.records for task in record["critique"]["ended"]]
    assert len(ended) == len(set(ended)), "a task ended in two pulses"
    acked = {path.stem for path in (day.station.layout.svf / "acks").glob("*/*.json")}
    done = Counter(path.name.split(".e")[0] for path in (day.station.layout.svf / "done").glob("*/*.done"))
    assert set(done.values()) <= {1}
    assert set(done) <= acked


def test_the_built_in_domains_were_promoted_and_really_worked(day: Day) -> None:
    levels = {entry["domain"]: entry["level"] for entry in day.records[-1]["critique"]["ladder"]}
    assert levels["diagnostics"] == levels["log_rotation"] == "EXECUTE"
    archives = [path for path in day.station.layout.logs.iterdir() if path.name.startswith("app.log.")]
    assert archives
    assert list((day.station.layout.root / "reports" / "summaries").glob("*.json"))


def test_hourly_and_daily_work_came_up_as_often_as_its_manifest_says_and_waits_once(day: Day) -> None:
    planned = Counter(task["domain"] for record in day.records for task in record["plan"]["tasks"] if task["new"])
    assert planned["config_drift"] in (HOURS, HOURS + 1)
    assert planned["disk_cleanup"] in (1, 2) and planned["index_maintenance"] in (1, 2)
    items, _ = day.station.overseer.waiting.items()
    waiting = Counter(each.domain for each in items if each.task is not None)
    assert max(waiting[domain] for domain in ("config_drift", "disk_cleanup", "index_maintenance")) <= 1
    assert len({each.key for each in items}) == len(items), "a newer plan replaces the one that waits"


def test_the_days_records_alone_rebuild_every_domains_standing(day: Day) -> None:
    ladder = day.station.overseer.bridge.ladder
    rebuilt = rebuild(day.records)
    assert rebuilt == {domain: ladder.standing(domain) for domain in day.station.domains}
    assert rebuilt == standings_of(day.records[-1])


def test_every_gate_of_the_day_answers_again_as_it_did(day: Day) -> None:
    """Asked again by the time machine, from the database and from the records alone."""
    made = tried(day.station.overseer, "", timedelta(days=2), {"promote_run": 5.0}).result
    assert made["same"] and made["questions"] >= HOURS * 60
    assert all(each["was"] == each["would"] for each in made["ladder"])
    past = from_records(day.records)
    found, _ = replay(past, day.station.overseer.bridge.policy_file.rules(), day.station.identity.created_at)
    assert (found.differing, found.questions) == (0, made["questions"])


def test_high_ram_raised_one_cleanup_intent(day: Day) -> None:
    intents = {intent["id"] for record in day.records for intent in record["reflect"]["intents"] or ()}
    assert len(intents) == 1


def kpi(day: Day, name: str) -> cbo_pb2.Kpi:
    stub = CboServiceStub(day.station.channel("operator"))
    return next(each for each in stub.GetKpis(cbo_pb2.GetKpisRequest()).kpis if each.name == name)


def test_uptime_is_what_the_slots_say(day: Day) -> None:
    """By hand from the guardian's file, up to the last slot that the last pulse could read."""
    read_at = parse_iso(day.records[-1]["started_at"])
    with (day.station.layout.root / "guardian" / "uptime.csv").open() as table:
        slots = {parse_iso(row["start"]): row["state"] for row in csv.DictReader(table)}
    counted = [state for start, state in slots.items() if start + timedelta(minutes=1) <= read_at]
    found = kpi(day, "uptime")
    assert len(counted) >= HOURS * 60 - 2
    assert found.value.value == pytest.approx(100.0 * counted.count("up") / len(counted))
    known = counted.count("up") + counted.count("down")
    assert found.value.coverage == pytest.approx(known / (HOURS * 60))
    assert found.verdict == ("met" if found.value.value >= 95.0 else "missed")


def test_mean_tes_is_the_mean_over_tasks_with_effects(day: Day) -> None:
    since = iso(day.station.clock.now() - timedelta(hours=24))
    scores = [
        task["tes"]
        for record in day.records
        if record["started_at"] >= since
        for task in record["critique"]["ended"]
        if task["tes"] is not None and task["state"] in ("done", "failed") and task["level"] == "EXECUTE"
    ]
    found = kpi(day, "mean_tes")
    assert len(scores) > 1000
    assert found.value.value == pytest.approx(fmean(scores))
    assert found.verdict == ("met" if fmean(scores) >= 96 else "missed")


def test_nobody_overrode_and_nothing_was_violated(day: Day) -> None:
    assert (kpi(day, "overrides").value.value, kpi(day, "policy_violations").value.value) == (0.0, 0.0)


def test_the_audit_chains_hold_and_the_last_pulse_names_their_heads(day: Day) -> None:
    for service in ("cbo", "governor", "guardian"):
        check = verify(day.station.layout.audit(service))
        assert check.first_bad is None, f"{service}: {check.reason}"


def test_four_fifths_of_what_memory_returns_is_of_the_same_kind(day: Day) -> None:
    """The plan's first relevance check, over the outcomes that the station itself recorded."""
    memory = MemoryServiceStub(day.station.channel("operator"))
    asked = returned = same = 0
    for domain, wordings in WORDINGS.items():
        for words in wordings:
            matches = memory.Recall(memory_pb2.RecallRequest(objective=words, limit=10)).matches
            asked, returned = asked + 1, returned + len(matches)
            same += sum(match.experience.domain == domain for match in matches)
            assert all(match.cosine > 0.8 for match in matches)
    print(f"{same} of {returned} matches of {asked} recalls are of the same kind")
    assert returned >= asked, "recall that returns next to nothing proves nothing"
    assert same / returned >= 0.8, f"{same} of {returned}"
