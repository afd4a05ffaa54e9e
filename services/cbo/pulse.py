"""The Bridge Pulse: Reflect → Plan → Act → Critique, serially, and the record of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.domain_book import Ending
from chassis.domains import Level
from chassis.errors import CalyxError
from chassis.rng import Rng
from services.cbo import objectives, readings
from services.cbo.bridge import Bridge
from services.cbo.choosing import choose_for, level_of
from services.cbo.critique import Critic, Critique
from services.cbo.dispatch import Dispatcher, intake
from services.cbo.endings import endings
from services.cbo.gates import Gated
from services.cbo.history import hand_over
from services.cbo.kpis import Kpi
from services.cbo.measured import Measured
from services.cbo.meter import Meter
from services.cbo.objectives import Objective
from services.cbo.ports import Capacity, Health, Incident, Recollection, Trends
from services.cbo.posterior import NO_CALIBRATION, Calibration
from services.cbo.steps import Declared, Step, domain_of
from services.cbo.store import pulse_id
from services.cbo.tasks import OPEN, STATE_OF, Task, task_id

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Reflection:
    """What the pulse took in; None where a service did not answer, with the reason in `silent`."""

    kill_switch: str | None
    capacity: Capacity | None = None
    health: Health | None = None
    incidents: tuple[Incident, ...] | None = None
    trends: Trends | None = None
    acks: list[Task] = field(default_factory=list)
    endings: tuple[Ending, ...] = ()
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A task as planned now, or gated again, with what the gates make of it."""

    task: Task
    gated: Gated
    new: bool


@dataclass(slots=True, kw_only=True)
class Pulse:
    """One pulse as it grows."""

    number: int
    id: str
    started_at: datetime
    started_monotonic: float
    seed: int = 0
    reflection: Reflection
    objectives: list[tuple[Objective, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    """What each due objective's planning rests on."""
    busy: frozenset[str] = frozenset()
    """Objectives whose last task had not ended."""
    planned: list[Planned] = field(default_factory=list)
    dispatched: list[Task] = field(default_factory=list)
    critique: Critique = field(default_factory=Critique)
    measured: Measured | None = None
    """What KPIs and calibration rest on."""
    kpis: tuple[Kpi, ...] = ()
    calibration: Calibration = NO_CALIBRATION
    gate_log: Json = field(default_factory=dict)
    """What the gates were asked since the last record, and what they answered (`gate_log`)."""
    confidence: Mapping[tuple[str, str], float] = field(default_factory=dict)
    duration_seconds: float = 0.0
    ended_at: datetime | None = None


class Steps:
    """The four steps over the ports. Called by one pulse at a time."""

    def __init__(self, bridge: Bridge, dispatcher: Dispatcher, meter: Meter) -> None:
        self._bridge, self._dispatcher, self._meter = bridge, dispatcher, meter
        self._critic = Critic(bridge)

    def begin(self, *, written: bool) -> Pulse:
        """Allocate the id, durably. `written`: all earlier records are in their files."""
        now = self._bridge.clock.now()
        number = self._bridge.store.begin_pulse(now, written=written)
        return Pulse(
            number=number,
            id=pulse_id(number),
            started_at=now,
            started_monotonic=self._bridge.clock.monotonic(),
            reflection=Reflection(kill_switch=None),
        )

    # Reflect

    def reflect(self, pulse: Pulse) -> None:
        """The only point of intake."""
        bridge, now = self._bridge, pulse.started_at
        peers, found = bridge.peers, pulse.reflection
        found.kill_switch = bridge.kill_switch.why() if bridge.kill_switch.engaged() else None
        try:
            found.capacity = peers.governor.capacity(pulse.id)
        except CalyxError as error:
            found.silent["governor"] = error.message
        try:
            found.health = peers.guardian.health(self._meter.slots_since(now))
            found.incidents = peers.guardian.incidents(self._incident_cursor())
            self._meter.take(found.health, now)
        except CalyxError as error:
            found.silent["guardian"] = error.message
        self._watch_guardian(found)
        try:
            found.trends = peers.analytics.trends()
        except CalyxError as error:
            found.silent["analytics"] = error.message
        bridge.load.take(found.capacity, now, timedelta(seconds=bridge.options.pulse_interval_seconds))
        bridge.exchange.sweep()
        intake(bridge)
        found.acks = bridge.store.tasks("tasks_unscored")
        found.endings = endings(bridge, now)
        if found.capacity is not None:
            self._take_intents(found.capacity)

    def _incident_cursor(self) -> datetime:
        text = self._bridge.store.fact("incidents_until")
        return parse_iso(text) if text else self._bridge.founded_at - timedelta(seconds=1)

    def _watch_guardian(self, found: Reflection) -> None:
        """Nobody else does: after more than two pulses (and 10 s) without an answer it goes on record."""
        bridge = self._bridge
        now = bridge.clock.now()
        since = bridge.store.fact("guardian_silent_since") or ""
        if "guardian" not in found.silent:
            if since:
                bridge.store.set_fact("guardian_silent_since", "")
            return
        if not since:
            bridge.store.set_fact("guardian_silent_since", iso(now))
            return
        gone = now - parse_iso(since.removesuffix("!"))
        enough = max(timedelta(seconds=10), 2 * timedelta(seconds=bridge.options.pulse_interval_seconds))
        if gone >= enough and not since.endswith("!"):
            bridge.audit.write("guardian.silent", since=since, why=found.silent["guardian"])
            bridge.store.set_fact("guardian_silent_since", since + "!")
        if gone >= enough:
            found.silent["guardian"] += f" (silent for {gone.total_seconds():.0f} s; only the supervisor restarts it)"

    def _take_intents(self, capacity: Capacity) -> None:
        for intent in capacity.intents:
            manifest = self._bridge.domains.get(intent.domain)
            if manifest is None:
                self._bridge.audit.write("intent.refused", intent=intent.id, why=f"no domain {intent.domain!r}")
                continue
            self._bridge.store.add_objective(
                Objective(
                    id=f"o-{intent.id}",
                    text=manifest.objective,
                    domain=intent.domain,
                    source=f"governor:{intent.id}",
                    created_at=self._bridge.clock.now(),
                    key=f"intent:{intent.id}",
                    note=intent.reason,
                )
            )

    # Plan

    def plan(self, pulse: Pulse) -> None:
        """Objectives and held tasks become gated tasks, durable before anything is sent."""
        bridge = self._bridge
        rng = Rng.of(bridge.station_id, pulse.id)
        pulse.seed = rng.seed
        self._dispatcher.new_pulse(pulse.reflection.silent.get("governor", ""))
        open_tasks = bridge.store.tasks("tasks_open")
        busy = pulse.busy = frozenset(task.objective_id for task in open_tasks if task.state in OPEN)
        asked = set()
        for task in open_tasks:
            if task.dispatched_at is None and not task.undo_of:
                again, gated = self._dispatcher.gate(task)
                pulse.planned.append(Planned(task=again, gated=gated, new=False))
        interval = timedelta(seconds=bridge.options.pulse_interval_seconds)
        ordinal = 0
        for objective in bridge.store.active_objectives():
            due = objectives.due(objective, pulse.started_at, interval, has_open_task=objective.id in busy)
            pulse.objectives.append((objective, due.reason))
            if not due.due:
                continue
            ordinal += 1
            made = self._plan_one(pulse, objective, ordinal, rng)
            if made is None:
                asked.add(objective.id)
            else:
                pulse.planned.append(made)
        with bridge.store.transaction():
            for each in pulse.planned:
                self._keep(each, pulse.started_at)
            self._dispatcher.keep_log()
            for objective_id in asked:
                bridge.store.run(
                    "objective_note", "which domain? no experience is like it: submit it with a domain", objective_id
                )
        for each in pulse.planned:
            if each.gated.verdict == "refuse" and each.new:
                bridge.audit.write("policy.blocked", task=each.task.id, domain=each.task.domain, why=each.gated.reason)
        bridge.fault("planned")

    def _plan_one(self, pulse: Pulse, objective: Objective, ordinal: int, rng: Rng) -> Planned | None:
        bridge = self._bridge
        recalled = self._recall(pulse, objective)
        alike = [each.domain for each in recalled.matches]
        there = tuple(sorted({each for each in (objective.domain, *alike) if each in bridge.domains}))
        same = "" if there else next((d for d, m in bridge.domains.items() if m.objective == objective.text), "")
        domain = domain_of(objective.domain, alike, there, same)
        manifest = bridge.domains.get(domain)
        matches = tuple(each.to_json() for each in recalled.matches)
        step = Step(objective=objective.id, there=there, same_words=same, matches=matches, summaries=recalled.summaries)
        if manifest is None:
            pulse.steps.append(step)
            return None
        declared = Declared.of(manifest, bridge.ladder.standing(domain).level)
        step = replace(step, declared=declared, waiting=self._already_proposed(objective, domain))
        if step.waiting:
            pulse.steps.append(step)
            return None
        params, procedures = declared.with_params(objective.params)
        name = task_id(bridge.station_id, pulse.number, ordinal)
        choice = choose_for(
            bridge, manifest, procedures, recalled.summaries, rng=rng, decision=name, now=pulse.started_at
        )
        pulse.steps.append(step.chosen(choice))
        task = Task(
            id=name,
            domain=domain,
            procedure=choice.procedure,
            owner=manifest.owner,
            state="ready",
            level=level_of(choice, declared.level),
            created_at=pulse.started_at,
            objective_id=objective.id,
            objective=objective.text,
            params=params,
            prediction=choice.prediction,
            choices=choice.draws,
            recalled=matches,
            pulse_id=pulse.id,
        )
        task, gated = self._dispatcher.gate(task)
        return Planned(task=task, gated=gated, new=True)

    def _already_proposed(self, objective: Objective, domain: str) -> bool:
        """Where a person is asked before anything runs, one proposal waits; it is not made again while it does."""
        level = self._bridge.ladder.standing(domain).level
        if level is not Level.SUGGEST and (level is not Level.GUIDE or self._bridge.domains[domain].rehearses):
            return False
        return any(row["state"] == "proposed" for row in self._bridge.store.rows("tasks_proposed", objective.id))

    def _recall(self, pulse: Pulse, objective: Objective) -> Recollection:
        if "memory" in pulse.reflection.silent:
            return Recollection()
        since = self._bridge.beliefs.recent(objective.domain) if objective.domain else None
        try:
            return self._bridge.peers.memory.recall(
                objective.text, objective.domain, self._bridge.options.recall_limit, since
            )
        except CalyxError as error:
            pulse.reflection.silent["memory"] = error.message
            return Recollection()

    def _keep(self, planned: Planned, now: datetime) -> None:
        store, task = self._bridge.store, planned.task
        target = STATE_OF[planned.gated.verdict]
        if not planned.new:
            store.run("task_gated", target, json.dumps(task.gates), planned.gated.reason, task.id, task.state)
            return
        if planned.gated.verdict != "record":
            store.add_task(replace(task, state=target, why="" if target == "ready" else planned.gated.reason))
        store.run("objective_planned", iso(now), task.domain, task.objective_id)

    # Act

    def act(self, pulse: Pulse) -> None:
        """Send what may go and was not cancelled meanwhile."""
        ready = []
        for each in pulse.planned:
            if each.gated.verdict == "go":
                kept = self._bridge.store.task(each.task.id)
                if kept.state == "ready" and kept.dispatched_at is None:
                    ready.append(replace(each.task, state="ready"))
        if ready:
            pulse.dispatched = self._dispatcher.send(ready)
        self._bridge.fault("dispatched")

    # Critique

    def criticise(self, pulse: Pulse) -> None:
        """Probe and score what ended, look at due windows, remember. Kept by `settle`."""
        self._critic = Critic(self._bridge)
        found = pulse.critique
        found.judged = self._critic.judge(pulse.reflection.acks)
        found.verified = self._critic.verify(pulse.started_at)
        judged = [each for each in found.judged if not each.waiting]
        self._critic.violations([each.task for each in judged])
        self._critic.alarm()
        self._bridge.consents.confirm(
            [each.task for each in judged if each.probed is None or each.probed.verdict != "refuted"]
        )
        found.experiences = self._critic.remember(found.judged, pulse.id, self._bridge.clock.now())
        self._critic.amend()
        self._critic.tell()
        self._bridge.fault("probed")

    def settle(self, pulse: Pulse) -> None:
        """Scores, ladder, KPIs: inside the pulse's last transaction."""
        now = self._bridge.clock.now()
        self._critic.settle(pulse.critique, pulse.number, pulse.id, now)
        readings.keep(self._bridge.store, pulse.reflection.capacity, pulse.started_at)
        if pulse.reflection.incidents:
            until = max(each.closed_at or each.opened_at for each in pulse.reflection.incidents)
            self._bridge.store.set_fact("incidents_until", iso(until))
        pulse.measured = self._meter.measured()
        pulse.kpis, pulse.calibration = pulse.measured.kpis(), pulse.measured.calibration()
        pulse.gate_log = hand_over(self._bridge.store)
        pulse.confidence = {key: value.mean for key, value in self._bridge.beliefs.all(now).items()}
        pulse.ended_at = now
        pulse.duration_seconds = self._bridge.clock.monotonic() - pulse.started_monotonic
