"""One document with everything the page shows, put together from the last answers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from services.dashboard import joined, sections
from services.dashboard.answers import Answer
from services.dashboard.figures import make, terms
from services.dashboard.status import headline
from services.dashboard.view import View

SCHEMA = "calyx.overview/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What the dashboard knows without asking anybody."""

    station_id: str
    version: str
    started_monotonic: float
    kill_switch: bool
    kill_switch_why: str
    capacity_interval_seconds: float


def assemble(answers: Mapping[str, Answer], own: Own, *, now: datetime, monotonic: float) -> Json:
    """Every figure carries its age and state; a section says how old what it rests on is."""
    view = View(answers=answers, now=now, monotonic=monotonic, pulse_interval_seconds=_pulse_interval(answers))
    document: Json = {
        "schema": SCHEMA,
        "at": iso(now),
        "station": _station(view, own),
        "kill_switch": {"engaged": own.kill_switch, "why": own.kill_switch_why if own.kill_switch else ""},
        "peers": {peer: _peer(view, names) for peer, names in sections.PEER_ANSWERS.items()},
        "uptime": sections.uptime(view),
        "tes": sections.tes(view),
        "autonomy": sections.autonomy(view),
        "alerts": sections.alerts(view),
        "capacity": sections.capacity(view, own.capacity_interval_seconds),
        "pulses": sections.pulses(view),
        "inbox": sections.inbox(view),
        "kpis": sections.kpis(view),
        "confidence": sections.confidence(view),
        "services": sections.services(view, own.version, monotonic - own.started_monotonic),
        "memory": sections.memory(view),
        "agents": joined.agents(view),
        "trends": sections.trends(view),
    }
    document["status"] = headline(document)
    return document


def _pulse_interval(answers: Mapping[str, Answer]) -> float:
    station = answers["station"].value or {}
    return float(station.get("pulse_interval_seconds") or 60.0)


def _station(view: View, own: Own) -> Json:
    station = view.value("station") or {}
    last = station.get("last_pulse") or None
    limits = terms(view.pulse_interval_seconds)
    standing = view.standing("station", 1)
    due: Any = None
    lost = standing["state"] == "unknown"
    if station.get("next_pulse_at") and not lost:
        due = round((parse_iso(station["next_pulse_at"]) - view.now).total_seconds(), 1)
    if last is None:
        age = make(None, "unknown", unit="seconds", limits=limits, note=standing["note"] or "no pulse yet")
    else:
        seconds = float(station.get("last_pulse_age_seconds") or 0.0) + (view.since("station") or 0.0)
        age = make(round(seconds, 1), standing["state"], unit="seconds", age=standing["age_seconds"], limits=limits)
        if lost:
            age = {**age, "value": None, "note": standing["note"]}
    return {
        **standing,
        "station_id": station.get("station_id") or own.station_id,
        "version": own.version,
        "pulse_interval_seconds": view.pulse_interval_seconds,
        "last_pulse": last["id"] if last else None,
        "last_pulse_age": age,
        "next_pulse_in_seconds": due,
        "overdue": due is not None and due < -max(10.0, view.pulse_interval_seconds),
        "tasks": {} if lost else station.get("tasks") or {},
    }


def _peer(view: View, names: tuple[str, ...]) -> Json:
    """Reached, and when last: the best of its answers."""
    ages = [age for age in (view.since(name) for name in names) if age is not None]
    trouble = next((view.trouble(name) for name in names if view.answers[name].lost), "")
    asked = bool(ages or trouble)
    return {
        "answers": bool(ages) and not trouble,
        "asked": asked,
        "age_seconds": min(ages, default=None),
        "note": trouble,
    }
