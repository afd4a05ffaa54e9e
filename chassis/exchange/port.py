"""The exchange as its users see it. Adapters store and fence; `rules.py` decides."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from chassis.exchange.manifest import Ack, Manifest, TaskId

TaskState = Literal["held", "waiting", "ready", "claimed", "done", "dead", "cancelled", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The task is durable. `state` is where it went: waiting, ready or held."""

    task_id: TaskId
    state: TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that works on a claim, so that the reaper can end exactly that one and no other.

    `start_ticks` is field 22 of `/proc/<pid>/stat`, `pid_namespace` the inode number of `/proc/<pid>/ns/pid`:
    a pid that was given out again, or one of another container, is never taken for it.
    """

    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a task, until the lease runs out or another epoch exists."""

    manifest: Manifest
    epoch: int
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task as the exchange knows it; `ack` once it has one."""

    task_id: TaskId
    state: TaskState
    epoch: int
    manifest: Manifest | None
    ack: Ack | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep did, by task."""

    released: tuple[TaskId, ...] = ()
    requeued: tuple[TaskId, ...] = ()
    expired: tuple[TaskId, ...] = ()
    dead: tuple[TaskId, ...] = ()
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What one step of compaction did: tasks moved to the archive, tasks of which only the id is kept from now on."""

    archived: int = 0
    dropped: int = 0


class Exchange(Protocol):
    """At-least-once execution, at most one live claim, exactly one ack record."""

    def submit(self, manifest: Manifest, *, hold: bool = False) -> Receipt:
        """Make a task durable.

        Raises Duplicate (already there, unchanged), InvalidInput (cycle, unknown dependency).
        """
        ...

    def submit_many(self, manifests: Sequence[Manifest]) -> list[Receipt | Exception]:
        """Each on its own terms; an error for one does not stop the others."""
        ...

    def hold(self, task_id: TaskId) -> bool: ...
    def release(self, task_id: TaskId) -> bool: ...
    def cancel(self, task_id: TaskId, reason: str) -> bool:
        """Ready or waiting: ends it with a `cancelled` ack. Claimed: leaves a mark that `check` reports."""
        ...

    def requeue(self, task_id: TaskId) -> bool:
        """A dead task goes back to ready with a new epoch."""
        ...

    def join(self, agent: str) -> str:
        """The worker name of this boot of an agent; unfinished claims of its dead earlier boots are given back.

        A living process's claims are never taken. Joining is optional: `claim` takes any worker name.
        """
        ...

    def leave(self, worker: str) -> None:
        """This worker is no more; its unfinished claims go back at the agent's next `join`, or with the lease."""
        ...

    def claim(
        self, pool: str, worker: str, n: int = 1, *, holder: Holder | None = None, task_id: TaskId | None = None
    ) -> list[Claim]:
        """Up to n tasks, highest priority first; never an expired one, never one without a valid grant.

        `holder` is kept beside the claim: once it stalls, it is killed before the task is given to another.
        With `task_id` only that task is taken, if it is ready in this pool.
        """
        ...

    def wait(self, pool: str, seconds: float) -> bool:
        """Block for at most `seconds` of real time; True as soon as something may be ready in the pool."""
        ...

    def check(self, claim: Claim) -> bool:
        """Is the claim still ours and not cancelled? To be asked under the target lock, before the effect."""
        ...

    def heartbeat(self, claim: Claim) -> None:
        """Raises LeaseLost."""
        ...

    def ack(self, claim: Claim, ack: Ack) -> None:
        """Raises LeaseLost, AlreadyAcked."""
        ...

    def ack_many(self, answers: Sequence[tuple[Claim, Ack]]) -> list[Exception | None]:
        """Each as `ack`, all in one round to the disk; what each was refused with, or None."""
        ...

    def nack(self, claim: Claim, delay_seconds: float, reason: str) -> None:
        """Give it back; it is ready again after the delay, with the next epoch."""
        ...

    def get(self, task_id: TaskId) -> TaskView: ...
    def watch(self, task_ids: Iterable[TaskId], pause: Callable[[], bool]) -> Iterator[TaskView]:
        """Each of these tasks as it is, and again whenever its state or epoch has changed, until all have ended.

        `pause` is called after each look; when it says False, the watch is over.
        """
        seen: dict[TaskId, tuple[TaskState, int]] = {}
        left = list(dict.fromkeys(task_ids))
        while left:
            for task_id in list(left):
                view = self.get(task_id)
                if seen.get(task_id) != (view.state, view.epoch):
                    seen[task_id] = (view.state, view.epoch)
                    yield view
                if view.ack is not None:
                    left.remove(task_id)
            if not left or not pause():
                return

    def tasks(self, states: Iterable[TaskState]) -> list[TaskView]: ...
    def sweep(self) -> Swept:
        """The reaper's turn: dependencies, TTLs (paused under the kill switch), stale leases, stray files."""
        ...

    def depth(self) -> dict[TaskState, int]: ...
    def compact(self, finished: timedelta, archive: timedelta, limit: int = 1000) -> Compacted:
        """One bounded step: what ended on a day before `finished` ago goes to the archive, where `get` still finds it.

        Of what came there on a day before `archive` ago only the id and how it ended are kept, a day at a time.
        An id is never free again.
        """
        ...
