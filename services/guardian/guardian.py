"""The guardian's loop: look at every service, decide, act through the runtime, keep the record."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from chassis.audit import Audit
from chassis.clock import Clock
from chassis.errors import CalyxError, InvalidInput, NotFound, Refused, Unavailable
from chassis.ids import Ids
from chassis.layout import SERVICES, Layout
from chassis.periodic import Periodic
from chassis.runtime.port import Runtime, TargetState
from services.guardian.casebook import STATION, Casebook, NoTally, Tally
from services.guardian.causes import Evidence
from services.guardian.configs import Configs
from services.guardian.evidence import Machine, last_words
from services.guardian.health import Health, HealthProbe, Probe, Row, all_up, view
from services.guardian.incidents import (
    Action,
    Class,
    Look,
    Outage,
    Terms,
    acted,
    decide,
    not_acted,
    released,
)
from services.guardian.maintenance import Maintenance
from services.guardian.playbooks import Playbook, terms_of
from services.guardian.records import Incident, Incidents
from services.guardian.remembered import Quarantine, Running, Sign, track_of
from services.guardian.slots import Slot, Slots

log = structlog.get_logger(__name__)

SELF = "guardian"
TARGETS = tuple(service for service in SERVICES if service != SELF)
CRITICAL_REPORTERS = frozenset({"cbo", "memory", "governor", "operator"})
"""Who may call something critical, and thereby have it stopped; from others it counts as major."""
QUICK_SECONDS, PATIENT_SECONDS = 1.0, 3.0
GOOD_AFTER_SECONDS = 60.0
MAX_SYMPTOM = 2000
LATE_AFTER_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Health of all six services in start order, and the uptime slots asked for."""

    services: tuple[Health, ...]
    slots: tuple[Slot, ...]
    slots_from: datetime
    quarantined: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the guardian looks through and acts through. `sleeping`: whom the governor put to sleep."""

    probe: HealthProbe
    runtime: Runtime
    machine: Machine
    audit: Audit
    sleeping: Callable[[str], bool] = field(default=lambda _target: False)
    tally: Tally = field(default_factory=NoTally)


class Guardian:
    """One per station. `tick` is called every second (or every probe interval on a virtual station).

    A round of all services takes place every `interval_seconds`; between rounds only services in trouble are
    looked at. Thread-safe; `tick` itself is called by one thread.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        ids: Ids,
        ports: Ports,
        playbooks: Mapping[Action, Playbook],
        *,
        version: str = "",
        pid: int | None = None,
        interval_seconds: float = 3.0,
        targets: Sequence[str] = TARGETS,
        terms: Terms | None = None,
    ) -> None:
        self._layout, self._clock, self._ports = layout, clock, ports
        self._playbooks, self._terms = playbooks, terms or terms_of(playbooks)
        self._version, self._pid, self._interval = version, pid, interval_seconds
        self._lock, self._acting = threading.RLock(), threading.Lock()
        self._began, self._began_at = clock.monotonic(), clock.now()
        self._next_round = self._began
        self._round_at: float | None = None
        folder = layout.state(SELF)
        folder.mkdir(parents=True, exist_ok=True)
        self._quarantine, self._running = Quarantine(folder / "quarantine.json"), Running(folder / "running")
        self._incidents = Incidents(layout.incidents, ids)
        self._maintenance = Maintenance(folder / "maintenance.jsonl", self._began_at)
        self._last_sign = self._running.last()
        unfinished = self._last_sign.slot if self._last_sign is not None else None
        self._slots = Slots(folder / "uptime.csv", clock, interval_seconds, self._maintenance.covers, unfinished)
        self._configs = Configs(layout)
        self._book = Casebook(
            layout=layout,
            clock=clock,
            incidents=self._incidents,
            configs=self._configs,
            machine=ports.machine,
            audit_log=ports.audit,
            tally=ports.tally,
        )
        self._rows = {target: Row(service=target) for target in targets}
        self._process: dict[str, TargetState] = {}
        self._settled: dict[str, tuple[int | None, datetime | None]] = {}
        self._seen_process: dict[str, tuple[int | None, datetime | None]] = {}
        self._last_action: dict[str, float] = {}
        held, began = self._quarantine.read(), (self._began, self._began_at)
        self._tracks = {
            target: track_of(target, self._incidents, held, self._terms, mono=began[0], now=began[1])
            for target in targets
        }

    def start(self) -> None:
        """Once, before the first tick: report an unclean end of the run before this one."""
        last, self._last_sign = self._last_sign, None
        self._running.alive(Sign(at=self._began_at, slot=self._slots.open))
        if last is None or self._maintenance.covers(last.at + timedelta(seconds=1)):
            return
        booted = self._ports.machine.booted_at()
        rebooted = booted is not None and booted > last.at
        evidence = Evidence(
            target=SELF,
            process="failed",
            process_detail="the machine was started anew since" if rebooted else "guardian/running was still there",
            errors=last_words(self._layout.logs, SELF, self._began_at),
        )
        self._book.unclean_start(SELF, last.at, evidence)

    def stop(self) -> None:
        """The end in order."""
        self._running.end()

    # --- the loop ------------------------------------------------------------------------------------------

    def periodics(self, tick_seconds: float = 1.0) -> list[Periodic]:
        return [Periodic(name="guardian-probe", every_seconds=tick_seconds, step=self.tick)]

    def tick(self) -> None:
        """Look at what is due, decide and act."""
        mono = self._clock.monotonic()
        full = mono >= self._next_round
        if full:
            self._next_round = max(self._next_round + self._interval, mono)
        with self._lock:
            due = [t for t, track in self._tracks.items() if full or track.fails or track.outage]
            due = [t for t in due if full or not self._tracks[t].quarantined]
        careful = self._mass()
        started_one = False
        for target in due:
            started_one |= self._look(target, may_act=not (careful and started_one))
        self._watch_mass()
        if full:
            self._close_round()

    def _close_round(self) -> None:
        with self._lock:
            self._round_at = self._clock.monotonic()
            closed = self._slots.round(everybody_up=all_up(list(self._rows.values())))
            own = self._incidents.open_on(SELF)
            if own is not None and own.severity < Class.CRITICAL:
                self._book.close(own)  # it answers: this round took place
        self._running.alive(Sign(at=self._clock.now(), slot=self._slots.open))
        for slot in closed:
            self._ports.tally.slot(slot.state)

    def _look(self, target: str, *, may_act: bool) -> bool:
        """One look at one target; whether it led to an action."""
        with self._lock:
            track = self._tracks[target]
        probe = self._ports.probe.probe(target, PATIENT_SECONDS if track.fails else QUICK_SECONDS)
        answered = probe.state == "serving"
        process = TargetState(target=target, state="running", pid=probe.pid) if answered else self._ask(target)
        now, mono = self._clock.now(), self._clock.monotonic()
        look = Look(
            mono=mono,
            answered=answered,
            process=process.state,
            held="" if answered else self._held(target, process, now),
            config_suspect=False if answered else self._configs.suspect(target),
            mass=self._mass(),
        )
        with self._lock:
            self._rows[target] = self._rows[target].with_probe(probe, mono, now)
            self._process[target] = process
            decision = decide(self._tracks[target], look, self._terms)
            quarantines = decision.action == "quarantine"
            self._tracks[target] = (
                replace(decision.track, quarantined=track.quarantined) if quarantines else decision.track
            )
            incident = self._book.record(
                target,
                decision,
                probe,
                process,
                silent_since=self._began if track.last_up is None else track.last_up,
                down_too=[t for t in self._down() if t != target],
            )
        if answered:
            self._note_config(target, probe, mono)
        if decision.action is None or not may_act or incident is None:
            return False
        return self._answer(target, decision.action, incident, decision.reason)

    def _ask(self, target: str) -> TargetState:
        try:
            return self._ports.runtime.state(target)
        except CalyxError as error:
            return TargetState(target=target, state="unknown", pid=None, detail=error.message)

    def _held(self, target: str, process: TargetState, now: datetime) -> str:
        if self._maintenance.covers(now):
            return "planned downtime"
        if process.state != "failed" and self._ports.sleeping(target):
            return "the governor put it to sleep"
        return ""

    def _note_config(self, target: str, probe: Probe, mono: float) -> None:
        process = (probe.pid, probe.started_at)
        if self._seen_process.get(target) != process:
            self._seen_process[target] = process
            self._configs.started(target, probe.started_at)
        up_since = self._tracks[target].up_since
        if self._settled.get(target) != process and up_since is not None and mono - up_since >= GOOD_AFTER_SECONDS:
            self._settled[target] = process
            try:
                if self._configs.healthy(target):
                    log.info("kept as the last good configuration", target=target)
            except OSError as error:
                log.error("the good configuration could not be kept", target=target, error=str(error))

    # --- more than half of the services --------------------------------------------------------------------

    def _mass(self) -> bool:
        """Whether more than half of the six are down (the guardian itself is one of them, and up)."""
        with self._lock:
            down = sum(track.outage is not None for track in self._tracks.values())
            return 2 * down > len(self._tracks) + 1

    def _watch_mass(self) -> None:
        with self._lock:
            incident = self._incidents.open_on(STATION)
            down = self._down()
            if incident is None and self._mass():
                self._book.open_mass(down, len(self._tracks) + 1, self._playbooks["restart"].name)
            elif incident is not None and incident.reported_by == SELF and not down:
                self._book.close(incident)

    def _down(self) -> list[str]:
        return [target for target, track in self._tracks.items() if track.outage is not None]

    # --- acting --------------------------------------------------------------------------------------------

    def _answer(self, target: str, action: Action, incident: Incident, why: str) -> bool:
        """Run a playbook for an incident; whether the runtime took it."""
        if self._cooling(target, action) > 0:
            return False
        try:
            detail = self._run(target, action, by=SELF, why=why, incident=incident)
        except (CalyxError, OSError) as error:
            log.error("playbook failed", playbook=action, target=target, error=str(error))
            self._book.audit("playbook.failed", playbook=action, target=target, error=str(error))
            with self._lock:
                self._tracks[target] = not_acted(self._tracks[target], self._clock.monotonic(), self._terms)
            return False
        log.info("playbook ran", playbook=action, target=target, detail=detail, why=why)
        return True

    def _cooling(self, target: str, action: Action) -> float:
        last = self._last_action.get(target)
        if last is None:
            return 0.0
        return max(0.0, last + self._playbooks[action].cooldown_seconds - self._clock.monotonic())

    def _run(self, target: str, action: Action, *, by: str, why: str, incident: Incident | None) -> str:
        """Do it: one action at a time, each with an audit line before it. Raises what the runtime raises."""
        with self._acting:
            playbook = self._playbooks[action]
            known = {"incident": incident.id} if incident is not None else {}
            self._book.audit("playbook.run", playbook=playbook.name, target=target, by=by, why=why, **known)
            did, detail = self._do(target, action)
            mono = self._clock.monotonic()
            with self._lock:
                self._last_action[target] = mono
                if action == "quarantine":
                    self._set_quarantined(target)
                else:
                    self._tracks[target] = acted(self._tracks[target], mono)
                if incident is not None:
                    self._book.acted(incident, playbook.name, did)
            self._ports.tally.acted(did)
            return detail

    def _do(self, target: str, action: Action) -> tuple[Action, str]:
        """What was really done: a rollback with nothing to roll back is a restart."""
        if action == "quarantine":
            self._ports.runtime.stop(target)
            return action, f"{target} is stopped and stays so until `calyx quarantine release {target}`"
        restored = self._configs.restore(target, self._clock.now()) if action == "rollback" else ""
        self._ports.runtime.restart(target)
        if restored:
            return "rollback", f"{restored}; {target} is being started again"
        return "restart", f"{target} is being started again"

    def _set_quarantined(self, target: str) -> None:
        mono = self._clock.monotonic()
        track = self._tracks[target]
        outage = track.outage or Outage(severity=Class.CRITICAL, since=mono, due=mono)
        self._tracks[target] = replace(track, quarantined=True, outage=replace(outage, acted=None), fails=0)
        self._keep_quarantine()

    def _keep_quarantine(self) -> None:
        held = [target for target, track in self._tracks.items() if track.quarantined]
        self._quarantine.keep(held, self._clock.now())

    # --- asked from outside --------------------------------------------------------------------------------

    def report(self, target: str, symptom: str, severity: Class, by: str) -> Incident:
        """Somebody saw a fault. Critical stops the target; anything less closes once it answers again."""
        if target not in (*SERVICES, STATION):
            raise InvalidInput(f"target {target!r} is no service; one of {', '.join((*SERVICES, STATION))}")
        symptom = symptom.strip()[:MAX_SYMPTOM]
        if not symptom:
            raise InvalidInput("say what was seen")
        if severity is Class.CRITICAL and by not in CRITICAL_REPORTERS:
            severity = Class.MAJOR
        with self._lock:
            incident = self._incidents.open_on(target)
            if incident is None:
                evidence = Evidence(target=target, symptom=symptom, reported_by=by)
                incident = self._book.open(target, symptom, severity, evidence, by=by)
            else:
                incident = self._book.raise_to(incident, severity)
            track = self._tracks.get(target)
        if severity is Class.CRITICAL and track is not None and not track.quarantined:
            self._answer(target, "quarantine", incident, f"reported by {by}: {symptom}")
        return self._incidents.get(incident.id)

    def run_playbook(self, name: str, target: str, *, dry_run: bool, by: str) -> tuple[bool, str]:
        """By hand. Raises NotFound, Refused (quarantined, cooling down) and what the runtime raises."""
        playbook = next((p for p in self._playbooks.values() if p.name == name), None)
        if playbook is None:
            raise NotFound(f"no playbook {name!r}; `calyx playbook list` shows them")
        if target not in self._tracks:
            raise NotFound(f"no target {target!r}; one of {', '.join(self._tracks)}")
        if self._tracks[target].quarantined:
            raise Refused(f"{target} is in quarantine; `calyx quarantine release {target}` starts it again")
        if (left := self._cooling(target, playbook.action)) > 0:
            raise Refused(f"{target} was just acted on; try again in {left:.0f} s")
        if dry_run:
            change = " after putting the last good configuration back" if self._configs.suspect(target) else ""
            would = {
                "restart": f"would start {target} again",
                "rollback": f"would start {target} again{change}",
                "quarantine": f"would stop {target} until a person releases it",
            }[playbook.action]
            return False, would
        if playbook.action == "quarantine":
            incident = self.report(target, f"put into quarantine by {by}", Class.CRITICAL, "operator")
            done = self._tracks[target].quarantined
            return done, self._incidents.get(incident.id).symptom if done else "the runtime did not take it"
        detail = self._run(target, playbook.action, by=by, why="by hand", incident=self._incidents.open_on(target))
        return True, detail

    def release(self, target: str, by: str) -> bool:
        """End a quarantine and start the target; for a target that is not stopped, close what needs a person."""
        if target not in (*self._tracks, SELF, STATION):
            raise NotFound(f"no target {target!r}")
        track, incident = self._tracks.get(target), self._incidents.open_on(target)
        if track is not None and track.quarantined:
            with self._acting:
                self._book.audit("quarantine.released", target=target, by=by)
                self._ports.runtime.start(target)
                with self._lock:
                    self._tracks[target] = released(track, self._clock.monotonic())
                    self._keep_quarantine()
            return True
        if incident is not None and (track is None or incident.severity is Class.CRITICAL):
            self._book.let_go(incident, by)
            return True
        return False

    def playbooks(self) -> list[Playbook]:
        return sorted(self._playbooks.values(), key=lambda p: p.name)

    def incidents(self, *, limit: int = 50, open_only: bool = False, since: datetime | None = None) -> list[Incident]:
        return self._incidents.newest(limit=limit, open_only=open_only, since=since)

    def incident(self, incident_id: str) -> Incident:
        return self._incidents.get(incident_id)

    def health(self, slots_since: datetime | None = None) -> Overview:
        """What is known now. The guardian's own row is up while its rounds are on time."""
        mono, now = self._clock.monotonic(), self._clock.now()
        with self._lock:
            rows = {t: self._view(t, mono, now, self._ports.sleeping(t)) for t in self._tracks}
            rows[SELF] = self._own_row(mono, now)
            order = [s for s in (*SERVICES, *self._tracks) if s in rows]
            return Overview(
                services=tuple(rows[s] for s in dict.fromkeys(order)),
                slots=() if slots_since is None else tuple(self._slots.slots(slots_since)),
                slots_from=self._slots.since,
                quarantined=tuple(t for t, track in self._tracks.items() if track.quarantined),
            )

    def check(self) -> None:
        """For the health endpoint: raises Unavailable while the probe rounds are late."""
        since = self._clock.monotonic() - (self._began if self._round_at is None else self._round_at)
        if since > LATE_AFTER_SECONDS + self._interval:
            raise Unavailable(f"the last probe round was {since:.0f} s ago")

    def state_of(self, service: str) -> str | None:
        """For `service_health` probes: the state as `health` says it; None for what is no service."""
        return next((row.state for row in self.health().services if row.service == service), None)

    def _view(self, target: str, mono: float, now: datetime, sleeping: bool) -> Health:
        track, process = self._tracks[target], self._process.get(target)
        fresh = track.last_up is None and mono - track.started < self._terms.grace_seconds
        return view(
            self._rows[target],
            mono=mono,
            now=now,
            interval_seconds=self._interval,
            quarantined=track.quarantined,
            sleeping=sleeping,
            starting=track.starting or fresh or (process is not None and process.state == "starting"),
        )

    def _own_row(self, mono: float, now: datetime) -> Health:
        probe = Probe(service=SELF, state="serving", version=self._version, pid=self._pid, started_at=self._began_at)
        at = None if self._round_at is None else now - timedelta(seconds=mono - self._round_at)
        own = Row(service=SELF, probe=probe, probed=self._round_at, probed_at=at, last_up_at=at)
        return view(
            own,
            mono=mono,
            now=now,
            interval_seconds=self._interval,
            quarantined=False,
            sleeping=False,
            starting=False,
        )
