"""From a planned task to the exchange: gates, signature, submit. A repeat is a Duplicate and changes nothing."""

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from chassis.canonical import Json, sha256_hex
from chassis.clock import iso
from chassis.domains import DomainManifest, Level
from chassis.errors import CalyxError, Duplicate, InvalidInput, ResourceExhausted, Unavailable
from chassis.exchange.artifacts import named_in
from chassis.exchange.manifest import Manifest
from chassis.policy import DAY, Request, RuleSet, Used, placed
from services.cbo import watching
from services.cbo.bridge import Bridge
from services.cbo.gate_log import Admission, Asked, Entry, Tally, Terms, answer, answers_of
from services.cbo.gates import Gated, Use, careful, gone
from services.cbo.tasks import OPEN, Task, seen

log = structlog.get_logger(__name__)

UNDO_GATES: tuple[Json, ...] = (
    {"gate": "kill_switch", "answer": "pass", "reason": "undo goes on under the kill switch"},
    {"gate": "policy", "answer": "pass", "reason": "a person asked to reverse what was done"},
)
UNDO_TTL_SECONDS = 600.0


class Dispatcher:
    """Thread-safe. The budget of a pulse counts from `new_pulse`; what is approved in between counts to the last."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._lock = threading.RLock()
        self._sent: Counter[str] = Counter()
        self._effects: Counter[str] = Counter()
        self._governor_silent = ""
        self._tally = Tally()
        self._unwritten: list[Entry] = []
        self._in_pulse = False
        for row in bridge.store.rows("gate_entries_passed", iso(bridge.clock.now() - DAY)):
            self._count(Entry.from_json(json.loads(row["entry"])))

    def new_pulse(self, governor_silent: str = "") -> None:
        """A governor that did not answer this pulse's first question is not asked again before the next."""
        with self._lock:
            self._governor_silent = governor_silent
            self._sent.clear()
            self._effects.clear()
            self._in_pulse = True

    def used(self) -> dict[str, Used]:
        """By rule name, as of now, for rules with a budget."""
        rules, now, pulse = self._bridge.policy_file.rules(), self._bridge.clock.now(), self._pulse()
        with self._lock:
            return self._tally.used(rules.rules, pulse, now)

    def _pulse(self) -> int:
        return int(self._bridge.store.value("SELECT coalesce(max(number), 0) FROM pulse"))

    def keep_log(self) -> None:
        """Write what the gates were asked since the pulse began, in the transaction that keeps its plan."""
        with self._lock:
            self._in_pulse = False
            self._write()

    def _write(self) -> None:
        while self._unwritten:
            entry = self._unwritten[0]
            self._bridge.store.run("gate_entry_insert", iso(entry.at), entry.task, json.dumps(entry.to_json()))
            del self._unwritten[0]  # not before: a full disk must not lose what the gates were asked

    def _note(self, entry: Entry) -> None:
        self._count(entry)
        self._unwritten.append(entry)
        if not self._in_pulse:
            self._write()

    def _count(self, entry: Entry) -> None:
        self._tally.take(entry.at, entry.pulse, entry.task, entry.rule, entry.verdict)

    def gate(self, task: Task) -> tuple[Task, Gated]:
        """Ask every gate; the task comes back at the level it may run at now. A `go` takes its share of the budget."""
        bridge = self._bridge
        now, rules = bridge.clock.now(), bridge.policy_file.rules()
        pulse = self._pulse()
        manifest = bridge.domains.get(task.domain)
        if manifest is None:
            gated = gone(task.domain)
            with self._lock:
                self._note(_entry(now, pulse, task, rules, None, None, gated, ""))
            return replace(task, gates=tuple(answer.to_json() for answer in gated.answers)), gated
        standing, most = bridge.ladder.standing(task.domain), bridge.ladder.terms(task.domain).max_level
        level = min(task.level, standing.level, most)
        unconfirmed = bridge.consents.unconfirmed(task.domain)
        undrilled = "" if task.approval else bridge.barred(task.owner, task.domain, task.procedure)
        if not task.approval:
            level = careful(level, unconfirmed, undrilled)
        task = replace(task, level=level, rehearsal=level is Level.GUIDE and not task.approval)
        day = bridge.store.rows("task_use", task.domain, iso(now - timedelta(hours=24)))[0][0]
        kill_switch = bridge.kill_switch.why() if bridge.kill_switch.engaged() else None
        asked = Asked(
            request=request_of(bridge, task, manifest),
            manifest=replace(Terms.of(manifest), rehearses=manifest.rehearses and not task.cannot_rehearse),
            pinned=bridge.ruling(manifest, task.owner),
            kill_switch=kill_switch,
            revoked=bridge.revoked(task.domain),
            level=level,
            approved_by=task.approval,
            use=Use(this_pulse=0, this_day=int(day), effects_this_pulse=0),
            probation=standing.probation,
            unconfirmed=unconfirmed,
            earned=standing.level,
            most=most,
            ladder=int(bridge.store.value("SELECT coalesce(max(number), 0) FROM ladder_entry")),
            undrilled=undrilled,
        )
        heard: list[Admission] = []

        def admit() -> tuple[bool, str]:
            heard.append(self._admit(task))
            return heard[-1].give()

        with self._lock:
            use = replace(asked.use, this_pulse=self._sent[task.domain], effects_this_pulse=self._effects[task.domain])
            asked = replace(asked, use=use)
            used = self._tally.used(rules.about(task.domain), pulse, now)
            gated, rule = answer(asked, rules, now, used, admit)
            if gated.verdict == "go":
                self._sent[task.domain] += 1
                self._effects[task.domain] += asked.request.does == "act"
            self._note(_entry(now, pulse, task, rules, asked, heard[-1] if heard else None, gated, rule, used))
        self._tell(task, gated, rule)
        return replace(task, gates=tuple(each.to_json() for each in gated.answers)), gated

    def _tell(self, task: Task, gated: Gated, rule: str) -> None:
        """A policy that makes a task wait is on record once, when it begins to."""
        said = next((each for each in gated.answers if each.gate == "policy" and each.answer == "hold"), None)
        before = [each for each in task.gates if each["gate"] == "policy" and each["answer"] == "hold"]
        if said is not None and not before:
            self._bridge.audit.write(
                "policy.blocked", task=task.id, domain=task.domain, rule=rule, why=f"policy: {said.reason}"
            )

    def _admit(self, task: Task) -> Admission:
        if self._governor_silent:
            return Admission(admitted=False, reason=self._governor_silent, silent=True)
        try:
            admitted, reason = self._bridge.peers.governor.admit(task.id, task.domain, task.owner)
        except CalyxError as error:
            return Admission(admitted=False, reason=error.message, silent=True)
        return Admission(admitted=admitted, reason=reason)

    def send(self, tasks: Sequence[Task]) -> list[Task]:
        """Sign and submit, then note all in one commit. What can't be written stays planned for the next pulse."""
        sent = []
        watching.begin(self._bridge, tasks)
        for task, manifest in zip(tasks, self._bridge.sign([self.manifest(task) for task in tasks]), strict=True):
            if not task.undo_of and self._bridge.kill_switch.engaged():
                continue  # engaged since the gate was asked: stays planned, the next pulse holds it
            if missing := self._bridge.artifacts.missing(task.params):
                self._bridge.store.answer_task(task, "rejected", missing)
                continue
            try:
                self._bridge.audit.write(
                    "task.dispatched", task=task.id, domain=task.domain, owner=task.owner, level=task.level.name,
                    rehearsal=task.rehearsal, approval=task.approval,
                )  # fmt: skip
                state = self._bridge.exchange.submit(manifest).state
            except Duplicate:
                state = "ready"
            except InvalidInput as error:
                self._bridge.store.answer_task(task, "rejected", f"the exchange refused it: {error.message}")
                continue
            except (OSError, ResourceExhausted, Unavailable) as error:
                log.error("task not dispatched, tried again in the next pulse", task=task.id, why=str(error))
                continue
            sent.append(replace(task, state="waiting" if state == "waiting" else "ready"))
        self._bridge.fault("submitted")
        now = iso(self._bridge.clock.now())
        with self._bridge.store.transaction():
            for task in sent:
                self._bridge.store.run(
                    "task_dispatched", task.state, now, json.dumps(task.gates), int(task.level), int(task.rehearsal),
                    task.id,
                )  # fmt: skip
        self._bridge.bell.ring()
        return sent

    def manifest(self, task: Task) -> Manifest:
        """What travels. `expires_at` counts from now, so that time spent on hold consumes no TTL."""
        bridge = self._bridge
        now = bridge.clock.now()
        domain = bridge.domains.get(task.domain)
        ttl = UNDO_TTL_SECONDS if task.undo_of or domain is None else domain.ttl_seconds
        ttl = ttl if task.ttl_seconds is None else min(ttl, task.ttl_seconds)
        return Manifest(
            station_id=bridge.station_id,
            task_id=task.id,
            owner=task.owner,
            issuer="cbo",
            domain=task.domain,
            procedure=task.procedure,
            created_at=now,
            expires_at=now + timedelta(seconds=ttl),
            ttl_seconds=ttl,
            objective=task.objective,
            params=dict(task.params),
            artifacts=tuple(each.to_json() for each in named_in(task.params)),
            max_attempts=3 if domain is None else domain.max_attempts,
            priority=8 if task.undo_of else 5,
            rehearsal=task.rehearsal,
            rehearsal_of=task.rehearsal_of,
            plan_digest=task.plan_digest if task.approval else "",
            approval=task.approval,
            undo_of=task.undo_of,
            objective_id=task.objective_id,
            pulse_id=task.pulse_id,
            level=task.level.name,
            policy_digest=sha256_hex(f"{bridge.policy.digest}{bridge.policy_file.rules().digest}".encode()),
        )


def request_of(bridge: Bridge, task: Task, manifest: DomainManifest) -> Request:
    """What the rules look at: with every folder that the task could change, by its manifest and by consent."""
    station = str(bridge.layout.root)
    folders = (*manifest.paths, *bridge.consents.folders(task.domain))
    local = bridge.clock.now().astimezone().utcoffset() or timedelta()
    return Request(
        agent=task.owner,
        asked_by=task.source or "station",
        domain=task.domain,
        procedure=task.procedure,
        does="act" if task.approval or task.level is Level.EXECUTE else "rehearse",
        effects=manifest.effects,
        manifest="signed" if manifest.signed_by else "built-in",
        folders=tuple(dict.fromkeys(placed(each, station) for each in folders)),
        utc_offset_seconds=int(local.total_seconds()),
    )


def _entry(
    now: datetime,
    pulse: int,
    task: Task,
    rules: RuleSet,
    asked: Asked | None,
    admission: Admission | None,
    gated: Gated,
    rule: str,
    used: Mapping[str, Used] | None = None,
) -> Entry:
    return Entry(
        at=now, pulse=pulse, task=task.id, domain=task.domain, rules=rules.digest, asked=asked, admission=admission,
        verdict=gated.verdict, rule=rule, answers=answers_of(gated), used=used or {}, fault=rules.fault,
    )  # fmt: skip


def intake(bridge: Bridge, only: Sequence[Task] | None = None) -> None:
    """Follow the exchange for every open task that was dispatched (or for these), in one commit."""
    moves = []
    for task in bridge.store.tasks("tasks_open") if only is None else only:
        if task.dispatched_at is None or task.state not in OPEN:
            continue
        move = seen(bridge.exchange.get(task.id))
        if move.lost:
            bridge.audit.write("task.lost", task=task.id, kept="planned; dispatched again under the same id")
        if move.lost or move.state != task.state or move.attempt != task.attempt:
            moves.append((task, move))
    if not moves:
        return
    with bridge.store.transaction():
        for task, move in moves:
            if move.lost:
                bridge.store.run("task_lost", task.id)
                continue
            moved = bridge.store.move_task(task, move, bridge.clock.now())
            if moved and task.undo_of and move.ack is not None and move.ack.get("status") == "undone":
                mark_undone(bridge, task)
    watching.end(bridge, [task for task, move in moves if move.state not in OPEN])
    bridge.bell.ring()


def follow(bridge: Bridge, task: Task) -> Task:
    """The task as the exchange has it now."""
    intake(bridge, [task])
    return bridge.store.task(task.id)


def mark_undone(bridge: Bridge, undo: Task) -> None:
    """The undo worked: its target becomes `undone` and is not verified any more. Idempotent."""
    if undo.params.get("dry_run") == "true":
        return
    target = bridge.store.find_task(undo.undo_of)
    if target is not None and target.state in ("done", "failed", "cancelled", "dead"):
        bridge.store.answer_task(target, "undone", f"undone by {undo.id}")
        bridge.store.run("verifications_cancel", f"undone by {undo.id}", target.id)
