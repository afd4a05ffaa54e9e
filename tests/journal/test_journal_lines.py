"""Appended lines and audit chains on a disk that is full, or was damaged."""

from pathlib import Path

import pytest

from chassis.atomic import append_line, whole_lines
from chassis.audit import Audit, verify
from chassis.clock import VirtualClock
from tests.full_disk import full_disk


def test_a_line_that_did_not_fit_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    append_line(log, b"first")
    with full_disk(room=10), pytest.raises(OSError, match="full"):
        append_line(log, b"second")
    assert log.read_bytes() == b"first\n"
    append_line(log, b"second")
    assert list(whole_lines(log)) == [b"first", b"second"]
    assert not log.with_name("log.torn").exists(), "nothing was torn"


def test_the_chain_goes_on_after_a_full_disk(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "x.jsonl", VirtualClock(), "x")
    audit.write("one")
    with full_disk(room=(tmp_path / "x.jsonl").stat().st_size + 10), pytest.raises(OSError, match="full"):
        audit.write("lost")
    audit.write("two")
    check = verify(tmp_path / "x.jsonl")
    assert (check.first_bad, check.lines) == (None, 2)


def test_a_chain_broken_twice_at_the_same_place_keeps_both_broken_files(tmp_path: Path) -> None:
    chain = tmp_path / "x.jsonl"
    for damage in (b"first damage\n", b"second damage\n"):
        chain.write_bytes(damage)
        Audit(chain, VirtualClock(), "x")
    kept = {path.read_bytes() for path in tmp_path.glob("x.jsonl.broken-*")}
    assert kept == {b"first damage\n", b"second damage\n"}
