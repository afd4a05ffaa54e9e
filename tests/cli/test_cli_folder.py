"""Commands that read the station folder itself: audit and doctor."""

import json
import sqlite3

import pytest
from cli_harness import Console

from chassis.atomic import write_json
from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.layout import Layout


@pytest.fixture
def layout(calyx: Console) -> Layout:
    found_station(calyx.reach.layout, VirtualClock(), CountedIds())
    return calyx.reach.layout


def written(layout: Layout, service: str, *events: str) -> Audit:
    audit = Audit(layout.audit(service), VirtualClock(), service)
    for event in events:
        audit.write(event)
    return audit


def test_chains_that_hold_verify(calyx: Console, layout: Layout) -> None:
    head = written(layout, "cbo", "a", "b").head
    folder = layout.pulses / "20260101"
    folder.mkdir(parents=True)
    write_json(folder / "bp-000000001.json", {"id": "bp-000000001", "audit_heads": {"cbo": head}})
    written(layout, "cbo", "c")
    value = calyx.json("audit", "verify")
    assert value["ok"] is True
    assert [(c["service"], c["lines"]) for c in value["chains"]] == [("cbo", 3)]


def test_a_changed_line_fails_the_check(calyx: Console, layout: Layout) -> None:
    written(layout, "cbo", "level.set", "b")
    path = layout.audit("cbo")
    path.write_text(path.read_text().replace("level.set", "level.get"))
    value = calyx.json("audit", "verify", status=1)
    assert value["chains"][0]["first_bad"] == 1


def test_a_chain_that_was_cut_short_fails_against_the_last_pulse(calyx: Console, layout: Layout) -> None:
    head = written(layout, "cbo", "a", "b").head
    folder = layout.pulses / "20260101"
    folder.mkdir(parents=True)
    write_json(folder / "bp-000000007.json", {"id": "bp-000000007", "audit_heads": {"cbo": head, "memory": head}})
    path = layout.audit("cbo")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    reasons = {c["service"]: c["reason"] for c in calyx.json("audit", "verify", status=1)["chains"]}
    assert "bp-000000007 recorded" in reasons["cbo"]
    assert reasons["memory"] == "the chain is missing"


def test_tail_merges_the_chains_by_time(calyx: Console, layout: Layout) -> None:
    clock = VirtualClock()
    cbo, memory = Audit(layout.audit("cbo"), clock, "cbo"), Audit(layout.audit("memory"), clock, "memory")
    for writer, event in ((cbo, "one"), (memory, "two"), (cbo, "three")):
        clock.advance(1)
        writer.write(event)
    assert [entry["event"] for entry in calyx.json("audit", "tail", "-n", "2")["entries"]] == ["two", "three"]


def test_audit_without_a_station_exits_with_three(calyx: Console) -> None:
    assert "--station" in calyx.run("audit", "verify", status=3)[1]


def answers(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return {check["check"]: check["answer"] for check in value["checks"]}


def test_doctor_finds_a_whole_station_whole(calyx: Console, layout: Layout) -> None:
    value = calyx.json("doctor")
    assert value["ok"] is True
    assert set(answers(value)) == {
        "python", "ports", "disk", "permissions", "clock", "cgroup", "psi", "gpu", "docker", "backups", "integrity",
        "notify",
    }  # fmt: skip


def test_doctor_says_how_old_the_backups_are(calyx: Console, layout: Layout) -> None:
    def said() -> tuple[str, str]:
        (check,) = (each for each in calyx.json("doctor")["checks"] if each["check"] == "backups")
        return check["answer"], check["found"]

    assert said() == ("note", "nothing to back up yet")
    for folder in (layout.memory, layout.state("cbo")):
        (folder / "backups").mkdir(parents=True)
        (folder / "backups" / f"{folder.name}-{calyx.reach.clock.now():%Y%m%dT%H%M%SZ}.sqlite").touch()
        sqlite3.connect(folder / f"{folder.name}.sqlite").close()
    calyx.reach.clock.advance(3 * 3600)
    assert said() == ("ok", "memory 3 h ago, cbo 3 h ago")
    calyx.reach.clock.advance(46 * 3600)
    assert said() == ("note", "memory 49 h ago, cbo 49 h ago")
    for each in (layout.state("cbo") / "backups").iterdir():
        each.unlink()
    assert said() == ("note", "memory 49 h ago, cbo none yet")


def test_doctor_names_open_secrets_and_damage_with_a_fix(calyx: Console, layout: Layout) -> None:
    (layout.secrets / "cbo.token").chmod(0o644)
    for folder, name, fix in (
        (layout.state("cbo"), "cbo.sqlite", "calyx cbo restore"),
        (layout.memory, "experience.sqlite", "calyx memory restore"),
    ):
        folder.mkdir(parents=True)
        with sqlite3.connect(folder / name) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        database = folder / name
        database.write_bytes(database.read_bytes()[:100] + b"\xff" * 4000)
        value = calyx.json("doctor", status=1)
        assert fix in next(check["fix"] for check in value["checks"] if check["check"] == "integrity")
    assert answers(value)["permissions"] == answers(value)["integrity"] == "fail"
    fixes = {check["check"]: check["fix"] for check in value["checks"]}
    assert fixes["permissions"].startswith("chmod go= ") and fixes["integrity"]
    assert "experience.sqlite" in json.dumps(value)


def test_doctor_says_when_the_clock_is_behind_the_station(calyx: Console) -> None:
    later = VirtualClock()
    later.advance(10 * 86400)
    found_station(calyx.reach.layout, later, CountedIds())
    assert answers(calyx.json("doctor", status=1))["clock"] == "fail"
