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
from cli.output import JsonFlag, at, emit, note, optional, say, span
from cli.reach import Reach, endpoints, reach_of
from cli.tables import Column, facts, table, tell
from cli.tasks import level_name
from cli.times import parse_span

FIRST_PULSE_WITHIN_SECONDS = 15.0
TRY_NEXT = (
    ("calyx ladder", "how far each kind of work may go alone, and why"),
    ("calyx inbox", "plans that wait for your yes"),
    ("calyx status", "services, last check-in, kill switch"),
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
    say(f"The station serves ({seconds:.1f} s). Its dashboard, with a link that logs you in once:")
    say(f"  {_link(reach, url)}")
    say("")
    tell(f"{f'Check-in {first} is done.' if first else 'The first check-in is under way.'} {what_comes_next(reach)}")
    say("")
    edge = max(len(command) for command, _ in TRY_NEXT)
    for command, what in TRY_NEXT:
        say(f"  {command:<{edge}}  {what}")
    say("")
    say("Give it work, and end it:")
    say('  calyx objective add "rotate the logs" --domain log_rotation --every 1h')
    say("  calyx down")


def what_comes_next(reach: Reach) -> str:
    """What a person will see in the next minutes, from where the ladder stands."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    try:
        entry = next(e for e in reach.cbo().GetLadder(pb.GetLadderRequest()).domains if e.domain == "diagnostics")
    except (CalyxError, StopIteration):
        return "Watch `calyx ladder`: each kind of work acts by itself once its results have earned it."
    if level_name(entry.level) == "EXECUTE":
        return "Diagnostics acts by itself; the rest asks you first until its results have earned it."
    left = max(entry.run_required - entry.run, 1)
    return (
        f"Diagnostics rehearses now; after {left} good check-in{'s' if left > 1 else ''} in a row it acts by itself: "
        "watch `calyx ladder`. What changes files asks you first."
    )


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
            (
                Column("service"), Column("state", "state"), Column("version", drop=1), Column("pid", "number"),
                Column("up for", "number"), Column("asked"), Column("what", "words"),
            ),
            [
                (
                    s["name"], s["state"], s["version"] or "unknown", s["pid"], span(s["uptime_s"]),
                    "unknown" if s["age_s"] is None else _age(s["age_s"]), s["detail"],
                )
                for s in v["services"]
            ],
            "The guardian watches no service yet.",
        )  # fmt: skip
        say("")
        s = v["station"]
        switch = f"ON, no new task starts: {s['kill_switch_why']}" if s["kill_switch"] else "off"
        rows: list[tuple[str, Any]] = [("station", f"{s['station_id'] or 'unknown'} in {reach.layout.root}")]
        if s["state"] == "ok":
            last = f"{s['last_pulse']}, {_age(s['last_pulse_age_s'])}" if s["last_pulse"] else "none yet"
            rows.append(("last pulse", f"{last} (one every {span(s['pulse_interval_s'])})"))
        else:
            rows.append(("overseer", s["detail"]))
            switch = "unknown" if s["kill_switch"] is None else switch
        rows.append(("kill switch", switch))
        if s["dashboard"]:
            rows.append(("dashboard", f"{s['dashboard']} (`calyx login-link` logs you in)"))
        facts(rows)

    emit({"station": station, "services": services}, json, words)
    if not services:
        raise Exit(1)


def _age(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{span(float(int(seconds)))} ago"


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
