"""`calyx cbo`: works on the files of a station that is down, through the CBO's own program."""

import json
import sqlite3

import pytest
from cli_harness import Console

from chassis.clock import VirtualClock
from chassis.identity import found_station
from chassis.ids import CountedIds
from services.cbo.backup import Backups
from services.cbo.store import Store


@pytest.fixture
def calyx_with_copies(calyx: Console) -> Console:
    layout = calyx.reach.layout
    found_station(layout, VirtualClock(), CountedIds())
    folder = layout.state("cbo")
    store = Store(folder)
    store.run("fact_set", "what", "was there")
    Backups(folder, store.transaction, VirtualClock().now).write()
    store.close()
    return calyx


def test_a_damaged_database_is_put_back_by_two_commands(calyx_with_copies: Console) -> None:
    calyx, database = calyx_with_copies, calyx_with_copies.reach.layout.state("cbo") / "cbo.sqlite"
    out, _ = calyx.run("cbo", "backups")
    assert "whole" in out
    assert "cbo/backups/cbo-20260101T000000Z.sqlite" in out
    _, why = calyx.run("cbo", "restore", status=1)
    assert "is whole; name the backup" in why
    database.write_bytes(b"not a database at all" * 100)
    out, _ = calyx.run("cbo", "restore", "--dry-run")
    assert out.startswith("would put cbo/backups/cbo-2026")
    assert database.read_bytes().startswith(b"not a database")
    value = calyx.json("cbo", "restore")
    assert (calyx.reach.layout.root / value["set_aside"] / "cbo.sqlite").read_bytes().startswith(b"not a database")
    with sqlite3.connect(database) as restored:
        assert restored.execute("SELECT value FROM fact WHERE name = 'what'").fetchone() == ("was there",)
    line = json.loads(calyx.reach.layout.audit("cbo").read_text().splitlines()[-1])
    assert line["event"] == "cbo.restore"


def test_none_can_be_put_back_and_a_wrong_word_is_told(calyx_with_copies: Console) -> None:
    calyx = calyx_with_copies
    _, why = calyx.run("cbo", "restore", "elsewhere.sqlite", status=2)
    assert "calyx cbo backups" in why
    _, why = calyx.run("cbo", "restore", "x", "--empty", status=2)
    assert "not both" in why
    out, _ = calyx.run("cbo", "restore", "--empty")
    assert "begins anew" in out
    assert not (calyx.reach.layout.state("cbo") / "cbo.sqlite").exists()


def test_where_there_is_no_station_it_says_so(calyx: Console) -> None:
    _, why = calyx.run("cbo", "backups", status=2)
    assert "there is no station in" in why
