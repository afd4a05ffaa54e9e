"""Copies of cbo.sqlite, and what a CBO does that finds itself on one that is older than its pulse records."""

import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cbo_station import Station
from domain_letters import Office

from chassis import replacing
from chassis.domains import Level
from chassis.errors import Damaged, NotFound, Refused, Unavailable
from services.cbo import backup, restoring
from services.cbo.agents import Registry
from services.cbo.backup import EVERY, KEPT, Backups
from services.cbo.objectives import Schedule
from services.cbo.replay_desk import ReplayDesk
from services.cbo.restoring import Restored, copies, restore
from services.cbo.store import Store

NewStation = Callable[..., Station]


def put_back(station: Station, copy: Path) -> None:
    """What `calyx cbo restore COPY` does with a stopped station."""
    station.cbo.close()
    put(station, named=copy.relative_to(station.layout.root).as_posix())
    station.open()


def put(station: Station, *, named: str = "", empty: bool = False, dry_run: bool = False) -> Restored:
    return restore(station.layout, station.clock, named=named, empty=empty, dry_run=dry_run)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (path.stat().st_size - 100))


def ask(station: Station, text: str) -> str:
    made = station.cbo.desk.submit(text, "log_rotation", {}, schedule=Schedule(), key="", who="operator")
    return str(made.id)


def number(record: str) -> int:
    return int(record.removeprefix("bp-"))


def test_a_copy_a_day_is_made_and_the_newest_few_are_kept(station: Station) -> None:
    station.pulse()
    folder = station.layout.state("cbo") / "backups"
    for _ in range(2):
        station.cbo.backups.step()
        assert len(list(folder.iterdir())) == 1, "one a day"
    for _ in range(KEPT + 1):
        station.clock.advance(EVERY.total_seconds())
        station.cbo.backups.step()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == KEPT
    assert names[-1] == f"cbo-{station.clock.now():%Y%m%dT%H%M%SZ}.sqlite"
    with sqlite3.connect(folder / names[-1]) as copy:
        assert copy.execute("SELECT count(*) FROM pulse").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_copy_is_of_one_moment_and_nobody_waits_for_the_end_of_it(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pulse runs while it is made: it is not in it. A pulse that is under way is waited for."""
    station.pulse(2)
    held, real = threading.Lock(), backup.sqlite3.connect

    def connect(name: object, **how: object) -> sqlite3.Connection:
        if "backups" in str(name):  # the snapshot is taken by now
            station.pulse()
        return real(name, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(backup.sqlite3, "connect", connect)
    entered = []
    made = Backups(
        station.layout.state("cbo"), lambda: entered.append(station.cbo._one_pulse.locked()) or held,  # type: ignore[func-returns-value]
        station.clock.now,
    ).write()  # fmt: skip
    assert entered == [False]
    with real(made) as copy:
        assert copy.execute("SELECT count(*) FROM pulse").fetchone() == (2,)
    assert station.cbo.pulse_number() == 3


def test_what_is_not_whole_or_could_not_be_written_is_no_backup(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.pulse()
    database = station.layout.state("cbo") / "cbo.sqlite"
    folder = database.parent / "backups"
    station.cbo.close()
    with sqlite3.connect(database) as plain:
        root = plain.execute("SELECT rootpage FROM sqlite_master WHERE name = 'task_by_state'").fetchone()[0]
        size = plain.execute("PRAGMA page_size").fetchone()[0]
    with database.open("r+b") as file:
        file.seek((root - 1) * size + 8)
        file.write(b"\xff" * 64)
    damaged = Backups(database.parent, threading.Lock, station.clock.now)
    with pytest.raises((Damaged, sqlite3.DatabaseError)):
        damaged.write()
    damaged.step()
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(backup.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    damaged.step()
    assert list(folder.iterdir()) == []


def test_after_an_older_copy_no_number_is_given_out_twice_and_the_records_stay(station: Station) -> None:
    station.pulse(3)
    copy = station.cbo.backups.write()
    station.pulse(4)
    last = station.record()
    before = {path: path.read_bytes() for path in station.layout.pulses.rglob("bp-*")}
    tasks = {manifest.task_id for manifest in station.done}
    put_back(station, copy)
    assert before == {path: path.read_bytes() for path in station.layout.pulses.rglob("bp-*")}
    assert station.audit("store.older")[0]["records"] == last["id"]
    record = station.pulse()
    assert number(record["id"]) == number(last["id"]) + 2
    assert record["previous"] == {"id": last["id"], "digest": last["seal"]["digest"]}
    assert {task["task_id"] for task in record["plan"]["tasks"]}.isdisjoint(tasks)
    (verdict,) = ReplayDesk(station.cbo).verdicts([record["id"]])
    assert verdict.status == "identical", verdict
    station.cbo.close()
    station.open()
    assert len(station.audit("store.older")) == 1, "once"
    assert number(station.pulse()["id"]) == number(record["id"]) + 1


def test_a_copy_from_the_middle_of_a_pulse_ends_nothing_that_has_its_record(station: Station) -> None:
    """Of a machine that was set back, say."""
    station.pulse(2)
    database = station.layout.state("cbo") / "cbo.sqlite"
    copy = station.folder / "middle.sqlite"

    def fault(point: str) -> None:
        if point == "dispatched" and not copy.exists():
            with sqlite3.connect(database) as source, sqlite3.connect(copy) as to:
                source.backup(to)

    station.cbo.close()
    station.open(fault)
    whole = station.pulse()
    put_back(station, copy)
    kept = next(station.layout.pulses.glob(f"*/{whole['id']}.json"))
    assert json.loads(kept.read_bytes())["status"] == "complete"
    assert station.audit("pulse.interrupted") == []
    assert number(station.pulse()["id"]) > number(whole["id"])


def test_after_an_older_copy_nobody_stands_higher_than_at_the_last_pulse(station: Station) -> None:
    station.pulse(8)
    ladder = station.cbo.bridge.ladder
    risen = ladder.standing("diagnostics").level
    assert risen > Level.GUIDE
    copy = station.cbo.backups.write()
    station.cbo.desk.set_level("diagnostics", Level.OBSERVE, "too eager", 0, "operator")
    station.pulse()
    put_back(station, copy)
    standing = station.cbo.bridge.ladder.standing("diagnostics")
    assert standing.level is Level.OBSERVE
    assert "older cbo.sqlite" in standing.reason
    assert station.audit("store.older")[0]["lowered"] == ["diagnostics"]


def test_where_the_limit_fell_below_where_a_domain_stood_last_the_limit_counts(station: Station) -> None:
    station.pulse(8)
    copy = station.cbo.backups.write()
    station.cbo.desk.set_level("diagnostics", Level.GUIDE, "too eager", 0, "operator")
    station.pulse()
    station.domains["diagnostics"] = replace(station.domains["diagnostics"], max_level=Level.OBSERVE)
    put_back(station, copy)
    assert station.cbo.bridge.ladder.rung("diagnostics").level is Level.OBSERVE


def test_a_start_that_is_killed_on_an_older_copy_leaves_no_agent_its_token(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.cbo.agents.invite("scout", ("sorting",), False, "operator")
    station.pulse()
    copy = station.cbo.backups.write()
    station.pulse()
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "revoke", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put_back(station, copy)
    station.cbo.bridge.store.close()
    station.open()
    assert station.cbo.agents.all()[0].revoked_at is not None
    assert len(station.audit("store.older")) == 1


def test_where_no_record_can_be_believed_everybody_begins_anew(station: Station) -> None:
    station.pulse(8)
    assert station.cbo.bridge.ladder.standing("diagnostics").level > Level.GUIDE
    copy = station.cbo.backups.write()
    station.pulse()
    for path in station.layout.pulses.glob("*/bp-*.json"):
        path.write_bytes(path.read_bytes().replace(b'"EXECUTE"', b'"execute"'))
    put_back(station, copy)
    assert station.cbo.bridge.ladder.standing("diagnostics").level <= Level.GUIDE
    station.pulse()


def test_what_may_have_been_done_since_is_not_done_again(station: Station) -> None:
    asked = ask(station, "rotate the logs once")
    copy = station.cbo.backups.write()
    station.pulse(3)
    done = [manifest for manifest in station.done if manifest.objective_id == asked]
    assert done
    put_back(station, copy)
    station.pulse(3)
    assert [manifest for manifest in station.done if manifest.objective_id == asked] == done
    objective = station.cbo.bridge.store.objective(asked)
    assert objective.state == "cancelled"
    assert "submit it again" in objective.note


def test_what_may_have_been_withdrawn_since_is_withdrawn(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    office = Office(tmp_path / "station", notes.resolve())
    office.approve()
    station = office.station
    _, token = station.cbo.agents.invite("noter", ("notes",), False, "operator")
    office.pulse()
    copy = station.cbo.backups.write()
    office.revoke()
    station.cbo.agents.revoke("noter", "lost its laptop", "operator")
    office.pulse()
    put_back(station, copy)
    task = office.ask()
    assert office.gate(task, "policy")[0] != "pass", "revoked or not: a person says so again"
    (agent,) = station.cbo.agents.all()
    assert agent.revoked_at is not None
    assert station.audit("store.older")[0]["domains"] == ["notes"]
    assert token
    office.approve()
    assert office.gate(office.ask(), "policy")[0] == "pass"
    station.cbo.close()


def test_the_newest_copy_put_back_before_another_pulse_changes_nothing(station: Station) -> None:
    asked = ask(station, "rotate the logs once")
    station.pulse(8)
    level = station.cbo.bridge.ladder.standing("diagnostics").level
    state = station.cbo.bridge.store.objective(asked).state
    put_back(station, station.cbo.backups.write())
    assert station.audit("store.older") == []
    assert station.cbo.bridge.ladder.standing("diagnostics").level is level
    assert station.cbo.bridge.store.objective(asked).state == state


def test_without_any_copy_a_new_database_goes_on_after_the_last_record(station: Station) -> None:
    station.pulse(8)
    last = station.record()
    station.cbo.close()
    assert put(station, empty=True).missing_pulses == number(last["id"])
    station.open()
    assert (
        station.audit("store.older")[0] | {"database": "bp-000000000", "records": last["id"]}
        == station.audit("store.older")[0]
    )
    record = station.pulse()
    assert number(record["id"]) == number(last["id"]) + 2
    assert station.cbo.bridge.ladder.standing("diagnostics").level <= Level.GUIDE


def test_the_newest_whole_copy_takes_the_place_of_a_damaged_file(station: Station) -> None:
    folder = station.layout.state("cbo")
    database = folder / "cbo.sqlite"
    station.pulse(3)
    whole = station.cbo.backups.write()
    station.pulse()
    station.clock.advance(EVERY.total_seconds())
    newer = station.cbo.backups.write()
    last = station.record()
    station.cbo.close()
    damage(newer)
    damage(database)
    broken = database.read_bytes()
    database.with_name("cbo.sqlite-wal").write_bytes(b"its log")
    with pytest.raises(Damaged, match="calyx cbo restore"):
        Store(folder)
    assert [bool(each.fault) for each in copies(station.layout)] == [True, False]
    planned = put(station, dry_run=True)
    assert (planned.set_aside, database.read_bytes()) == ("", broken)
    done = put(station)
    assert done.copy is not None
    assert done.copy.path == f"cbo/backups/{whole.name}"
    assert (done.copy.last_pulse, done.newest_record) == ("bp-000000003", last["id"])
    assert done.missing_pulses == number(last["id"]) - 3
    aside = station.layout.root / done.set_aside
    assert (aside / "cbo.sqlite").read_bytes() == broken
    assert (aside / "cbo.sqlite-wal").read_bytes() == b"its log"
    station.open()
    assert station.audit("store.older")[0]["database"] == "bp-000000003"
    assert number(station.pulse()["id"]) == number(last["id"]) + 2


def test_what_may_not_be_replaced_stays_and_the_reason_is_told(station: Station) -> None:
    database = station.layout.state("cbo") / "cbo.sqlite"
    station.pulse()
    with pytest.raises(Refused, match="calyx down"):
        put(station)
    station.cbo.close()
    before = database.read_bytes()
    with pytest.raises(NotFound, match="no whole backup"):
        put(station)
    station.open()
    copy = station.cbo.backups.write()
    station.cbo.close()
    with pytest.raises(Refused, match="is whole; name the backup"):
        put(station)
    with pytest.raises(NotFound, match="calyx cbo backups"):
        put(station, named="cbo/backups/none.sqlite")
    with sqlite3.connect(copy) as newer:
        newer.execute("PRAGMA user_version = 999")
    with pytest.raises(Damaged, match="made by a newer release"):
        put(station, named=f"cbo/backups/{copy.name}")
    (copy.parent / "empty.sqlite").touch()
    with pytest.raises(Damaged, match="no database of the CBO"):
        put(station, named="cbo/backups/empty.sqlite")
    assert database.read_bytes() == before
    assert not (database.parent / "replaced").exists()


def test_a_full_disk_while_it_is_put_back_leaves_the_damaged_file(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = station.layout.state("cbo") / "cbo.sqlite"
    station.pulse()
    station.cbo.backups.write()
    station.cbo.close()
    damage(database)
    before = database.read_bytes()
    monkeypatch.setattr(restoring.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Unavailable, match="No space"):
        put(station)
    monkeypatch.undo()
    assert database.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr(restoring.Audit, "write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(Unavailable, match="No space"):
            put(station)
    assert database.read_bytes() == before, "no audit line, no effect"
    assert put(station).set_aside


def test_a_restore_that_was_killed_is_ended_by_the_next_start(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = station.layout.state("cbo") / "cbo.sqlite"
    station.pulse(2)
    station.cbo.backups.write()
    station.pulse()
    station.cbo.close()
    damage(database)
    with monkeypatch.context() as patched:
        patched.setattr(replacing.os, "link", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(station)
    station.open()
    assert station.audit("store.older")[0]["database"] == "bp-000000002"
    assert len(list(database.parent.glob("replaced/*/cbo.sqlite"))) == 1
