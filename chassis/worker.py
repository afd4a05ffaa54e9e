"""The worker: claims, checks, rehearses or performs, journals, answers. The only way an agent changes anything."""

import contextlib
import errno
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from chassis.audit import Audit
from chassis.clock import Clock, VirtualClock
from chassis.drill import Drills, NotYet
from chassis.errors import AlreadyAcked, BadSignature, CalyxError, LeaseLost, Refused
from chassis.exchange.manifest import TASK_ID, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.moves import names
from chassis.exchange.port import Claim, Exchange
from chassis.journal import Journal
from chassis.killswitch import KillSwitch
from chassis.work import Work

log = structlog.get_logger(__name__)

TASKS_A_STEP = 16
SCRATCH_KEPT = timedelta(minutes=15)
"""How long the copies of a rehearsal stay for its prober; scratch of other tasks goes with their ack."""
TIDY_EVERY = 32
GIVEN_BACK_SECONDS = 120.0
"""For so long goes a task back whose procedure changed and has not passed its drill since: longer than the agent waits
before it drills again, and a task has few attempts."""
ASLEEP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A sleep or throttle lease on an agent or domain, as the worker needs to see it."""

    kind: str
    target: str
    until: datetime | None = None
    reason: str = ""
    share: float | None = None
    """Of throttles: how much of the usual rate is left."""


def no_leases(_target: str) -> LeaseView | None:
    return None


class Stopped(Refused):
    """The kill switch came between claim and effect: neither success nor failure."""


class NoRoom(NotYet):
    """The disk is full and nothing of the task is in place: it is given back, which says nothing of the domain."""


class Worker:
    """One agent's hands. `step` is called by one thread at a time, from a Periodic of about a second.

    `effectless` names the domains that declare no effects; `manifests` gives a domain's digest as of now (KeyError:
    there is none). What the drills found is written to `drilled`; with a `code_version`, passed ones are remembered in
    `<scratch_root>/drills.json`. `heartbeat_seconds` None means no heartbeats, as on a virtual clock.
    """

    def __init__(
        self,
        agent: str,
        exchange: Exchange,
        works: Sequence[Work],
        journal: Journal,
        verifier: Callable[[Manifest], bool],
        kill_switch: KillSwitch,
        clock: Clock,
        scratch_root: Path,
        audit: Audit | None = None,
        leases: Callable[[str], LeaseView | None] = no_leases,
        station_id: str = "",
        heartbeat_seconds: float | None = 5.0,
        effectless: frozenset[str] = frozenset(),
        code_version: str = "",
        fault: Callable[[str], None] = lambda _step: None,
        manifests: Callable[[str], str] = lambda _domain: "",
        drilled: Path | None = None,
    ) -> None:
        self._agent, self._exchange, self._journal, self._clock = agent, exchange, journal, clock
        self._works = {work.domain: work for work in works}
        self._valid, self._kill_switch, self._audit, self._leases = verifier, kill_switch, audit, leases
        self._scratch_root, self._station_id = scratch_root, station_id
        self._beat_seconds = None if isinstance(clock, VirtualClock) else heartbeat_seconds
        self._fault = fault
        self._drills = Drills(
            works, scratch_root / ".drill", clock, agent=agent, station_id=station_id, effectless=effectless,
            manifests=manifests, code_version=code_version, told=drilled, note=self._note,
        )  # fmt: skip
        self._name = ""
        self._answered = 0
        self._recovered: list[str] = []
        scratch_root.mkdir(parents=True, exist_ok=True)

    def drill(self) -> dict[str, str | None]:
        """Drill every procedure; `<domain>/<procedure>` → None when it may act, else why it may not.

        Called again, it repeats only the drills that failed (a full disk, say, fails one and passes) and those of what
        has changed since, by manifest or code.
        """
        return self._drills.run()

    def step(self) -> int:
        """Answer what is ready for this agent, a few tasks at most; returns how many."""
        if not self._name:
            self._start()
        if self._asleep(self._agent) is not None:
            return 0
        answered = 0
        while answered < TASKS_A_STEP and (claims := self._exchange.claim(self._agent, self._name, 1)):
            answered += self._take(claims[0])
        return answered

    def wait(self, seconds: float) -> bool:
        """Real time, at most `seconds`; True as soon as something may be ready for this agent."""
        return self._exchange.wait(self._agent, seconds)

    def awaits(self, task_id: str) -> bool:
        """Whether the exchange may still hand it out, so that what was done of it has to be known."""
        return self._exchange.get(TaskId(task_id)).state in ("held", "waiting", "ready", "claimed")

    def _start(self) -> None:
        """After a crash: settle the journal, then get back what the dead boot of this agent held."""
        self.recover()
        self._name = self._exchange.join(self._agent)
        self._tidy()

    def recover(self, *, programs_only: bool = False) -> None:
        """What ended processes left half done is settled in the journal, and told."""
        lines = self._journal.recover(programs_only=programs_only)
        for line in [each for each in lines if each not in self._recovered]:
            log.warning("journal recovered", line=line)
            self._note("journal.recovered", line=line)
        self._recovered = lines  # what can't be settled is tried again, and told once

    def _asleep(self, target: str) -> LeaseView | None:
        lease = self._leases(target)
        return lease if lease is not None and lease.kind == "sleep" else None

    def _take(self, claim: Claim) -> int:
        task = claim.manifest
        lease = None if task.undo_of else self._asleep(task.domain)
        if lease is not None:
            left = ASLEEP_SECONDS if lease.until is None else (lease.until - self._clock.now()).total_seconds()
            self._exchange.nack(claim, max(1.0, left), f"{task.domain} sleeps: {lease.reason}")
            return 0
        try:
            with self._beating(claim):
                ack = self._answer(claim)
        except NotYet as error:
            log.error("task given back", task=task.task_id, why=error.message)
            self._exchange.nack(claim, GIVEN_BACK_SECONDS, error.message)
            return 0
        if ack is None:
            log.warning("task lost to another holder, nothing answered", task=task.task_id, epoch=claim.epoch)
            return 0
        self._fault("before_ack")
        try:
            self._exchange.ack(claim, ack)
        except (LeaseLost, AlreadyAcked) as error:
            log.warning("ack not taken", task=task.task_id, epoch=claim.epoch, why=error.message)
            return 0
        if not task.rehearsal:
            self._note(
                f"task.{ack.status}", task=task.task_id, domain=task.domain, epoch=claim.epoch, detail=ack.detail,
                files_changed=ack.files_changed, applied=ack.applied, reverted=ack.reverted,
            )  # fmt: skip
            shutil.rmtree(self._scratch(task.task_id), ignore_errors=True)
        self._answered += 1
        if self._answered % TIDY_EVERY == 0:
            self._tidy()
        return 1

    def _answer(self, claim: Claim) -> Ack | None:
        """The ack for this claim; None when another holder has the task by now and will answer."""
        made = _Making(claim, self._agent, self._clock)
        try:
            if not self._valid(claim.manifest):
                raise BadSignature("the grant does not verify; nothing was done")
            if self._station_id and claim.manifest.station_id != self._station_id:
                raise Refused(f"it is a task of station {claim.manifest.station_id[:64]}; nothing was done")
            if claim.manifest.undo_of:
                return self._undo(claim, made)
            work = self._work(claim.manifest)
            if claim.manifest.rehearsal:
                return self._rehearse(work, claim.manifest, made)
            return self._perform(work, claim, made)
        except NotYet:
            raise
        except LeaseLost as error:
            return made.ack("cancelled", error.message) if self._still_ours(claim) else None
        except CalyxError as error:
            return made.ack("failed", error.message)
        except Exception:
            log.exception("task failed unforeseen", task=claim.manifest.task_id)
            return made.ack("failed", _UNFORESEEN.format(agent=self._agent))

    def _work(self, task: Manifest) -> Work:
        work = self._works.get(task.domain)
        if work is None or task.procedure not in work.procedures:
            raise Refused(f"{self._agent} has no procedure {task.procedure!r} in domain {task.domain!r}")
        return work

    def _rehearse(self, work: Work, task: Manifest, made: "_Making") -> Ack:
        try:
            plan = work.rehearse(task, self._fresh_scratch(task.task_id))
        except OSError as error:
            if _full(error):
                raise NoRoom(_NO_ROOM) from error
            raise
        return made.ack(
            "rehearsed" if plan.changes else "no_work",
            plan.notes,
            plan=plan.to_json(),
            plan_digest=plan.digest,
            claims=plan.claims,
        )

    def _perform(self, work: Work, claim: Claim, made: "_Making") -> Ack | None:
        task = claim.manifest
        status = self._journal.status(task.task_id)
        if status.state == "finished" and status.outcome is not None:
            # It was all done before a crash kept the ack back: answer with what was done, do nothing twice.
            return replace(Ack.from_json(status.outcome), epoch=claim.epoch)
        self._drills.check(task.domain, task.procedure)
        if status.state in ("open", "undoing") and self._journal.can_undo(task.task_id)[0]:
            made.applied = True
            self._journal.undo(task.task_id)  # what an attempt cut short had done; then from the start
            made.applied = False
        task = self._as_approved(work, task)
        changed = 0
        try:
            with self._journal.session(task.task_id, claim.epoch, lambda: self._guard(claim)) as effects:
                try:
                    outcome = work.perform(task, self._fresh_scratch(task.task_id), effects)
                finally:
                    changed = effects.files_changed
                changes = self._journal.status(task.task_id).changes
                ack = made.ack(
                    "no_work" if outcome.no_work and not changes else "done", outcome.detail, files_changed=changed,
                    effects=changes, claims=outcome.claims, cost=dict(outcome.cost), applied=bool(changes),
                )  # fmt: skip
                effects.finish(ack.to_json())
                self._fault("finished")
            return ack
        except Exception as error:
            return self._failed(claim, made, error, changed)

    def _as_approved(self, work: Work, task: Manifest) -> Manifest:
        """The task as it may be performed: at EXECUTE as it is, else only what a person approved, if it still holds.

        An approved task is done as of its rehearsal's time, so that names made from it are those of the plan.
        """
        if not task.approval:
            if task.level != "EXECUTE":
                raise Refused(f"level {task.level} without an approval has no effects")
            return task
        rehearsal = self._exchange.get(TaskId(task.rehearsal_of)).manifest
        if rehearsal is None or not task.plan_digest:
            raise Refused("the approval names no rehearsal and plan that are known here")
        task = replace(task, created_at=rehearsal.created_at)
        if work.rehearse(task, self._fresh_scratch(task.task_id)).digest != task.plan_digest:
            raise Refused("the world no longer matches the approved plan; nothing was changed, rehearse it again")
        return task

    def _guard(self, claim: Claim) -> None:
        """Right before each change."""
        if self._kill_switch.engaged():
            raise Stopped(f"stopped by the kill switch: {self._kill_switch.why() or 'no reason given'}")
        if not self._exchange.check(claim):
            raise LeaseLost("cancelled, or lost to another holder; nothing more was changed")
        if not self._valid(claim.manifest):
            raise BadSignature("the grant no longer verifies; nothing more was changed")

    def _failed(self, claim: Claim, made: "_Making", error: Exception, changed: int) -> Ack | None:
        """Take back what was applied, if the task is still ours, and say what happened."""
        if isinstance(error, LeaseLost) and not self._still_ours(claim):
            return None
        status: AckStatus = "cancelled" if isinstance(error, Stopped | LeaseLost) else "failed"
        detail = error.message if isinstance(error, CalyxError) else _UNFORESEEN.format(agent=self._agent)
        if not isinstance(error, CalyxError):
            log.error("task failed unforeseen", task=claim.manifest.task_id, exc_info=error)
        made.applied = self._journal.can_undo(claim.manifest.task_id)[0]
        if made.applied:
            try:
                self._journal.undo(claim.manifest.task_id)
                made.reverted = True
            except (CalyxError, OSError) as stuck:
                log.error("could not take back what was applied", task=claim.manifest.task_id, why=str(stuck))
                detail = f"{detail}; what was applied could not be taken back: {stuck}"
        if _full(error) and made.applied == made.reverted:
            raise NoRoom(_NO_ROOM) from error
        return made.ack(status, detail, files_changed=changed)

    def _still_ours(self, claim: Claim) -> bool:
        try:
            self._exchange.heartbeat(claim)
        except LeaseLost:
            return False
        return True

    def _undo(self, claim: Claim, made: "_Making") -> Ack:
        """Goes on under the kill switch."""
        task = claim.manifest
        if not self._exchange.check(claim):
            raise LeaseLost("cancelled before anything was undone")
        after = [each for each in task.params.get("after", "").split(",") if each]
        dry_run = task.params.get("dry_run") == "true"
        seen = self._journal.status(task.undo_of)
        if seen.cut_short and not dry_run:
            return made.ack("undone", "it was taken back when it was cut short; nothing is left to undo")
        if seen.state == "undone" and claim.epoch > 1:
            return made.ack("undone", "it was undone before a crash kept this answer back")
        report = self._journal.undo(task.undo_of, dry_run=dry_run, after=after, by="" if dry_run else task.task_id)
        self._fault("undone")
        made.applied = report.done
        return made.ack(
            "undone",
            report.detail,
            files_changed=len(report.steps) if report.done else 0,
            effects=tuple({"step": step, **({"kept": True} if report.redoable else {})} for step in report.steps),
        )

    def _scratch(self, task_id: str) -> Path:
        return self._scratch_root / task_id

    def _fresh_scratch(self, task_id: str) -> Path:
        folder = self._scratch(task_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _tidy(self) -> None:
        """Drop scratch of tasks that ended long enough ago for any prober to have looked."""
        for name in names(self._scratch_root):
            if TASK_ID.fullmatch(name) and (self._scratch_root / name).is_dir():
                ack = self._exchange.get(TaskId(name)).ack
                if ack is not None and self._clock.now() - ack.ended_at >= SCRATCH_KEPT:
                    shutil.rmtree(self._scratch_root / name, ignore_errors=True)

    @contextlib.contextmanager
    def _beating(self, claim: Claim) -> Iterator[None]:
        """Heartbeats from a thread of their own while the task runs."""
        if self._beat_seconds is None:
            yield
            return
        seconds, stop = self._beat_seconds, threading.Event()

        def beat() -> None:
            while not self._clock.wait(seconds, stop):
                try:
                    self._exchange.heartbeat(claim)
                except LeaseLost:
                    return  # the guard says so before the next effect
                except OSError as error:
                    log.warning("heartbeat failed", task=claim.manifest.task_id, why=str(error))

        thread = threading.Thread(target=beat, name=f"heartbeat-{self._agent}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _note(self, event: str, **facts: Any) -> None:
        if self._audit is not None:
            self._audit.write(event, agent=self._agent, **facts)


_NO_ROOM = "the disk is full; nothing of the task is in place, and it is tried again"


def _full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


_UNFORESEEN = "an unforeseen error; the details are in the log of {agent}"


class _Making:
    """An ack in the making: when it began, and what is known so far."""

    def __init__(self, claim: Claim, agent: str, clock: Clock) -> None:
        self._claim, self._agent, self._clock = claim, agent, clock
        self._started_at, self._started = clock.now(), clock.monotonic()
        self.applied = False
        self.reverted = False

    def ack(self, status: AckStatus, detail: str, **facts: Any) -> Ack:
        return Ack(
            task_id=self._claim.manifest.task_id,
            epoch=self._claim.epoch,
            agent=self._agent,
            status=status,
            started_at=self._started_at,
            ended_at=self._clock.now(),
            duration_seconds=self._clock.monotonic() - self._started,
            detail=detail,
            **{"applied": self.applied, "reverted": self.reverted, **facts},
        )
