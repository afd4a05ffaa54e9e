"""The page's sections, each from the answers it rests on. Pure; an old answer makes its own section unknown only."""

import json
from typing import Any

from chassis.canonical import Json
from chassis.clock import parse_iso
from chassis.layout import SERVICES
from services.dashboard.figures import aged, make, terms
from services.dashboard.view import View
from services.dashboard.words import KPI_TARGETS, KPI_WORDS, LEVEL_MEANINGS, LEVEL_WORDS, LEVELS, SERVICE_WORDS

PEER_ANSWERS = {
    "memory": ("memory",),
    "governor": ("capacity", "leases"),
    "guardian": ("health", "incidents", "slots"),
    "cbo": ("station", "inbox", "pulses", "ladder", "kpis", "agents"),
    "analytics": ("trends", "charts"),
}
SLOTS_SHOWN = 60
CHANGES_SHOWN = 6
RECOVERIES_SHOWN = 5
GUARDIAN_PROBE_SECONDS = 3.0
_SLOT_MARKS = {"up": "u", "down": "d", "maintenance": "m"}


def uptime(view: View) -> Json:
    kpi = next((each for each in (view.value("kpis") or {}).get("kpis", []) if each["name"] == "uptime"), None)
    slots = (view.value("slots") or {}).get("slots") or []
    standing = view.standing("slots", 20)
    if standing["state"] == "unknown":
        slots = []
    counted = [slot["state"] for slot in slots if slot["state"] != "maintenance"]
    up = sum(state == "up" for state in counted)
    figure = _kpi_figure(view, kpi)
    return {
        **standing,
        "figure": figure,
        "verdict": _verdict(kpi, figure),
        "note": _kpi_note(view, kpi) or standing["note"],
        "since_start": f"{up}/{len(counted)} slots" if counted else "",
        "slots": "".join(_SLOT_MARKS.get(slot["state"], "?") for slot in slots[-SLOTS_SHOWN:]),
        "slots_from": (view.value("slots") or {}).get("slots_from"),
    }


def tes(view: View) -> Json:
    """Run scores by pulse, oldest first; a pulse without a known one is a gap, never a zero."""
    listed = list(reversed(view.value("pulses") or []))
    standing = view.standing("pulses", view.pulse_seconds)
    series = [{"id": each["id"], "at": each["started_at"], **_score(each)} for each in listed]
    known = [each for each in series if each["value"] is not None]
    limits = terms(view.pulse_seconds)
    if not known or standing["state"] == "unknown":
        note = standing["note"] or (series[-1]["note"] if series else "") or "no finished work yet"
        latest = make(None, "unknown", unit="score", limits=limits, note=note)
    else:
        latest = make(
            known[-1]["value"],
            standing["state"],
            unit="score",
            age=standing["age_seconds"],
            note=f"from {known[-1]['id']}",
            limits=limits,
        )
    return {
        **standing,
        "latest": latest,
        "latest_id": known[-1]["id"] if known else None,
        "latest_at": known[-1]["at"] if known else None,
        "series": series,
        "known": len(known),
        "up_at": 95,
        "down_at": 92,
    }


def _score(pulse: Json) -> Json:
    figure = pulse.get("tes") or {}
    value = figure.get("value") if figure.get("state") in ("ok", "stale") else None
    return {"value": value, "note": figure.get("note") or ("" if value is not None else "no work")}


def autonomy(view: View) -> Json:
    standing = view.standing("ladder", view.pulse_seconds)
    entries = [] if standing["state"] == "unknown" else view.value("ladder") or []
    return {**standing, "items": [_rung(each) for each in entries]}


def _rung(entry: Json) -> Json:
    level, top = entry["level"], entry["max_level"]
    run, needed = entry["run"], entry["run_required"]
    if entry["frozen"]:
        progress = "frozen: waits for a known run score or for you"
    elif level == "GUIDE" and needed:
        progress = f"{run} of {needed} good pulses"
    elif level == "EXECUTE" and entry["probation"]:
        progress = f"on probation: evidence {entry['evidence']:.1f} of 20"
    else:
        progress = ""
    return {
        "domain": entry["domain"],
        "level": level,
        "word": LEVEL_WORDS.get(level, "unknown"),
        "meaning": LEVEL_MEANINGS.get(level, ""),
        "rank": LEVELS.index(level) if level in LEVELS else None,
        "max_level": top,
        "max_rank": LEVELS.index(top) if top in LEVELS else None,
        "run": run,
        "run_required": needed,
        "progress": progress,
        "reason": entry["reason"],
        "next": entry["next"],
        "probation": entry["probation"],
        "evidence": entry["evidence"],
        "frozen": entry["frozen"],
        "tes_last": entry["tes_last"],
        "mean_12": entry["mean_12"],
        "failures_20": entry["failures_20"],
        "changed_at": entry["changed_at"],
    }


def alerts(view: View) -> Json:
    """Faults that stand, and the latest that are over. What is over stays a fact, however old the answer."""
    standing = view.standing("incidents", 5)
    known = view.value("incidents") or []
    open_now = [] if standing["state"] == "unknown" else [each for each in known if not each["closed_at"]]
    over = [each for each in known if each["closed_at"]][:RECOVERIES_SHOWN]
    return {
        **standing,
        "open": [_incident(each) for each in open_now],
        "recoveries": [_incident(each) for each in over],
    }


def _incident(each: Json) -> Json:
    causes, recovery = each.get("causes") or [], each.get("recovery") or {}
    return {
        "id": each["id"],
        "class": each["class"],
        "target": each["target"],
        "symptom": each["symptom"],
        "opened_at": each["opened_at"],
        "closed_at": each["closed_at"],
        "recovered_seconds": each.get("recovered_seconds"),
        "action": recovery.get("action") or "",
        "attempts": recovery.get("attempts") or 0,
        "cause": causes[0] if causes else None,
        "pulse_id": each.get("pulse_id") or "",
    }


def capacity(view: View, interval_seconds: float) -> Json:
    """The governor's figures; each grows old by itself from its own age on."""
    reading = (view.value("capacity") or {}).get("capacity") or {}
    since, trouble, limits = view.since("capacity"), view.trouble("capacity"), terms(interval_seconds)

    def figure(found: Json | None) -> Json:
        return aged(found, since_answer=since or 0.0, limits=limits, trouble=trouble)

    psi, gpu = reading.get("psi") or {}, reading.get("gpu") or {}
    standing = view.standing("capacity", interval_seconds)
    lost = standing["state"] == "unknown"
    devices = [] if lost else gpu.get("devices") or []
    leases = [] if view.standing("leases", 10)["state"] == "unknown" else view.value("leases") or []
    return {
        **standing,
        **{name: figure(reading.get(f"{name}_percent")) for name in ("cpu", "ram", "swap", "disk")},
        "psi": {
            name: figure(psi.get(name)) for name in ("cpu_some", "memory_some", "memory_full", "io_some", "io_full")
        },
        "gpu": {
            "state": "unknown" if lost else gpu.get("state") or "unknown",
            "detail": standing["note"] if lost else gpu.get("detail") or "",
            "devices": [
                {
                    "index": each["index"],
                    "name": each["name"],
                    **{
                        name: figure(each.get(name))
                        for name in ("utilization_percent", "memory_percent", "temperature_celsius")
                    },
                }
                for each in devices
            ],
        },
        "source": reading.get("source") or {},
        "leases": [
            {key: each[key] for key in ("kind", "target", "reason", "by", "expires_at", "share")} for each in leases
        ],
        "intents": [] if lost else (view.value("capacity") or {}).get("intents") or [],
    }


def pulses(view: View) -> Json:
    """Past pulses stay facts when the overseer is silent; the section's age says how far they reach."""
    keys = ("id", "started_at", "duration_seconds", "status", "planned", "dispatched", "ended", "incidents", "mood")
    items = [
        {**{key: each[key] for key in keys}, "kill_switch": each["kill_switch"], "tes": _score(each)}
        for each in view.value("pulses") or []
    ]
    return {**view.standing("pulses", view.pulse_seconds), "items": items[:30]}


def inbox(view: View) -> Json:
    standing = view.standing("inbox", 5)
    waiting = [] if standing["state"] == "unknown" else view.value("inbox") or []
    listed = {} if standing["state"] == "unknown" else view.value("waiting") or {}
    ends = {each["id"]: each["expires_at"] for each in listed.get("items", [])}
    keys = ("kind", "id", "title", "domain", "since", "expires_at", "commands")
    return {
        **standing,
        "items": [{**_proposal(each), "expires_at": ends.get(each["id"])} for each in waiting],
        "others": [
            {key: each[key] for key in keys}
            for each in listed.get("items", [])
            if each["kind"] not in ("approval", "proposal")
        ],
        "unknown": list(listed.get("unknown", [])),
    }


def _proposal(task: Json) -> Json:
    changes, notes = _plan(task.get("plan_json") or "")
    keys = ("id", "objective", "domain", "procedure", "owner", "state", "level", "plan_digest", "prediction", "tes")
    return {
        **{key: task[key] for key in keys},
        "created_at": task["created_at"],
        "changes": changes[:CHANGES_SHOWN],
        "changes_total": len(changes),
        "notes": notes,
        "blocked": [gate["reason"] for gate in task["gates"] if gate["answer"] not in ("pass", "")],
    }


def _plan(text: str) -> tuple[list[Json], str]:
    """(changes, notes) of a rehearsed plan; an unreadable plan shows as one without changes, which can't mislead."""
    try:
        plan = json.loads(text) if text else {}
        changes = [
            {"op": str(each["op"]), "target": str(each["target"]), "size_bytes": each.get("size_bytes")}
            for each in plan.get("changes", [])
        ]
        return changes, str(plan.get("notes") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return [], "the plan can't be read; look at it with `calyx task show`"


def kpis(view: View) -> Json:
    answered = {each["name"]: each for each in (view.value("kpis") or {}).get("kpis", [])}
    standing = view.standing("kpis", view.pulse_seconds)
    items = []
    for name, word in KPI_WORDS.items():
        kpi = answered.get(name)
        figure = _kpi_figure(view, kpi)
        items.append(
            {
                "name": name,
                "word": word,
                "target": (kpi or {}).get("target") or KPI_TARGETS[name],
                "figure": figure,
                "verdict": _verdict(kpi, figure),
                "note": _kpi_note(view, kpi),
            }
        )
    return {**standing, "items": items, "window_seconds": (view.value("kpis") or {}).get("window_seconds")}


def confidence(view: View) -> Json:
    """What it predicted before it acted, and how that came out. None is unknown; no prediction, no figure."""
    standing = view.standing("kpis", view.pulse_seconds)
    found = {} if standing["state"] == "unknown" else (view.value("kpis") or {}).get("confidence") or {}
    figures = ("brier", "calibration_error", "skill", "uplift", "uplift_low", "uplift_high")
    return {
        **standing,
        "predictions": found.get("predictions"),
        "bins": found.get("bins") or [],
        **{name: found.get(name) for name in figures},
        "uplift_note": found.get("uplift_note") or "",
        "note": found.get("note") or "",
    }


def _verdict(kpi: Json | None, figure: Json) -> str:
    """A verdict goes with its figure: on what is unknown there is none."""
    said = str((kpi or {}).get("verdict") or "insufficient data")
    return said if figure["state"] != "unknown" or said == "insufficient data" else "unknown"


def _kpi_note(view: View, kpi: Json | None) -> str:
    """What the figure rests on; once the answer is too old, why there is no newer one."""
    lost = view.standing("kpis", view.pulse_seconds)["state"] == "unknown"
    return view.trouble("kpis") if lost else str((kpi or {}).get("note") or "")


def _kpi_figure(view: View, kpi: Json | None) -> Json:
    return aged(
        (kpi or {}).get("value"),
        since_answer=view.since("kpis") or 0.0,
        limits=terms(view.pulse_seconds),
        trouble=view.trouble("kpis"),
    )


def services(view: View, version: str, own_uptime: float) -> Json:
    """The guardian's last probe of each service. Without a fresh one: whether it answers this page, said so."""
    standing = view.standing("health", GUARDIAN_PROBE_SECONDS)
    since = view.since("health") or 0.0
    health = {each["service"]: each for each in (view.value("health") or {}).get("services", [])}
    items = []
    for service in SERVICES:
        probed = health.get(service) if standing["state"] == "ok" and not view.trouble("health") else None
        item: Json = {"service": service, "word": SERVICE_WORDS[service]}
        if service == "dashboard":
            item |= {"state": "up", "by": "itself", "age_seconds": 0.0, "version": version, "detail": ""}
            item |= {"uptime_seconds": round(own_uptime), "pid": (probed or {}).get("pid")}
        elif probed is not None:
            uptime_seconds = probed.get("uptime_seconds")
            item |= {key: probed[key] for key in ("state", "version", "pid", "detail")}
            item |= {"by": "guardian", "age_seconds": round(float(probed["age_seconds"]) + since, 1)}
            item["uptime_seconds"] = None if uptime_seconds is None else round(uptime_seconds + since)
            if item["age_seconds"] > terms(GUARDIAN_PROBE_SECONDS).unknown_after:
                item |= {"state": "unknown", "detail": "not probed for a while"}
        else:
            item |= _reach(view, service)
        items.append(item)
    return {**standing, "items": items, "quarantined": (view.value("health") or {}).get("quarantined") or []}


def _reach(view: View, service: str) -> Json:
    names = PEER_ANSWERS[service]
    trouble = next((view.trouble(name) for name in names if view.answers[name].lost), "")
    ages = [age for age in (view.since(name) for name in names) if age is not None]
    state = "unknown" if not ages and not trouble else ("down" if trouble else "up")
    return {
        "state": state,
        "by": "dashboard",
        "age_seconds": round(min(ages), 1) if ages else None,
        "version": "",
        "pid": None,
        "uptime_seconds": None,
        "detail": trouble or "seen by this page only",
    }


def memory(view: View) -> Json:
    standing = view.standing("memory", 15)
    stats = view.value("memory") or {}
    limits = terms(15)

    def figure(name: str) -> Json:
        if standing["state"] == "unknown" or name not in stats:
            return make(None, "unknown", note=standing["note"], limits=limits)
        return make(stats[name], standing["state"], age=standing["age_seconds"], note=standing["note"], limits=limits)

    names = ("experiences", "vectors", "recalls", "hits")
    return {**standing, **{name: figure(name) for name in names}, "index": stats.get("index") or ""}


def trends(view: View) -> Json:
    """The analyst's own words and lines; `analysis_age_seconds` is the analysis' age, not the answer's."""
    standing = view.standing("trends", 60)
    found = view.value("trends") or {}
    lost = standing["state"] == "unknown"
    age: Any = None
    if found.get("analyzed_at"):
        age = round((view.now - parse_iso(found["analyzed_at"])).total_seconds(), 1)
    keys = ("metric", "unit", "points", "slope_per_day", "slope_low", "slope_high", "p_value", "verdict", "latest")
    charts = [] if view.standing("charts", 60)["state"] == "unknown" else view.value("charts") or []
    return {
        **standing,
        "summary": "" if lost else found.get("summary") or "",
        "analysis_age_seconds": age,
        "pulses": None if lost else found.get("pulses"),
        "items": [] if lost else [{key: each[key] for key in keys} for each in found.get("trends") or []],
        "charts": [{key: each[key] for key in ("name", "metric", "written_at")} for each in charts],
    }
