"""`calyx capacity` and `calyx governor`: what the machine has, and who has to wait."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, figure, figure_state, moment, optional, say, span
from cli.reach import Reach, reach_of
from cli.tables import Column, facts, table
from cli.times import local, parse_span

PERCENTS = ("cpu_percent", "ram_percent", "swap_percent", "disk_percent")
PSI = ("cpu_some", "memory_some", "memory_full", "io_some", "io_full")
GPU_STATES = {1: "absent", 2: "ok", 3: "error", 4: "unsupported"}


def register(app: typer.Typer) -> None:
    app.command("capacity")(capacity)
    group = typer.Typer(no_args_is_help=True)
    group.command("leases")(leases)
    group.command("throttle")(throttle)
    group.command("sleep")(sleep)
    group.command("resume")(resume)
    app.add_typer(
        group,
        name="governor",
        help="Ask somebody to slow down or pause. Example: calyx governor leases",
    )


def as_json(reading: Any, reach: Reach) -> dict[str, Any]:
    """Numbers only where they may be used now; `states` says why one is missing."""
    age = (reach.clock.now() - moment(reading, "at")).total_seconds() if reading.HasField("at") else None
    return {
        "at": at(reading, "at"),
        "age_s": None if age is None else max(0.0, age),
        **{name: figure(getattr(reading, name)) for name in PERCENTS},
        "states": {name: figure_state(getattr(reading, name)) for name in PERCENTS},
        "psi": {name: figure(getattr(reading.psi, name)) for name in PSI},
        "gpu": {
            "state": GPU_STATES.get(reading.gpu.state, "unknown"),
            "detail": reading.gpu.detail,
            "devices": [
                {
                    "index": device.index,
                    "name": device.name,
                    "utilization_percent": figure(device.utilization_percent),
                    "memory_percent": figure(device.memory_percent),
                    "temperature_celsius": figure(device.temperature_celsius),
                }
                for device in reading.gpu.devices
            ],
        },
        "source": dict(reading.source),
    }


def capacity(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="A line after every sample, until Ctrl-C.")] = False,
    json: JsonFlag = False,
) -> None:
    """CPU, memory, disk, pressure, GPU, each with its age. Example: calyx capacity --watch"""
    from calyx.governor.v1 import governor_pb2 as pb

    reach = reach_of(ctx)
    if watch:
        for sample in reach.governor().WatchCapacity(pb.WatchCapacityRequest()):
            emit(as_json(sample.capacity, reach), json, lambda v: say(_line(v, reach)))
        return
    answer = reach.governor().GetCapacity(pb.GetCapacityRequest())
    value = as_json(answer.capacity, reach)
    value["intents"] = [
        {"id": i.id, "kind": i.kind, "domain": i.domain, "reason": i.reason, "raised_at": at(i, "raised_at")}
        for i in answer.intents
    ]

    def words(v: dict[str, Any]) -> None:
        rows = [(name.removesuffix("_percent"), _percent(v[name], v["states"][name])) for name in PERCENTS]
        rows += [(f"pressure, {name.replace('_', ' ')}", _percent(v["psi"][name], "unknown")) for name in PSI]
        detail = f" ({v['gpu']['detail']})" if v["gpu"]["detail"] else ""
        rows.append(("gpu", f"{v['gpu']['state']}{detail}"))
        for d in v["gpu"]["devices"]:
            rows.append((f"gpu {d['index']} {d['name']}", _percent(d["utilization_percent"], "unknown")))
        say(f"in use, {span(v['age_s'])} old (`calyx capacity --watch` follows it)")
        facts(rows)
        for intent in v["intents"]:
            say(f"the governor wants: {intent['kind'].replace('_', ' ')} ({intent['reason']})")

    emit(value, json, words)


def lease_json(lease: Any) -> dict[str, Any]:
    return {
        "id": lease.id,
        "kind": {1: "throttle", 2: "sleep"}.get(lease.kind, "unknown"),
        "target": lease.target,
        "reason": lease.reason,
        "by": lease.by,
        "granted_at": at(lease, "granted_at"),
        "expires_at": at(lease, "expires_at"),
        "share": optional(lease, "share"),
    }


def leases(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Throttles and sleeps in force. Example: calyx governor leases"""
    from calyx.governor.v1 import governor_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.governor().ListLeases(pb.ListLeasesRequest())
    emit(
        {"leases": [lease_json(lease) for lease in answer.leases]},
        json,
        lambda v: table(
            (Column("target"), Column("kind"), Column("until"), Column("by", drop=1), Column("reason", "words")),
            [
                (e["target"], e["kind"], local(e["expires_at"], reach.clock.now()), e["by"], e["reason"])
                for e in v["leases"]
            ],
            "Nobody is throttled or asleep: everything may work at its own pace.",
        ),
    )


For = Annotated[str, typer.Option("--for", help="How long; it reverts by itself.")]
Why = Annotated[str, typer.Option("--why", help="The reason.")]


def throttle(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A service, agent or domain.")],
    duration: For = "10m",
    share: Annotated[float, typer.Option(help="What is left of the usual rate, above 0 and below 1.")] = 0.5,
    why: Why = "asked at the command line",
    json: JsonFlag = False,
) -> None:
    """Ask a target to do less for a while. Example: calyx governor throttle analytics --for 10m --share 0.3"""
    from calyx.governor.v1 import governor_pb2 as pb

    request = pb.ThrottleRequest(target=target, share=share, reason=why)
    request.duration.FromNanoseconds(round(_lease_seconds(duration) * 1e9))
    reach = reach_of(ctx)
    lease = reach.governor().Throttle(request).lease
    emit(
        lease_json(lease),
        json,
        lambda v: say(f"{v['target']} is throttled {_until(v, reach)}"),
    )


def sleep(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A service, agent or domain.")],
    duration: For = "10m",
    why: Why = "asked at the command line",
    json: JsonFlag = False,
) -> None:
    """Ask a target to pause for a while. Example: calyx governor sleep log_rotation --for 1h"""
    from calyx.governor.v1 import governor_pb2 as pb

    request = pb.SleepRequest(target=target, reason=why)
    request.duration.FromNanoseconds(round(_lease_seconds(duration) * 1e9))
    reach = reach_of(ctx)
    lease = reach.governor().Sleep(request).lease
    emit(
        lease_json(lease),
        json,
        lambda v: say(f"{v['target']} sleeps {_until(v, reach)}"),
    )


def resume(ctx: typer.Context, target: str, json: JsonFlag = False) -> None:
    """End a target's leases early. Example: calyx governor resume log_rotation"""
    from calyx.governor.v1 import governor_pb2 as pb

    answer = reach_of(ctx).governor().Resume(pb.ResumeRequest(target=target))
    emit(
        {"ended": [lease_json(lease) for lease in answer.ended]},
        json,
        lambda v: say(f"{target}: {len(v['ended']) or 'no'} {'lease' if len(v['ended']) == 1 else 'leases'} ended"),
    )


def _until(lease: dict[str, Any], reach: Reach) -> str:
    return f"until {local(lease['expires_at'], reach.clock.now())}; `calyx governor resume {lease['target']}` ends it"


def _lease_seconds(text: str) -> float:
    seconds = parse_span(text)
    if not 1 <= seconds <= 86400:
        raise InvalidInput("a lease lasts from 1s to 24h")
    return seconds


def _percent(value: float | None, state: str) -> str:
    return state if value is None else f"{value:.1f} %"


def _line(value: dict[str, Any], reach: Reach) -> str:
    parts = [f"{name.removesuffix('_percent')} {_percent(value[name], value['states'][name])}" for name in PERCENTS]
    return f"{local(value['at'], reach.clock.now())}  {'  '.join(parts)}  gpu {value['gpu']['state']}"
