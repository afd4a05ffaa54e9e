"""The ladder at the CBO: what the pulse records hold rebuilds it, what is void or was just lost can't be approved."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cbo_station import Station
from domain_letters import Office

from chassis.domains import Level
from chassis.errors import Damaged, Refused
from chassis.rng import Rng
from services.cbo.autonomy_evaluator import Standing
from services.cbo.ladder import Ladder
from services.cbo.ladder_log import Taken, rebuild, standings_of
from services.cbo.objectives import Schedule
from services.cbo.obstacle import obstacle
from services.cbo.servicer import RUNS

NewStation = Callable[..., Station]


def records(station: Station) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(station.layout.pulses.glob("*/bp-*.json"))]


def kept(station: Station) -> dict[str, Standing]:
    ladder = station.cbo.bridge.ladder
    return {domain: ladder.standing(domain) for domain in station.domains}


def live(station: Station, pulses: int, seed: str) -> None:
    """Good and bad work, unknown scores, people who change their minds, crashes, new releases."""
    chance = Rng.of("ladder", seed)
    for _ in range(pulses):
        drawn = chance.uniform()
        station.answer.seconds = 3.0 if drawn < 0.9 else 700.0
        station.answer.claims = drawn > 0.05
        station.probers["governor"].verdict = "refuted" if 0.3 < drawn < 0.4 else "confirmed"
        if 0.4 < drawn < 0.43:
            station.crash_at("settled" if drawn < 0.415 else "committed")
        if 0.5 < drawn < 0.55:
            level = Level.EXECUTE if drawn < 0.53 else Level.SUGGEST if drawn < 0.54 else Level.GUIDE
            try:
                station.cbo.desk.set_level("diagnostics", level, "I say so", station.cbo.pulse_number(), "operator")
            except Refused:
                assert drawn < 0.53, "only a rise is refused"
        station.pulse()


@pytest.mark.parametrize("seed", ["four", "two"])
def test_after_every_pulse_the_records_alone_rebuild_what_the_cbo_keeps(new_station: NewStation, seed: str) -> None:
    station = new_station(every_pulse_only=False)
    live(station, 80, seed)
    written = records(station)
    assert rebuild(written) == kept(station)
    for n in range(0, len(written), 10):
        if "ladder_log" in written[n]["critique"]:
            assert rebuild(written[: n + 1]) == standings_of(written[n])
    changed = [each for record in written for each in record["critique"].get("level_changes", ())]
    assert {each["after"] for each in changed} >= {"GUIDE", "EXECUTE"}, "a run without changes would prove nothing"
    assert any(record["status"] == "interrupted" for record in written)


def test_without_the_oldest_records_the_fold_begins_at_the_first_one_that_is_kept(station: Station) -> None:
    live(station, 40, "three")
    assert rebuild(records(station)[25:]) == kept(station)


def test_a_record_that_is_missing_in_between_is_found(station: Station) -> None:
    station.pulse(9)
    with pytest.raises(Damaged, match="are missing before bp-000000006"):
        rebuild([each for each in records(station) if each["id"] != "bp-000000005"])


def test_a_standing_that_nobody_earned_is_not_what_the_records_say(station: Station) -> None:
    station.pulse(3)
    store = station.cbo.bridge.store
    forged = {**kept(station)["diagnostics"].to_json(), "level": 4}
    store.run("ladder_save", "diagnostics", json.dumps(forged), "2026-01-01T00:00:00Z")
    station.cbo.bridge.ladder.reload()
    assert kept(station)["diagnostics"].level is Level.EXECUTE
    assert rebuild(records(station))["diagnostics"].level is Level.GUIDE


def test_a_new_release_puts_built_in_work_on_probation_again(station: Station) -> None:
    station.pulse(30)
    before = kept(station)["diagnostics"]
    assert before.level is Level.EXECUTE and not before.probation
    bridge = station.cbo.bridge
    renewed = Ladder(bridge.store, station.domains, station.clock, code="next").standing("diagnostics")
    assert (renewed.level, renewed.probation, renewed.evidence) == (Level.EXECUTE, True, 1.0)
    bridge.ladder.reload()
    station.pulse()
    assert rebuild(records(station)) == kept(station)


def test_a_person_can_not_raise_what_was_demoted_in_the_same_pulse(station: Station) -> None:
    station.pulse(6)
    station.probers["governor"].verdict = "refuted"
    while kept(station)["diagnostics"].level is Level.EXECUTE:
        station.pulse()
    desk, number = station.cbo.desk, station.cbo.pulse_number()
    with pytest.raises(Refused, match=r"demoted in this very pulse .* raise it after the next one"):
        desk.set_level("diagnostics", Level.EXECUTE, "go on", number, "operator")
    assert desk.set_level("diagnostics", Level.SUGGEST, "careful", number, "operator").level is Level.SUGGEST
    station.pulse()
    raised = desk.set_level("diagnostics", Level.EXECUTE, "looked into it", station.cbo.pulse_number(), "operator")
    assert raised.level is Level.EXECUTE


@pytest.fixture
def office(tmp_path: Path) -> Any:
    notes = tmp_path / "notes"
    notes.mkdir()
    made = Office(tmp_path / "station", notes.resolve())
    yield made
    made.station.cbo.close()


def test_an_expired_manifest_shows_watch_and_its_renewal_brings_the_level_back_on_probation(office: Office) -> None:
    clock = office.station.clock
    office.approve()
    office.station.cbo.desk.set_level("notes", Level.EXECUTE, "tested", 0, "operator")
    clock.advance(timedelta(days=31).total_seconds())
    ladder = office.station.cbo.bridge.ladder
    expired = ladder.rung("notes")
    assert (expired.level, expired.standing.level) == (Level.OBSERVE, Level.EXECUTE)
    assert "expired at" in expired.decision.reason and "brings EXECUTE back" in expired.decision.next
    office.pulse()
    assert rebuild(records(office.station))["notes"] == ladder.standing("notes")
    office.approve(serial=2, previous=office.book["notes"].digest)
    renewed = ladder.rung("notes")
    assert (renewed.level, renewed.standing.evidence, renewed.standing.probation) == (Level.EXECUTE, 1.0, True)


def test_a_person_can_lower_but_not_raise_what_has_expired(office: Office) -> None:
    office.approve()
    office.station.clock.advance(timedelta(days=31).total_seconds())
    desk = office.station.cbo.desk
    with pytest.raises(Refused, match="notes can't rise: expired at"):
        desk.set_level("notes", Level.EXECUTE, "higher", 0, "operator")
    desk.set_level("notes", Level.SUGGEST, "lower", 0, "operator")
    assert office.station.cbo.bridge.ladder.standing("notes").level is Level.SUGGEST


def test_a_revoked_domain_shows_watch_with_who_revoked_it(office: Office) -> None:
    office.approve()
    office.revoke()
    revoked = office.station.cbo.bridge.ladder.rung("notes")
    assert revoked.level is Level.OBSERVE and "revoked by operator: too noisy" in revoked.decision.reason


def test_expiry_during_a_run_of_good_pulses_promotes_nothing(office: Office) -> None:
    """The fifth good rehearsal is answered in time and judged after the end."""
    office.approve()
    station = office.station
    end = office.book["notes"].expires_at
    assert end is not None
    for _ in range(5):
        station.cbo.desk.submit("tidy the notes", "notes", {}, schedule=Schedule(), key="", who="operator")
        station.cbo.run_pulse()
        office.answer()
        if station.cbo.bridge.ladder.standing("notes").run == 4:
            break
    assert station.cbo.bridge.ladder.standing("notes").run == 4, "the fifth is answered and waits for its pulse"
    station.clock.advance((end - station.clock.now()).total_seconds() + 1)
    office.pulse()
    rung = station.cbo.bridge.ladder.rung("notes")
    assert (rung.level, rung.standing.level, rung.standing.run) == (Level.OBSERVE, Level.GUIDE, 5)


def test_two_domains_in_one_pulse_rise_and_fall_apart(station: Station) -> None:
    ladder = station.cbo.bridge.ladder
    station.pulse(5)
    ladder.force("cleanup", Level.EXECUTE, "tested", station.cbo.pulse_number(), station.clock.now())
    station.cbo.desk.submit("clean up", "cleanup", {}, schedule=Schedule(), key="", who="operator")
    station.cbo.run_pulse()
    assert ladder.standing("diagnostics").level is Level.EXECUTE
    station.answer.seconds = 899.0
    station.agent()
    record = station.pulse()
    changed = {(each["domain"], each["after"]) for each in record["critique"]["level_changes"]}
    assert ("cleanup", "GUIDE") in changed
    assert rebuild(records(station)) == kept(station)


@pytest.mark.parametrize(
    ("changes", "seconds", "files", "words"),
    [
        ({"max_level": Level.GUIDE}, 3.0, 1, "max_level in its manifest is GUIDE"),
        ({"effects": "irreversible"}, 3.0, 1, "effects: irreversible"),
        ({}, 200.0, 1, "fast_s is 30 s, slow_s 300 s"),
        ({}, 3.0, 20, "small_files is 4, large_files 40"),
        ({}, 3.0, 1, ""),
    ],
)
def test_what_makes_promotion_unreachable_is_named_from_what_is_on_record(
    new_station: NewStation, changes: dict[str, Any], seconds: float, files: int, words: str
) -> None:
    station = new_station()
    station.domains["diagnostics"] = replace(station.domains["diagnostics"], **changes)
    station.answer.seconds, station.answer.files = seconds, files
    station.pulse(4)
    station.cbo.close()
    station.open()
    bridge = station.cbo.bridge
    recent = bridge.store.tasks("tasks_by_domain", "diagnostics", RUNS)
    found = obstacle(bridge.ladder.rung("diagnostics"), station.domains["diagnostics"], recent)
    assert words in found and bool(words) == bool(found)


def test_one_slow_run_among_good_ones_is_no_obstacle(station: Station) -> None:
    station.pulse(2)
    station.answer.seconds = 800.0
    station.pulse(2)
    bridge = station.cbo.bridge
    recent = bridge.store.tasks("tasks_by_domain", "diagnostics", RUNS)
    assert obstacle(bridge.ladder.rung("diagnostics"), station.domains["diagnostics"], recent) == ""


def test_what_was_taken_survives_json(station: Station) -> None:
    station.pulse(2)
    for record in records(station):
        for each in record["critique"]["ladder_log"]["entries"]:
            assert Taken.from_json(each).to_json() == each
