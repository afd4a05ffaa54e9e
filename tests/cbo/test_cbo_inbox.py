"""Proposals dropped as files: read as an enemy's, answered once, nothing lost or repeated by a crash."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_station import domains_with, outside
from cbo_station import Station
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.canonical import canonical_json
from chassis.errors import CalyxError
from services.cbo import inbox
from services.cbo.inbox import wish_of

WISH = {"svf_proposal": "1.0", "domain": "sorting", "objective": "sort the inbox"}


class Drop:
    """The folders as somebody outside sees them."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.inbox, self.outbox = station.layout.svf / "inbox", station.layout.svf / "outbox"
        self.inbox.mkdir(parents=True)

    def put(self, name: str, value: Any = WISH) -> Path:
        path = self.inbox / name
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    def step(self) -> int:
        return self.station.cbo.inbox.step()

    def answer(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.outbox / name).read_bytes())
        return value

    def left(self) -> list[str]:
        return sorted(p.name for p in self.inbox.rglob("*") if p.name != inbox.TAKEN)

    def tasks(self) -> int:
        return sum(self.station.cbo.bridge.store.counts().values())


@pytest.fixture
def drop(new_station: Callable[..., Station]) -> Drop:
    return Drop(new_station(domains=domains_with(outside("sorting", "scout"))))


def test_a_dropped_file_becomes_a_task_of_the_domains_owner_and_gets_an_answer(drop: Drop) -> None:
    drop.put("w.json", {**WISH, "procedure": "plain", "params": {"folder": "here"}, "ttl_seconds": 30})
    assert drop.step() == 1 and drop.left() == []
    answer = drop.answer("w.json")
    assert set(answer) == {"task_id", "state", "reason"} and answer["state"] == "ready"
    task = drop.station.cbo.bridge.store.task(answer["task_id"])
    assert (task.owner, task.source, task.params, task.ttl_seconds) == ("scout", "inbox", {"folder": "here"}, 30.0)
    manifest = drop.station.exchange.get(task.id).manifest
    assert manifest is not None and manifest.rehearsal, "GUIDE: nothing is special for a file"
    assert drop.station.audit("task.proposed")[0]["by"] == "inbox"
    assert drop.step() == 0


def test_the_gates_answer_a_file_as_they_answer_anybody(drop: Drop) -> None:
    drop.put("a.json", {**WISH, "procedure": "magic"})
    drop.put("b.json", {**WISH, "domain": "nowhere"})
    drop.station.cbo.desk.set_kill_switch(True, "look", "operator")
    drop.put("c.json")
    assert drop.step() == 3
    assert drop.answer("a.json")["state"] == "rejected" and "no procedure" in drop.answer("a.json")["reason"]
    assert "no domain nowhere" in drop.answer("b.json")["error"]
    assert drop.answer("c.json")["state"] == "held"


def test_the_same_name_and_content_is_the_same_task_and_other_content_another(drop: Drop) -> None:
    drop.put("w.json")
    drop.step()
    first = drop.answer("w.json")["task_id"]
    drop.put("w.json")
    drop.step()
    assert drop.answer("w.json")["task_id"] == first
    drop.put("w.json", {**WISH, "objective": "something else"})
    drop.step()
    assert drop.answer("w.json")["task_id"] != first and drop.tasks() == 2


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"null", b"[]", b'"x"', b"{", b"[" * 100_000, b'{"a":' * 50_000, b"0" * 5000,
        canonical_json({**WISH, "svf_proposal": "2.0"}), canonical_json({**WISH, "approval": "operator"}),
        canonical_json({**WISH, "domain": 7}), canonical_json({**WISH, "params": {"a": 1}}),
        canonical_json({**WISH, "params": []}), canonical_json({**WISH, "ttl_seconds": "1"}),
        canonical_json({**WISH, "ttl_seconds": True}), canonical_json({**WISH, "ttl_seconds": -1}),
        json.dumps({**WISH, "ttl_seconds": float("nan")}).encode(), json.dumps({**WISH, "ttl_seconds": 1e999}).encode(),
        b'{"svf_proposal":"1.0","ttl_seconds":' + b"9" * 400 + b"}", canonical_json({**WISH, "objective": ""}),
        json.dumps({**WISH, "objective": "half \ud800"}).encode(),
        json.dumps({**WISH, "params": {"\udfff": ""}}).encode(),
        b" " * (inbox.MAX_BYTES + 1), canonical_json({**WISH, "objective": "x" * 2001}),
    ],
)  # fmt: skip
def test_what_is_no_proposal_is_answered_with_the_reason_and_makes_no_task(drop: Drop, content: bytes) -> None:
    drop.put("bad.json", content)
    drop.put("good.json")
    assert drop.step() == 2 and drop.left() == []
    assert set(drop.answer("bad.json")) == {"error"} and drop.answer("bad.json")["error"]
    assert drop.answer("good.json")["state"] == "ready" and drop.tasks() == 1


def test_links_pipes_sockets_and_folders_are_not_read_and_stop_nothing(drop: Drop, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(WISH))
    (drop.inbox / "link.json").symlink_to(secret)
    (drop.inbox / "dangling.json").symlink_to(tmp_path / "none")
    os.mkfifo(drop.inbox / "pipe.json")
    (drop.inbox / "folder.json").mkdir()
    drop.put("zgood.json")
    drop.step()
    drop.step()
    for name in ("link.json", "dangling.json", "pipe.json", "folder.json"):
        assert set(drop.answer(name)) == {"error"}, name
    assert secret.read_text() == json.dumps(WISH)
    assert drop.left() == ["folder.json"] and drop.answer("zgood.json")["state"] == "ready"


def test_a_file_of_a_gigabyte_is_refused_unread(drop: Drop) -> None:
    with (drop.inbox / "huge.json").open("wb") as huge:
        huge.truncate(2**30)  # a sparse one: it takes no room
    assert drop.step() == 1
    assert "at most" in drop.answer("huge.json")["error"]


def test_names_that_no_answer_could_have_and_files_still_being_written_stay(drop: Drop) -> None:
    for name in (".w.json", ".w.json.tmp", "W.json", "w.txt", "ü.json", "-x.json", "x" * 110 + ".json"):
        drop.put(name)
    assert drop.step() == 0 and drop.tasks() == 0 and not drop.outbox.exists()
    (drop.inbox / ".w.json").rename(drop.inbox / "w.json")
    assert drop.step() == 1


def test_a_flood_is_answered_a_few_files_a_step(drop: Drop) -> None:
    for n in range(inbox.A_STEP + 3):
        drop.put(f"w-{n:03d}.json", {**WISH, "objective": f"sort {n}"})
    assert [drop.step(), drop.step(), drop.step()] == [inbox.A_STEP, 3, 0]


def test_an_answer_replaces_a_link_and_never_follows_it(drop: Drop, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    drop.outbox.mkdir()
    (drop.outbox / "w.json").symlink_to(victim)
    drop.put("w.json")
    drop.step()
    assert victim.read_text() == "mine" and not (drop.outbox / "w.json").is_symlink()


def test_a_full_disk_keeps_the_file_until_its_answer_can_be_written(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _value: object) -> None:
        raise OSError(28, "No space left on device")

    drop.put("w.json")
    with monkeypatch.context() as broken:
        broken.setattr(inbox, "write_json", full)
        assert drop.step() == 0 and drop.left() == ["w.json"] and drop.tasks() == 1
    assert drop.step() == 1 and drop.tasks() == 1
    assert drop.answer("w.json")["state"] == "ready"


class Gone(BaseException):
    """The process ended here."""


STEPS = ("move", "read_regular", "_made", "write_json", "unlink")


@pytest.mark.parametrize("line", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_line_repeats_nothing_and_loses_nothing(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, line: str, after: bool
) -> None:
    owner: Any = drop.station.cbo.inbox if line == "_made" else os if line == "unlink" else inbox
    whole = getattr(owner, line)

    def crash(*args: Any, **more: Any) -> Any:
        if after:
            whole(*args, **more)
        raise Gone

    drop.put("w.json")
    with monkeypatch.context() as crashing:
        crashing.setattr(owner, line, crash)
        with pytest.raises(Gone):
            drop.step()
    drop.station.cbo.close()
    drop.station.open()
    drop.step()
    assert drop.left() == [] and drop.tasks() == 1
    assert drop.answer("w.json")["state"] == "ready"
    assert drop.station.exchange.depth()["ready"] == 1


def test_a_newer_file_of_the_same_name_waits_for_the_older_ones_answer(drop: Drop) -> None:
    taken = drop.inbox / inbox.TAKEN
    taken.mkdir()
    (taken / "w.json").write_text(json.dumps(WISH))
    drop.put("w.json", {**WISH, "objective": "newer"})
    drop.step()
    drop.step()
    assert drop.left() == [] and drop.tasks() == 2
    task = drop.station.cbo.bridge.store.task(drop.answer("w.json")["task_id"])
    assert task.objective == "newer"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(sorted(inbox.FIELDS)), JSON).map(
        lambda value: json.dumps({**value, "svf_proposal": "1.0"}).encode()
    )
)
def test_whatever_lies_there_is_a_wish_or_a_refusal(data: bytes) -> None:
    try:
        wish = wish_of(data, key="k")
    except CalyxError:
        return
    assert wish.source == "inbox" and isinstance(wish.objective, str)
