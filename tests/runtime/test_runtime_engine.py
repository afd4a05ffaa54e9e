import httpx
import pytest

from chassis.clock import parse_iso
from chassis.errors import NotFound, Refused, Unavailable
from services.guardian.broker.engine import Container, Engine

ONE = Container(id="abc", service="memory")
STATE = {"Status": "running", "Pid": 42, "ExitCode": 0, "StartedAt": "2026-01-02T03:04:05.123456789Z", "Error": ""}


def engine(answers: dict[str, tuple[int, object]], asked: list[str] | None = None, version: str = "1.41") -> Engine:
    """An engine that answers by path, version prefix left out."""

    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(f"{request.method} {request.url.raw_path.decode()}")
        if request.url.path == "/version":
            return httpx.Response(200, json={"ApiVersion": version})
        path = request.url.path.split("/", 2)[2]
        status, body = answers.get(path, (404, {"message": "no such container"}))
        return httpx.Response(status, json=body) if body is not None else httpx.Response(status)

    from pathlib import Path

    return Engine(Path("/nowhere"), transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(("said", "used"), [("1.41", "v1.41"), ("1.99", "v1.47")])
def test_the_api_version_is_the_engines_or_the_newest_known(said: str, used: str) -> None:
    asked: list[str] = []
    engine({"containers/abc/json": (200, {"State": STATE})}, asked, said).state(ONE)
    assert asked == ["GET /version", f"GET /{used}/containers/abc/json"]


def test_a_running_container_is_read_with_its_start() -> None:
    state = engine({"containers/abc/json": (200, {"State": STATE})}).state(ONE)
    assert (state["state"], state["pid"], state["exit_code"]) == ("running", 42, None)
    assert parse_iso(state["started_at"]).microsecond == 123456


@pytest.mark.parametrize(
    ("status", "code", "state", "signal"),
    [
        ("exited", 137, "failed", "SIGKILL"),
        ("exited", 1, "failed", ""),
        ("exited", 0, "stopped", ""),
        ("created", 0, "starting", ""),
        ("paused", 0, "failed", ""),
        ("dancing", 0, "unknown", ""),
    ],
)
def test_engine_states_map_to_the_ports(status: str, code: int, state: str, signal: str) -> None:
    raw = {**STATE, "Status": status, "ExitCode": code, "Pid": 0, "OOMKilled": code == 137}
    found = engine({"containers/abc/json": (200, {"State": raw})}).state(ONE)
    assert (found["state"], found["signal"], found["pid"]) == (state, signal, None)
    assert found["oom_killed"] is (code == 137)


def test_only_the_stations_own_lasting_containers_are_seen() -> None:
    def row(name: str, **labels: str) -> dict[str, object]:
        return {"Id": name, "Labels": {"calyx.station": "here", "calyx.service": "memory", **labels}}

    rows = [row("a"), row("b", **{"com.docker.compose.oneoff": "True"}), row("c", **{"calyx.station": "there"})]
    assert [c.id for c in engine({"containers/json": (200, rows)}).containers("here")] == ["a"]


def test_a_repeated_verb_is_no_error_and_an_unknown_one_is_refused() -> None:
    asked: list[str] = []
    found = engine({"containers/abc/start": (304, None), "containers/abc/restart": (204, None)}, asked)
    found.act(ONE, "start")
    found.act(ONE, "restart")
    assert asked[1:] == ["POST /v1.41/containers/abc/start", "POST /v1.41/containers/abc/restart?t=10"]
    with pytest.raises(Refused):
        found.act(ONE, "kill")


def test_what_the_engine_says_no_to_is_told() -> None:
    with pytest.raises(NotFound):
        engine({}).state(ONE)
    with pytest.raises(Unavailable, match="on fire"):
        engine({"containers/abc/stop": (500, {"message": "on fire"})}).act(ONE, "stop")
