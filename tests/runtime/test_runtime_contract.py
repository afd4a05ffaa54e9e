"""One contract for every runtime: a fake, a real supervisord, the broker over a real socket."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chassis.audit import Audit, verify
from chassis.clock import SystemClock, VirtualClock
from chassis.errors import NotFound, Refused, ResourceExhausted, Unavailable
from chassis.runtime.broker import BrokerRuntime
from chassis.runtime.fake import FakeRuntime
from chassis.runtime.port import Runtime, TargetState
from chassis.runtime.supervisord import SupervisordRuntime
from chassis.runtime.unix_http import UnixConnection
from services.guardian.broker.broker import Broker
from services.guardian.broker.engine import Container
from services.guardian.broker.server import UnixServer

CLOCK = SystemClock()


def eventually(look: Callable[[], bool], seconds: float = 20.0) -> None:
    """Real processes take the time they take; this only bounds it."""
    ends = CLOCK.monotonic() + seconds
    while not look():
        assert CLOCK.monotonic() < ends, "it did not come about"
        CLOCK.wait(0.02)


@dataclass
class Bench:
    runtime: Runtime
    unreachable: Runtime


SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
[unix_http_server]
file={socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command={python} -c "import signal; signal.pause()"
autorestart=false
startretries=0
startsecs=0
stopwaitsecs=1
"""


@pytest.fixture(scope="module")
def supervisord(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    short = Path(tempfile.mkdtemp(prefix="calyx-"))
    folder = tmp_path_factory.mktemp("s" * 100)  # longer than a socket's address holds: the client has to cope
    conf = folder / "supervisord.conf"
    programs = "".join(PROGRAM.format(name=name, python=sys.executable) for name in ("memory", "cbo"))
    conf.write_text(SUPERVISORD.format(folder=folder, socket=short / "s.sock") + programs)
    (folder / "s.sock").symlink_to(short / "s.sock")
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (folder / "s.sock").exists())
        yield folder / "s.sock"
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(short)


class FakeEngine:
    """Containers as the engine would list them; a kill is `die`."""

    def __init__(self, *services: str) -> None:
        self.inner = FakeRuntime(services)
        self.found = [Container(id=f"id-{service}", service=service) for service in services]
        self.acts: list[tuple[str, str]] = []

    def containers(self, station: str) -> list[Container]:
        return self.found if station == "here" else []

    def state(self, container: Container) -> dict[str, Any]:
        state: TargetState = self.inner.state(container.service)
        return {"state": state.state, "pid": state.pid, "detail": state.detail, "signal": state.signal}

    def act(self, container: Container, verb: str) -> None:
        self.acts.append((verb, container.service))
        getattr(self.inner, verb)(container.service)


@dataclass
class BrokerBench:
    engine: FakeEngine
    runtime: BrokerRuntime
    audit: Path
    socket: Path
    clock: VirtualClock


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerBench]:
    engine, clock, audit = FakeEngine("memory", "cbo"), VirtualClock(), tmp_path / "broker.jsonl"
    core = Broker(engine, "here", clock, Audit(audit, clock, "broker"), lambda work: work())
    server = UnixServer(tmp_path / "b.sock", core.handle)
    thread = threading.Thread(target=lambda: server.serve_forever(0.01))
    thread.start()
    runtime = BrokerRuntime(tmp_path / "b.sock")
    yield BrokerBench(engine, runtime, audit, tmp_path / "b.sock", clock)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["fake", "supervisord", "broker"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    nowhere = tmp_path / "nobody.sock"
    if request.param == "fake":
        unreachable = FakeRuntime(["memory", "cbo"])
        unreachable.reachable = False
        return Bench(FakeRuntime(["memory", "cbo"]), unreachable)
    if request.param == "supervisord":
        runtime: Runtime = SupervisordRuntime(request.getfixturevalue("supervisord"))
        runtime.start("memory")
        eventually(lambda: runtime.state("memory").state == "running")
        return Bench(runtime, SupervisordRuntime(nowhere))
    return Bench(request.getfixturevalue("broker").runtime, BrokerRuntime(nowhere))


def test_targets_are_named(bench: Bench) -> None:
    assert set(bench.runtime.targets()) == {"memory", "cbo"}


def test_a_running_target_has_a_pid_and_a_stopped_one_has_none(bench: Bench) -> None:
    assert bench.runtime.state("memory").pid is not None
    bench.runtime.stop("memory")
    eventually(lambda: bench.runtime.state("memory").state == "stopped")
    assert bench.runtime.state("memory").pid is None


def test_every_verb_may_be_repeated(bench: Bench) -> None:
    for verb, state in (("stop", "stopped"), ("start", "running"), ("restart", "running")):
        for _ in range(2):
            getattr(bench.runtime, verb)("memory")
        eventually(lambda state=state: bench.runtime.state("memory").state == state)  # type: ignore[misc]


def test_a_restart_gives_a_running_target_another_process(bench: Bench) -> None:
    before = bench.runtime.state("memory").pid
    bench.runtime.restart("memory")
    eventually(lambda: bench.runtime.state("memory").state == "running" and bench.runtime.state("memory").pid != before)


def test_a_restart_starts_a_stopped_target(bench: Bench) -> None:
    bench.runtime.stop("memory")
    eventually(lambda: bench.runtime.state("memory").state == "stopped")
    bench.runtime.restart("memory")
    eventually(lambda: bench.runtime.state("memory").state == "running")


def test_an_unknown_target_is_not_found(bench: Bench) -> None:
    for call in (bench.runtime.state, bench.runtime.start, bench.runtime.stop, bench.runtime.restart):
        with pytest.raises(NotFound):
            call("nobody")


def test_a_runtime_that_does_not_answer_is_unavailable(bench: Bench) -> None:
    runtime = bench.unreachable
    for call in (runtime.state, runtime.start, runtime.stop, runtime.restart):
        with pytest.raises(Unavailable):
            call("memory")
    with pytest.raises(Unavailable):
        runtime.targets()


def test_supervisord_tells_which_signal_ended_a_process(supervisord: Path) -> None:
    runtime = SupervisordRuntime(supervisord)
    runtime.start("memory")
    eventually(lambda: runtime.state("memory").state == "running")
    state = runtime.state("memory")
    assert state.pid is not None
    assert state.started_at is not None
    os.kill(state.pid, signal.SIGKILL)
    eventually(lambda: runtime.state("memory").state == "failed")
    assert runtime.state("memory").signal == "SIGKILL"
    assert "terminated by SIGKILL" in runtime.state("memory").detail


def test_the_fake_keeps_a_log_and_runs_the_callables() -> None:
    served: set[str] = set()
    fake = FakeRuntime(
        ["cbo"],
        on_start={"cbo": lambda: served.add("cbo")},
        on_stop={"cbo": lambda: served.discard("cbo")},
        running=False,
    )
    fake.start("cbo")
    assert served == {"cbo"}
    fake.crash("cbo")
    assert served == set()
    assert fake.state("cbo").signal == "SIGKILL"
    fake.restart("cbo")
    assert served == {"cbo"}
    assert fake.calls == [("start", "cbo"), ("restart", "cbo")]


def lines(bench: BrokerBench) -> str:
    assert verify(bench.audit).first_bad is None
    return bench.audit.read_text() if bench.audit.exists() else ""


def ask(bench: BrokerBench, method: str, path: str, body: bytes = b"") -> int:
    with closing(UnixConnection(bench.socket, 5.0)) as connection:
        connection.request(method, path, body)
        return connection.getresponse().status


def test_the_broker_refuses_what_is_not_on_its_list_and_writes_that_down(broker: BrokerBench) -> None:
    for method, path, status in (
        ("POST", "/v1/targets/memory/kill", 403),
        ("POST", "/v1/targets/guardian/stop", 404),
        ("POST", "/v1/targets/broker/stop", 404),
        ("POST", "/v1/targets/memory/stop/now", 403),
        ("GET", "/containers/json", 403),
        ("POST", "/v1/targets", 403),
        ("DELETE", "/v1/targets/memory", 501),
    ):
        assert ask(broker, method, path) == status, (method, path)
    assert ask(broker, "POST", "/v1/targets/memory/stop", b'{"force": true}') == 403
    assert broker.engine.acts == []
    assert lines(broker).count("broker.refused") == 6


def test_the_broker_writes_down_each_act_before_and_after(broker: BrokerBench) -> None:
    broker.runtime.stop("memory")
    written = lines(broker)
    assert written.index("broker.accepted") < written.index("broker.done")
    assert broker.engine.acts == [("stop", "memory")]


def test_the_broker_limits_how_often_a_target_is_acted_on(broker: BrokerBench) -> None:
    with pytest.raises(ResourceExhausted):
        for _ in range(30):
            broker.runtime.start("memory")
    assert len(broker.engine.acts) == 20
    broker.runtime.start("cbo")
    broker.clock.advance(3.0)
    broker.runtime.start("memory")


def test_the_broker_does_not_guess_between_two_containers_of_one_service(broker: BrokerBench) -> None:
    broker.engine.found.append(Container(id="stray", service="memory"))
    with pytest.raises(Refused):
        broker.runtime.stop("memory")
    assert broker.engine.acts == []


def test_the_broker_says_when_the_engine_is_gone(broker: BrokerBench) -> None:
    broker.engine.inner.reachable = False
    with pytest.raises(Unavailable):
        broker.runtime.state("memory")
    broker.runtime.start("memory")
    assert "broker.failed" in lines(broker)
