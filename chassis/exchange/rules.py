"""What the exchange decides, apart from where tasks are stored: every adapter asks here and behaves the same."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from chassis.errors import CalyxError, Duplicate, InvalidInput
from chassis.exchange.manifest import MAX_MANIFEST_BYTES, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.port import Swept

GOOD_ENDS: frozenset[AckStatus] = frozenset({"done", "no_work", "rehearsed", "undone"})
"""Ack statuses that satisfy a dependant; any other ack fails it."""

EXCHANGE = "_exchange"
"""Who answers for a task that no agent will: an expired, cancelled or failed-by-dependency one."""

ANSWERS = "exchange"
"""The agent of the acks that the exchange itself gives."""

EndOf = Callable[[TaskId], AckStatus | None]
"""How a task ended; None while it has no ack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a task that nobody holds belongs: `waiting`, `ready`, or answered with `ends` (a status)."""

    state: Literal["waiting", "ready", "ends"]
    ends: AckStatus | None = None
    reason: str = ""


def place(manifest: Manifest, end_of: EndOf) -> Placement:
    """Ready once every dependency has a good ack; failed, naming the first bad one, as soon as one has not.

    A dead dependency has no ack: its dependants wait for a requeue until their own TTL ends.
    """
    waiting_for = ""
    for dependency in manifest.dependencies:
        end = end_of(dependency)
        if end is None:
            waiting_for = waiting_for or dependency
        elif end not in GOOD_ENDS:
            return Placement(
                state="ends", ends="failed", reason=f"dependency {dependency} ended {end}; this task was not run"
            )
    if waiting_for:
        return Placement(state="waiting", reason=f"waits for {waiting_for}")
    return Placement(state="ready", reason="nothing to wait for")


@dataclass(slots=True)
class Pauses:
    """The times in which TTLs stood still (kill switch engaged), as the reaper saw them.

    Closed intervals plus one open start. The precision is one sweep; a kill switch that came and went while
    no reaper ran is not known.
    """

    closed: list[tuple[datetime, datetime]] = field(default_factory=list)
    since: datetime | None = None

    def observe(self, engaged: bool, now: datetime) -> bool:
        """Record what the reaper sees now; True when there is something new to keep."""
        if engaged and self.since is None:
            self.since = now
            return True
        if not engaged and self.since is not None:
            self.closed.append((self.since, max(now, self.since)))
            oldest = now - timedelta(days=180)  # twice the longest TTL
            self.closed = [each for each in self.closed if each[1] >= oldest]
            self.since = None
            return True
        return False

    def paused(self, start: datetime, now: datetime) -> timedelta:
        """How long TTLs stood still between `start` and `now`."""
        spans = [*self.closed, *([(self.since, now)] if self.since is not None else [])]
        total = timedelta()
        for begin, end in spans:
            total += max(timedelta(), min(end, now) - max(begin, start))
        return total


def expired(manifest: Manifest, now: datetime, pauses: Pauses, engaged: bool) -> bool:
    """Past `expires_at` plus the paused time since it was created. Nothing expires under the kill switch."""
    if engaged or now < manifest.expires_at:
        return False
    return now >= manifest.expires_at + pauses.paused(manifest.created_at, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """What becomes of a task whose holder is gone or gave it back at `epoch`."""

    to: Literal["ready", "later", "dead", "cancelled"]
    epoch: int
    delay_seconds: float
    reason: str


def returned(
    manifest: Manifest, epoch: int, *, reason: str, delay_seconds: float | None = None, cancelled: str | None = None
) -> Return:
    """Back with the next epoch, or dead once `max_attempts` epochs were used, or cancelled if that was asked.

    `delay_seconds` None means the back-off of a lost lease: 1, 2, 4 … at most 60 s.
    """
    if cancelled is not None:
        return Return(to="cancelled", epoch=epoch, delay_seconds=0, reason=cancelled)
    if epoch >= manifest.max_attempts:
        return Return(to="dead", epoch=epoch, delay_seconds=0, reason=f"{reason}; attempt {epoch} was the last")
    delay = min(60.0, 2.0 ** min(epoch - 1, 6)) if delay_seconds is None else max(0.0, delay_seconds)
    return Return(to="later" if delay > 0 else "ready", epoch=epoch + 1, delay_seconds=delay, reason=reason)


class Leases:
    """Heartbeat counters as one reaper saw them move, on its own monotonic clock.

    Kept in memory: a restarted reaper gives every holder a whole new lease time.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._seen: dict[tuple[str, int], tuple[int, float]] = {}

    def stale(self, task_id: str, epoch: int, counter: int, monotonic: float) -> bool:
        """Has this counter stood still for the lease time?"""
        seen = self._seen.get((task_id, epoch))
        if seen is None or seen[0] != counter:
            self._seen[task_id, epoch] = (counter, monotonic)
            return False
        return monotonic - seen[1] >= self._lease_seconds

    def keep_only(self, live: Iterable[tuple[str, int]]) -> None:
        keep = set(live)
        self._seen = {key: value for key, value in self._seen.items() if key in keep}


def answer(manifest: Manifest, epoch: int, status: AckStatus, reason: str, now: datetime) -> Ack:
    """The ack the exchange itself gives for a task that no agent answers."""
    return Ack(
        task_id=manifest.task_id,
        epoch=epoch,
        agent=ANSWERS,
        status=status,
        started_at=now,
        ended_at=now,
        duration_seconds=0.0,
        detail=reason,
    )


def bare_ack(ack: Ack, why: str = "only its id is kept; its record was dropped") -> Ack:
    """What is left of an ack when only the id and how it ended are kept."""
    return Ack(
        task_id=ack.task_id, epoch=ack.epoch, agent=ack.agent, status=ack.status, started_at=ack.ended_at,
        ended_at=ack.ended_at, duration_seconds=0.0, detail=why,
    )  # fmt: skip


def disbelieved(manifest: Manifest, ack: Ack) -> str:
    """Why this can't be the task's own ack; empty if it can. It shows a blunder or a forgery, it proves nothing."""
    if ack.task_id != manifest.task_id:
        return f"it answers task {ack.task_id}"
    if ack.agent not in (manifest.owner, ANSWERS):
        return f"{ack.agent[:64]} does not own this task"
    fit: set[AckStatus] = {"failed", "cancelled"}
    if ack.agent == ANSWERS:
        fit |= {"expired"}
    else:
        fit |= {"done", "no_work"}
        fit |= {"undone"} if manifest.undo_of else {"rehearsed"} if manifest.rehearsal else set()
    return "" if ack.status in fit else f"{ack.status} is no answer to this task"


@dataclass(slots=True)
class Sweeping:
    """What a sweep has done so far."""

    released: list[TaskId] = field(default_factory=list)
    requeued: list[TaskId] = field(default_factory=list)
    expired: list[TaskId] = field(default_factory=list)
    dead: list[TaskId] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    def swept(self) -> Swept:
        return Swept(
            released=tuple(self.released),
            requeued=tuple(self.requeued),
            expired=tuple(self.expired),
            dead=tuple(self.dead),
            quarantined=tuple(self.quarantined),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Which of a batch may be published, dependencies first, and why each other one may not.

    `bodies` is what is stored of the admitted: their canonical JSON.
    """

    order: tuple[int, ...]
    refused: Mapping[int, CalyxError]
    bodies: Mapping[int, bytes]


def admit(manifests: Sequence[Manifest], known: Callable[[TaskId], bool]) -> Admitted:
    """Refuse duplicates, too large ones, cycles and dependencies that nobody knows; order the rest."""
    refused: dict[int, CalyxError] = {}
    bodies: dict[int, bytes] = {}
    batch: dict[TaskId, int] = {}
    for index, manifest in enumerate(manifests):
        if manifest.task_id in batch or known(manifest.task_id):
            refused[index] = Duplicate(f"task {manifest.task_id} is already there; nothing was changed")
        elif len(body := manifest.stored_bytes()) > MAX_MANIFEST_BYTES:
            refused[index] = InvalidInput(
                f"task {manifest.task_id} is larger than {MAX_MANIFEST_BYTES} bytes; keep the payload in a file"
            )
        else:
            batch[manifest.task_id], bodies[index] = index, body
    open_for = {task_id: set(manifests[index].dependencies) & batch.keys() for task_id, index in batch.items()}
    dependants: dict[TaskId, list[TaskId]] = {}
    unknown: dict[TaskId, TaskId] = {}
    found: dict[TaskId, bool] = {}
    for task_id, index in batch.items():
        for dependency in dict.fromkeys(manifests[index].dependencies):
            if dependency in batch:
                dependants.setdefault(dependency, []).append(task_id)
            else:
                if dependency not in found:
                    found[dependency] = known(dependency)
                if not found[dependency]:
                    unknown.setdefault(task_id, dependency)
    order: list[int] = []
    ready = deque(task_id for task_id, waits in open_for.items() if not waits and task_id not in unknown)
    while ready:
        task_id = ready.popleft()
        order.append(batch[task_id])
        for dependant in dependants.get(task_id, ()):
            waits = open_for[dependant]
            waits.discard(task_id)
            if not waits and dependant not in unknown:
                ready.append(dependant)
    placed = set(order)
    pending = {task_id: open_for[task_id] for task_id, index in batch.items() if index not in placed}
    for task_id, reason in _why_not(pending, unknown).items():
        refused[batch[task_id]] = InvalidInput(reason)
    return Admitted(order=tuple(order), refused=refused, bodies=bodies)


def _why_not(pending: Mapping[TaskId, set[TaskId]], unknown: Mapping[TaskId, TaskId]) -> dict[TaskId, str]:
    """Follow from each refused task what it waits for, until an unknown dependency or a cycle shows."""
    reasons: dict[TaskId, str] = {}
    for start in pending:
        path: list[TaskId] = []
        seen: dict[TaskId, int] = {}
        at = start
        while at not in reasons and at not in seen and at not in unknown:
            seen[at] = len(path)
            path.append(at)
            at = min(pending[at])
        if at in unknown and at not in reasons:
            reasons[at] = f"task {at} depends on {unknown[at]}, which nobody knows; submit that one first"
        elif at in seen:
            cycle = path[seen[at] :]
            turned = cycle.index(min(cycle))
            told = _arrows([*cycle[turned:], *cycle[:turned], cycle[turned]])
            for each in cycle:
                reasons[each] = f"task {each} is part of a dependency cycle, {told}; nothing of it was published"
            path = path[: seen[at]]
        for each in path:
            reasons.setdefault(each, f"task {each} depends on {min(pending[each])}, which was refused")
    return reasons


def _arrows(path: Sequence[TaskId]) -> str:
    """a → b → a, the middle of a very long one left out."""
    if len(path) <= 24:
        return " → ".join(path)
    return " → ".join([*path[:12], f"({len(path) - 24} more)", *path[-12:]])
