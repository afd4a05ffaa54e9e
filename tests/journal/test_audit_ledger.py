"""Changed pasts show: in the chain, over its files, against pulse records and against signed checkpoints."""

import random
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from chassis.atomic import write_json
from chassis.audit import GENESIS, Audit, archive_of, heads, segments, verify
from chassis.checkpoints import checkpoints, folder_of, write_checkpoint
from chassis.clock import VirtualClock
from chassis.identity import found_station, load_identity
from chassis.ids import CountedIds
from chassis.layout import Layout
from chassis.ledger import check_ledger
from chassis.signing import load_key, seal

TRIALS = 1000
LINES = 24


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "station")
    found_station(made, VirtualClock(), CountedIds())
    return made


def chain_of(path: Path, lines: int, segment_bytes: int = 1200) -> Audit:
    clock = VirtualClock()
    audit = Audit(path, clock, path.stem, segment_bytes=segment_bytes)
    for number in range(lines):
        clock.advance(1)
        audit.write("task.dispatched", task=f"t-{number}", domain="log_rotation", why="level is EXECUTE")
    return audit


def everything(path: Path) -> list[bytes]:
    return [line for segment in segments(path) for line in segment.read_bytes().splitlines(keepends=True)]


def put(path: Path, lines: list[bytes], sizes: list[int]) -> None:
    """Write lines into the chain's files as they were cut; what is left over goes into the last one."""
    for place, (segment, size) in enumerate(zip(segments(path), sizes, strict=True)):
        last = place == len(sizes) - 1
        mine, lines = (lines, []) if last else (lines[:size], lines[size:])
        segment.write_bytes(b"".join(mine))


def test_any_flipped_removed_added_or_reordered_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cbo.jsonl"
    audit = chain_of(path, LINES)
    whole = everything(path)
    sizes = [len(segment.read_bytes().splitlines()) for segment in segments(path)]
    assert len(sizes) > 3
    draw = random.Random(20261123)
    for trial in range(TRIALS):
        lines, at = list(whole), draw.randrange(LINES)
        kind = ("flipped", "removed", "added", "reordered")[trial % 4]
        if kind == "flipped":
            line = bytearray(lines[at])
            line[draw.randrange(len(line) - 1)] ^= 1 << draw.randrange(8)
            lines[at] = bytes(line)
            expected = {at + 1}
        elif kind == "removed":
            at = draw.randrange(LINES - 1)  # a removed last line only shows against a witness
            del lines[at]
            expected = {at + 1}
        elif kind == "added":
            lines.insert(at, draw.choice(whole))
            # A copy of the line before it may stand where that one ended; it is the copy that does not follow.
            expected = {at + 1, at + 2}
        else:
            other = draw.choice([place for place in range(LINES) if place != at])
            lines[at], lines[other] = lines[other], lines[at]
            expected = {min(at, other) + 1}
        put(path, lines, sizes)
        found = verify(path)
        if b"".join(lines) == b"".join(whole):
            continue
        assert found.first_bad in expected or (kind == "flipped" and _split(lines[at], found.first_bad, at)), (
            trial, kind, at, found,
        )  # fmt: skip
        assert found.where
    put(path, whole, sizes)
    assert verify(path).head == audit.head


def _split(line: bytes, first_bad: int | None, at: int) -> bool:
    """A flip that made a newline: the first half is the bad line."""
    return line.count(b"\n") > 1 and first_bad == at + 1


def test_a_chain_goes_on_over_its_files_and_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "cbo.jsonl"
    first = chain_of(path, 30)
    again = Audit(path, VirtualClock(), "cbo", segment_bytes=2000)
    assert again.head == first.head
    again.write("after")
    found = verify(path)
    assert (found.first_bad, found.lines, found.head) == (None, 31, again.head)
    assert heads(tmp_path) == {"cbo": again.head}


def test_a_restart_between_two_files_goes_on_from_the_full_one(tmp_path: Path) -> None:
    path = tmp_path / "cbo.jsonl"
    head = chain_of(path, 9).head
    archive = archive_of(path)
    path.rename(archive / f"{len(segments(path)):08d}.jsonl")  # as a kill -9 in the middle of a rotation leaves it
    again = Audit(path, VirtualClock(), "cbo", segment_bytes=2000)
    assert again.head == head
    again.write("after")
    assert verify(path).first_bad is None


def test_a_missing_file_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cbo.jsonl"
    chain_of(path, LINES)
    (archive_of(path) / "00000002.jsonl").unlink()
    assert "00000002.jsonl is missing" in verify(path).reason


def test_where_a_full_file_can_not_be_moved_the_chain_grows_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "cbo.jsonl"
    audit = chain_of(path, 3, segment_bytes=10**6)
    archive_of(path).write_bytes(b"in the way")
    small = Audit(path, VirtualClock(), "cbo", segment_bytes=10)
    small.write("goes on")
    assert verify(path).lines == 4
    assert audit.head != small.head


def record(layout: Layout, pulse: str, seen: dict[str, str]) -> None:
    folder = layout.pulses / "20260101"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{pulse}.json", {"id": pulse, "audit_heads": seen})


def test_a_removed_tail_is_named_by_the_pulse_that_saw_it_and_what_came_after_is_unverifiable(layout: Layout) -> None:
    path = layout.audit("cbo")
    audit = chain_of(path, 10, segment_bytes=10**6)
    record(layout, "bp-000000001", {"cbo": audit.head, "memory": GENESIS})
    audit.write("after the last pulse")
    audit.write("and once more")
    (chain,) = check_ledger(layout)[0]
    assert (chain.ok, chain.lines, chain.unverifiable) == (True, 12, 2)
    lines = everything(path)
    path.write_bytes(b"".join(lines[:10]))
    assert check_ledger(layout)[0][0].ok, "nothing saw the last two lines, and the check says so beforehand"
    path.write_bytes(b"".join(lines[:9]))
    (chain,) = check_ledger(layout)[0]
    assert not chain.ok
    assert "bp-000000001" in chain.reason


def sign(layout: Layout, pulse: str, days: int) -> None:
    clock = VirtualClock()
    folder = layout.audit("x").parent
    sealing = partial(seal, signer=load_key(layout.secrets / "grant.key"))
    identity = load_identity(layout)
    write_checkpoint(folder, heads(folder), pulse, identity.station_id, clock.now() + timedelta(days=days), sealing)


def test_a_past_written_anew_from_its_first_line_shows_against_the_signed_checkpoint(layout: Layout) -> None:
    path = layout.audit("cbo")
    chain_of(path, 5, segment_bytes=10**6)
    sign(layout, "bp-000000001", 0)
    chains, signed = check_ledger(layout)
    assert chains[0].ok
    assert [each.fault for each in signed] == [""]
    path.unlink()
    forged = chain_of(path, 4, segment_bytes=10**6)  # a chain that holds, with another past
    record(layout, "bp-000000002", {"cbo": forged.head})  # and a pulse record made to fit
    assert verify(path).first_bad is None
    (chain,) = check_ledger(layout)[0]
    assert not chain.ok
    assert ".json recorded" in chain.reason


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder[1].unlink(), "changed or removed"),
        (lambda folder: folder[0].unlink(), "are gone"),
        (lambda folder: folder[1].write_bytes(folder[1].read_bytes().replace(b'"payload":"e', b'"payload":"f')), ""),
        (lambda folder: folder[1].write_bytes(folder[0].read_bytes()), "another day"),
        (lambda folder: folder[1].write_bytes(b"{}"), "not a DSSE envelope"),
    ],
)
def test_a_changed_moved_or_missing_checkpoint_is_named(layout: Layout, spoil: object, said: str) -> None:
    chain_of(layout.audit("cbo"), 5)
    for day in range(3):
        sign(layout, f"bp-{day + 1:09d}", day)
    audit = layout.audit("x").parent
    spoil(sorted(folder_of(audit).iterdir()))  # type: ignore[operator]  # a function of the files
    faults = [each.fault for each in checkpoints(audit, layout.keys / "grant.pub", load_identity(layout).station_id)]
    assert any(fault and said in fault for fault in faults), faults


def test_checkpoints_of_another_station_count_for_nothing(layout: Layout) -> None:
    chain_of(layout.audit("cbo"), 5)
    sign(layout, "bp-000000001", 0)
    audit = layout.audit("x").parent
    (found,) = checkpoints(audit, layout.keys / "grant.pub", "st-other")
    assert "another station" in found.fault
