"""The page over HTTP: names, headers, logins, writes and errors."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import structlog.testing
from dashboard_fakes import PORT, TOKENS, Bench, bench
from dashboard_scenes import busy

from chassis.audit import verify
from chassis.clock import VirtualClock
from chassis.errors import KINDS
from services.dashboard.access import host_allowed
from services.dashboard.web.events import MAX_WATCHERS
from services.dashboard.web.problems import problem

HOME = f"http://127.0.0.1:{PORT}"
OURS = {"origin": HOME}


@pytest.fixture
def made(tmp_path: Path) -> Bench:
    return bench(tmp_path / "station", busy(VirtualClock()))


class Browser:
    """One browser: keeps cookies between requests."""

    def __init__(self, made: Bench) -> None:
        self._transport = httpx.ASGITransport(app=made.app, raise_app_exceptions=False)
        self.cookies: dict[str, str] = {}

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url=HOME, cookies=self.cookies) as client:
                return await client.request(method, path, **more)

        answer = asyncio.run(ask())
        self.cookies |= dict(answer.cookies)
        return answer


@pytest.fixture
def browser(made: Bench) -> Browser:
    return Browser(made)


def log_in(made: Bench, browser: Browser) -> httpx.Response:
    link, _ = made.at.links.issue()
    token = parse_qs(urlsplit(link).query)["token"][0]
    return browser("POST", "/login", data={"token": token}, headers=OURS)


# ---- reading


def test_every_read_answers_with_json(browser: Browser) -> None:
    for path in (
        "/healthz", "/api/overview", "/api/pulses", "/api/pulses/bp-000000042", "/api/tasks", "/api/tasks/t-0123-42-1",
        "/api/ladder", "/api/kpis", "/api/objectives", "/api/incidents", "/api/capacity", "/api/trends",
        "/api/recall?q=rotate", "/api/session", "/api/openapi.json",
    ):  # fmt: skip
        answer = browser("GET", path)
        assert answer.status_code == 200, path
        assert answer.json()


def test_a_pulse_comes_with_its_record_and_its_report(browser: Browser) -> None:
    pulse = browser("GET", "/api/pulses/bp-000000042").json()
    assert pulse["record"] == {"id": "bp-000000042"}
    assert pulse["report_markdown"].startswith("# Bridge Pulse")


def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_script_or_style(browser: Browser) -> None:
    page = browser("GET", "/").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(link.startswith(("/", "#")) for link in links)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    for link in links:
        if link.startswith("/static/"):
            answer = browser("GET", link)
            assert answer.status_code == 200, link
            assert "immutable" in answer.headers["cache-control"]
            assert not re.search(rb"https?://(?!www\.w3\.org/)", answer.content), link


def test_every_script_the_page_imports_is_there(browser: Browser) -> None:
    tag = re.search(r"/static/(\w+)/app\.js", browser("GET", "/").text)
    assert tag
    for name in ("app.js", "panels.js", "charts.js", "figures.js", "dom.js", "report.js"):
        source = browser("GET", f"/static/{tag[1]}/{name}").text
        for imported in re.findall(r'from "\./(\w+\.js)"', source):
            assert browser("GET", f"/static/{tag[1]}/{imported}").status_code == 200


def test_unknown_and_malformed_requests_say_what_is_wrong(browser: Browser) -> None:
    for path, status, error in (
        ("/api/pulses/bp-999999999", 404, "NotFound"),
        ("/api/tasks/nope", 404, "NotFound"),
        ("/nowhere", 404, "NotFound"),
        ("/static/x/../../settings.py", 404, "NotFound"),
        ("/api/pulses?limit=0", 400, "InvalidInput"),
        ("/api/recall", 400, "InvalidInput"),
    ):
        answer = browser("GET", path)
        assert (answer.status_code, answer.json()["error"]) == (status, error), path
        assert answer.json()["reason"]
        assert answer.json()["hint"]


def test_a_silent_service_is_503_with_its_reason(made: Bench, browser: Browser) -> None:
    made.station.down.add("memory")
    answer = browser("GET", "/api/recall?q=x")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "connection refused"


def test_an_unforeseen_error_tells_nothing_of_its_text(made: Bench, browser: Browser) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    made.station.ladder = broken  # type: ignore[method-assign] # a fault of our own
    with structlog.testing.capture_logs() as logged:
        answer = browser("GET", "/api/ladder")
    assert answer.status_code == 500
    assert answer.json()["error"] == "Internal"
    assert "hunter2" not in answer.text
    assert [(each["event"], each["log_level"]) for each in logged] == [("request failed", "error")]


def test_every_kind_of_error_has_a_status_and_a_hint() -> None:
    for kind in KINDS.values():
        status, body = problem(kind("what happened"))
        assert 400 <= status < 600
        assert body["reason"] == "what happened"
        assert body["hint"]


# ---- names and headers


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_our_own_names_are_served(browser: Browser, host: str) -> None:
    assert browser("GET", "/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", "localhost:4041",
     f"127.0.0.1.evil.example:{PORT}", f"localhost:{PORT}.evil.example", "", f"[::2]:{PORT}"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/overview", "/static/x/app.js", "/healthz", "/api/events", "/nowhere"])
def test_any_other_name_is_refused_on_every_route(browser: Browser, host: str, path: str) -> None:
    answer = browser("GET", path, headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"] == "PermissionDenied"


def test_allowed_hosts_add_names_with_or_without_a_port() -> None:
    assert host_allowed("station.lan:8080", PORT, ["station.lan"])
    assert host_allowed("station.lan:8080", PORT, ["station.lan:8080"])
    assert not host_allowed("station.lan:8081", PORT, ["station.lan:8080"])
    assert not host_allowed("xstation.lan:8080", PORT, ["station.lan"])


@pytest.mark.parametrize("path", ["/", "/api/overview", "/nowhere", "/login"])
def test_every_answer_carries_the_strict_headers(browser: Browser, path: str) -> None:
    headers = browser("GET", path).headers
    policy = dict(each.strip().partition(" ")[::2] for each in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == ("strict-origin" if path == "/login" else "no-referrer")
    assert "access-control-allow-origin" not in headers


def test_a_refused_host_is_counted_and_refused_before_any_service_is_asked(made: Bench, browser: Browser) -> None:
    browser("GET", "/api/ladder", headers={"host": "evil.example"})
    assert made.station.calls == []
    assert made.counted == [("unmatched", 403)]
    browser("GET", "/api/pulses/bp-000000042")
    assert made.counted[-1] == ("/api/pulses/{pulse_id}", 200)


def test_a_body_that_is_too_large_is_not_read(browser: Browser) -> None:
    answer = browser("POST", "/api/objectives", content=b"x" * 65537, headers=OURS)
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidInput")


# ---- login


def test_a_login_link_works_once(made: Bench, browser: Browser) -> None:
    link, _ = made.at.links.issue()
    token = parse_qs(urlsplit(link).query)["token"][0]
    assert browser("GET", f"/login?token={token}").status_code == 200, "looking at it does not use it up"
    answer = browser("POST", "/login", data={"token": token}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert browser("GET", "/api/session").json() == {"logged_in": True, "by": "session"}
    again = Browser(made)("POST", "/login", data={"token": token}, headers=OURS)
    assert again.status_code == 401
    assert "set-cookie" not in again.headers


def test_a_login_link_is_good_for_ten_minutes(made: Bench, browser: Browser) -> None:
    link, expires = made.at.links.issue()
    assert (expires - made.clock.now()).total_seconds() == 600
    made.clock.advance(601)  # type: ignore[attr-defined] # a VirtualClock
    token = parse_qs(urlsplit(link).query)["token"][0]
    assert browser("POST", "/login", data={"token": token}, headers=OURS).status_code == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "null", ""])
def test_another_page_can_not_log_a_browser_in(made: Bench, browser: Browser, origin: str) -> None:
    link, _ = made.at.links.issue()
    token = parse_qs(urlsplit(link).query)["token"][0]
    headers = {"origin": origin} if origin else {}
    assert browser("POST", "/login", data={"token": token}, headers=headers).status_code == 401


def test_a_session_ends_and_can_not_be_forged(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    name, cookie = next(iter(browser.cookies.items()))
    for forged in (
        cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        cookie.replace("v1.", "v1.9"),
        "",
        "v1",
        "a.b.c.d",
        "é",
    ):
        assert not made.at.sessions.valid(forged), forged
    assert made.at.sessions.valid(cookie)
    made.clock.advance(168 * 3600 + 1)  # type: ignore[attr-defined] # a VirtualClock
    assert not made.at.sessions.valid(cookie)
    assert name.startswith("calyx_")


def test_the_login_form_shows_what_it_was_given_as_text(browser: Browser) -> None:
    page = browser("GET", '/login?token="><script>alert(1)</script>').text
    assert "<script>alert" not in page


# ---- writing

WRITES = (
    ("/api/kill-switch", {"engaged": True, "why": "test"}),
    ("/api/tasks/t-0123-42-1/approve", {"plan_digest": "9f"}),
    ("/api/tasks/t-0123-42-1/reject", {"why": "no"}),
    ("/api/tasks/t-0123-42-1/cancel", {"why": "no"}),
    ("/api/objectives", {"text": "rotate the logs"}),
    ("/api/pulse", None),
    ("/api/logout", None),
)


@pytest.mark.parametrize(("path", "body"), WRITES)
def test_writing_needs_a_login_and_our_own_page(made: Bench, browser: Browser, path: str, body: Any) -> None:
    assert browser("POST", path, json=body, headers=OURS).status_code == 401
    wrong = {"authorization": "Bearer nobody", **OURS}
    assert browser("POST", path, json=body, headers=wrong).status_code == 401
    other_service = {"authorization": f"Bearer {TOKENS['cbo']}", **OURS}
    assert browser("POST", path, json=body, headers=other_service).status_code == 401
    log_in(made, browser)
    assert browser("POST", path, json=body).status_code == 403, "no Origin"
    assert browser("POST", path, json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert browser("POST", path, json=body, headers={"origin": "null"}).status_code == 403
    assert [call for call in made.station.calls if call[0] == "cbo"] == [], "nothing was passed on"
    assert browser("POST", path, json=body, headers=OURS).status_code == 200


@pytest.mark.parametrize("caller", ["operator", "dashboard"])
def test_a_program_writes_with_its_token_and_no_origin_but_not_from_another_page(
    made: Bench, browser: Browser, caller: str
) -> None:
    token = {"authorization": f"Bearer {TOKENS[caller]}"}
    assert browser("POST", "/api/pulse", headers=token).status_code == 200
    assert browser("POST", "/api/pulse", headers={**token, "origin": "http://evil.example"}).status_code == 403


def test_approving_passes_on_the_plan_the_person_saw(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    browser("POST", "/api/tasks/t-0123-42-1/approve", json={"plan_digest": "9f2c"}, headers=OURS)
    assert ("cbo", "approve t-0123-42-1 9f2c") in made.station.calls
    assert browser("POST", "/api/tasks/t-0123-42-1/approve", json={}, headers=OURS).status_code == 400


def test_an_objective_has_at_most_one_schedule_and_no_unknown_fields(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    good = {"text": "rotate", "domain": "log_rotation", "params": {"min_bytes": "1"}, "every_seconds": 5}
    assert browser("POST", "/api/objectives", json=good, headers=OURS).json()["every_seconds"] == 5
    for bad in (
        {"text": ""},
        {**good, "every_pulse": True},
        {**good, "levle": 1},
        {**good, "at": "2026-01-01T00:00:00"},
    ):
        assert browser("POST", "/api/objectives", json=bad, headers=OURS).status_code == 400, bad


def test_stopping_needs_a_reason_and_goes_through_the_overseer(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    assert browser("POST", "/api/kill-switch", json={"engaged": True}, headers=OURS).status_code == 400
    answer = browser("POST", "/api/kill-switch", json={"engaged": True, "why": "smoke"}, headers=OURS)
    assert answer.json() == {"engaged": True, "changed": True}
    assert ("cbo", "kill_switch True smoke") in made.station.calls


def test_stopping_works_without_the_overseer_and_resuming_does_not(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    made.station.down.add("cbo")
    answer = browser("POST", "/api/kill-switch", json={"engaged": True, "why": "smoke"}, headers=OURS).json()
    assert answer["engaged"]
    assert "directly" in answer["note"]
    assert made.switch.engaged()
    assert made.switch.why() == "smoke"
    assert browser("GET", "/api/overview").json()["kill_switch"] == {"engaged": True, "why": "smoke"}
    assert browser("POST", "/api/kill-switch", json={"engaged": False}, headers=OURS).status_code == 503
    assert made.switch.engaged()


def test_what_a_person_does_is_in_the_audit_chain(made: Bench, browser: Browser) -> None:
    log_in(made, browser)
    for path, body in WRITES[:-1]:
        browser("POST", path, json=body, headers=OURS)
    path = made.layout.audit("dashboard")
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert verify(path).first_bad is None
    assert events == [
        "login.granted", "kill_switch.set", "task.approved", "task.rejected", "task.cancelled", "objective.submitted",
        "pulse.asked_for",
    ]  # fmt: skip


# ---- charts, export, events


def test_only_listed_charts_in_the_trends_folder_are_served(made: Bench, browser: Browser) -> None:
    made.layout.trends.mkdir(parents=True)
    (made.layout.trends / "tes.svg").write_text("<svg/>")
    (made.layout.trends / "unlisted.svg").write_text("<svg/>")
    (made.layout.root / "secret.svg").write_text("<svg/>")
    (made.layout.trends / "link.svg").symlink_to(made.layout.root / "secret.svg")
    made.station.chart_list = [
        {"name": name, "path": f"reports/trends/{path}", "metric": "tes", "written_at": None}
        for name, path in (
            ("tes.svg", "tes.svg"), ("gone.svg", "gone.svg"), ("out.svg", "../../secret.svg"), ("link.svg", "link.svg"),
            ("tes.csv", "tes.csv"),
        )
    ]  # fmt: skip
    answer = browser("GET", "/charts/tes.svg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    for name in ("unlisted.svg", "gone.svg", "out.svg", "link.svg", "tes.csv", "..%2f..%2fsecret.svg"):
        assert browser("GET", f"/charts/{name}").status_code == 404, name


def test_the_export_needs_a_login(made: Bench, browser: Browser) -> None:
    assert browser("GET", "/api/export").status_code == 401
    log_in(made, browser)
    answer = browser("GET", "/api/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert re.fullmatch(r'attachment; filename="calyx-diagnostics-[\dTZ]+\.zip"', answer.headers["content-disposition"])


def test_events_carry_the_overview_and_end_when_the_service_stops(made: Bench) -> None:
    async def watch() -> list[bytes]:
        sent: list[bytes] = []
        scope = {
            "type": "http", "method": "GET", "path": "/api/events", "raw_path": b"/api/events", "query_string": b"",
            "headers": [(b"host", f"127.0.0.1:{PORT}".encode())], "http_version": "1.1", "scheme": "http",
            "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await never.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if message.get("body", b"").startswith(b"event"):
                made.at.stopping.set()

        await made.app(scope, receive, send)
        return sent

    chunks = [chunk for chunk in asyncio.run(watch()) if chunk]
    assert chunks[0].startswith(b"retry: ")
    name, data = chunks[1].decode().strip().split("\n")
    assert name == "event: overview"
    assert json.loads(data.removeprefix("data: "))["schema"] == "calyx.overview/1"
    assert MAX_WATCHERS >= 8
