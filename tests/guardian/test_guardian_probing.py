import gzip
import hashlib
import json
import lzma
import os
import sqlite3
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, Refused
from chassis.executor import InlineExecutor
from chassis.probing import Check, Verdict, join, run_checks
from chassis.rpc.probe_servicer import ProbeServicer

C, R, Q = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.INCONCLUSIVE


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def look(kind: str, target: Path | str, roots: list[Path] | None = None, **expect: str) -> Verdict:
    return run_checks([Check(kind=kind, target=str(target), expect=expect)], roots=roots).verdict


def test_no_check_at_all_confirms_nothing() -> None:
    assert run_checks([]).verdict is Q


@given(st.lists(st.sampled_from(Verdict), max_size=6))
def test_the_joined_verdict_is_confirmed_only_if_every_check_is(verdicts: list[Verdict]) -> None:
    joined = join(verdicts)
    assert (joined is C) == (bool(verdicts) and all(v is C for v in verdicts))
    assert (joined is R) == (R in verdicts)


def test_a_file_is_confirmed_by_its_digest_and_refuted_by_another(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"hello")
    assert look("file_digest", file, sha256=sha(b"hello"), size="5") is C
    assert look("file_digest", file, sha256=sha(b"other")) is R
    assert look("file_digest", file, sha256=sha(b"hello"), size="6") is R
    assert look("file_digest", tmp_path / "gone", sha256=sha(b"hello")) is R


@pytest.mark.parametrize("name", ["secrets/callers.json", "id_ed25519", ".env", "grant.key"])
def test_a_claim_reads_no_secret_through_the_prober(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"callers":{"cbo":"hunter2"}}')
    for kind, expect in (("json_fields", {"callers.cbo": "?"}), ("file_digest", {"sha256": "?"})):
        report = run_checks([Check(kind=kind, target=str(file), expect=expect)], roots=[tmp_path])
        assert report.verdict is Q
        assert "hunter2" not in report.findings[0].found and sha(file.read_bytes()) not in report.findings[0].found


def test_what_the_prober_does_not_understand_is_never_confirmed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"hello")
    assert look("telepathy", file, sha256=sha(b"hello")) is Q
    assert look("file_digest", file, sha256=sha(b"hello"), colour="blue") is Q
    assert look("file_digest", file) is Q
    assert look("file_digest", "a", sha256=sha(b"hello")) is Q
    assert look("json_fields", file) is Q
    assert look("archive_of", file, codec="rar", content_sha256=sha(b"x")) is Q
    assert look("service_health", "memory", state="up") is Q


def test_links_and_pipes_are_not_the_file_that_was_claimed(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "a", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"hello")
    link.symlink_to(file)
    os.mkfifo(pipe)
    for target in (link, pipe, tmp_path):
        assert look("file_digest", target, sha256=sha(b"hello")) is R


def test_with_roots_nothing_outside_is_looked_at_even_through_a_linked_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"hello")
    (inside / "door").symlink_to(outside)
    expect = {"sha256": sha(b"hello")}
    assert look("file_digest", inside / "sub" / "a", [inside], **expect) is C
    assert look("file_digest", outside / "a", [inside], **expect) is Q
    assert look("file_digest", inside / "door" / "a", [inside], **expect) is not C
    assert look("file_digest", inside / ".." / "out" / "a", [inside], **expect) is Q


def test_absence_needs_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"")
    assert look("absent", tmp_path / "gone") is C
    assert look("absent", tmp_path / "here") is R
    assert look("absent", tmp_path / "not-mounted" / "gone") is Q


@pytest.mark.parametrize("codec", ["gzip", "xz", "zstd"])
def test_an_archive_is_checked_by_what_it_decompresses_to(tmp_path: Path, codec: str) -> None:
    content = b"line\n" * 10_000
    packed = {
        "gzip": gzip.compress(content),
        "xz": lzma.compress(content),
        "zstd": zstandard.compress(content),
    }[codec]
    file = tmp_path / "log.packed"
    file.write_bytes(packed)
    expect = {"codec": codec, "content_sha256": sha(content)}
    assert look("archive_of", file, sha256=sha(packed), **expect) is C
    assert look("archive_of", file, codec=codec, content_sha256=sha(content[:-1])) is R
    file.write_bytes(packed[:-20])
    assert look("archive_of", file, **expect) is R
    file.write_bytes(content)
    assert look("archive_of", file, **expect) is R


def test_a_prefix_holds_while_the_file_grows_and_fails_when_it_is_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one\n")
    expect = {"size": "4", "sha256": sha(b"one\n")}
    assert look("prefix_digest", file, **expect) is C
    file.write_bytes(b"one\ntwo\n")
    assert look("prefix_digest", file, **expect) is C
    file.write_bytes(b"One\ntwo\n")
    assert look("prefix_digest", file, **expect) is R
    file.write_bytes(b"one")
    assert look("prefix_digest", file, **expect) is R


def test_json_fields_are_compared_by_dotted_key(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"a": {"b": [1, "x"]}, "ok": True}))
    assert look("json_fields", file, **{"a.b.1": "x", "ok": "true"}) is C
    assert look("json_fields", file, **{"a.b.0": "2"}) is R
    assert look("json_fields", file, **{"a.c": "2"}) is R
    file.write_text("{")
    assert look("json_fields", file, ok="true") is R


def test_a_database_is_checked_without_changing_it(tmp_path: Path) -> None:
    file = tmp_path / "d.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [(str(n) * 50,) for n in range(1000)])
    database.close()
    before = file.read_bytes()
    assert look("sqlite", file, integrity="ok") is C
    assert file.read_bytes() == before
    file.write_bytes(before[:4096] + b"\xff" * 4096 + before[8192:])
    assert look("sqlite", file, integrity="ok") is R
    file.write_bytes(b"not a database")
    assert look("sqlite", file, integrity="ok") is R


def test_a_process_is_known_by_its_start_not_only_by_its_pid(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text("42 (a b) c) S " + " ".join(str(n) for n in range(4, 25)))

    def process(pid: str, **expect: str) -> Verdict:
        return run_checks([Check(kind="process", target=pid, expect=expect)], proc=tmp_path).verdict

    assert process("42", state="running", name="a b) c", start_ticks="22") is C
    assert process("42", state="running", start_ticks="99") is R
    assert process("42", state="gone", start_ticks="99") is C
    assert process("43", state="gone") is C
    assert process("43", state="running") is R
    assert process("42") is Q


def test_service_health_is_what_the_prober_knows() -> None:
    check = Check(kind="service_health", target="memory", expect={"state": "up"})
    assert run_checks([check], health=lambda _: "up").verdict is C
    assert run_checks([check], health=lambda _: "down").verdict is R
    assert run_checks([check], health=lambda _: None).verdict is Q


def probe(doer: str) -> object:
    from calyx.probe.v1 import probe_pb2 as pb

    servicer = ProbeServicer("guardian", InlineExecutor(), VirtualClock(), run_checks)
    coroutine = servicer.Probe(pb.ProbeRequest(task_id="t", domain="d", doer=doer), None)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a servicer on the inline executor does not suspend")


def test_the_doer_does_not_certify_itself() -> None:
    with pytest.raises(Refused):
        probe("guardian")
    with pytest.raises(InvalidInput):
        probe("")


def test_a_probe_without_checks_is_inconclusive_on_the_wire() -> None:
    from calyx.probe.v1 import probe_pb2 as pb

    response = probe("governor")
    assert isinstance(response, pb.ProbeResponse)
    assert response.verdict == pb.VERDICT_INCONCLUSIVE
    assert response.prober == "guardian"
