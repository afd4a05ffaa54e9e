"""The fourth step: independent probes, scores, verification over time, the ladder, experience."""

import json
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.domains import DomainManifest
from chassis.errors import CalyxError, NotFound, Refused
from chassis.layout import SERVICES
from services.cbo import tes, watching
from services.cbo.bridge import Bridge
from services.cbo.choosing import learn
from services.cbo.followed import judgements
from services.cbo.judging import VERDICTS, Heard, Judged, Look, Seen, Terms, Verified, entries_of, files_of, judge
from services.cbo.ladder import Changed
from services.cbo.ports import Experience, Judgement, Outcome
from services.cbo.readings import around
from services.cbo.reversals import reverse
from services.cbo.tasks import State, Task, targets_of

log = structlog.get_logger(__name__)

STOPPED = "stopped by the kill switch"
"""How the worker's ack begins when the kill switch came between claim and effect: the objective is planned again."""


@dataclass(slots=True, kw_only=True)
class Critique:
    """What the step found; written in one commit with the pulse."""

    judged: list[Judged] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    by_domain: dict[str, tes.PulseTes] = field(default_factory=dict)
    experiences: list[str] = field(default_factory=list)
    """Ids that memory has taken in this pulse."""
    ladder_log: Json = field(default_factory=dict)
    """What the ladder took in since the last record, and where every domain stands (`ladder_log`)."""


class Critic:
    """Judges what ended. Asks each prober at most once more after it did not answer, then leaves it for this pulse."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._silent: dict[str, str] = {}
        self._refuted: set[str] = set()

    def judge(self, ended: Sequence[Task]) -> list[Judged]:
        """Probe and score."""
        found = [self._judge(task) for task in ended]
        self._refuted = {each.task.id for each in found if each.score.stability == 0.0}
        return found

    def _judge(self, task: Task) -> Judged:
        manifest = self._bridge.domains.get(task.domain)
        tries = self._bridge.options.probe_tries
        if manifest is None:
            return judge(task, None, lambda _claims: "", tries)
        folders = bool(watching.watched(self._bridge, task)) and task.dispatched_at is not None

        def ask(claims: Sequence[Json]) -> Heard:
            if not folders:
                return self._ask(manifest.prober, task, [*claims, *checks])
            seen = self._compare(manifest, task)
            if not claims and not checks:
                return seen
            return watching.joined(self._ask(manifest.prober, task, [*claims, *checks]), seen)

        idle = (task.ack or {}).get("status") == "no_work"
        checks = [] if idle else watching.checks_of(self._bridge, manifest, task)
        return judge(task, Terms.of(manifest, watched=folders), ask, tries)

    def _compare(self, manifest: DomainManifest, task: Task) -> Heard:
        """What changed in its folders, held against what it declares; or why the prober can't be asked."""
        name = manifest.prober
        if name not in self._bridge.peers.probers:
            self._silent[name] = f"there is no prober {name}"
        if name in self._silent:
            return self._silent[name]
        try:
            return watching.compared(self._bridge, manifest, task)
        except CalyxError as error:
            self._silent[name] = f"{name} can't be asked: {error.message}"
            return self._silent[name]

    def _ask(self, name: str, task: Task, claims: Sequence[Json]) -> Heard:
        """What the prober found, or why it can't be reached."""
        prober = self._bridge.peers.probers.get(name)
        if prober is None:
            self._silent[name] = f"there is no prober {name}"
        if name in self._silent or prober is None:
            return self._silent[name]
        try:
            return prober.probe(task.id, task.domain, task.owner, claims)
        except CalyxError as error:
            self._silent[name] = f"{name} can't be asked: {error.message}"
            return self._silent[name]

    def verify(self, now: datetime) -> list[Verified]:
        """Look again at every effect whose window has come."""
        found = []
        for task_id, window, due in self._bridge.store.rows("verifications_due", iso(now)):
            task = self._bridge.store.task(task_id)
            look = self._look(task, window, parse_iso(due), now)
            verdict, prober, detail = look.verdict()
            if verdict != "pending":
                found.append(
                    Verified(
                        task=task, window=window, due_at=parse_iso(due), look=look, verdict=verdict, prober=prober,
                        detail=detail,
                    )
                )  # fmt: skip
        return found

    def _look(self, task: Task, window: str, due: datetime, now: datetime) -> Look:
        """All that the verdict rests on; whoever need not be asked is not."""
        manifest = self._bridge.domains.get(task.domain)
        if task.state == "undone" or manifest is None or task.ack is None or task.ended_at is None:
            return Look(undone=task.state == "undone", there=False)
        claims = list(task.ack.get("claims", ()))
        grace = max(
            self._windows(task.domain).get(window, timedelta(minutes=1)),
            timedelta(seconds=2 * self._bridge.options.pulse_interval_seconds),
        )
        look = Look(
            undone=False,
            there=True,
            prober=manifest.prober,
            late_seconds=(now - due).total_seconds(),
            grace_seconds=grace.total_seconds(),
            later=self._touched_later(task, claims),
        )
        if look.later:
            doubted = look.later in self._refuted or self._bridge.store.task(look.later).stability == 0.0
            look = replace(look, doubted=doubted)
        if look.decided:
            return look
        claims = [*claims, *watching.checks_of(self._bridge, manifest, task)]
        metrics = around(self._bridge.store, manifest, task, now)
        return replace(look, heard=self._ask(manifest.prober, task, claims), metrics=metrics)

    def _windows(self, domain: str) -> Mapping[str, timedelta]:
        """When its effects are looked at again: as its manifest says, else as the station does."""
        manifest = self._bridge.domains.get(domain)
        named = None if manifest is None else manifest.windows
        if named is None:
            return self._bridge.options.windows
        return {name: timedelta(seconds=seconds) for name, seconds in named.items()}

    def _touched_later(self, task: Task, claims: Sequence[Json]) -> str:
        """The newest later task that changed what would be looked at (not just the same live log)."""
        assert task.ended_at is not None
        for target in dict.fromkeys(str(each.get("target")) for each in claims):
            found = self._bridge.store.rows("targets_later", target, iso(task.ended_at), task.id)
            if found:
                return str(found[0][0])
        return ""

    def settle(self, critique: Critique, pulse: int, pulse_id: str, now: datetime) -> None:
        """Write scores, windows, beliefs and the ladder. Inside the caller's transaction."""
        store = self._bridge.store
        for each in critique.judged:
            task = each.task
            if each.waiting:
                store.run("task_probe_tried", each.waiting, task.id)
                continue
            remembered = int(not _worth_remembering(task) or experience_id(task) in critique.experiences)
            made = (int(each.score.worked), each.score.tes, each.score.note, each.score.stability)
            store.run("task_scored", *made, pulse_id, remembered, task.id)
            self._settle_task(each, now)
        for look in critique.verified:
            domain = look.task.domain
            store.run("verification_done", look.verdict, iso(now), look.prober, look.detail, look.task.id, look.window)
            if look.verdict == "regressed":
                learn(self._bridge, look.task, False, now, first=False)
                self._say(look.task, False)
                store.run("verifications_cancel", f"regressed at {look.window}", look.task.id)
                reverse(self._bridge, look.task, f"regressed at {look.window}: {look.detail}")
                store.set_fact(
                    f"amend:{experience_id(look.task)}:{look.window}", f"regressed at {look.window}: {look.detail}"
                )
        seen = [Seen(domain=v.task.domain, window=v.window, verdict=v.verdict) for v in critique.verified]
        for domain, (scored, entry) in entries_of(pulse, self._bridge.domains, critique.judged, seen).items():
            critique.by_domain[domain] = scored
            changed = None if entry is None else self._bridge.ladder.take(domain, entry, now)
            if changed is not None:
                critique.changed.append(changed)
        for task in store.tasks("tasks_unremembered"):
            if experience_id(task) in critique.experiences:
                store.run("task_remembered", task.id)
        store.run("objectives_finished")
        critique.ladder_log = self._bridge.ladder.hand_over()

    def _settle_task(self, judged: Judged, now: datetime) -> None:
        store, task, score = self._bridge.store, judged.task, judged.score
        if task.ack is not None:
            self._bridge.beliefs.cost(task.domain, task.procedure, task.ack.get("cost", {}), now)
        if task.objective_id and not task.untaken:
            self._overtake(task)
            if task.state == "cancelled" and task.why.startswith(STOPPED):
                store.run("objective_again", task.objective_id)
        if task.state == "rehearsed" and score.stability == 0.0:
            store.answer_task(task, "rejected", "a probe refuted the rehearsal")
        if not task.has_effects or not score.worked:
            return
        if score.stability is not None:
            learn(self._bridge, task, score.stability == 1.0, now, first=True)
            self._say(task, score.stability == 1.0)
        if task.state != "done" or task.ended_at is None or judged.probed is None:
            return
        verdict = VERDICTS[judged.probed.verdict]
        store.run(
            "verification_insert", task.id, "+0", iso(task.ended_at), verdict, iso(now), judged.probed.prober,
            judged.probed.found,
        )  # fmt: skip
        if verdict == "regressed":
            reverse(self._bridge, task, f"refuted: {judged.probed.found}")
        elif verdict == "held":
            for window, after in self._windows(task.domain).items():
                store.run("verification_insert", task.id, window, iso(task.ended_at + after), "pending", None, "", "")

    def _overtake(self, task: Task) -> None:
        """A newer run of an objective answers its older proposals: at most one waits for the person."""
        for row in self._bridge.store.rows("tasks_proposed", task.objective_id):
            if row["id"] != task.id and row["created_at"] <= iso(task.created_at):
                older = self._bridge.store.task(row["id"])
                if older.scored or older.state == "proposed":
                    # A proposal never began: expired, it would be scored as a failure.
                    to: State = "expired" if older.scored else "rejected"
                    self._bridge.store.answer_task(older, to, f"superseded by {task.id}")

    def violations(self, ended: Sequence[Task]) -> list[str]:
        """Effects outside what the manifest, the consents and the policy allowed when the task was sent, or of a
        rehearsal: executed violations. Each is on record and becomes a critical incident."""
        self._bridge.consents.notice()
        found: list[str] = []
        for task in ended:
            outside, why = self._outside(task)
            if not outside:
                continue
            symptom = f"{task.owner} changed {outside[0]} in {task.domain} ({task.id}): {why}"
            target = task.owner if task.owner in SERVICES else "station"
            with self._bridge.store.transaction():
                self._bridge.store.set_fact(f"violation:{task.id}", json.dumps([target, symptom]))
            self._bridge.audit.write(
                "policy.violation", task=task.id, domain=task.domain, targets=outside[:10], why=why, rule=rule_of(task)
            )
            found.append(task.id)
        return found

    def _outside(self, task: Task) -> tuple[list[str], str]:
        """What a task changed beyond its right, and which right it went beyond."""
        manifest = self._bridge.domains.get(task.domain)
        if manifest is None or task.ack is None or task.undo_of or task.dispatched_at is None:
            return [], ""
        targets = targets_of(task.ack)
        if task.rehearsal:
            return list(targets), "a rehearsal changes nothing"
        roots = roots_of(manifest, str(self._bridge.layout.root))
        if outside := outside_of(targets, (*roots, *self._bridge.consents.inside(task))):
            return outside, "no manifest and no consent allowed it"
        within = next((each.get("within") for each in task.gates if each["gate"] == "policy"), None)
        if within and (outside := outside_of([os.path.realpath(each) for each in targets], within)):
            return outside, "the policy kept it to other folders"
        return [], ""

    def alarm(self) -> None:
        """Tell the guardian of every executed violation; kept until it answers."""
        for name, told in self._bridge.store.rows("facts_like", "violation:"):
            try:
                self._bridge.peers.guardian.report(*json.loads(told))
            except CalyxError as error:
                log.error("a violation is not an incident yet, tried again in the next pulse", why=error.message)
                return
            self._bridge.store.run("fact_drop", name)

    def remember(self, judged: Sequence[Judged], pulse_id: str, now: datetime) -> list[str]:
        """Record what was learned, by ids that make a repeat harmless; what memory can't take now waits."""
        fresh = [
            replace(
                each.task, scored=True, tes=each.score.tes, tes_note=each.score.note,
                stability=each.score.stability, ended_pulse_id=pulse_id,
            )
            for each in judged
            if not each.waiting and _worth_remembering(each.task)
        ]  # fmt: skip
        late = self._bridge.store.tasks("tasks_unremembered")
        stored: list[str] = []
        try:
            for task in (*late, *fresh):
                self._bridge.peers.memory.record(experience_of(task, now))
                stored.append(experience_id(task))
        except CalyxError as error:
            self._silent["memory"] = error.message
        return stored

    def amend(self) -> None:
        """A regression amends the experience by a new row; kept until memory answers."""
        for name, evidence in self._bridge.store.rows("facts_like", "amend:"):
            key = name.removeprefix("amend:")
            try:
                self._bridge.peers.memory.amend(key.rsplit(":", 1)[0], "failure", evidence, key)
            except CalyxError as error:
                log.warning("experience not amended, tried again in the next pulse", key=key, why=error.message)
                return
            self._bridge.store.run("fact_drop", name)

    def _say(self, task: Task, success: bool) -> None:
        for name, judgement in judgements(task, success).items():
            self._bridge.store.set_fact(f"judge:{name}:{task.id}", json.dumps(asdict(judgement)))

    def tell(self) -> None:
        """Tell memory what following its experiences led to; kept until it answers."""
        for name, judgement in self._bridge.store.rows("facts_like", "judge:"):
            experience = name.removeprefix("judge:").rsplit(":", 1)[0]
            try:
                self._bridge.peers.memory.judge(experience, Judgement(**json.loads(judgement)))
            except (NotFound, Refused) as error:  # retired meanwhile: nothing is left to judge
                log.warning("a judgement was dropped", experience=experience, why=error.message)
            except CalyxError as error:
                log.warning("memory not told, tried again in the next pulse", key=name, why=error.message)
                return
            self._bridge.store.run("fact_drop", name)


def rule_of(task: Task) -> str:
    """Why the policy let it go, as its gate said."""
    return next((str(each["reason"]) for each in task.gates if each["gate"] == "policy"), "")


def _worth_remembering(task: Task) -> bool:
    """Undos, cancelled tasks, those without work and those nobody took say nothing about how well a procedure works."""
    if task.undo_of or task.untaken or task.state == "cancelled":
        return False
    return (task.ack or {}).get("status") != "no_work"


def experience_id(task: Task) -> str:
    return f"x-{task.id}"


def experience_of(task: Task, now: datetime) -> Experience:
    """What is learned from one scored task."""
    ack: dict[str, Any] = task.ack or {}
    outcome: Outcome = "unknown"
    if task.stability is not None:
        outcome = "success" if task.stability == 1.0 else "failure"
    return Experience(
        id=experience_id(task),
        objective=task.objective,
        domain=task.domain,
        procedure=task.procedure,
        task_id=task.id,
        pulse_id=task.ended_pulse_id,
        occurred_at=task.ended_at or now,
        outcome=outcome,
        evidence=task.tes_note,
        tes=task.tes,
        duration_seconds=float(ack["duration_seconds"]) if "duration_seconds" in ack else None,
        files_changed=files_of(task, ack) if ack else None,
        confidence=task.prediction,
        context={
            "level": task.level.name,
            "rehearsal": "true" if task.rehearsal else "false",
            "owner": task.owner,
            "state": task.state,
        },
        cost={str(k): float(v) for k, v in ack.get("cost", {}).items()},
    )


def roots_of(manifest: DomainManifest, station: str) -> tuple[str, ...]:
    """Declared folders, with the station's own folder as given and with its links resolved."""
    stations = {os.path.abspath(station), os.path.realpath(station)}  # noqa: PTH100 — text, also of paths not there
    return tuple(sorted({path.replace("{station}", each) for path in manifest.paths for each in stations}))


def outside_of(targets: Sequence[str], roots: Sequence[str]) -> list[str]:
    """Targets that are in none of the folders."""
    inside = tuple(os.path.join(os.path.normpath(root), "") for root in roots)  # noqa: PTH118 — a text prefix, no path
    return [each for each in targets if not os.path.normpath(each).startswith(inside)]
