"""Payloads by digest: whole or not there, whatever comes, in whatever order, on whatever disk."""

import errno
import os
import random
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import CalyxError, InvalidInput, NotFound, ResourceExhausted
from chassis.exchange import artifacts as module
from chassis.exchange.artifacts import Artifacts, Named, named_in

HELLO = b"hello world"


def named(content: bytes) -> Named:
    return Named(sha256=sha256(content).hexdigest(), size=len(content))


def files(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


def put(artifacts: Artifacts, content: bytes, piece: int = 4, who: str = "scout") -> int:
    """As a caller does: asks how far it is, then goes on from there."""
    name, received = named(content), artifacts.put(who, named(content), 0, b"")
    while received < len(content):
        received = artifacts.put(who, name, received, content[received : received + piece])
    return received


def test_what_came_in_pieces_is_there_whole_and_read_in_pieces(tmp_path: Path) -> None:
    artifacts, name = Artifacts(tmp_path), named(HELLO)
    assert not artifacts.holds(name)
    with pytest.raises(NotFound):
        artifacts.get(name, 0)
    assert put(artifacts, HELLO) == len(HELLO)
    assert files(tmp_path) == [f"artifacts/sha256/{name.sha256[:2]}/{name.sha256}"]
    assert [artifacts.get(name, at, 4) for at in (0, 4, 8, 12)] == [b"hell", b"o wo", b"rld", b""]
    assert artifacts.get(name, -5, 10**9) == HELLO
    assert put(artifacts, b"") == 0 and artifacts.holds(named(b"")), "nothing at all is a payload too"


@given(st.binary(min_size=1, max_size=40), st.lists(st.tuples(st.integers(-1, 40), st.integers(0, 12)), max_size=12))
def test_pieces_in_any_order_never_make_another_payload(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, tries: list[tuple[int, int]]
) -> None:
    artifacts, name = Artifacts(tmp_path_factory.mktemp("svf")), named(content)
    for at, size in tries:
        received = artifacts.put("scout", name, at, content[max(0, at) : max(0, at) + size])
        assert artifacts.holds(name) == (received == len(content)), "who hears that all is there can rely on it"
    assert put(artifacts, content) == len(content)
    assert artifacts.get(name, 0) == content


def test_an_upload_goes_on_where_a_killed_process_left_it(tmp_path: Path) -> None:
    Artifacts(tmp_path).put("scout", named(HELLO), 0, HELLO[:5])
    again = Artifacts(tmp_path)
    assert again.put("scout", named(HELLO), 0, HELLO) == 5, "it says where to go on, and takes nothing twice"
    assert again.put("other", named(HELLO), 0, b"") == 0, "everybody has their own"
    assert again.put("scout", named(HELLO), 5, HELLO[5:]) == 11
    partial = tmp_path / "artifacts" / "partial" / f"other.{named(b'whole').sha256}"
    partial.write_bytes(b"whole")
    assert again.put("other", named(b"whole"), 0, b"") == 5 and again.holds(named(b"whole")), (
        "killed before it was kept"
    )


def test_a_whole_with_another_digest_is_dropped_and_one_too_long_is_refused(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    with pytest.raises(InvalidInput, match="another digest"):
        artifacts.put("scout", named(HELLO), 0, b"hello w0rld")
    with pytest.raises(InvalidInput, match="beyond"):
        artifacts.put("scout", named(HELLO), 0, HELLO + b"!")
    assert files(tmp_path) == []
    with pytest.raises(InvalidInput):
        artifacts.put("../scout", named(HELLO), 0, HELLO)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", HELLO.decode(), f"sha256:{'A' * 64}:1", f"sha256:{'a' * 64}:01", f"sha256:{'a' * 64}:-1",
     f"sha256:{'a' * 63}/:1", f"sha256:{'a' * 64}:1\n", f"sha256:{'a' * 64}:99999999999"],
)  # fmt: skip
def test_only_what_names_an_artifact_is_taken_for_one(text: str) -> None:
    with pytest.raises(CalyxError):
        Named.parse(text)


def test_params_name_artifacts_among_other_things() -> None:
    first, second = named(b"1"), named(b"2")
    assert Named.parse(str(first)) == first
    params = {"a": str(second), "b": str(first), "c": str(first), "d": "sha256:what", "e": f"see {first}"}
    assert named_in(params) == tuple(sorted((first, second)))


def test_one_too_large_to_be_anywhere_is_missing_and_breaks_nothing(tmp_path: Path) -> None:
    name = f"sha256:{'0' * 64}:{module.MAX_ARTIFACT_BYTES + 1}"
    assert "is not here" in Artifacts(tmp_path).missing({"data": name})
    with pytest.raises(ResourceExhausted, match="split it"):
        Named.parse(name)


def test_one_damaged_since_is_mended_by_putting_it_again_once_the_service_has_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, name = Artifacts(tmp_path), named(HELLO)
    put(artifacts, HELLO)
    path = tmp_path / files(tmp_path)[0]
    path.write_bytes(b"hello w0rld")
    with monkeypatch.context() as patch:
        patch.delattr(module, "_digest")
        assert put(artifacts, HELLO) == 11, "not read through for each who asks"
    artifacts = Artifacts(tmp_path)
    assert put(artifacts, HELLO) == 11 and artifacts.get(name, 0) == HELLO
    path.write_bytes(b"hello")
    assert not artifacts.holds(name)
    with pytest.raises(InvalidInput, match="damaged"):
        artifacts.get(name, 0)
    assert put(artifacts, HELLO) == 11 and artifacts.get(name, 0) == HELLO


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_plain_file_is_neither_read_nor_believed(tmp_path: Path, kind: str) -> None:
    artifacts, name = Artifacts(tmp_path), named(HELLO)
    put(artifacts, HELLO)
    path = tmp_path / files(tmp_path)[0]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(HELLO)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    assert not artifacts.holds(name) and "not here" in artifacts.missing({"a": str(name)})
    with pytest.raises(CalyxError):
        artifacts.get(name, 0)


def test_a_full_disk_is_told_and_the_upload_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, name = Artifacts(tmp_path), named(HELLO)
    artifacts.put("scout", name, 0, HELLO[:5])

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for offset in (5, 0, 11):
            with pytest.raises(ResourceExhausted, match="no room"):
                artifacts.put("scout", name, offset, HELLO[5:])
    assert not artifacts.holds(name), "not promised before it is durable"
    assert artifacts.put("scout", name, 0, b"") == 11 and artifacts.holds(name), "it had come whole"


def test_beyond_what_the_station_keeps_in_all_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOTAL_BYTES", 20)
    artifacts = Artifacts(tmp_path)
    put(artifacts, HELLO)
    with pytest.raises(ResourceExhausted, match="1 of 11"):
        put(artifacts, HELLO[::-1])
    assert put(artifacts, HELLO[:9]) == 9
    monkeypatch.setattr(module, "MAX_ARTIFACTS", 2)
    with pytest.raises(ResourceExhausted):
        put(artifacts, b"")


def test_what_no_task_has_named_for_long_goes_and_so_do_pieces_that_nobody_goes_on_with(tmp_path: Path) -> None:
    artifacts, now = Artifacts(tmp_path), datetime.now(UTC)
    contents = [b"old", b"old but named", b"fresh"]
    for content in contents:
        put(artifacts, content)
    artifacts.put("scout", named(HELLO), 0, HELLO[:5])
    artifacts.put("other", named(HELLO), 0, HELLO[:5])
    ages = {"old": 92, "old but named": 92, "fresh": 1}
    for content in contents:
        path = tmp_path / "artifacts" / "sha256" / named(content).sha256[:2] / named(content).sha256
        at = (now - timedelta(days=ages[content.decode()])).timestamp()
        os.utime(path, (at, at))
    abandoned = tmp_path / "artifacts" / "partial" / f"other.{named(HELLO).sha256}"
    os.utime(abandoned, (0, 0))
    assert artifacts.missing({"data": str(named(b"old but named"))}) == ""
    assert artifacts.sweep(kept=now - timedelta(days=91), partial=now - timedelta(days=1)) == 2
    assert [artifacts.holds(named(content)) for content in contents] == [False, True, True]
    assert not abandoned.exists() and put(artifacts, HELLO) == 11
    assert "put it first" in artifacts.missing({"data": str(named(b"old"))})


def test_many_who_hand_in_the_same_at_once_leave_one_whole(tmp_path: Path) -> None:
    artifacts, content = Artifacts(tmp_path), random.Random(1).randbytes(400)
    received = {"a": 0, "b": 0, "c": 0}
    for turn in range(300):
        who = "abc"[turn % 3]
        received[who] = artifacts.put(who, named(content), received[who], content[received[who] :][: turn % 7])
    assert {put(artifacts, content, who=who) for who in received} == {400}
    assert artifacts.get(named(content), 0) == content
