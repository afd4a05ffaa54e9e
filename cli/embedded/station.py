"""Starting and stopping the embedded station as a whole."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from chassis.clock import Clock
from chassis.errors import CalyxError, Refused, Unavailable
from chassis.identity import found_station
from chassis.ids import RandomIds
from chassis.layout import SERVICES, Layout
from cli.embedded import ground, maintenance
from cli.embedded import supervisor as supervisord
from cli.embedded.endpoints import Endpoints
from cli.reach import endpoints

SERVE_WITHIN_SECONDS = 90.0
STOP_ORDER = ("guardian", *(service for service in reversed(SERVICES) if service != "guardian"))
"""The guardian first, so that it does not heal what is being stopped; then the reverse of the start order."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A station whose six services serve."""

    endpoints: Endpoints
    seconds: float


def running(layout: Layout) -> supervisord.Supervisor | None:
    """The station's supervisord, if it answers."""
    socket = endpoints(layout).get("supervisor")
    if not socket:
        return None
    found = supervisord.Supervisor(Path(socket))
    return found if found.alive() else None


def start(layout: Layout, clock: Clock, *, port: int, pulse_seconds: float, progress: Progress) -> Started:
    """Check the ground, found the station, start six services, wait until all serve.

    Raises Refused or InvalidInput with one line; Unavailable when a service does not come up (what was started
    is stopped again).
    """
    ground.check_python()
    ground.check_interval(pulse_seconds)
    ground.check_port(port)
    ground.check_folder(layout)
    with ground.only_one(layout), ExitStack() as starting:
        if running(layout) is not None:
            raise Refused(f"the station in {layout.root} is running already; `calyx status` shows it")
        if left := ground.processes(layout):
            who = ", ".join(f"{name} {pid}" for pid, name in left.items())
            raise Refused(f"processes of this station still run without supervisord ({who}); `calyx down` ends them")
        began = clock.monotonic()
        found_station(layout, clock, RandomIds())
        before = endpoints(layout)
        socket = supervisord.choose_socket(layout, str(before.get("supervisor", "")))
        chosen = Endpoints.choose(before, port, socket, starting)
        chosen.write(layout)
        layout.logs.mkdir(mode=0o700, exist_ok=True)
        conf = supervisord.write_conf(layout)
        maintenance.end(layout, clock)
        progress("starting supervisord")
        supervisord.start(layout, conf, chosen.environment(layout, pulse_seconds))
        try:
            _wait_until_serving(layout, chosen, clock, progress)
        except (CalyxError, KeyboardInterrupt):
            progress("stopping what was started")
            _stop(layout, clock, lambda _: None)
            raise
        return Started(endpoints=chosen, seconds=clock.monotonic() - began)


def stop(layout: Layout, clock: Clock, progress: Progress) -> bool:
    """Stop everything in order; False if nothing ran."""
    if not layout.root.is_dir():
        return False
    with ground.only_one(layout):
        return _stop(layout, clock, progress)


def _stop(layout: Layout, clock: Clock, progress: Progress) -> bool:
    supervisor = running(layout)
    if supervisor is None and not ground.processes(layout):
        return False
    maintenance.begin(layout, clock)
    if supervisor is not None:
        for service in STOP_ORDER:
            progress(f"stopping {service}")
            supervisor.stop(service)
            _wait_until_stopped(supervisor, service, clock)
        progress("stopping supervisord")
        _wait_until_gone({supervisor.shut_down()}, clock)
        supervisord.drop_socket(layout, Path(endpoints(layout)["supervisor"]))
    # What a killed supervisord left behind, or what did not end when asked.
    left = ground.processes(layout)
    for service in ("supervisord", *STOP_ORDER):
        pids = {pid for pid, name in left.items() if name == service}
        for pid in pids:
            progress(f"stopping {service} (pid {pid})")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        _wait_until_gone(pids, clock)
    return True


def _wait_until_serving(layout: Layout, chosen: Endpoints, clock: Clock, progress: Progress) -> None:
    from chassis.rpc.health import probe_health

    supervisor = supervisord.Supervisor(chosen.supervisor)
    ends = clock.monotonic() + SERVE_WITHIN_SECONDS
    waiting = list(SERVICES)
    why = dict.fromkeys(SERVICES, "no answer")
    while waiting:
        for service in list(waiting):
            try:
                if probe_health(f"127.0.0.1:{chosen.grpc[service]}", 1.0).serving:
                    waiting.remove(service)
                    progress(f"{service} serves ({len(SERVICES) - len(waiting)} of {len(SERVICES)})")
                    continue
                why[service] = "its health check says no"
            except CalyxError:
                if supervisor.state(service).state in ("failed", "stopped") and service != "guardian":
                    raise Unavailable(_last_words(layout, service)) from None
        if waiting and clock.monotonic() > ends:
            raise Unavailable(f"{waiting[0]} does not serve ({why[waiting[0]]}); {_log_hint(layout, waiting[0])}")
        if waiting:
            clock.wait(0.2)


def _wait_until_stopped(supervisor: supervisord.Supervisor, service: str, clock: Clock) -> None:
    ends = clock.monotonic() + supervisord.STOP_WAIT_SECONDS + 5
    while supervisor.state(service).state in ("running", "starting", "stopping"):
        if clock.monotonic() > ends:
            raise Unavailable(f"{service} does not stop; {_pid_hint(supervisor, service)}")
        clock.wait(0.1)


def _wait_until_gone(pids: set[int], clock: Clock) -> None:
    import psutil

    ends = clock.monotonic() + supervisord.STOP_WAIT_SECONDS
    while alive := {pid for pid in pids if _lives(pid)}:
        if clock.monotonic() > ends:
            for pid in alive:
                with suppress(psutil.Error):
                    psutil.Process(pid).kill()
            return
        clock.wait(0.1)


def _lives(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _last_words(layout: Layout, service: str) -> str:
    try:
        lines = (layout.logs / f"{service}.out").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = lines[-1] if lines else "it said nothing"
    return f"{service} ended while starting: {said} ({_log_hint(layout, service)})"


def _log_hint(layout: Layout, service: str) -> str:
    return f"see {layout.logs / f'{service}.log'}"


def _pid_hint(supervisor: supervisord.Supervisor, service: str) -> str:
    return f"its pid is {supervisor.state(service).pid}"
