"""`calyx up`, `down`, `status`: the station as a whole."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.errors import CalyxError, Unavailable
from chassis.layout import SERVICES
from cli import doctor
from cli.output import JsonFlag, at, emit, note, optional, say, span, table
from cli.reach import Reach, endpoints, reach_of
from cli.times import parse_span

FIRST_PULSE_WITHIN_SECONDS = 15.0
TRY_NEXT = (
    "calyx status",
    'calyx objective add "rotate the logs" --domain log_rotation --every 1h',
    "calyx ladder",
)


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    doctor.register(app)


@contextmanager
def _progress() -> Iterator[Any]:
    """Steps as they happen: one changing line on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield note
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as line:
        yield line.update


def up(
    ctx: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it serves.")] = False,
    pulse_interval: Annotated[str, typer.Option(help="Time between two pulses, from 1s.")] = "60s",
    port: Annotated[int, typer.Option(help="The dashboard's port; 0 picks a free one.")] = 4040,
) -> None:
    """Start the station in the folder. Example: calyx up --detach --pulse-interval 5s"""
    from cli.embedded import station

    reach = reach_of(ctx)
    seconds = parse_span(pulse_interval)
    for signum in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
        signal.signal(signum, signal.default_int_handler)
    with _progress() as progress:
        started = station.start(reach.layout, reach.clock, port=port, pulse_seconds=seconds, progress=progress)
    try:
        _greet(reach, started.endpoints.url, started.seconds)
        if detach:
            return
        say("Ctrl-C stops it.")
        _follow(reach)
    except KeyboardInterrupt:
        say("")
    _down(reach)


def _greet(reach: Reach, url: str, seconds: float) -> None:
    with _progress() as progress:
        progress("waiting for the first pulse")
        first = _first_pulse(reach)
    say(f"The station serves ({seconds:.1f} s). Dashboard: {_link(reach, url)}")
    say(f"Last pulse: {first}" if first else "The first pulse is under way.")
    say("Try next:")
    for command in TRY_NEXT:
        say(f"  {command}")


def _first_pulse(reach: Reach) -> str:
    from calyx.cbo.v1 import cbo_pb2 as pb

    ends = reach.clock.monotonic() + FIRST_PULSE_WITHIN_SECONDS
    while reach.clock.monotonic() < ends:
        answer = reach.cbo().GetStation(pb.GetStationRequest())
        if answer.HasField("last_pulse"):
            return str(answer.last_pulse.id)
        reach.clock.wait(0.3)
    return ""


def _link(reach: Reach, plain: str) -> str:
    from calyx.dashboard.v1 import dashboard_pb2 as pb

    try:
        return str(reach.dashboard().IssueLoginLink(pb.IssueLoginLinkRequest()).url) or plain
    except CalyxError:
        return f"{plain} (`calyx login-link` gives a link that logs you in)"


def _follow(reach: Reach) -> None:
    """One line per pulse until Ctrl-C; a CBO that is being restarted is waited for."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    from cli.embedded import station
    from cli.pulses import as_json, line

    while station.running(reach.layout) is not None:
        try:
            for answer in reach.cbo().WatchPulses(pb.WatchPulsesRequest()):
                say(line(as_json(answer.pulse)))
        except CalyxError as error:
            note(f"the CBO does not answer ({error.message}); waiting for it")
        reach.clock.wait(1.0)
    note("the station was stopped")


def down(ctx: typer.Context) -> None:
    """Stop the station in order, nothing lost. Example: calyx down"""
    _down(reach_of(ctx))


def _down(reach: Reach) -> None:
    from cli.embedded import station

    with _progress() as progress:
        stopped = station.stop(reach.layout, reach.clock, progress)
    say("The station is down." if stopped else f"Nothing runs in {reach.layout.root}.")


def status(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Each service and the station as a whole. Example: calyx status --json"""
    reach = reach_of(ctx)
    services = _services(reach)
    station = _station(reach)
    if station["state"] != "ok" and not any(service["state"] == "up" for service in services):
        raise Unavailable(f"the station in {reach.layout.root} does not answer; `calyx up` starts it")

    def words(v: dict[str, Any]) -> None:
        table(
            ("service", "state", "version", "pid", "up for", "seen", "what"),
            [
                (
                    s["name"], s["state"], s["version"] or "unknown", s["pid"], span(s["uptime_s"]),
                    "unknown" if s["age_s"] is None else f"{span(s['age_s'])} ago", s["detail"],
                )
                for s in v["services"]
            ],
            "no services",
        )  # fmt: skip
        s = v["station"]
        if s["state"] != "ok":
            say(f"station: {s['detail']}")
            return
        age = f", {span(s['last_pulse_age_s'])} ago" if s["last_pulse"] else ""
        say(
            f"station {s['station_id']}: last pulse {s['last_pulse'] or 'none yet'}{age}, "
            f"every {span(s['pulse_interval_s'])}"
        )
        say(f"kill switch {'ON: ' + s['kill_switch_why'] if s['kill_switch'] else 'off'}")
        if s["dashboard"]:
            say(f"dashboard {s['dashboard']}")

    emit({"station": station, "services": services}, json, words)
    if not services:
        raise Exit(1)


def _services(reach: Reach) -> list[dict[str, Any]]:
    """As the guardian sees them; when it does not answer, as they answer us."""
    from calyx.guardian.v1 import guardian_pb2 as pb

    try:
        answer = reach.guardian().GetHealth(pb.GetHealthRequest(), timeout=3)
    except CalyxError:
        return [_direct(reach, service) for service in SERVICES]
    return [
        {
            "name": s.service,
            "state": s.state,
            "pid": optional(s, "pid"),
            "uptime_s": optional(s, "uptime_seconds"),
            "version": s.version,
            "age_s": s.age_seconds if s.HasField("probed_at") else None,
            "last_up_at": at(s, "last_up_at"),
            "detail": s.detail,
        }
        for s in answer.services
    ]


def _direct(reach: Reach, service: str) -> dict[str, Any]:
    from chassis.rpc.health import probe_health
    from chassis.settings import StationSettings, load

    embedded = endpoints(reach.layout).get("services", {}).get(service, {}).get("grpc")
    row: dict[str, Any] = {
        "name": service, "state": "down", "pid": None, "uptime_s": None, "version": "", "age_s": 0.0,
        "last_up_at": None, "detail": "",
    }  # fmt: skip
    try:
        health = probe_health(embedded or load(StationSettings, "calyx").endpoint(service), 1.0)
    except CalyxError as error:
        return {**row, "detail": error.message[:120]}
    uptime = (reach.clock.now() - health.started_at).total_seconds() if health.started_at else None
    return {
        **row,
        "state": "up" if health.serving else "down",
        "pid": health.pid,
        "uptime_s": uptime,
        "version": health.version,
        "detail": "asked directly; the guardian does not answer",
    }


def _station(reach: Reach) -> dict[str, Any]:
    from calyx.cbo.v1 import cbo_pb2 as pb

    from chassis.killswitch import KillSwitch

    value: dict[str, Any] = {
        "state": "unknown", "detail": "", "station_id": None, "version": None, "kill_switch": None,
        "kill_switch_why": "", "last_pulse": None, "last_pulse_age_s": None, "pulse_interval_s": None,
        "next_pulse_at": None, "tasks": {}, "dashboard": endpoints(reach.layout).get("dashboard"),
    }  # fmt: skip
    try:
        answer = reach.cbo().GetStation(pb.GetStationRequest(), timeout=3)
    except CalyxError as error:
        switch = KillSwitch(reach.layout.kill_switch)
        known = reach.layout.root.is_dir()
        return {**value, "detail": error.message, "kill_switch": switch.engaged() if known else None}
    pulsed = answer.HasField("last_pulse")
    return {
        **value,
        "state": "ok",
        "station_id": answer.station_id,
        "version": answer.version,
        "kill_switch": answer.kill_switch,
        "kill_switch_why": answer.kill_switch_why,
        "last_pulse": answer.last_pulse.id if pulsed else None,
        "last_pulse_age_s": answer.last_pulse_age_seconds if pulsed else None,
        "pulse_interval_s": answer.pulse_interval_seconds,
        "next_pulse_at": at(answer, "next_pulse_at"),
        "tasks": dict(answer.tasks),
    }
