"""What each command asks, prints and exits with."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from calyx.analytics.v1 import analytics_pb2
from calyx.cbo.v1 import cbo_pb2
from calyx.common.v1 import common_pb2
from calyx.dashboard.v1 import dashboard_pb2
from calyx.governor.v1 import governor_pb2
from calyx.guardian.v1 import guardian_pb2
from calyx.inbox.v1 import inbox_pb2
from calyx.memory.v1 import memory_pb2
from cli_harness import NOW, Console

from chassis.errors import (
    BadSignature,
    CalyxError,
    DeadlineExceeded,
    Drifted,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
)
from chassis.layout import SERVICES
from chassis.rpc.figures import figure_absent, figure_ok, figure_unknown
from cli.kpis import amount
from cli.station import what_comes_next
from cli.tasks import STATES
from services.cbo.tasks import State


def stamped(message: Any, **fields: Any) -> Any:
    for name, moment in fields.items():
        getattr(message, name).FromDatetime(moment)
    return message


TASK = stamped(
    cbo_pb2.Task(
        id="t-1",
        objective="rotate the logs",
        domain="log_rotation",
        procedure="zstd-3",
        owner="governor",
        state="rehearsed",
        level=common_pb2.LEVEL_GUIDE,
        attempt=1,
        gates=[cbo_pb2.GateAnswer(gate="policy", answer="pass", reason="listed")],
        prediction=0.7,
        undo_possible=False,
        undo_reason="a rehearsal has no effect",
        plan_digest="d" * 64,
        plan_json='{"changes":[{"op":"rotate","target":"/s/logs/a.log","size_bytes":12}],"notes":""}',
    ),
    created_at=NOW,
)
LADDER = cbo_pb2.GetLadderResponse(
    domains=[
        cbo_pb2.LadderEntry(
            domain="diagnostics",
            level=common_pb2.LEVEL_EXECUTE,
            max_level=common_pb2.LEVEL_EXECUTE,
            reason="five in a row",
            run=5,
            run_required=5,
            tes_last=98.3,
            probation=True,
            evidence=1.19,
            next="evidence 20",
        )
    ]
)
INCIDENT = stamped(
    guardian_pb2.Incident(
        id="inc-1",
        target="memory",
        symptom="no answer",
        detected_seconds=2.5,
        recovered_seconds=1.5,
        recovery=guardian_pb2.Recovery(playbook="restart", action="restart", attempts=1),
        causes=[guardian_pb2.Cause(cause="killed", confidence=0.9, evidence=["SIGKILL"], disproved_by="exit status")],
        pulse_id="bp-000000002",
        **{"class": guardian_pb2.INCIDENT_CLASS_MINOR},
    ),
    opened_at=NOW,
    closed_at=NOW,
)


def test_task_show_has_the_keys_that_scripts_rely_on(calyx: Console) -> None:
    calyx.answers(GetTask=cbo_pb2.GetTaskResponse(task=TASK))
    value = calyx.json("task", "show", "t-1")
    assert {
        "id", "objective", "domain", "procedure", "owner", "state", "level", "attempt", "gates", "prediction", "tes",
        "verifications", "undo",
    } <= set(value)  # fmt: skip
    assert (value["level"], value["tes"], value["prediction"]) == ("GUIDE", None, 0.7)
    assert value["gates"] == [{"gate": "policy", "answer": "pass", "reason": "listed"}]
    assert value["undo"] == {"possible": False, "reason": "a rehearsal has no effect"}


def test_task_list_has_the_keys_that_scripts_rely_on(calyx: Console) -> None:
    calyx.answers(ListTasks=cbo_pb2.ListTasksResponse(tasks=[TASK]))
    (task,) = calyx.json("task", "list", "--state", "rehearsed")["tasks"]
    assert {"id", "objective", "domain", "state", "level", "at"} <= set(task)
    assert task["at"] == "2026-01-01T12:00:00.000000Z"
    assert calyx.script.request("ListTasks").state == "rehearsed"


def test_tasks_come_newest_first_and_a_wrong_state_is_refused_with_the_list(calyx: Console) -> None:
    older, newer = cbo_pb2.Task(), cbo_pb2.Task(id="t-2", state="done")
    older.CopyFrom(TASK)
    newer.created_at.FromDatetime(NOW + timedelta(seconds=5))
    calyx.answers(ListTasks=cbo_pb2.ListTasksResponse(tasks=[older, newer]))
    assert [task["id"] for task in calyx.json("task", "list")["tasks"]] == ["t-2", "t-1"]
    _, err = calyx.run("task", "list", "--state", "sleeping", status=2)
    assert "choose from held, proposed" in err and err.count("\n") == 1
    assert set(STATES) == set(get_args(State))


@pytest.mark.parametrize(
    ("command", "answer", "says"),
    [
        (["inbox"], {"ListWaiting": inbox_pb2.ListWaitingResponse()}, "Nothing waits for you"),
        (["task", "list"], {"ListTasks": cbo_pb2.ListTasksResponse()}, "calyx pulse --now"),
        (["incident", "list"], {"ListIncidents": guardian_pb2.ListIncidentsResponse()}, "has seen no fault"),
        (["trends"], {"Analyze": analytics_pb2.AnalyzeResponse()}, "no pulses to analyse"),
        (["objective", "list"], {"ListObjectives": cbo_pb2.ListObjectivesResponse()}, "calyx objective add"),
        (["pulse", "list"], {"ListPulses": cbo_pb2.ListPulsesResponse()}, "calyx pulse --now"),
    ],
)
def test_where_there_is_nothing_the_command_says_what_that_means(
    calyx: Console, command: list[str], answer: dict[str, Any], says: str
) -> None:
    calyx.answers(**answer)
    assert says in calyx.run(*command)[0].replace("\n", " ")


def test_what_a_service_says_can_not_steer_the_terminal(calyx: Console) -> None:
    task = cbo_pb2.Task(id="t-9", state="done", objective="rotate\x1b[2J\x07 the logs")
    waiting = inbox_pb2.WaitingItem(kind="approval", id=task.id, title=task.objective, task=task)
    calyx.answers(
        ListTasks=cbo_pb2.ListTasksResponse(tasks=[task]),
        GetTask=cbo_pb2.GetTaskResponse(task=task),
        ListWaiting=inbox_pb2.ListWaitingResponse(items=[waiting]),
    )
    for command in (["task", "list"], ["task", "show", "t-9"], ["inbox"]):
        out, _ = calyx.run(*command)
        assert "\x1b" not in out and "\x07" not in out


def test_approve_sends_the_digest_of_the_plan_that_is_there(calyx: Console) -> None:
    calyx.answers(
        GetTask=cbo_pb2.GetTaskResponse(task=TASK),
        ApproveTask=cbo_pb2.ApproveTaskResponse(task=cbo_pb2.Task(id="t-2", state="ready", rehearsal_of="t-1")),
    )
    assert "t-2 (ready) will do it" in calyx.run("task", "approve", "t-1")[0]
    assert calyx.script.request("ApproveTask").plan_digest == "d" * 64
    calyx.run("task", "approve", "t-1", "--plan-digest", "e" * 64)
    assert calyx.script.request("ApproveTask").plan_digest == "e" * 64


def test_an_undo_that_is_not_done_exits_with_one(calyx: Console) -> None:
    calyx.answers(
        Undo=cbo_pb2.UndoResponse(
            done=False, detail="drift", steps=[f"restore {calyx.reach.layout.root}/reports/a.log"]
        )
    )
    out, _ = calyx.run("undo", "t-1", "--dry-run", "--cascade", status=1)
    assert out.startswith("Dry run, nothing was changed: drift\n  - restore reports/a.log\n")
    assert "To do it" not in out
    assert (calyx.script.request("Undo").dry_run, calyx.script.request("Undo").cascade) == (True, True)


def test_ladder_explain_and_set(calyx: Console) -> None:
    calyx.answers(GetLadder=LADDER, SetLevel=cbo_pb2.SetLevelResponse(entry=LADDER.domains[0]))
    (domain,) = calyx.json("ladder")["domains"]
    assert {
        "domain", "level", "max_level", "reason", "run", "run_required", "tes_last", "failures_20", "probation", "next",
    } <= set(domain)  # fmt: skip
    assert (domain["level"], domain["tes_last"]) == ("EXECUTE", 98.3)
    assert "Act (EXECUTE), probation" in calyx.run("ladder")[0]
    assert "evidence 1.19 of 20" in calyx.run("ladder", "explain", "diagnostics")[0]
    calyx.run("ladder", "set", "diagnostics", "guide", "--why", "watching")
    asked = calyx.script.request("SetLevel")
    assert (asked.level, asked.why) == (common_pb2.LEVEL_GUIDE, "watching")
    assert "not a level" in calyx.run("ladder", "set", "diagnostics", "FLY", "--why", "x", status=2)[1]
    assert "--why" in calyx.run("ladder", "set", "diagnostics", "GUIDE", status=2)[1]


def test_the_greeting_says_what_the_ladder_lets_happen_next(calyx: Console) -> None:
    calyx.answers(GetLadder=LADDER)
    assert "acts by itself;" in what_comes_next(calyx.reach)
    entry = cbo_pb2.LadderEntry(domain="diagnostics", level=common_pb2.LEVEL_GUIDE, run=2, run_required=5)
    calyx.answers(GetLadder=cbo_pb2.GetLadderResponse(domains=[entry]))
    assert "after 3 good check-ins in a row it acts by itself" in what_comes_next(calyx.reach)
    calyx.answers(GetLadder=Unavailable("away"))
    assert "calyx ladder" in what_comes_next(calyx.reach)


def test_an_objective_carries_its_schedule_and_its_parameters(calyx: Console) -> None:
    stored = cbo_pb2.Objective(id="o-1", text="rotate the logs", domain="log_rotation", state="active")
    calyx.answers(SubmitObjective=cbo_pb2.SubmitObjectiveResponse(objective=stored))
    calyx.run("objective", "add", "rotate the logs", "--domain", "log_rotation", "--every", "5s", "--param", "keep=3")
    asked = calyx.script.request("SubmitObjective")
    assert asked.schedule.every.ToSeconds() == 5 and dict(asked.params) == {"keep": "3"}
    first_key = asked.idempotency_key
    calyx.run("objective", "add", "rotate the logs", "--at", "2h")
    asked = calyx.script.request("SubmitObjective")
    assert asked.schedule.at.ToJsonString() == "2026-01-01T14:00:00Z"
    assert asked.idempotency_key != first_key
    for wrong in (["--every", "5s", "--at", "2h"], ["--every", "soon"], ["--every", "0s"], ["--param", "keep"]):
        calyx.run("objective", "add", "x", *wrong, status=2)


def test_an_unknown_tes_is_said_to_be_unknown(calyx: Console) -> None:
    pulse = cbo_pb2.PulseSummary(id="bp-000000012", status="complete", tes=figure_unknown("score", "no work"))
    calyx.answers(GetPulse=cbo_pb2.GetPulseResponse(summary=pulse), RunPulse=cbo_pb2.RunPulseResponse(pulse=pulse))
    assert "TES unknown (no work)" in calyx.run("pulse")[0]
    assert calyx.json("pulse", "--now")["tes"] is None


def test_pulse_show_prints_the_record_or_the_report(calyx: Console) -> None:
    answer = cbo_pb2.GetPulseResponse(record_json='{"id":"bp-000000001"}', report_markdown="# Check-in\n")
    calyx.answers(GetPulse=answer)
    assert calyx.json("pulse", "show", "bp-000000001") == {"id": "bp-000000001"}
    assert calyx.run("pulse", "show", "--markdown")[0] == "# Check-in\n"


def test_recall_keeps_the_order_and_says_the_floor(calyx: Console) -> None:
    experience = stamped(
        memory_pb2.Experience(id="e-1", objective="rotate", outcome=memory_pb2.OUTCOME_SUCCESS, tes=97.5),
        occurred_at=NOW,
    )
    answer = memory_pb2.RecallResponse(matches=[memory_pb2.Match(experience=experience, cosine=0.91)], floor=0.8)
    calyx.answers(Recall=answer)
    value = calyx.json("recall", "rotate the logs", "-n", "3", "--since", "24h")
    assert {"query", "min_cosine", "matches"} <= set(value)
    (match,) = value["matches"]
    assert {
        "id", "cosine", "objective", "domain", "procedure", "outcome", "tes", "confidence", "at",
    } <= set(match)  # fmt: skip
    assert (match["outcome"], match["tes"], match["confidence"]) == ("success", 97.5, None)
    asked = calyx.script.request("Recall")
    assert asked.limit == 3 and not asked.HasField("min_cosine")
    assert asked.since.ToJsonString() == "2025-12-31T12:00:00Z"
    calyx.run("recall", "x", "--min-cosine", "0.5", status=2)


def test_a_damaged_memory_exits_with_one(calyx: Console) -> None:
    damaged = memory_pb2.VerifyResponse(ok=False, damages=[memory_pb2.Damage(what="row e-1", why="digest differs")])
    calyx.answers(Verify=damaged)
    assert "damaged: row e-1: digest differs" in calyx.run("memory", "verify", status=1)[0]
    calyx.answers(Verify=memory_pb2.VerifyResponse(ok=True, experiences=3, vectors=3))
    assert "holds: 3 experiences" in calyx.run("memory", "verify")[0]


def test_capacity_never_shows_a_number_that_may_not_be_used(calyx: Console) -> None:
    stale = figure_ok(77.0, "percent", NOW, NOW)
    stale.state = common_pb2.FIGURE_STATE_STALE
    reading = stamped(
        governor_pb2.Capacity(
            cpu_percent=figure_ok(12.5, "percent", NOW, NOW),
            ram_percent=stale,
            swap_percent=figure_absent("percent", "no swap"),
            gpu=governor_pb2.Gpu(state=governor_pb2.GPU_STATE_ABSENT),
            source={"ram": "cgroup-v2"},
        ),
        at=NOW,
    )
    calyx.answers(
        GetCapacity=governor_pb2.GetCapacityResponse(capacity=reading),
        WatchCapacity=[governor_pb2.WatchCapacityResponse(capacity=reading)] * 2,
    )
    value = calyx.json("capacity")
    keys = {"at", "age_s", "cpu_percent", "ram_percent", "swap_percent", "disk_percent", "psi", "gpu", "source"}
    assert keys <= set(value)
    assert [value[f"{name}_percent"] for name in ("cpu", "ram", "swap", "disk")] == [12.5, None, None, None]
    assert list(value["states"].values()) == ["ok", "stale", "absent", "unknown"]
    assert (value["age_s"], value["gpu"]["state"], value["source"]) == (0.0, "absent", {"ram": "cgroup-v2"})
    out, _ = calyx.run("capacity", "--watch")
    assert out.count("cpu 12.5 %  ram stale  swap absent  disk unknown") == 2


def test_leases_have_an_end_within_a_day(calyx: Console) -> None:
    lease = stamped(governor_pb2.Lease(id="l-1", kind=governor_pb2.LEASE_KIND_SLEEP, target="cbo"), expires_at=NOW)
    calyx.answers(Sleep=governor_pb2.SleepResponse(lease=lease))
    assert calyx.json("governor", "sleep", "cbo", "--for", "1h30m")["kind"] == "sleep"
    assert calyx.script.request("Sleep").duration.ToSeconds() == 5400
    calyx.run("governor", "sleep", "cbo", "--for", "2d", status=2)


def test_incidents_have_the_keys_that_scripts_rely_on(calyx: Console) -> None:
    calyx.answers(
        ListIncidents=guardian_pb2.ListIncidentsResponse(incidents=[INCIDENT]),
        GetIncident=guardian_pb2.GetIncidentResponse(incident=INCIDENT),
    )
    (row,) = calyx.json("incident", "list")["incidents"]
    assert {"id", "class", "target", "opened_at", "closed_at"} <= set(row) and row["class"] == "minor"
    value = calyx.json("incident", "show", "inc-1")
    assert {
        "id", "class", "target", "symptom", "opened_at", "closed_at", "detected_s", "recovered_s", "playbook",
        "root_cause", "pulse",
    } <= set(value)  # fmt: skip
    assert value["root_cause"]["ranked"] == [
        {"cause": "killed", "confidence": 0.9, "evidence": ["SIGKILL"], "disproved_by": "exit status"}
    ]
    assert "killed: SIGKILL" in calyx.run("incident", "show", "inc-1")[0]


def test_a_playbook_that_did_not_run_exits_with_one_unless_it_was_a_dry_run(calyx: Console) -> None:
    calyx.answers(RunPlaybook=guardian_pb2.RunPlaybookResponse(done=False, detail="in its cooldown"))
    calyx.run("playbook", "run", "restart", "--target", "memory", status=1)
    calyx.run("playbook", "run", "restart", "--target", "memory", "--dry-run")


def test_kpis_keep_value_coverage_and_verdict_apart(calyx: Console) -> None:
    kpi = cbo_pb2.Kpi(
        name="uptime",
        target="≥ 95 %",
        value=figure_ok(99.0, "percent", NOW, NOW, coverage=0.5),
        verdict="insufficient data",
        note="since start: 37/37 slots",
    )
    calyx.answers(GetKpis=cbo_pb2.GetKpisResponse(window_seconds=86400, kpis=[kpi]))
    value = calyx.json("kpi")
    assert value["window_s"] == 86400
    assert {"name", "target", "value", "coverage", "verdict"} <= set(value["kpis"][0])
    out, _ = calyx.run("kpi")
    assert "insufficient data" in out and "99.0 %" in out
    assert [amount(*each) for each in ((0.0, "count"), (2.04, "pp"), (None, "count"), (97.25, "score"))] == [
        "0", "+2.0 pp", "unknown", "97.2",
    ]  # fmt: skip


def test_trends_reads_an_import_folder_by_its_absolute_path(
    calyx: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trend = analytics_pb2.Trend(metric="tes", verdict="insufficient data", points=2, unknown=3)
    calyx.answers(Analyze=analytics_pb2.AnalyzeResponse(trends=[trend], pulses=5, summary="too early"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    assert calyx.json("trends", "--import", "old")["trends"][0]["slope_per_day"] is None
    assert calyx.script.request("Analyze").import_dir == str(tmp_path / "old")
    calyx.run("trends", "--import", "nowhere", status=2)


def test_export_writes_for_its_owner_and_never_over_a_file(calyx: Console, tmp_path: Path) -> None:
    calyx.answers(ExportDiagnostics=dashboard_pb2.ExportDiagnosticsResponse(archive=b"PK"))
    target = tmp_path / "x.zip"
    calyx.run("export", str(target))
    assert target.read_bytes() == b"PK" and target.stat().st_mode & 0o777 == 0o600
    assert "exists" in calyx.run("export", str(target), status=2)[1]


def test_status_has_the_keys_that_scripts_rely_on(calyx: Console) -> None:
    station = cbo_pb2.GetStationResponse(
        station_id="st-1",
        last_pulse=cbo_pb2.PulseSummary(id="bp-000000012"),
        last_pulse_age_seconds=3.1,
        pulse_interval_seconds=5,
    )
    health = guardian_pb2.ServiceHealth(service="memory", state="up", version="0.1.0", pid=7, uptime_seconds=3700)
    calyx.answers(
        GetStation=station, GetHealth=guardian_pb2.GetHealthResponse(services=[stamped(health, probed_at=NOW)])
    )
    value = calyx.json("status")
    assert {"kill_switch", "last_pulse", "last_pulse_age_s"} <= set(value["station"])
    assert (value["station"]["kill_switch"], value["station"]["last_pulse"]) == (False, "bp-000000012")
    (service,) = value["services"]
    assert {"name", "state", "pid", "uptime_s", "version"} <= set(service)
    assert (service["pid"], service["uptime_s"]) == (7, 3700.0)
    assert "62 min" in calyx.run("status")[0]


def test_status_of_a_station_that_does_not_answer_exits_with_three(
    calyx: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in SERVICES:
        monkeypatch.setenv(f"CALYX_ENDPOINT_{service.upper()}", "127.0.0.1:1")
    calyx.up.clear()
    out, err = calyx.run("status", status=3)
    assert out == "" and "calyx up" in err and err.count("\n") == 1


def test_the_kill_switch_works_while_the_cbo_is_down(calyx: Console) -> None:
    root = calyx.reach.root
    root.mkdir()
    (root / "station.json").write_text("{}")
    calyx.up.clear()
    value = calyx.json("stop", "--why", "fire")
    assert value == {"engaged": True, "changed": True}
    assert (root / "manual_shutdown.flag").read_text().splitlines()[0] == "fire"
    assert calyx.json("stop", "--why", "again")["changed"] is False
    calyx.run("resume", status=3)
    assert (root / "manual_shutdown.flag").exists()


def test_stop_needs_a_reason_and_goes_through_the_cbo(calyx: Console) -> None:
    calyx.answers(SetKillSwitch=cbo_pb2.SetKillSwitchResponse(engaged=True, changed=True))
    calyx.run("stop", status=2)
    calyx.run("stop", "--why", " ", status=2)
    assert "no new task starts" in calyx.run("stop", "--why", "fire")[0]
    asked = calyx.script.request("SetKillSwitch")
    assert (asked.engaged, asked.why) == (True, "fire")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("ask differently"), 2),
        (NotFound("no such task"), 2),
        (Refused("not now"), 1),
        (Drifted("the world moved"), 1),
        (BadSignature("not signed"), 1),
        (Unavailable("away"), 3),
        (DeadlineExceeded("too slow"), 3),
    ],
)
def test_an_error_is_one_line_on_stderr_and_its_own_exit_status(calyx: Console, error: CalyxError, status: int) -> None:
    calyx.answers(GetTask=error)
    out, err = calyx.run("task", "show", "t-1", "--json", status=status)
    assert (out, err) == ("", f"calyx: {error.message}\n")


def test_every_read_has_json_and_every_command_shows_an_example() -> None:
    import typer

    from cli.main import app

    writes_nothing = {"up", "down", "mcp", "run"}
    seen = 0
    for name, command in _commands(typer.main.get_command(app)):
        seen += 1
        assert "Example: calyx" in (command.help or ""), name
        if name not in writes_nothing:
            assert any("--json" in parameter.opts for parameter in command.params), name
    assert seen > 35


def _commands(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in getattr(group, "commands", {}).items():
        inner = _commands(command, f"{prefix}{name} ")
        found += inner or [(f"{prefix}{name}", command)]
    return found


def test_json_stays_json_for_every_unknown(calyx: Console) -> None:
    calyx.answers(GetCapacity=governor_pb2.GetCapacityResponse())
    assert calyx.json("capacity")["at"] is None
    assert json.dumps(calyx.json("capacity"))


def test_what_an_interrupted_pulse_did_not_measure_is_unknown(calyx: Console) -> None:
    broken = stamped(cbo_pb2.PulseSummary(id="bp-000000007", status="interrupted", mood="cut short"), started_at=NOW)
    calyx.answers(ListPulses=cbo_pb2.ListPulsesResponse(pulses=[broken]))
    (row,) = calyx.json("pulse", "list")["pulses"]
    assert (row["duration_s"], row["incidents"], row["tes"]) == (None, None, None)
    assert "unknown" in calyx.run("pulse", "list")[0]


def test_a_service_that_is_down_was_asked_and_not_seen(calyx: Console) -> None:
    health = guardian_pb2.ServiceHealth(service="memory", state="down", detail="no answer")
    calyx.answers(
        GetStation=cbo_pb2.GetStationResponse(station_id="st-1"),
        GetHealth=guardian_pb2.GetHealthResponse(services=[stamped(health, probed_at=NOW)]),
    )
    assert "seen" not in calyx.run("status")[0] and "asked" in calyx.run("status")[0]
