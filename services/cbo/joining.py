"""What an outside agent may do: propose, await, claim, heartbeat, check, ack, nack, recall, report, look.

Stateless between calls: a claim is (agent, session, task, epoch), so that a restart of the CBO loses none.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from chassis.agent import LeaseFile
from chassis.clock import iso, parse_iso
from chassis.domains import DomainManifest, Level
from chassis.errors import AlreadyAcked, InvalidInput, LeaseLost, NotFound, PermissionDenied
from chassis.exchange.artifacts import PIECE_BYTES, Named, named_in
from chassis.exchange.manifest import Manifest, TaskId
from chassis.exchange.port import Claim, Holder
from services.cbo import holders
from services.cbo.agents import Agent, Registry
from services.cbo.answers import Answer, ack_of
from services.cbo.bridge import Bridge
from services.cbo.dispatch import follow
from services.cbo.pace import Pace
from services.cbo.ports import Recalled
from services.cbo.proposals import Proposals, Wish
from services.cbo.tasks import OPEN, Task

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 1.0
"""How soon a running agent hears of a stop. A heartbeat costs no fsync."""

SESSION = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_CLAIMS = 16
MAX_TEXT = 2000
SAMPLES_KEPT = timedelta(minutes=10)

Order = Literal["GO_ON", "THROTTLE", "SLEEP", "STOP", "LOST"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """What the station wants of a running task. `cpu_percent` of one core, with THROTTLE only."""

    order: Order
    reason: str
    until: datetime | None = None
    cpu_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a running task said of itself last; None is unknown."""

    cpu_percent: float | None
    rss_bytes: int | None
    progress: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claim as its agent names it."""

    session: str
    task_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Tasks taken, each with the CBO's view of it; without any, why, if there is a reason beyond an empty queue."""

    claims: tuple[tuple[Claim, Task], ...]
    reason: str = ""


class Joining:
    """Thread-safe. `agent` is the caller's name; what it may see is its own domains and its own tasks."""

    def __init__(
        self,
        bridge: Bridge,
        proposals: Proposals,
        registry: Registry,
        valid: Callable[[Manifest], bool],
        leases: LeaseFile,
    ) -> None:
        self._bridge, self._registry, self._valid, self._leases = bridge, registry, valid, leases
        self._proposals = proposals
        self._wishes = Pace(bridge.clock, burst=300, per_second=2.0)
        self._words = Pace(bridge.clock, burst=60, per_second=0.5)
        self.samples: dict[str, Sample] = {}
        """The last one of each task that is claimed now."""

    def join(self, agent: str, version: str, capabilities: Sequence[str]) -> list[DomainManifest]:
        """Hello. Returns the domains it may work in."""
        return self.domains(self._registry.joined(agent, version, tuple(capabilities)))

    def domains(self, agent: Agent) -> list[DomainManifest]:
        """Of its token, those that are admitted, not revoked, and its own to do."""
        found = (self._bridge.domains.get(name) for name in agent.domains)
        return [
            each for each in found
            if each is not None and each.owner == agent.name and not self._bridge.revoked(each.domain)
        ]  # fmt: skip

    # proposing and waiting

    def propose(self, agent: str, wish: Wish) -> Task:
        """As Proposals.make. Raises PermissionDenied for a domain that the token is not for."""
        known = self._registry.seen(agent)
        if wish.domain not in known.domains:
            raise PermissionDenied(f"the token of {agent} is not for {wish.domain[:120] or 'no domain'}")
        self._wishes.take(agent, "proposals")
        return self._proposals.make(wish, owner=agent)

    def task(self, agent: str, task_id: str) -> Task:
        """One of its own. Raises NotFound, also for another's: whether that exists is not its business."""
        known = self._registry.seen(agent)
        task = self._bridge.store.find_task(task_id)
        if task is None or not self._mine(known, task.owner, task.domain):
            raise NotFound(f"{agent} has no task {task_id[:120]}")
        return follow(self._bridge, task)

    def _mine(self, agent: Agent, owner: str, domain: str) -> bool:
        if domain not in agent.domains:
            return False
        manifest = self._bridge.domains.get(domain)
        return owner == agent.name or (manifest is not None and manifest.owner == agent.name)

    # payloads

    def put_artifact(self, agent: str | None, named: Named, offset: int, data: bytes) -> int:
        """As Artifacts.put; None: a person does it."""
        if agent is not None:
            self._registry.seen(agent)
        return self._bridge.artifacts.put(agent or "operator", named, offset, data)

    def get_artifact(self, agent: str | None, named: Named, task_id: str, offset: int, limit: int) -> bytes:
        """As Artifacts.get. Raises NotFound for what the task does not name: whether it is here is not its business."""
        if agent is not None and named not in named_in(self.task(agent, task_id).params):
            raise NotFound(f"task {task_id[:120]} names no artifact {named}")
        return self._bridge.artifacts.get(named, offset, limit or PIECE_BYTES)

    # claims

    def claim(self, agent: str, session: str, limit: int, task_id: str, holder: Holder | None) -> Claimed:
        """What is ready for it now, never waiting. Raises InvalidInput, NotFound for a task that is not its own."""
        known = self._registry.seen(agent)
        if not SESSION.fullmatch(session):
            raise InvalidInput(f"a session matches {SESSION.pattern}")
        if not 0 <= limit <= MAX_CLAIMS:
            raise InvalidInput(f"at most {MAX_CLAIMS} tasks are claimed at once")
        if task_id:
            self.task(agent, task_id)
        holder = None if holder is None else holders.accepted(holder)
        reason = self._asleep(agent)
        worker = f"{agent}.{session}"
        taken: list[tuple[Claim, Task]] = []
        for each in [] if reason else self._candidates(known, task_id):
            if len(taken) >= (limit or 1):
                break
            if not each.undo_of and (slept := self._asleep(each.domain)):
                reason = slept
                continue
            for claim in self._bridge.exchange.claim(agent, worker, 1, holder=holder, task_id=each.id):
                self._bridge.store.run("agent_claimed", each.id, claim.epoch, worker, iso(self._bridge.clock.now()))
                taken.append((claim, follow(self._bridge, each)))
        self._bridge.exchange.leave(worker)  # its claims live by their heartbeats, not by this process
        if not taken and self._bridge.kill_switch.engaged():
            reason = f"the kill switch is engaged: {self._bridge.kill_switch.why() or 'no reason given'}"
        return Claimed(claims=tuple(taken), reason="" if taken else reason)

    def give_back(self, claimed: Claimed) -> None:
        """Claims that nobody has heard of, because their caller went away."""
        for claim, task in claimed.claims:
            with contextlib.suppress(LeaseLost):
                self._bridge.exchange.nack(claim, 0.0, "its caller went away before it heard of the claim")
                follow(self._bridge, self._bridge.store.task(task.id))

    def _candidates(self, agent: Agent, task_id: str) -> list[Task]:
        """Dispatched tasks of its own that may be ready by now: undos first, then the oldest."""
        found = self._bridge.store.tasks("tasks_of_owner", agent.name, 1000)
        mine = [
            each for each in found
            if each.domain in agent.domains and each.dispatched_at is not None and task_id in ("", each.id)
        ]  # fmt: skip
        return sorted(mine, key=lambda each: (not each.undo_of, each.created_at, each.id))

    def _asleep(self, target: str) -> str:
        lease = self._leases(target)
        return "" if lease is None else f"{target} sleeps: {lease.reason}"

    def _claim_of(self, agent: str, held: Held) -> Claim:
        """The claim that is meant, whether it is still held or not. Raises NotFound."""
        known = self._registry.seen(agent)
        view = self._bridge.exchange.get(TaskId(held.task_id))
        if view.manifest is None or view.manifest.owner != agent or view.manifest.domain not in known.domains:
            raise NotFound(f"{agent} has no task {held.task_id[:120]}")
        if not SESSION.fullmatch(held.session) or held.epoch < 1:
            raise InvalidInput("name the session and the epoch that the claim was made with")
        return Claim(manifest=view.manifest, epoch=held.epoch, worker=f"{agent}.{held.session}")

    def heartbeat(self, agent: str, held: Held, sample: Sample) -> Ordered:
        """Keeps the claim and says what the station wants: lost before stop before sleep before throttle."""
        claim = self._claim_of(agent, held)
        try:
            self._bridge.exchange.heartbeat(claim)
        except LeaseLost as error:
            self.samples.pop(held.task_id, None)
            return Ordered(order="LOST", reason=error.message)
        self.samples[held.task_id] = sample
        if why := self._stopped(claim):
            return Ordered(order="STOP", reason=why)
        if claim.manifest.undo_of:
            return Ordered(order="GO_ON", reason="")
        targets = (agent, claim.manifest.domain)
        for target in targets:
            if (lease := self._leases(target)) is not None:
                return Ordered(order="SLEEP", reason=f"{target} sleeps: {lease.reason}", until=lease.until)
        throttles = [each for each in map(self._leases.throttle, targets) if each is not None]
        if throttles:
            tightest = min(throttles, key=lambda each: each.share or 0.0)
            return Ordered(
                order="THROTTLE", reason=f"{tightest.target} is throttled: {tightest.reason}", until=tightest.until,
                cpu_percent=100.0 * (tightest.share or 0.0),
            )  # fmt: skip
        return Ordered(order="GO_ON", reason="")

    def _stopped(self, claim: Claim) -> str:
        """Why a task that is still held must end; empty if it need not. An undo goes on under the kill switch."""
        bridge, task = self._bridge, claim.manifest
        if not bridge.exchange.check(claim):
            return "it was cancelled"
        if task.undo_of:
            return ""
        if bridge.kill_switch.engaged():
            return f"stopped by the kill switch: {bridge.kill_switch.why() or 'no reason given'}"
        if task.domain not in bridge.domains:
            return f"{task.domain} is no longer admitted"
        if revoked := bridge.revoked(task.domain):
            return f"{task.domain} was revoked: {revoked}"
        return ""

    def check(self, agent: str, held: Held) -> tuple[bool, str]:
        """May the effect happen now, and if not, why not."""
        claim = self._claim_of(agent, held)
        if not self._valid(claim.manifest):
            return False, "the grant does not verify"
        if not self._bridge.exchange.check(claim):
            return False, "cancelled, or lost to another holder"
        if why := self._stopped(claim):
            return False, why
        if claim.manifest.rehearsal:
            return False, "it is a rehearsal; nothing outside scratch may change"
        for target in () if claim.manifest.undo_of else (agent, claim.manifest.domain):
            if why := self._asleep(target):
                return False, why
        return True, ""

    def ack(self, agent: str, held: Held, answer: Answer) -> tuple[str, bool]:
        """The status on record, and whether it is this one's. Raises LeaseLost, InvalidInput (nothing is recorded)."""
        claim = self._claim_of(agent, held)
        made = ack_of(claim, answer, now=self._bridge.clock.now(), claimed_at=self._claimed_at(claim))
        try:
            self._bridge.exchange.ack(claim, made)
        except AlreadyAcked:
            known = self._bridge.exchange.get(claim.manifest.task_id).ack
            return (known.status if known is not None else "", False)
        self.samples.pop(held.task_id, None)
        self._bridge.audit.write(
            f"task.{made.status}", task=held.task_id, domain=claim.manifest.domain, agent=agent, epoch=held.epoch,
            files_changed=made.files_changed, applied=made.applied, reverted=made.reverted,
        )  # fmt: skip
        follow(self._bridge, self._bridge.store.task(held.task_id))
        self._bridge.store.run("agent_claims_drop", held.task_id)
        return made.status, True

    def _claimed_at(self, claim: Claim) -> datetime:
        rows = self._bridge.store.rows("agent_claim", claim.manifest.task_id, claim.epoch)
        return parse_iso(rows[0]["claimed_at"]) if rows else self._bridge.clock.now()

    def nack(self, agent: str, held: Held, delay_seconds: float, reason: str) -> None:
        """Give it back. Raises LeaseLost."""
        claim = self._claim_of(agent, held)
        self.samples.pop(held.task_id, None)
        self._bridge.exchange.nack(claim, min(max(0.0, delay_seconds), 86_400.0), reason[:MAX_TEXT] or "given back")
        follow(self._bridge, self._bridge.store.task(held.task_id))

    # knowing and telling

    def recall(self, agent: str, text: str, domain: str, limit: int, min_cosine: float) -> list[Recalled]:
        """Of its own domains, the most similar first; what is superseded or invalidated comes last."""
        known = self._registry.seen(agent)
        if not text.strip() or len(text) > MAX_TEXT:
            raise InvalidInput(f"say in 1 to {MAX_TEXT:,} characters what to recall")
        if domain and domain not in known.domains:
            raise PermissionDenied(f"the token of {agent} is not for {domain[:120]}")
        most = min(limit or 5, 20)
        found = [
            each
            for name in ((domain,) if domain else known.domains)
            for each in self._bridge.peers.memory.recall(text, name, most).matches
            if each.domain == name and each.cosine >= min_cosine
        ]
        return sorted(found, key=lambda each: (each.standing != "valid", -each.cosine, each.id))[:most]

    def report(self, agent: str, text: str, task_id: str) -> None:
        if not text.strip() or len(text) > MAX_TEXT:
            raise InvalidInput(f"a report has 1 to {MAX_TEXT:,} characters")
        if task_id:
            self.task(agent, task_id)
        self._words.take(agent, "reports")
        self._registry.reported(agent, text.strip())
        self._bridge.audit.write("agent.reported", agent=agent, text=text.strip(), task=task_id)

    def status(self, agent: str) -> tuple[list[DomainManifest], list[Task]]:
        """Its domains, and its tasks that have not ended, newest first."""
        known = self._registry.seen(agent)
        tasks = self._bridge.store.tasks("tasks_of_owner", agent, 50)
        return self.domains(known), [each for each in tasks if each.domain in known.domains]

    def level(self, domain: str) -> Level:
        return self._bridge.ladder.standing(domain).level

    def tidy(self) -> None:
        """Forget what belongs to claims that are no more."""
        now = self._bridge.clock.now()
        for task_id in [each for each, sample in list(self.samples.items()) if now - sample.at > SAMPLES_KEPT]:
            self.samples.pop(task_id, None)
        self._bridge.store.run("agent_claims_prune")


def waits_for_person(task: Task) -> bool:
    return not task.approved_as and task.state in ("proposed", "rehearsed")


def ended(task: Task) -> bool:
    """Nothing more comes of it by itself; a rehearsal that nobody answered yet has not ended."""
    return bool(task.approved_as) or task.state not in (*OPEN, "proposed", "rehearsed")
