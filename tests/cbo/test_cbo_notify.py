"""Notices: at least once per target, once per thing, never in a pulse's way, and their addresses nowhere."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from cbo_station import Station
from test_cbo_decisions import approve, rehearsed

from chassis.errors import NotFound
from services.cbo.notify import MOST, Notifier
from services.cbo.notify_targets import FILE, NotSent, Target, Targets, parse, send_by_apprise
from services.cbo.ports import Incident
from services.cbo.waiting import Item, Waiting

SECRET = "tk-5e1f-secret"
THEIRS = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""One of a plug-in that apprise loads."""


class Post:
    """An address on loopback that keeps what it is sent; it refuses while `refuses`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.refuses = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not outer.refuses:
                    outer.got.append(json.loads(body))
                self.send_response(500 if outer.refuses else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"json://127.0.0.1:{self._server.server_port}/{SECRET}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def post() -> Iterator[Post]:
    made = Post()
    yield made
    made.close()


class Told:
    """A hand instead of apprise: `dead` targets take nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.tries = 0
        self.dead: set[str] = set()

    def __call__(self, target: Target, title: str, body: str) -> None:
        self.tries += 1
        if target.name in self.dead:
            raise NotSent("not reached")
        self.sent.append((target.name, title, body))


def file_of(station: Station, *lines: str) -> Path:
    path = station.layout.secrets / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


def notifier(station: Station, send: Callable[[Target, str, str], None]) -> Notifier:
    waiting = Waiting(station.cbo.bridge)
    return Notifier(
        station.cbo.bridge, waiting, Targets(station.layout.secrets / FILE), send, lambda: "http://127.0.0.1:4040"
    )


def titles(told: Told, target: str = "a") -> list[str]:
    return [title for name, title, _ in told.sent if name == target]


@THEIRS
def test_a_waiting_plan_is_told_once_with_its_command_and_link_by_a_real_webhook(station: Station, post: Post) -> None:
    file_of(station, "# ours", f"hook = {post.url}")
    plan = rehearsed(station)
    notices = notifier(station, send_by_apprise)
    notices.step()
    notices.step()
    mine = [each for each in post.got if plan.id in each["message"]]
    assert len(mine) == 1
    assert "a plan waits for your answer (log_rotation)" in mine[0]["title"]
    for words in (f"calyx task approve {plan.id}", f"http://127.0.0.1:4040/#task-{plan.id}", '"rotate the logs"'):
        assert words in mine[0]["message"]
    assert [each["about"] for each in station.audit("notify.sent")].count(f"objective:{plan.objective_id}") == 1


@THEIRS
def test_an_address_is_in_no_log_audit_database_or_answer(
    station: Station, post: Post, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    post.refuses = True
    file_of(station, f"hook = {post.url}", f"odd = nosuch://{SECRET}@example", f"bro ken {SECRET}")
    rehearsed(station)
    notices = notifier(station, send_by_apprise)
    with structlog.testing.capture_logs() as logs:
        notices.step()
        tried = notices.test()
    assert [each.sent for each in tried] == [False, False, False]
    kept = b"".join(path.read_bytes() for path in station.folder.rglob("*") if path.is_file() and path.name != FILE)
    said = "".join((str(tried), str(logs), *capfd.readouterr(), caplog.text, repr(parse(f"hook = {post.url}"))))
    assert SECRET not in said
    assert SECRET.encode() not in kept


def test_each_thing_is_told_once_to_each_target_also_across_a_restart(station: Station) -> None:
    file_of(station, "a = json://a", "b = json://b")
    told = Told()
    rehearsed(station)
    notifier(station, told).step()
    before = sorted(told.sent)
    station.cbo.close()
    station.open()
    notifier(station, told).step()
    assert sorted(told.sent) == before
    assert len(titles(told, "a")) == len(titles(told, "b")) == len(set(told.sent)) / 2


def test_what_a_crash_kept_from_being_sent_is_sent_after_it(station: Station) -> None:
    file_of(station, "a = json://a")
    rehearsed(station)

    def crash(_target: Target, _title: str, _body: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notifier(station, crash).step()
    station.cbo.bridge.store.close()
    station.open()
    told = Told()
    notifier(station, told).step()
    assert any("log_rotation" in each for each in titles(told))


def test_a_dead_target_rests_longer_each_time_and_holds_up_no_other(station: Station) -> None:
    file_of(station, "a = json://a", "b = json://b")
    told = Told()
    told.dead = {"a"}
    rehearsed(station)
    notices = notifier(station, told)
    notices.step()
    assert titles(told, "b") and not titles(told, "a")
    tried = told.tries
    notices.step()
    assert told.tries == tried, "it rests"
    station.clock.advance(31)
    notices.step()
    assert told.tries == tried + 2
    station.clock.advance(31)
    notices.step()
    assert told.tries == tried + 2, "twice as long"
    assert [each["target"] for each in station.audit("notify.failing")] == ["a"]
    told.dead = set()
    station.clock.advance(3600)
    notices.step()
    assert titles(told, "a")
    assert [each["target"] for each in station.audit("notify.recovered")] == ["a"]


def test_a_newer_plan_of_the_same_objective_is_no_news_and_one_after_an_answer_is(station: Station) -> None:
    file_of(station, "a = json://a")
    told, notices = Told(), None
    for _ in range(3):
        station.pulse(1)
        notices = notifier(station, told)
        notices.step()
    assert len(titles(told)) == 1, "diagnostics is rehearsed in each pulse"
    for task in station.cbo.bridge.store.tasks("tasks_inbox", 9):
        station.cbo.desk.reject(task.id, "not now", "operator")
    assert notices is not None
    notices.step()
    station.pulse(1)
    notices.step()
    assert len(titles(told)) == 2


def test_a_pulse_sends_nothing_itself(station: Station) -> None:
    file_of(station, "a = json://a")
    rehearsed(station)
    station.pulse(3)
    assert station.audit("notify.sent") == [] and station.audit("notify.failing") == []


def test_what_was_answered_before_it_could_be_told_is_not_told(station: Station) -> None:
    file_of(station, "a = json://a")
    told = Told()
    told.dead = {"a"}
    plan = rehearsed(station)
    notices = notifier(station, told)
    notices.step()
    approve(station, plan)
    told.dead = set()
    station.clock.advance(3600)
    notices.step()
    assert not any(plan.id in body for _, _, body in told.sent)


def test_the_kill_switch_and_a_critical_fault_are_told_a_minor_one_is_not(station: Station) -> None:
    file_of(station, "a = json://a")
    told = Told()
    at = station.clock.now()
    for grade in ("critical", "minor"):
        station.guardian.found.append(
            Incident(
                id=f"i-{grade}", grade=grade, target=f"{grade}-one", symptom="gone", opened_at=at, closed_at=None,
                action="nothing yet", recovered_seconds=None,
            )
        )  # fmt: skip
    station.cbo.desk.set_kill_switch(True, "look first", "operator")
    notices = notifier(station, told)
    notices.step()
    notices.step()
    assert sorted(titles(told)) == ["Station Calyx: a critical fault is open", "Station Calyx: the station is stopped"]
    station.cbo.desk.set_kill_switch(False, "", "operator")
    notices.step()
    station.clock.advance(60)
    station.cbo.desk.set_kill_switch(True, "again", "operator")
    notices.step()
    assert len(titles(told)) == 3, "another stop is another notice"


def test_the_queue_is_bounded_and_the_oldest_goes_with_an_audit_line(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_of(station, "a = json://a")
    told = Told()
    told.dead = {"a"}
    notices = notifier(station, told)
    many = tuple(Item(kind="incident", id=f"i{n:04}", key=f"incident:i{n:04}", title="x") for n in range(MOST + 5))
    monkeypatch.setattr(Waiting, "items", lambda _self: (many, ()))
    notices.step()
    assert station.audit("notify.dropped")[0]["count"] == 5
    told.dead = set()
    station.clock.advance(3600)
    notices.step()
    assert len(told.sent) == MOST


def test_a_test_reaches_a_target_that_rests_and_unknown_names_are_refused(station: Station) -> None:
    file_of(station, "a = json://a", "no target at all")
    told = Told()
    notices = notifier(station, told)
    tried = notices.test()
    assert [(each.name, each.sent) for each in tried] == [("a", True), ("line-2", False)]
    with pytest.raises(NotFound, match="no target 'x'"):
        notices.test("x")


def test_without_a_file_nobody_is_told(station: Station) -> None:
    told = Told()
    rehearsed(station)
    notifier(station, told).step()
    assert told.tries == 0 and notifier(station, told).test() == []
