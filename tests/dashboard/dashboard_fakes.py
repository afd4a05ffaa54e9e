"""A station in memory behind the dashboard's ports: its services can be taken down and its figures set."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chassis.audit import Audit
from chassis.clock import Clock, VirtualClock, iso
from chassis.errors import NotFound, Unavailable
from chassis.executor import Executor, InlineExecutor
from chassis.ids import CountedIds
from chassis.killswitch import KillSwitch
from chassis.layout import SERVICES, Layout
from chassis.rpc.auth import Callers
from services.dashboard.access import LoginLinks, Sessions, host_allowed
from services.dashboard.agent_api import Relay
from services.dashboard.answers import Answers, questions
from services.dashboard.board import Board, together
from services.dashboard.desk import Desk
from services.dashboard.overview import Own
from services.dashboard.ports import Peers
from services.dashboard.web.app import create_app
from services.dashboard.web.context import Context

STATION_ID = "st-0123456789abcdef0123456789abcdef"
TOKENS = {"operator": "operator-token-0001", "dashboard": "dashboard-token-0002", "cbo": "cbo-token-0003"}
PORT = 4040


def figure(value: float | None, unit: str = "percent", age: float = 1.0, **more: Any) -> dict[str, Any]:
    state = "unknown" if value is None else "ok"
    made = {"value": value, "state": state, "unit": unit, "measured_at": None, "age_seconds": age}
    return {**made, "coverage": 1.0, "note": "", **more}


@dataclass
class FakeStation:
    """All five ports in one; `down` names the services that do not answer."""

    clock: Clock
    down: set[str] = field(default_factory=set)
    pulse_interval: float = 60.0
    since_pulse: float = 12.0
    pulse_list: list[dict[str, Any]] = field(default_factory=list)
    task_list: list[dict[str, Any]] = field(default_factory=list)
    waiting_answer: dict[str, Any] = field(default_factory=lambda: {"items": [], "unknown": []})
    ladder_list: list[dict[str, Any]] = field(default_factory=list)
    agent_list: list[dict[str, Any]] = field(default_factory=list)
    kpi_list: list[dict[str, Any]] = field(default_factory=list)
    confidence: dict[str, Any] = field(default_factory=dict)
    incident_list: list[dict[str, Any]] = field(default_factory=list)
    slot_list: list[dict[str, Any]] = field(default_factory=list)
    health_states: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SERVICES, "up"))
    readings: dict[str, Any] = field(default_factory=dict)
    trend_answer: dict[str, Any] = field(default_factory=dict)
    chart_list: list[dict[str, Any]] = field(default_factory=list)
    memory_stats: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    sampled_at: float | None = None
    next_in: float | None = None

    def peers(self) -> Peers:
        return Peers(cbo=self, governor=self, guardian=self, analytics=self, memory=self)

    def _need(self, service: str, call: str) -> None:
        self.calls.append((service, call))
        if service in self.down:
            raise Unavailable("connection refused")

    # cbo
    def station(self, timeout: float) -> dict[str, Any]:
        self._need("cbo", "station")
        last = self.pulse_list[0] if self.pulse_list else None
        left = self.pulse_interval - self.since_pulse if self.next_in is None else self.next_in
        return {
            "station_id": STATION_ID,
            "version": "0.1.0",
            "kill_switch": False,
            "kill_switch_why": "",
            "last_pulse": last,
            "last_pulse_age_seconds": self.since_pulse if last else 0.0,
            "pulse_interval_seconds": self.pulse_interval,
            "next_pulse_at": iso(self.clock.now() + timedelta(seconds=left)),
            "tasks": {"done": 40, "ready": 1} if last else {},
        }

    def pulses(self, limit: int, timeout: float) -> list[dict[str, Any]]:
        self._need("cbo", "pulses")
        return self.pulse_list[:limit]

    def pulse(self, pulse_id: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", "pulse")
        for each in self.pulse_list:
            if each["id"] == pulse_id:
                return {"summary": each, "record_json": json.dumps({"id": pulse_id}), "report_markdown": REPORT}
        raise NotFound(f"there is no pulse {pulse_id}")

    def run_pulse(self, timeout: float) -> dict[str, Any]:
        self._need("cbo", "run_pulse")
        return {"pulse": self.pulse_list[0]}

    def tasks(self, limit: int, state: str, domain: str, waiting: bool, timeout: float) -> list[dict[str, Any]]:
        self._need("cbo", "tasks")
        return self.task_list[:limit]

    def waiting(self, timeout: float) -> dict[str, Any]:
        self._need("cbo", "waiting")
        return self.waiting_answer

    def task(self, task_id: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", "task")
        for each in self.task_list:
            if each["id"] == task_id:
                return each
        raise NotFound(f"there is no task {task_id}")

    def approve(self, task_id: str, plan_digest: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", f"approve {task_id} {plan_digest}")
        return self.task(task_id, timeout)

    def reject(self, task_id: str, why: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", f"reject {task_id} {why}")
        return self.task(task_id, timeout)

    def cancel(self, task_id: str, why: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", f"cancel {task_id} {why}")
        return self.task(task_id, timeout)

    def ladder(self, timeout: float) -> list[dict[str, Any]]:
        self._need("cbo", "ladder")
        return self.ladder_list

    def kpis(self, timeout: float) -> dict[str, Any]:
        self._need("cbo", "kpis")
        return {"window_seconds": 86400.0, "kpis": self.kpi_list, "confidence": self.confidence}

    def agents(self, timeout: float) -> list[dict[str, Any]]:
        self._need("cbo", "agents")
        return self.agent_list

    def objectives(self, finished: bool, timeout: float) -> list[dict[str, Any]]:
        self._need("cbo", "objectives")
        return []

    def submit(self, wanted: dict[str, Any], timeout: float) -> dict[str, Any]:
        self._need("cbo", f"submit {wanted['text']}")
        return {"id": "ob-1", **wanted}

    def set_kill_switch(self, engaged: bool, why: str, timeout: float) -> dict[str, Any]:
        self._need("cbo", f"kill_switch {engaged} {why}")
        return {"engaged": engaged, "changed": True}

    # governor
    def capacity(self, timeout: float) -> dict[str, Any]:
        self._need("governor", "capacity")
        return {"capacity": self.readings, "intents": []}

    def leases(self, timeout: float) -> list[dict[str, Any]]:
        self._need("governor", "leases")
        return []

    # guardian
    def health(self, slots_since: datetime | None, timeout: float) -> dict[str, Any]:
        self._need("guardian", "health")
        services = [
            {
                "service": name,
                "state": state,
                "probed_at": None,
                "last_up_at": None,
                "age_seconds": 1.2,
                "pid": 4000 + n,
                "version": "0.1.0",
                "uptime_seconds": 3723.0,
                "detail": "" if state == "up" else "connection refused",
            }
            for n, (name, state) in enumerate(self.health_states.items())
        ]
        slots = self.slot_list if slots_since is not None else []
        return {"services": services, "slots": slots, "slots_from": None, "quarantined": []}

    def incidents(self, limit: int, timeout: float) -> list[dict[str, Any]]:
        self._need("guardian", "incidents")
        return self.incident_list[:limit]

    # analytics
    def trends(self, timeout: float) -> dict[str, Any]:
        self._need("analytics", "trends")
        return self.trend_answer

    def charts(self, timeout: float) -> list[dict[str, Any]]:
        self._need("analytics", "charts")
        return self.chart_list

    # memory
    def stats(self, timeout: float) -> dict[str, Any]:
        self._need("memory", "stats")
        return self.memory_stats

    def recall(self, objective: str, limit: int, timeout: float) -> dict[str, Any]:
        self._need("memory", f"recall {objective}")
        return {"matches": [], "summaries": [], "floor": 0.8, "searched": 0, "pending": 0}


REPORT = """# Bridge Pulse bp-000000042

**Status:** complete, 1.8 s.

## Reflect

| figure | value | age |
|---|---|---|
| CPU | 12.4 % | 2 s |
| RAM | 41.0 % | 2 s |

## Plan

- `log_rotation` with `zstd-3`: rehearsed, then approved
- diagnostics: runs at EXECUTE

## Critique

Everything did what was predicted.
"""


@dataclass
class Bench:
    """The whole dashboard over a fake station."""

    station: FakeStation
    clock: Clock
    layout: Layout
    at: Context
    answers: Answers
    app: Any
    counted: list[tuple[str, int]]

    @property
    def switch(self) -> KillSwitch:
        return KillSwitch(self.layout.kill_switch)


def bench(
    root: Path,
    station: FakeStation | None = None,
    *,
    clock: Clock | None = None,
    executor: Executor | None = None,
    gather: Any = together,
    port: int = PORT,
    allowed_hosts: Iterable[str] = (),
    environment: dict[str, str] | None = None,
    known_secrets: tuple[str, ...] = (),
    agents: Relay | None = None,
) -> Bench:
    clock = clock or (station.clock if station else VirtualClock())
    station = station or FakeStation(clock)
    layout, ids, executor = Layout(root), CountedIds(), executor or InlineExecutor()
    layout.root.mkdir(parents=True, exist_ok=True)
    answers = Answers(questions(station.peers(), clock), clock)
    switch, started = KillSwitch(layout.kill_switch), clock.monotonic()
    counted: list[tuple[str, int]] = []

    def own() -> Own:
        return Own(
            station_id=STATION_ID,
            version="0.1.0",
            started_monotonic=started,
            kill_switch=switch.engaged(),
            kill_switch_why=switch.why(),
            capacity_interval_seconds=5.0,
        )

    at = Context(
        board=Board(answers, own, clock, executor, gather),
        desk=Desk(
            station.peers(),
            layout,
            clock,
            Audit(layout.audit("dashboard"), clock, "dashboard"),
            environment=environment or {},
            known_secrets=lambda: known_secrets,
        ),
        sessions=Sessions(TOKENS["dashboard"], STATION_ID, clock, ids, timedelta(hours=168)),
        links=LoginLinks(clock, ids, lambda: f"http://127.0.0.1:{port}"),
        identify=Callers.of_tokens(TOKENS).identify,
        host_ok=lambda host: host_allowed(host, port, tuple(allowed_hosts)),
        count=lambda route, code: counted.append((route, code)),
        executor=executor,
        clock=clock,
        version="0.1.0",
        station_id=STATION_ID,
        agents=agents,
    )
    return Bench(
        station=station, clock=clock, layout=layout, at=at, answers=answers, app=create_app(at), counted=counted
    )
