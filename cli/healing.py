"""`calyx incident`, `playbook`, `quarantine`: faults, what was done, and what to let run again."""

from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from cli.output import JsonFlag, at, emit, optional, say, shown, span
from cli.reach import reach_of
from cli.tables import Column, facts, table, tell
from cli.times import ago, local

CLASSES = {1: "minor", 2: "major", 3: "critical"}


def register(app: typer.Typer) -> None:
    incident = typer.Typer(no_args_is_help=True)
    incident.command("list")(incidents)
    incident.command("show")(incident_show)
    app.add_typer(incident, name="incident", help="Faults the guardian saw. Example: calyx incident list")
    playbook = typer.Typer(no_args_is_help=True)
    playbook.command("list")(playbooks)
    playbook.command("run")(playbook_run)
    app.add_typer(playbook, name="playbook", help="What the guardian does about a fault. Example: calyx playbook list")
    quarantine = typer.Typer(no_args_is_help=True)
    quarantine.callback()(lambda: None)  # keeps `release` a command of its own
    quarantine.command("release")(release)
    app.add_typer(
        quarantine,
        name="quarantine",
        help="Targets taken out of service. Example: calyx quarantine release memory",
    )


def as_json(incident: Any) -> dict[str, Any]:
    return {
        "id": incident.id,
        "class": CLASSES.get(getattr(incident, "class"), "unknown"),
        "target": incident.target,
        "symptom": incident.symptom,
        "opened_at": at(incident, "opened_at"),
        "closed_at": at(incident, "closed_at"),
        "detected_s": incident.detected_seconds,
        "recovered_s": optional(incident, "recovered_seconds"),
        "playbook": incident.recovery.playbook,
        "action": incident.recovery.action,
        "attempts": incident.recovery.attempts,
        "root_cause": {
            "ranked": [
                {
                    "cause": cause.cause,
                    "confidence": cause.confidence,
                    "evidence": list(cause.evidence),
                    "disproved_by": cause.disproved_by,
                }
                for cause in incident.causes
            ]
        },
        "pulse": incident.pulse_id,
        "reported_by": incident.reported_by,
    }


def incidents(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", min=1, max=500, help="How many.")] = 50,
    open_only: Annotated[bool, typer.Option("--open", help="Only those still open.")] = False,
    json: JsonFlag = False,
) -> None:
    """Incidents, newest first. Example: calyx incident list --open"""
    from calyx.guardian.v1 import guardian_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.guardian().ListIncidents(pb.ListIncidentsRequest(limit=last, open_only=open_only))
    keys = ("id", "class", "target", "opened_at", "closed_at")
    full = [as_json(incident) for incident in answer.incidents]
    emit(
        {"incidents": [{key: i[key] for key in (*keys, "symptom", "recovered_s")} for i in full]},
        json,
        lambda v: table(
            (
                Column("id"), Column("class", "state"), Column("target"), Column("opened"),
                Column("recovered\nin", "number"), Column("symptom", "words"),
            ),
            [
                (
                    i["id"], i["class"], i["target"], ago(i["opened_at"], reach.clock.now()),
                    span(i["recovered_s"]) if i["closed_at"] else "open", i["symptom"],
                )
                for i in v["incidents"]
            ],
            "No incident is open: the guardian sees nothing wrong (`calyx status`)."
            if open_only
            else "No incidents: the guardian watches every service and has seen no fault (`calyx status`).",
        ),
    )  # fmt: skip


def incident_show(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """One incident with its root-cause summary. Example: calyx incident show inc-1"""
    from calyx.guardian.v1 import guardian_pb2 as pb

    reach = reach_of(ctx)
    now = reach.clock.now()

    def words(i: dict[str, Any]) -> None:
        tell(f"{i['id']}: {i['class']} incident on {i['target']}: {i['symptom']}")
        closed = f"closed {local(i['closed_at'], now)}" if i["closed_at"] else "still open"
        done = f"{i['action'] or 'nothing yet'} by {i['playbook'] or 'no playbook'}"
        rows: list[tuple[str, Any]] = [
            ("opened", f"{local(i['opened_at'], now)}, {closed}"),
            ("detected", f"in {span(i['detected_s'])}; recovered in {span(i['recovered_s'])}"),
            ("done", f"{done}, {i['attempts']} attempts"),
            ("pulse", i["pulse"] or "in none yet"),
        ]
        for cause in i["root_cause"]["ranked"]:
            rows.append((f"{cause['confidence']:.0%}", f"{cause['cause']}: {'; '.join(cause['evidence'])}"))
            rows.append(("", f"would be disproved by: {shown(cause['disproved_by'])}"))
        facts(rows)

    emit(as_json(reach.guardian().GetIncident(pb.GetIncidentRequest(id=id)).incident), json, words)


def playbooks(ctx: typer.Context, json: JsonFlag = False) -> None:
    """What the guardian can do. Example: calyx playbook list"""
    from calyx.guardian.v1 import guardian_pb2 as pb

    answer = reach_of(ctx).guardian().ListPlaybooks(pb.ListPlaybooksRequest())
    value = [
        {
            "name": p.name,
            "description": p.description,
            "answers": p.answers,
            "action": p.action,
            "cooldown_s": p.cooldown_seconds,
            "max_attempts": p.max_attempts,
        }
        for p in answer.playbooks
    ]
    emit(
        {"playbooks": value},
        json,
        lambda v: table(
            (
                Column("name"), Column("answers", "state"), Column("action", drop=1),
                Column("cooldown", "number"), Column("what", "words"),
            ),
            [(p["name"], p["answers"], p["action"], span(p["cooldown_s"]), p["description"]) for p in v["playbooks"]],
            "No playbooks.",
        ),
    )  # fmt: skip


def playbook_run(
    ctx: typer.Context,
    name: str,
    target: Annotated[str, typer.Option(help="The service.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run a playbook by hand. Example: calyx playbook run restart --target memory --dry-run"""
    from calyx.guardian.v1 import guardian_pb2 as pb

    request = pb.RunPlaybookRequest(name=name, target=target, dry_run=dry_run)
    answer = reach_of(ctx).guardian().RunPlaybook(request, timeout=60)
    emit({"done": answer.done, "dry_run": dry_run, "detail": answer.detail}, json, lambda v: say(v["detail"]))
    if not answer.done and not dry_run:
        raise Exit(1)


def release(ctx: typer.Context, target: str, json: JsonFlag = False) -> None:
    """Let a quarantined target run again. Example: calyx quarantine release memory"""
    from calyx.guardian.v1 import guardian_pb2 as pb

    answer = reach_of(ctx).guardian().ReleaseQuarantine(pb.ReleaseQuarantineRequest(target=target))
    emit(
        {"target": target, "released": answer.released},
        json,
        lambda v: say(f"{target} is released" if v["released"] else f"{target} was not in quarantine"),
    )
