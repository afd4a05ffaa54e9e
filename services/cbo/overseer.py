"""The CBO as one object: recovers at start, runs pulses one at a time, answers questions."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import structlog

from chassis.agent import LeaseFile
from chassis.audit import Audit, heads
from chassis.canonical import Json
from chassis.checkpoints import Seal, write_checkpoint
from chassis.clock import Clock, iso, parse_iso
from chassis.domains import DomainManifest
from chassis.errors import Damaged, NotFound
from chassis.exchange.artifacts import Artifacts
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Exchange
from chassis.identity import Identity
from chassis.ids import Ids
from chassis.killswitch import KillSwitch
from chassis.layout import Layout
from chassis.periodic import Periodic
from chassis.policy import DAY, Used
from services.cbo import history, record
from services.cbo.agents import Registry
from services.cbo.backup import LOOK_SECONDS, Backups
from services.cbo.bridge import Beliefs, Bridge, Options, all_drilled, no_fault, nothing_barred
from services.cbo.consents import Consents
from services.cbo.desk import Desk
from services.cbo.dispatch import Dispatcher, intake
from services.cbo.inbox import Inbox
from services.cbo.joining import Joining
from services.cbo.kpis import Kpi
from services.cbo.ladder import Ladder
from services.cbo.measured import Measured
from services.cbo.meter import Meter
from services.cbo.notify import Notifier
from services.cbo.notify_targets import FILE, Send, Targets, send_by_apprise
from services.cbo.objectives import Objective, Schedule
from services.cbo.older import outrun
from services.cbo.policy import Policy
from services.cbo.policy_file import PolicyFile
from services.cbo.ports import Peers
from services.cbo.proposals import Proposals
from services.cbo.pulse import Pulse, Steps
from services.cbo.report import report
from services.cbo.reversals import Reversals
from services.cbo.seal import SEALED, digest_of, sealed
from services.cbo.store import Store
from services.cbo.waiting import Waiting
from services.cbo.withdrawals import Withdrawals

log = structlog.get_logger(__name__)


ARTIFACTS_KEPT = timedelta(days=91)
"""Since a task last named it: longer than any task may take (90 days)."""
UPLOADS_KEPT = timedelta(days=1)
"""Since the last piece of one that has not come whole."""


class Overseer:
    """Thread-safe. `start` once, then `run_pulse` by its period and `reap` every second or two.

    Raises Unavailable from the constructor when another CBO holds the station.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        identity: Identity,
        version: str,
        clock: Clock,
        ids: Ids,
        exchange: Exchange,
        sign: Callable[[Sequence[Manifest]], Sequence[Manifest]],
        valid: Callable[[Manifest], bool],
        domains: Mapping[str, DomainManifest],
        policy: Policy,
        peers: Peers,
        audit: Audit,
        seal: Seal | None = None,
        policy_file: Path | None = None,
        options: Options | None = None,
        targets: Targets | None = None,
        send: Send = send_by_apprise,
        page: Callable[[], str] = lambda: "",
        fault: Callable[[str], None] = no_fault,
        drilled: Callable[[str, str, str], bool] = all_drilled,
        barred: Callable[[str, str, str], str] = nothing_barred,
    ) -> None:
        options = options or Options()
        store = Store(layout.state("cbo"), durable=options.durable)
        self.bridge = Bridge(
            station_id=identity.station_id,
            founded_at=identity.created_at,
            version=version,
            layout=layout,
            clock=clock,
            ids=ids,
            store=store,
            exchange=exchange,
            artifacts=Artifacts(layout.svf),
            sign=sign,
            seal=seal,
            kill_switch=KillSwitch(layout.kill_switch),
            audit=audit,
            domains=domains,
            policy=policy,
            policy_file=PolicyFile(
                policy_file or layout.policy, layout.root, store, audit, clock, must_exist=policy_file is not None
            ),
            peers=peers,
            ladder=Ladder(store, domains, clock, code=version),
            beliefs=Beliefs(store),
            consents=Consents(layout, store, audit, clock, domains),
            options=options,
            fault=fault,
            drilled=drilled,
            barred=barred,
        )
        self._dispatcher = Dispatcher(self.bridge)
        self._meter = Meter(self.bridge)
        self.desk = Desk(self.bridge, self._dispatcher)
        self.agents = Registry(store, clock, audit)
        proposals = Proposals(self.bridge, self._dispatcher)
        self.joining = Joining(self.bridge, proposals, self.agents, valid, LeaseFile(layout, clock))
        self.inbox = Inbox(layout.svf, proposals)
        self.waiting = Waiting(self.bridge)
        self.notifier = Notifier(self.bridge, self.waiting, targets or Targets(layout.secrets / FILE), send, page)
        self._steps = Steps(self.bridge, self._dispatcher, self._meter)
        self._withdrawals = Withdrawals(self.bridge)
        self._reversals = Reversals(self.bridge, self.desk)
        self._one_pulse = threading.Lock()
        self.backups = Backups(layout.state("cbo"), lambda: self._one_pulse, clock.now)
        self._behind = False
        self._signed_on: date | None = None
        self._kept_rules: set[str] = set()
        self._watchers: list[Callable[[Json], None]] = []
        self.last: Pulse | None = None
        self.ended_at: float | None = None

    def start(self) -> None:
        """Take up what a crash left: unfinished pulses get their record, planned tasks are sent, nothing twice."""
        bridge = self.bridge
        bridge.layout.pulses.mkdir(parents=True, exist_ok=True)
        if bridge.policy.broken:
            bridge.audit.write("policy.broken", why=bridge.policy.broken)
        outrun(bridge, self.agents)
        self._behind = not self._catch_up("the CBO ended before the pulse did")
        planned = [
            task
            for task in bridge.store.tasks("tasks_open")
            if task.state == "ready" and task.dispatched_at is None and (task.undo_of or not self._stopped())
        ]
        if planned:
            self._dispatcher.send(planned)
        self._builtin_objectives()

    def _stopped(self) -> bool:
        return self.bridge.kill_switch.engaged()

    def _catch_up(self, reason: str) -> bool:
        """Give pulses that broke off their record, and write what could not be written; False while it can't."""
        try:
            for number, pulse_id, started_at in self.bridge.store.rows("pulses_running"):
                self._interrupt(number, pulse_id, parse_iso(started_at), reason)
            self._write_pending()
        except OSError as error:
            log.error("pulse records wait in the database", why=str(error))
            return False
        return True

    def _interrupt(self, number: int, pulse_id: str, started_at: datetime, reason: str) -> None:
        whole = record.interrupted(self.bridge, pulse_id, started_at, reason)
        summary: Json = {
            "id": pulse_id, "started_at": iso(started_at), "duration_seconds": 0.0, "status": "interrupted",
            "planned": 0, "dispatched": 0, "ended": 0, "tes": None, "tes_note": reason, "tes_coverage": None,
            "kill_switch": whole["kill_switch"]["engaged"], "incidents": None, "mood": reason,
        }  # fmt: skip
        with self.bridge.store.transaction():
            self.bridge.store.end_pulse(number, "interrupted", summary, self._sealed(whole))
        self.bridge.audit.write("pulse.interrupted", pulse=pulse_id)

    def _sealed(self, whole: Json) -> bytes:
        """As it is kept. In the transaction that keeps it: with the seal of the record before."""
        store = self.bridge.store
        made = sealed({**whole, "previous": json.loads(store.fact(SEALED) or "null")})
        store.set_fact(SEALED, json.dumps({"id": whole["id"], "digest": digest_of(made)}))
        return made

    def _write_pending(self) -> None:
        """Records that were committed but perhaps not written."""
        for _, pulse_id, started_at, kept in self.bridge.store.rows("pulses_unwritten"):
            record.write(self.bridge.layout.pulses, pulse_id, parse_iso(started_at), json.loads(kept), kept)

    def _builtin_objectives(self) -> None:
        for name, manifest in self.bridge.domains.items():
            schedule = Schedule(every_pulse=manifest.every_pulse, every=manifest.every)
            if not schedule.repeats:
                continue
            self.bridge.store.add_objective(
                Objective(
                    id=f"o-builtin-{name.replace('_', '-')}",
                    text=manifest.objective,
                    domain=name,
                    source="builtin",
                    created_at=self.bridge.clock.now(),
                    schedule=schedule,
                    key=f"builtin:{name}",
                )
            )

    def close(self) -> None:
        """After the running pulse; idempotent."""
        with self._one_pulse:
            self.bridge.store.close()

    def periodics(
        self, reap_seconds: float = 1.0, compact_seconds: float = 300.0, notify_seconds: float = 10.0
    ) -> tuple[Periodic, ...]:
        return (
            Periodic(name="cbo.pulse", every_seconds=self.bridge.options.pulse_interval_seconds, step=self.step),
            Periodic(name="cbo.reap", every_seconds=reap_seconds, step=self.reap),
            Periodic(name="cbo.compact", every_seconds=compact_seconds, step=self.compact),
            Periodic(name="cbo.inbox", every_seconds=reap_seconds, step=self.take_in),
            Periodic(name="cbo.notify", every_seconds=notify_seconds, step=self.notifier.step),
            Periodic(name="cbo.backup", every_seconds=LOOK_SECONDS, step=self.backups.step),
        )

    def step(self) -> None:
        self.run_pulse()

    def compact(self) -> None:
        """One step of moving finished tasks to the archive, and of forgetting what left it; old artifacts go."""
        options, now = self.bridge.options, self.bridge.clock.now()
        self.bridge.exchange.compact(options.keep_tasks, options.keep_archive)
        self.bridge.store.forget_tasks(now - options.keep_tasks - options.keep_archive)
        self.bridge.artifacts.sweep(kept=now - ARTIFACTS_KEPT, partial=now - UPLOADS_KEPT)

    def reap(self) -> None:
        """The exchange's sweep, and what became of our tasks; scoring is left to the pulse."""
        self.desk.notice_kill_switch()
        self.desk.admissions.notice()
        self.bridge.consents.notice()
        self.bridge.exchange.sweep()
        intake(self.bridge)
        self._withdrawals.notice()
        self._reversals.notice()
        if self.agents.flush():
            self.joining.tidy()

    def take_in(self) -> None:
        """Proposals dropped as files: on a thread of their own, so that no flood of them delays the reaper."""
        self.inbox.step()

    def run_pulse(self) -> Json:
        """One Bridge Pulse, now; the next one waits until it has ended. Returns its summary."""
        with self._one_pulse:
            self.desk.notice_kill_switch()
            self.desk.admissions.notice()
            self.bridge.consents.notice()
            written = not self._behind or self._catch_up("the pulse broke off; the log says why")
            self._behind = True
            pulse = self._steps.begin(written=written)
            self._steps.reflect(pulse)
            self._steps.plan(pulse)
            self._steps.act(pulse)
            self._steps.criticise(pulse)
            summary, kept = self._finish(pulse)
            self._behind = not (written and kept)
            self._reversals.notice()
        for watcher in list(self._watchers):
            watcher(summary)
        return summary

    def _finish(self, pulse: Pulse) -> tuple[Json, bool]:
        """The summary, and whether the record is in its file."""
        bridge, kept = self.bridge, True
        try:
            with bridge.store.transaction():
                self._steps.settle(pulse)
                whole = record.record_of(pulse, bridge, heads(bridge.layout.audit("cbo").parent))
                summary = record.summary_of(pulse)
                kept_record = self._sealed(whole)
                bridge.store.end_pulse(pulse.number, "complete", summary, kept_record)
                bridge.fault("settled")
        except BaseException:
            bridge.ladder.reload()
            bridge.beliefs.reload()
            raise
        bridge.fault("committed")
        for changed in pulse.critique.changed:
            bridge.audit.write(
                "level.changed", domain=changed.domain, before=changed.before.name, after=changed.after.name,
                why=changed.reason, pulse=pulse.id,
            )  # fmt: skip
        try:
            self._keep_rules()
            record.write(
                bridge.layout.pulses, pulse.id, pulse.started_at, whole, kept_record, durable=bridge.options.durable
            )
        except OSError as error:
            log.error("pulse record kept in the database only", pulse=pulse.id, why=str(error))
            summary, kept = {**summary, "mood": f"the record can't be written: {error.strerror}"}, False
        self._checkpoint(pulse.id, whole["audit_heads"])
        self._forget_old(pulse.number)
        self.last, self.ended_at = pulse, bridge.clock.monotonic()
        return summary, kept

    def _keep_rules(self) -> None:
        counts = self.bridge.policy_file.in_force()
        if counts.rules.digest not in self._kept_rules:
            record.keep_rules(self.bridge.layout.pulses, counts.rules.digest, counts.text)
            self._kept_rules.add(counts.rules.digest)

    def _checkpoint(self, pulse: str, heads: Mapping[str, str]) -> None:
        """The first pulse of a day signs the heads of all audit chains."""
        bridge, now = self.bridge, self.bridge.clock.now()
        if bridge.seal is None or now.date() == self._signed_on:
            return
        folder = bridge.layout.audit("cbo").parent
        try:
            made = write_checkpoint(folder, heads, pulse, bridge.station_id, now, bridge.seal)
        except OSError as error:
            log.error("the day's audit checkpoint can't be written; the next pulse tries again", why=str(error))
            return
        self._signed_on = now.date()
        if made is not None:
            bridge.audit.write("audit.checkpoint", file=made.name, pulse=pulse, chains=len(heads))

    def _forget_old(self, number: int) -> None:
        bridge = self.bridge
        old = bridge.store.rows("pulses_old", number - bridge.options.keep_pulses)
        if not old:
            return
        for _, pulse_id, started_at in old:
            record.forget(bridge.layout.pulses, pulse_id, parse_iso(started_at))
        with bridge.store.transaction():
            for row in old:
                bridge.store.run("pulse_forget", row["number"])
            history.forget(bridge.store, min(parse_iso(old[-1]["started_at"]), bridge.clock.now() - 2 * DAY))

    # questions

    def watch(self, watcher: Callable[[Json], None]) -> Callable[[], None]:
        """Call `watcher` with each pulse's summary as it ends; returns what stops that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher) if watcher in self._watchers else None

    def pulses(self, limit: int) -> list[Json]:
        return [json.loads(row["summary"]) for row in self.bridge.store.rows("pulses", limit)]

    def pulse(self, pulse_id: str) -> tuple[Json, str, str]:
        """Summary, record and report; the last one if the id is empty. Raises NotFound."""
        if not pulse_id:
            last = self.bridge.store.rows("pulses", 1)
            if not last:
                raise NotFound("there has been no pulse yet")
            pulse_id = last[0]["id"]
        rows = self.bridge.store.rows("pulse", pulse_id)
        if not rows:
            raise NotFound(f"there is no pulse {pulse_id}; `calyx pulse list` shows those that are kept")
        machine, people = record.paths(self.bridge.layout.pulses, pulse_id, parse_iso(rows[0]["started_at"]))
        kept = rows[0]["record"]
        try:
            text = kept.decode() if kept is not None else machine.read_text().strip()
            whole = json.loads(text)
            page = people.read_text() if people.exists() else report(whole)
        except FileNotFoundError as error:
            raise NotFound(f"the record of {pulse_id} is gone from {machine.parent}") from error
        except ValueError as error:
            raise Damaged(f"the record of {pulse_id} in {machine} is damaged; it stays as it is") from error
        return json.loads(rows[0]["summary"]), text, page

    def rules_used(self) -> Mapping[str, Used]:
        """How many tasks each rule with a budget has let through, by its name."""
        return self._dispatcher.used()

    def kpis(self) -> tuple[Kpi, ...]:
        return self._meter.kpis()

    def measured(self) -> Measured:
        """What the KPIs and the calibration rest on, as of now."""
        return self._meter.measured()

    def pulse_number(self) -> int:
        return int(self.bridge.store.value("SELECT coalesce(max(number), 0) FROM pulse"))

    def next_pulse_at(self) -> datetime | None:
        if self.last is None:
            return None
        return self.last.started_at + timedelta(seconds=self.bridge.options.pulse_interval_seconds)
