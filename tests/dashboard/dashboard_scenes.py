"""Fake stations worth looking at: a new one, a busy one, one in trouble."""

from datetime import timedelta
from typing import Any

from dashboard_fakes import FakeStation, figure

from chassis.clock import Clock, iso
from services.cbo.posterior import Bin


def reading(cpu: float = 12.4, ram: float = 41.2, age: float = 2.0) -> dict[str, Any]:
    absent = {
        "value": None,
        "state": "absent",
        "unit": "percent",
        "age_seconds": 0.0,
        "coverage": None,
        "note": "no swap",
    }
    return {
        "at": None,
        "cpu_percent": figure(cpu, age=age),
        "ram_percent": figure(ram, age=age),
        "swap_percent": absent,
        "disk_percent": figure(63.8, age=age),
        "psi": {
            "cpu_some": figure(2.1, age=age),
            "memory_some": figure(0.0, age=age),
            "memory_full": figure(0.0, age=age),
            "io_some": figure(0.7, age=age),
            "io_full": figure(0.3, age=age),
        },
        "gpu": {"state": "absent", "devices": [], "detail": "no NVIDIA driver"},
        "source": {"ram": "cgroup-v2", "cpu": "cgroup-v2"},
        "sequence": 17,
    }


def pulse(clock: Clock, number: int, back: float, tes: float | None, mood: str, **more: Any) -> dict[str, Any]:
    score = figure(tes, "score") if tes is not None else figure(None, "score", note="no work")
    return {
        "id": f"bp-{number:09d}",
        "started_at": iso(clock.now() - timedelta(seconds=back)),
        "duration_seconds": 1.84,
        "status": "complete",
        "planned": 2,
        "dispatched": 2,
        "ended": 2 if tes is not None else 0,
        "tes": score,
        "kill_switch": False,
        "incidents": 0,
        "mood": mood,
        **more,
    }


def rung(domain: str, level: str, **more: Any) -> dict[str, Any]:
    base = {
        "domain": domain,
        "level": level,
        "max_level": "EXECUTE",
        "reason": "3 good pulses in a row",
        "run": 3,
        "run_required": 5,
        "tes_last": 97.4,
        "failures_20": 0,
        "mean_12": 97.1,
        "probation": False,
        "evidence": 1.0,
        "frozen": False,
        "next": "2 more pulses with a run score above 95 promote it to Act",
        "changed_at": None,
    }
    return {**base, **more}


def agent(
    clock: Clock, name: str, domains: list[str], seen: float | None, *, revoked: float | None = None, **more: Any
) -> dict[str, Any]:
    def back(seconds: float | None) -> str | None:
        return None if seconds is None else iso(clock.now() - timedelta(seconds=seconds))

    report = more.get("report", "")
    return {
        "agent": name,
        "domains": domains,
        "invited_by": "operator",
        "invited_at": back(5 * 86400),
        "last_seen": back(seen),
        "version": more.get("version", ""),
        "capabilities": [],
        "revoked_at": back(revoked),
        "last_report": report,
        "reported_at": back(40) if report else None,
    }


def kpi(name: str, value: float | None, unit: str, verdict: str, note: str = "", age: float = 20.0) -> dict[str, Any]:
    shown = figure(value, unit, age=age) if value is not None else figure(None, unit, note=note)
    return {"name": name, "target": "", "value": shown, "verdict": verdict, "note": note}


def proposal(clock: Clock, task: str, domain: str, objective: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
    import json

    return {
        "id": task,
        "objective": objective,
        "domain": domain,
        "procedure": "zstd-3",
        "owner": "governor",
        "state": "rehearsed",
        "level": "GUIDE",
        "plan_digest": "9f2c" * 16,
        "prediction": 0.93,
        "tes": 97.3,
        "created_at": iso(clock.now() - timedelta(seconds=96)),
        "plan_json": json.dumps({"changes": changes, "notes": ""}),
        "gates": [{"gate": "policy", "answer": "pass", "reason": "allowed"}],
    }


def incident(clock: Clock, name: str, target: str, back: float, closed: float | None, **more: Any) -> dict[str, Any]:
    base = {
        "id": name,
        "class": "minor",
        "target": target,
        "symptom": "did not answer its health probe",
        "opened_at": iso(clock.now() - timedelta(seconds=back)),
        "closed_at": None if closed is None else iso(clock.now() - timedelta(seconds=closed)),
        "detected_seconds": 2.4,
        "recovered_seconds": None if closed is None else 3.1,
        "recovery": {"playbook": "restart-service", "action": "restart", "attempts": 1},
        "causes": [
            {
                "cause": "its process was killed (SIGKILL)",
                "confidence": 0.9,
                "evidence": ["exit status -9", "no error in its log"],
                "disproved_by": "a stack trace in its log",
            }
        ],
        "pulse_id": "bp-000000041",
        "reported_by": "guardian",
    }
    return {**base, **more}


def empty(clock: Clock) -> FakeStation:
    """The first seconds: everything answers, nothing has happened."""
    station = FakeStation(clock, since_pulse=0.0, next_in=12.0)
    station.readings = reading(cpu=23.0)
    station.ladder_list = [
        rung(name, "GUIDE", run=0, reason="starts here", next="5 pulses with a run score above 95 promote it to Act",
             tes_last=None, mean_12=None)
        for name in ("cleanup", "diagnostics", "log_rotation", "metrics_summary")
    ]  # fmt: skip
    young = "verdict in 23 h 58 min"
    station.kpi_list = [
        kpi("uptime", None, "percent", "insufficient data", young),
        kpi("mean_tes", None, "score", "insufficient data", "no tasks with effects yet"),
        kpi("policy_violations", 0.0, "count", "met"),
        kpi("confidence_delta", None, "pp", "insufficient data", "needs a day"),
        kpi("overrides", 0.0, "count", "met"),
    ]
    station.health_states |= {"analytics": "starting"}
    station.trend_answer = {"trends": [], "analyzed_at": None, "age_seconds": 0.0, "summary": "", "pulses": 0}
    station.memory_stats = {"experiences": 0, "vectors": 0, "recalls": 0, "hits": 0, "index": "exact"}
    return station


def confidence() -> dict[str, Any]:
    """As `GetKpis` tells it: a station that is a little too sure where it is not very sure."""
    said = (
        (0.42, 7),
        (0.55, 8),
        (0.68, 8),
        (0.74, 9),
        (0.81, 9),
        (0.86, 10),
        (0.9, 11),
        (0.93, 12),
        (0.96, 12),
        (0.97, 12),
    )
    bins = []
    for predicted, succeeded in said:
        low, high = Bin(count=12, predicted=0.0, succeeded=succeeded, squared_error=0.0).interval()
        bins.append({"count": 12, "predicted": predicted, "came": succeeded / 12, "low": low, "high": high})
    return {
        "predictions": 120, "brier": 0.112, "calibration_error": 0.041, "skill": 0.23, "bins": bins, "uplift": None,
        "uplift_low": None, "uplift_high": None, "uplift_note": "12 of 30 decisions without memory have ended",
    }  # fmt: skip


def busy(clock: Clock) -> FakeStation:
    """Forty-two pulses in: promotions, plans that wait, a recovery behind it."""
    station = FakeStation(clock)
    station.readings = reading()
    scores = [None, 91.0, 93.5, None, 96.1, 96.7, 97.3, 97.5, None, None, 96.9, 97.2, 97.4, 46.6, 95.9, 96.8, 97.0]
    moods = {None: "Quiet: nothing to do.", 46.6: "One run failed its check and was undone."}
    station.pulse_list = [
        pulse(clock, 42 - n, 12 + 60 * n, tes, moods.get(tes, "Calm: 2 tasks ran as predicted."))
        for n, tes in enumerate((scores * 3)[:42])
    ]
    station.pulse_list[1]["incidents"] = 1
    station.ladder_list = [
        rung("cleanup", "GUIDE", run=0, reason="no work yet", tes_last=None, mean_12=None,
             next="5 pulses with a run score above 95 promote it to Act"),
        rung("diagnostics", "EXECUTE", run=9, probation=False, evidence=24.1, reason="promoted in bp-000000009",
             next="a mean below 92 over 12 pulses, or a third failure in 20, takes it back"),
        rung("log_rotation", "GUIDE"),
        rung("metrics_summary", "EXECUTE", run=6, probation=True, evidence=4.2, reason="promoted in bp-000000031",
             next="evidence 20 ends probation; until then one effect per pulse"),
        rung("notes_export", "SUGGEST", max_level="GUIDE", run=0, run_required=0, reason="set by a person",
             next="only a person moves it from here"),
    ]  # fmt: skip
    station.kpi_list = [
        kpi("uptime", 99.2, "percent", "met", "142/143 slots"),
        kpi("mean_tes", 96.4, "score", "met", "31 tasks with effects"),
        kpi("policy_violations", 0.0, "count", "met", "2 attempts blocked"),
        kpi("confidence_delta", 0.4, "pp", "missed", "4 domains"),
        kpi("overrides", 0.0, "count", "met"),
    ]
    station.confidence = confidence()
    logs = "/station/logs/"
    station.task_list = [
        proposal(clock, "t-0123-42-1", "log_rotation", "rotate the logs", [
            {"op": "rotate", "target": logs + "governor.log", "size_bytes": 5242880},
            {"op": "create", "target": logs + "governor.log.1.zst", "size_bytes": 311296},
            {"op": "remove", "target": logs + "governor.log.1", "size_bytes": 5242880},
        ]),
        proposal(clock, "t-0123-41-2", "cleanup", "free memory: RAM above 80 % for 3 pulses", [
            {"op": "remove", "target": "/station/work/governor/old-scratch", "size_bytes": 88080384},
        ]),
    ]  # fmt: skip
    station.agent_list = [
        agent(clock, "scribe", ["notes", "photo_sorting"], seen=4, report="sorted 212 photos, 3 had no date"),
        agent(clock, "builder", ["nightly_build"], seen=3 * 3600, version="2.1"),
        agent(clock, "newcomer", ["translation"], seen=None),
        agent(clock, "old-crawler", ["feeds"], seen=86400 * 3, revoked=86400 * 2),
    ]
    station.incident_list = [
        incident(clock, "in-7", "memory", 95.0, 91.0),
        incident(clock, "in-3", "governor", 7300, 7290),
    ]
    marks = ["up"] * 37 + ["down"] + ["up"] * 105
    station.slot_list = [
        {"start": iso(clock.now() - timedelta(minutes=len(marks) - n)), "state": state} for n, state in enumerate(marks)
    ]
    station.trend_answer = {
        "trends": [
            {"metric": "tes", "unit": "score", "points": 34, "unknown": 8, "slope_per_day": 0.8, "slope_low": 0.2,
             "slope_high": 1.4, "p_value": 0.01, "verdict": "rising", "series": [], "latest": 97.0},
            {"metric": "ram_percent", "unit": "percent", "points": 42, "unknown": 0, "slope_per_day": 0.1,
             "slope_low": -0.4, "slope_high": 0.5, "p_value": 0.6, "verdict": "flat", "series": [], "latest": 41.2},
            {"metric": "uptime_percent", "unit": "percent", "points": 42, "unknown": 0, "slope_per_day": None,
             "slope_low": None, "slope_high": None, "p_value": None, "verdict": "insufficient data", "series": [],
             "latest": 99.2},
        ],
        "analyzed_at": iso(clock.now() - timedelta(minutes=4)),
        "age_seconds": 240.0,
        "summary": "Run scores rise slowly; memory use is flat.",
        "pulses": 42,
    }  # fmt: skip
    station.memory_stats = {"experiences": 58, "vectors": 58, "recalls": 84, "hits": 61, "index": "exact"}
    return station


def trouble(clock: Clock) -> FakeStation:
    """The governor is down and has just been noticed."""
    station = busy(clock)
    station.down = {"governor"}
    station.health_states["governor"] = "down"
    down = incident(clock, "in-9", "governor", 8.0, None, **{"class": "major"})
    station.incident_list = [down, *station.incident_list]
    return station


SCENES = {"empty": empty, "busy": busy, "trouble": trouble}
