"""The exchange in one process's memory, for tests and the virtual station. Same contract as the files."""

import contextlib
import heapq
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from chassis.clock import Clock
from chassis.errors import AlreadyAcked, CalyxError, InvalidInput, LeaseLost
from chassis.exchange import rules
from chassis.exchange.manifest import Ack, AckStatus, Manifest, TaskId
from chassis.exchange.port import Claim, Compacted, Exchange, Holder, Receipt, Swept, TaskState, TaskView
from chassis.killswitch import KillSwitch


@dataclass(slots=True)
class _Task:
    manifest: Manifest
    state: TaskState
    epoch: int = 1
    worker: str = ""
    beats: int = 0
    not_before: datetime | None = None
    cancel: str | None = None
    place: int = 0
    """Its entry in the queue of its pool, while it is ready."""
    ack: Ack | None = None
    reason: str = ""
    archived_on: date | None = None
    bare: bool = False
    """Only its id and how it ended are kept."""


class MemoryExchange(Exchange):
    """Nothing here outlives the process."""

    def __init__(
        self,
        clock: Clock,
        verifier: Callable[[Manifest], bool],
        kill_switch: KillSwitch,
        lease_seconds: float = 30.0,
    ) -> None:
        self._clock, self._valid, self._kill_switch = clock, verifier, kill_switch
        self._tasks: dict[TaskId, _Task] = {}
        self._leases = rules.Leases(lease_seconds)
        self._pauses = rules.Pauses()
        self._living: set[str] = set()
        self._queues: dict[str, list[tuple[int, str, int, _Task]]] = {}
        self._dependants: dict[TaskId, list[_Task]] = {}
        self._just_ended: deque[TaskId] = deque()
        self._places = itertools.count(1)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def join(self, agent: str) -> str:
        with self._lock:
            slot = re.compile(re.escape(agent) + r"-\d{6}")
            gone = {t.worker for t in self._tasks.values() if slot.fullmatch(t.worker)} - self._living
            for worker in gone:
                self._give_back(worker)
            number = 1
            while f"{agent}-{number:06d}" in self._living:
                number += 1
            self._living.add(f"{agent}-{number:06d}")
            return f"{agent}-{number:06d}"

    def leave(self, worker: str) -> None:
        with self._lock:
            self._living.discard(worker)

    def _give_back(self, worker: str) -> None:
        for task in self._tasks.values():
            if task.worker == worker and task.state == "claimed":
                self._return(task, "its holder is gone", delay_seconds=0.0)

    def submit(self, manifest: Manifest, *, hold: bool = False) -> Receipt:
        answer = self._submit([manifest], hold)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_many(self, manifests: Sequence[Manifest]) -> list[Receipt | Exception]:
        return self._submit(manifests, hold=False)

    def _submit(self, manifests: Sequence[Manifest], hold: bool) -> list[Receipt | Exception]:
        with self._lock:
            admitted = rules.admit(manifests, lambda task_id: task_id in self._tasks)
            answers: dict[int, Receipt | Exception] = dict(admitted.refused)
            for index in admitted.order:
                task = _Task(manifest=manifests[index], state="held")
                self._tasks[task.manifest.task_id] = task
                for dependency in dict.fromkeys(task.manifest.dependencies):
                    self._dependants.setdefault(dependency, []).append(task)
                if not hold:
                    ready = rules.place(task.manifest, self._ended).state == "ready"
                    if ready:
                        self._make_ready(task)
                    else:
                        task.state = "waiting"
                answers[index] = Receipt(task_id=task.manifest.task_id, state=task.state)
            for index in admitted.order:
                self._look_again(self._tasks[manifests[index].task_id])
            return [answers[index] for index in range(len(manifests))]

    def _make_ready(self, task: _Task) -> None:
        task.state, task.worker, task.place = "ready", "", next(self._places)
        key = f"{task.manifest.task_id}.e{task.epoch}.ready"  # as the files sort
        queue = self._queues.setdefault(task.manifest.owner, [])
        heapq.heappush(queue, (-task.manifest.priority, key, task.place, task))
        self._changed.notify_all()

    def _ready(self, pool: str) -> Iterator[_Task]:
        """What is ready in a pool, in order; what the caller leaves ready stays in the queue."""
        queue, left = self._queues.get(pool, []), []
        try:
            while queue:
                entry = heapq.heappop(queue)
                if entry[3].state == "ready" and entry[3].place == entry[2]:
                    left.append(entry)
                    yield entry[3]
        finally:
            for entry in left:
                if entry[3].state == "ready" and entry[3].place == entry[2]:
                    heapq.heappush(queue, entry)

    def _put(self, task: _Task) -> None:
        placement = rules.place(task.manifest, self._ended)
        if placement.state == "ends":
            self._end(task, placement.ends or "failed", placement.reason)
        elif placement.state == "ready":
            self._make_ready(task)
        else:
            task.state, task.worker = placement.state, ""
            self._look_again(task)

    def _look_again(self, task: _Task) -> None:
        """A task whose dependencies have all ended goes on at once; one that waits for a time does not."""
        if task.state != "waiting" or task.not_before is not None or task.epoch > 1:
            return
        if all(self._ended(dependency) is not None for dependency in task.manifest.dependencies):
            self._put(task)

    def _told(self, task: _Task) -> None:
        """It has its ack: its dependants, and theirs, however long the chain."""
        self._just_ended.append(task.manifest.task_id)
        if len(self._just_ended) > 1:
            return  # the caller further up works it off
        while self._just_ended:
            for dependant in self._dependants.get(self._just_ended[0], ()):
                self._look_again(dependant)
            self._just_ended.popleft()

    def _ended(self, task_id: TaskId) -> AckStatus | None:
        task = self._tasks.get(task_id)
        return task.ack.status if task and task.ack else None

    def _end(self, task: _Task, status: AckStatus, reason: str) -> None:
        task.ack = rules.answer(task.manifest, task.epoch, status, reason, self._clock.now())
        task.state = "cancelled" if status == "cancelled" else "done"
        task.not_before = None
        self._told(task)

    def hold(self, task_id: TaskId) -> bool:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None or task.state not in ("ready", "waiting"):
                return False
            task.state, task.not_before = "held", None
            return True

    def release(self, task_id: TaskId) -> bool:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None or task.state != "held":
                return False
            self._put(task)
            return True

    def cancel(self, task_id: TaskId, reason: str) -> bool:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None or task.state not in ("ready", "waiting", "held", "claimed"):
                return False
            if task.state == "claimed":
                task.cancel = reason
            else:
                self._end(task, "cancelled", reason)
            return True

    def requeue(self, task_id: TaskId) -> bool:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None or task.state != "dead" or not self._valid(task.manifest):
                return False
            task.epoch += 1
            task.reason = ""
            self._put(task)
            return True

    def wait(self, pool: str, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._any_ready(pool), max(0.0, seconds))

    def _any_ready(self, pool: str) -> bool:
        with contextlib.closing(self._ready(pool)) as ready:  # type: ignore[type-var] # a generator, which closes
            return next(ready, None) is not None

    def claim(
        self, pool: str, worker: str, n: int = 1, *, holder: Holder | None = None, task_id: TaskId | None = None
    ) -> list[Claim]:
        """`holder` is not kept: whoever is stalled here is stalled with the whole process."""
        with self._lock:
            self._living.add(worker)
            stopped = self._kill_switch.engaged()
            claims: list[Claim] = []
            for task in self._wanted(pool, task_id):
                if stopped and not (task.manifest.undo_of and self._valid(task.manifest)):
                    continue
                if not self._valid(task.manifest):
                    task.state, task.reason = "dead", "no valid grant"
                elif self._expired(task.manifest):
                    self._end(task, "expired", "its time ran out before anyone took it")
                else:
                    task.state, task.worker, task.beats = "claimed", worker, 0
                    claims.append(Claim(manifest=task.manifest, epoch=task.epoch, worker=worker))
                    if len(claims) >= n:
                        break
            return claims

    def _wanted(self, pool: str, task_id: TaskId | None) -> Iterator[_Task]:
        if task_id is None:
            yield from self._ready(pool)
            return
        task = self._tasks.get(task_id)
        if task is not None and task.state == "ready" and task.manifest.owner == pool:
            yield task

    def _expired(self, manifest: Manifest) -> bool:
        return rules.expired(manifest, self._clock.now(), self._pauses, self._kill_switch.engaged())

    def _held_by(self, claim: Claim) -> _Task | None:
        task = self._tasks.get(claim.manifest.task_id)
        if task is None or task.state != "claimed" or (task.epoch, task.worker) != (claim.epoch, claim.worker):
            return None
        return task

    def check(self, claim: Claim) -> bool:
        with self._lock:
            task = self._held_by(claim)
            return task is not None and task.cancel is None

    def heartbeat(self, claim: Claim) -> None:
        with self._lock:
            task = self._held_by(claim)
            if task is None:
                raise LeaseLost(f"task {claim.manifest.task_id} is no longer held at epoch {claim.epoch}")
            task.beats += 1

    def ack(self, claim: Claim, ack: Ack) -> None:
        with self._lock:
            if (ack.task_id, ack.epoch) != (claim.manifest.task_id, claim.epoch):
                raise InvalidInput("the ack names another task or epoch than the claim")
            task = self._held_by(claim)
            if task is None:
                known = self._tasks.get(claim.manifest.task_id)
                if known is not None and known.ack is not None:
                    raise AlreadyAcked(
                        f"task {ack.task_id} has its ack ({known.ack.status}); this one was not recorded"
                    )
                raise LeaseLost(f"task {ack.task_id} is no longer held at epoch {claim.epoch}; nothing was recorded")
            task.ack = ack
            task.state = "cancelled" if ack.status == "cancelled" else "done"
            self._told(task)

    def ack_many(self, answers: Sequence[tuple[Claim, Ack]]) -> list[Exception | None]:
        refused: list[Exception | None] = []
        for claim, ack in answers:
            try:
                self.ack(claim, ack)
                refused.append(None)
            except CalyxError as error:
                refused.append(error)
        return refused

    def nack(self, claim: Claim, delay_seconds: float, reason: str) -> None:
        with self._lock:
            task = self._held_by(claim)
            if task is None:
                raise LeaseLost(f"task {claim.manifest.task_id} is no longer held at epoch {claim.epoch}")
            self._return(task, reason, delay_seconds)

    def _return(self, task: _Task, reason: str, delay_seconds: float | None = None) -> rules.Return:
        back = rules.returned(
            task.manifest, task.epoch, reason=reason, delay_seconds=delay_seconds, cancelled=task.cancel
        )
        task.reason, task.worker, task.epoch = back.reason, "", back.epoch
        if back.to == "cancelled":
            self._end(task, "cancelled", back.reason)
        elif back.to == "dead":
            task.state = "dead"
        elif back.to == "later":
            task.state, task.not_before = "waiting", self._clock.now() + timedelta(seconds=back.delay_seconds)
        else:
            self._make_ready(task)
        return back

    def get(self, task_id: TaskId) -> TaskView:
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None:
                return TaskView(task_id=task_id, state="unknown", epoch=0, manifest=None, ack=None)
            reason = task.ack.detail if task.ack else task.reason
            return TaskView(
                task_id=task_id, state=task.state, epoch=task.epoch, manifest=None if task.bare else task.manifest,
                ack=task.ack, reason=reason,
            )  # fmt: skip

    def tasks(self, states: Iterable[TaskState]) -> list[TaskView]:
        with self._lock:
            wanted = set(states)
            return [self.get(task_id) for task_id in sorted(self._tasks) if self._tasks[task_id].state in wanted]

    def depth(self) -> dict[TaskState, int]:
        with self._lock:
            live: tuple[TaskState, ...] = ("held", "waiting", "ready", "claimed", "dead")
            return {state: sum(t.state == state for t in self._tasks.values()) for state in live}

    def compact(self, finished: timedelta, archive: timedelta, limit: int = 1000) -> Compacted:
        with self._lock:
            now = self._clock.now()
            last, oldest = (now - finished).date(), (now - archive).date()
            acks = [t.ack for t in self._tasks.values() if t.ack is not None and t.archived_on is None]
            due = sorted((a.ended_at.date(), a.task_id) for a in acks if a.ended_at.date() < last)[:limit]
            for _, task_id in due:
                self._tasks[task_id].archived_on = now.date()
            kept = [t for t in self._tasks.values() if t.archived_on is not None and not t.bare]
            day = min((t.archived_on for t in kept if t.archived_on is not None), default=oldest)
            dropped = [t for t in kept if t.archived_on == day and day < oldest]
            for task in dropped:
                task.bare = True
                if task.ack is not None:
                    task.ack = rules.bare_ack(task.ack)
            return Compacted(archived=len(due), dropped=len(dropped))

    def sweep(self) -> Swept:
        with self._lock:
            now = self._clock.now()
            self._pauses.observe(self._kill_switch.engaged(), now)
            done = rules.Sweeping()
            for state in ("held", "waiting", "ready", "claimed"):
                for task in [self._tasks[i] for i in sorted(self._tasks) if self._tasks[i].state == state]:
                    self._sweep_one(task, now, done)
            self._leases.keep_only((i, t.epoch) for i, t in self._tasks.items() if t.state == "claimed")
            return done.swept()

    def _sweep_one(self, task: _Task, now: datetime, done: rules.Sweeping) -> None:
        task_id = task.manifest.task_id
        if task.state in ("ready", "waiting", "held") and not self._valid(task.manifest):
            task.state, task.reason, task.not_before = "dead", "no valid grant", None
            done.quarantined.append(task_id)
        elif task.state in ("ready", "waiting", "held") and self._expired(task.manifest):
            self._end(task, "expired", "its time ran out before anyone took it")
            done.expired.append(task_id)
        elif task.state == "waiting" and (task.not_before is None or now >= task.not_before):
            task.not_before = None
            self._put(task)
            if task.state != "waiting":
                done.released.append(task_id)
        elif task.state == "claimed" and self._leases.stale(task_id, task.epoch, task.beats, self._clock.monotonic()):
            back = self._return(task, "its holder's heartbeat stopped")
            (done.dead if back.to == "dead" else done.requeued).append(task_id)
