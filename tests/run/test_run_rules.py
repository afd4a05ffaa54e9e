"""What `calyx run` decides without a process: orders, throttle, footprint, what a governed program may ask."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import SystemClock
from chassis.errors import Unavailable
from chassis.layout import Layout
from cli.main import NOUNS
from cli.reach import Reach
from cli.run import entry, governed, notes
from cli.run.entry import Wish
from cli.run.footprint import MAX_CLAIMS, MAX_EFFECTS, footprint
from cli.run.orders import SWITCH_GRACE_SECONDS, Known, Order, OrderKind, decide
from cli.run.station import Governing, TaskSeen
from cli.run.throttle import Bucket, make_cgroup

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def known(kind: OrderKind = "GO_ON", **more: object) -> Known:
    facts: dict[str, object] = {"silent_seconds": 0.0, "lease_seconds": 30.0, "switch": None}
    return Known(order=Order(kind=kind, cpu_percent=50.0), now=NOW, **{**facts, **more})  # type: ignore[arg-type]  # by name


@given(st.sampled_from(["GO_ON", "THROTTLE", "SLEEP", "STOP", "LOST"]), st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_flag_goes_before_everything_the_station_may_have_said(kind: OrderKind, silent: float, ran: float) -> None:
    action = decide(known(kind, silent_seconds=silent, seconds=ran, ttl_seconds=10.0, switch="fire"))
    assert (action.kind, action.grace_seconds) == ("stop", SWITCH_GRACE_SECONDS)
    assert "fire" in action.reason


DOES = {"GO_ON": "run", "THROTTLE": "throttle", "SLEEP": "sleep", "STOP": "stop", "LOST": "lost"}


@pytest.mark.parametrize(("kind", "does"), DOES.items())
def test_each_order_is_done(kind: OrderKind, does: str) -> None:
    assert decide(known(kind)).kind == does


def test_a_station_that_is_silent_for_the_lease_has_lost_the_task_and_not_before() -> None:
    assert decide(known("SLEEP", silent_seconds=29.9)).kind == "sleep"
    lost = decide(known("GO_ON", silent_seconds=30.0))
    assert lost.kind == "lost" and "30 s" in lost.reason


TIMED: tuple[OrderKind, ...] = ("THROTTLE", "SLEEP")


def test_a_throttle_or_sleep_ends_by_itself_when_its_time_is_over() -> None:
    for kind in TIMED:
        order = Order(kind=kind, until=NOW, cpu_percent=10.0)
        assert decide(Known(order=order, now=NOW, silent_seconds=0, lease_seconds=30, switch=None)).kind == "run"
        before = NOW - timedelta(seconds=1)
        assert decide(Known(order=order, now=before, silent_seconds=0, lease_seconds=30, switch=None)).kind != "run"


def test_a_command_whose_time_is_over_is_late() -> None:
    assert decide(known(seconds=60.0, ttl_seconds=60.0)).kind == "late"


@given(st.floats(1, 400), st.floats(0.5, 8))
def test_over_time_a_throttled_tree_uses_what_it_may_and_no_more(percent: float, cores: float) -> None:
    bucket, used, now, step = Bucket(percent), 0.0, 0.0, 0.1
    for _ in range(600):
        if bucket.may_run(now, used):
            used += cores * step
        now += step
    wanted = min(percent / 100, cores) * now
    assert used <= wanted + cores * step + percent / 100
    assert used >= wanted * 0.9 - cores * step - percent / 100


def test_a_control_group_is_made_beside_our_own_where_cpu_can_be_limited(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cg"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/user/app/shell.scope\n")
    app = root / "user" / "app"
    (app / "shell.scope").mkdir(parents=True)
    (app / "cgroup.procs").write_text("")
    (app / "cgroup.subtree_control").write_text("memory pids")
    assert make_cgroup("t1", root, proc) is None, "no CPU controller here"
    (app / "cgroup.subtree_control").write_text("cpu memory pids")
    assert make_cgroup("t1", root, proc) is None, "the kernel made no cpu.max"
    assert not (app / "calyx-run-t1").exists()


def test_a_limit_is_written_as_quota_and_period(tmp_path: Path) -> None:
    from cli.run.throttle import Cgroup

    (tmp_path / "cpu.max").write_text("max 100000")
    Cgroup(tmp_path).limit(25.0)
    assert (tmp_path / "cpu.max").read_text() == "25000 100000"
    Cgroup(tmp_path).limit(None)
    assert (tmp_path / "cpu.max").read_text() == "max 100000"


def change(op: str, target: str, before: str | None = None, after: str | None = "a" * 64) -> dict[str, object]:
    return {"op": op, "target": target, "before_sha256": before, "after_sha256": after, "size_bytes": 1}


def test_the_footprint_claims_what_a_prober_can_check_and_counts_files_once(tmp_path: Path) -> None:
    gone, new, secret = str(tmp_path / "gone"), str(tmp_path / "new"), str(tmp_path / ".env")
    made = footprint(
        [
            change("folder", str(tmp_path), after=None),
            change("remove", gone, "b" * 64, None),
            change("create", new),
            change("create", secret),
            change("remove", new, "b" * 64, None),
            change("left", "/x"),
        ]
    )
    assert made.files_changed == 3
    assert [(each["kind"], each["target"]) for each in made.claims] == [("absent", gone), ("file_digest", new)]
    assert made.left == ("/x",)
    assert not any("sha256" in key for each in made.effects if each["target"] == secret for key in each)


def test_a_large_footprint_is_told_in_part_and_counted_whole() -> None:
    made = footprint([change("create", f"/d/{n}") for n in range(5000)])
    assert (made.files_changed, len(made.effects), len(made.claims)) == (5000, MAX_EFFECTS, MAX_CLAIMS)


BENEATH = {"CALYX_TASK_ID": "t-1"}


@pytest.mark.parametrize(
    "words",
    [
        "task approve t-1", "task reject t-1", "task cancel t-1", "ladder set d EXECUTE", "resume", "undo t-1",
        "domain new d", "domain approve f", "domain sign f", "domain keygen", "domain allow-path d /x",
        "domain revoke d", "agent invite a", "agent revoke a",
        "governor resume d", "quarantine release x", "login-link", "down", "up",
        "run --domain d -- true", "objective add x", "--station x task approve t-1", "playbook run p",
    ],
)  # fmt: skip
def test_a_governed_program_may_not_ask_the_command_line_for_what_a_person_decides(words: str) -> None:
    from cli.main import _bare, _station_first

    assert "t-1" in governed.refusal(_bare(_station_first(words.split())), BENEATH)
    assert governed.refusal(words.split(), {}) == ""


LOOKS = ["status", "task list", "task show t-1", "ladder", "recall x", "stop --why x", "domain list"]


@pytest.mark.parametrize("words", LOOKS)
def test_looking_and_stopping_is_everybodys(words: str) -> None:
    assert governed.refusal(words.split(), BENEATH) == ""


def test_a_command_that_nobody_thought_of_is_refused_beneath_a_task() -> None:
    every = {noun for nouns in NOUNS.values() for noun in nouns}
    assert governed.refusal(["something-new"], BENEATH)
    assert {"run", "resume", "undo"} <= every


def test_a_run_from_while_the_station_was_down_is_kept_until_it_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    notes.keep(layout, "d", "sh -c x", NOW, NOW + timedelta(seconds=5), 3)
    notes.keep(layout, "other", "sh", NOW + timedelta(seconds=9), NOW, 0)
    (notes.folder(layout) / "torn.json").write_text("{")
    ((path, note),) = notes.kept(layout, "d")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "exit status 3" in notes.words(note) and "sh -c x" in notes.words(note)


class Restarting:
    """An overseer that is starting again at the first question, and has the answer at the next."""

    def __init__(self, answer: TaskSeen) -> None:
        self.asked, self._answer = 0, answer

    def await_task(self, task_id: str, seen: str, wait_seconds: float) -> TaskSeen:
        self.asked += 1
        if self.asked == 1:
            raise Unavailable("the overseer is starting")
        return self._answer


def test_waiting_for_an_answer_outlives_a_restart_of_the_overseer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "AGAIN_SECONDS", 0.0)
    asked = TaskSeen(
        id="t-1", state="proposed", level="GUIDE", reason="you are asked", waits_for_person=True, ended=False,
        approved_as="",
    )  # fmt: skip
    station = Restarting(replace(asked, state="ready", waits_for_person=False))
    reach = cast(Reach, SimpleNamespace(clock=SystemClock()))
    wish = Wish(domain="notes", objective="x", argv=("true",), paths=(), ttl=None, wait_seconds=30.0)
    found = entry._waited(reach, cast(Governing, station), wish, asked, "t-1 needs a person's yes")
    assert (found.state, station.asked) == ("ready", 2)
