"""The exchange in a folder on one local file system: every transition is one rename, so one winner."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from chassis.atomic import fsync_dir, write_whole
from chassis.clock import Clock
from chassis.errors import CalyxError, Duplicate, InvalidInput, ResourceExhausted, Unavailable
from chassis.exchange import rules
from chassis.exchange.commits import Commits, Kind, Record
from chassis.exchange.compaction import Compaction
from chassis.exchange.custody import Custody
from chassis.exchange.folder import Folder, Place
from chassis.exchange.manifest import TASK_ID, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.moves import (
    Unfit,
    link,
    move_into,
    refuse_network_file_system,
    remove,
    there,
    write_new,
)  # fmt: skip
from chassis.exchange.port import Claim, Compacted, Exchange, Holder, Receipt, Swept, TaskState, TaskView
from chassis.exchange.reaper import Reaper
from chassis.exchange.recovery import Recovery
from chassis.exchange.slots import Slots
from chassis.exchange.wake import Bells
from chassis.killswitch import KillSwitch


class FilesExchange(Exchange):
    """Shared by every process of the station; each has its own object on the same `root`.

    All state is in the folders: a process killed anywhere leaves a task in exactly one of them, and what was
    half done is finished or taken back by the next sweep, submit or join. One process (the CBO) sweeps.
    """

    def __init__(
        self,
        root: Path,
        clock: Clock,
        verifier: Callable[[Manifest], bool],
        kill_switch: KillSwitch,
        lease_seconds: float = 30.0,
    ) -> None:
        self._folder = Folder(root, verifier)
        refuse_network_file_system(root)
        self._slots = Slots(root / "workers")
        self._bells = Bells(root / "ready")
        self._commits = Commits(root / "log")
        self._custody = Custody(self._folder, clock, kill_switch, self._slots.hold, self._commits)
        self._recovery = Recovery(self._folder, self._custody)
        self._recovery.run()  # of the dead, before anything is claimed
        self._compaction = Compaction(self._folder, clock)
        self._reaper = Reaper(self._folder, self._custody, clock, kill_switch, lease_seconds)

    # Submitting

    def submit(self, manifest: Manifest, *, hold: bool = False) -> Receipt:
        answer = self._submit([manifest], hold)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_many(self, manifests: Sequence[Manifest]) -> list[Receipt | Exception]:
        return self._submit(manifests, hold=False)

    def _submit(self, manifests: Sequence[Manifest], hold: bool) -> list[Receipt | Exception]:
        """Recorded, promised in the log, then published: only the promise waits for the disk, together with others'.

        The record is the exclusive claim on the id, and no task while it has no other name.
        """
        admitted = rules.admit(manifests, self._folder.known)
        answers: dict[int, Receipt | Exception] = dict(admitted.refused)
        staged: dict[int, bytes] = {}
        with self._folder.intake(fcntl.LOCK_SH):
            for index in admitted.order:
                try:
                    write_new(self._folder.task(manifests[index].task_id), admitted.bodies[index])
                    staged[index] = admitted.bodies[index]
                except FileExistsError:
                    for mine in staged:
                        remove(self._folder.task(manifests[mine].task_id))
                    break
                except OSError as error:
                    answers[index] = _full(error, manifests[index].task_id)
            else:
                answers.update(self._promise(manifests, staged, hold))
                return [answers[index] for index in range(len(manifests))]
        return self._again(manifests, hold)

    def _promise(
        self, manifests: Sequence[Manifest], staged: dict[int, bytes], hold: bool
    ) -> dict[int, Receipt | Exception]:
        kind: Kind = "H" if hold else "S"
        try:
            with self._commits.promise([Record(kind=kind, body=body) for body in staged.values()]):
                return self._publish_all([(index, manifests[index]) for index in staged], hold)
        except OSError as error:
            return {index: self._refuse(manifests[index], _full(error, manifests[index].task_id)) for index in staged}

    def _again(self, manifests: Sequence[Manifest], hold: bool) -> list[Receipt | Exception]:
        """Somebody is submitting, or was cut short submitting, the same ids: once nobody is, it shows which."""
        with self._folder.intake(fcntl.LOCK_EX):
            self._recovery.run()
            for manifest in manifests:
                if self._folder.unpublished(manifest.task_id):
                    remove(self._folder.task(manifest.task_id))
        return self._submit(manifests, hold)

    def _refuse(self, manifest: Manifest, why: CalyxError) -> CalyxError:
        """Promised, but not published: take the promise back as well, so that no replay publishes it."""
        record = self._folder.task(manifest.task_id)
        with contextlib.suppress(OSError):
            if os.lstat(record).st_nlink == 1:
                remove(record)
        with contextlib.suppress(OSError), self._commits.promise([Record(kind="R", body=manifest.task_id.encode())]):
            pass
        return why

    def _publish_all(self, staged: Sequence[tuple[int, Manifest]], hold: bool) -> dict[int, Receipt | Exception]:
        answers: dict[int, Receipt | Exception] = {}
        batch = {manifest.task_id for _, manifest in staged}
        published: set[TaskId] = set()

        def ended(task_id: TaskId) -> AckStatus | None:
            return None if task_id in published else self._folder.ended(task_id)

        for index, manifest in staged:
            lost = [d for d in manifest.dependencies if d in batch and d not in published]
            lost = lost or [d for d in manifest.dependencies if d not in published and not self._folder.known(d)]
            if lost:
                why = InvalidInput(f"task {manifest.task_id} depends on {lost[0]}, which could not be submitted")
                answers[index] = self._refuse(manifest, why)
                continue
            answers[index] = self._publish(manifest, hold, ended)
            if isinstance(answers[index], Receipt):
                published.add(manifest.task_id)
        for _, manifest in staged:
            if manifest.dependencies and not hold and manifest.task_id in published:
                self._custody.watch_dependencies(manifest)
        return answers

    def _publish(self, manifest: Manifest, hold: bool, ended: rules.EndOf) -> Receipt | Exception:
        """The link by which others see the task. One whose dependency failed gets its ack at the next look."""
        state: TaskState = "ready" if rules.place(manifest, ended).state == "ready" else "waiting"
        state = "held" if hold else state
        try:
            link(self._folder.task(manifest.task_id), self._folder.target(state, manifest, 1))
        except FileExistsError:
            why = Duplicate(f"task {manifest.task_id} is already there; nothing was changed")
            return self._refuse(manifest, why)
        except OSError as error:
            return self._refuse(manifest, _full(error, manifest.task_id))
        return Receipt(task_id=manifest.task_id, state=state)

    # Claiming and answering

    def join(self, agent: str) -> str:
        return self._slots.take(agent, self._custody.give_back)

    def leave(self, worker: str) -> None:
        self._slots.free(worker)

    def claim(
        self, pool: str, worker: str, n: int = 1, *, holder: Holder | None = None, task_id: TaskId | None = None
    ) -> list[Claim]:
        if task_id is not None:
            return self._custody.claim_one(pool, worker, task_id, holder)
        return self._custody.claim(pool, worker, n, holder)

    def wait(self, pool: str, seconds: float) -> bool:
        if not TASK_ID.fullmatch(pool):
            raise InvalidInput("a pool is named like a task id")
        return self._bells.wait(pool, seconds)

    def check(self, claim: Claim) -> bool:
        return self._custody.check(claim)

    def heartbeat(self, claim: Claim) -> None:
        self._custody.heartbeat(claim)

    def ack(self, claim: Claim, ack: Ack) -> None:
        self._custody.ack(claim, ack)

    def ack_many(self, answers: Sequence[tuple[Claim, Ack]]) -> list[Exception | None]:
        return list(self._custody.ack_many(answers))

    def nack(self, claim: Claim, delay_seconds: float, reason: str) -> None:
        self._custody.nack(claim, delay_seconds, reason)

    # Steering

    def hold(self, task_id: TaskId) -> bool:
        return self._move_on(task_id, ("ready", "waiting"), self._hold)

    def _hold(self, place: Place, _manifest: Manifest) -> bool:
        target = move_into(place.path, self._folder.held(place.task_id, place.epoch))
        fsync_dir(Path(target).parent)
        return True

    def release(self, task_id: TaskId) -> bool:
        return self._move_on(task_id, ("held",), self._custody.put)

    def requeue(self, task_id: TaskId) -> bool:
        return self._move_on(task_id, ("dead",), self._requeue)

    def _requeue(self, place: Place, manifest: Manifest) -> bool:
        try:
            self._folder.genuine(place)
        except Unfit:
            return False  # it would only come back here
        return self._custody.next_epoch(place, manifest, None, "")

    def cancel(self, task_id: TaskId, reason: str) -> bool:
        def end(place: Place, manifest: Manifest) -> bool:
            if place.state != "claimed":
                return self._custody.answer(place, manifest, "cancelled", reason)
            write_whole(Path(self._folder.cancel(task_id)), reason.encode(errors="replace"))
            return not there(self._folder.ack(task_id))

        return self._move_on(task_id, ("ready", "waiting", "held", "claimed"), end)

    def _move_on(self, task_id: TaskId, states: tuple[TaskState, ...], act: Callable[[Place, Manifest], bool]) -> bool:
        """Find the task and act on it where it lies; look again if it moved meanwhile."""
        for _ in range(10):
            manifest = self._folder.read_manifest(task_id) if TASK_ID.fullmatch(task_id) else None
            if manifest is None or there(self._folder.ack(task_id)):
                return False
            place = self._folder.find(task_id, manifest, self._folder.epoch(task_id))
            if place is not None and place.state not in states:
                return False
            with contextlib.suppress(FileNotFoundError):
                if place is not None and act(place, manifest):
                    return True
        return False

    # Looking

    def get(self, task_id: TaskId) -> TaskView:
        manifest = self._folder.read_manifest(task_id) if TASK_ID.fullmatch(task_id) else None
        if manifest is None:
            archived = self._folder.archive.find(task_id) if TASK_ID.fullmatch(task_id) else None
            if archived is None:
                return TaskView(task_id=task_id, state="unknown", epoch=0, manifest=None, ack=None)
            return _ended(task_id, archived.manifest, archived.ack)
        for _ in range(5):  # it may move from a place not looked at yet to one already looked at
            ack = self._folder.read_ack(task_id)
            if ack is not None:
                return _ended(task_id, manifest, ack)
            place = self._folder.find(task_id, manifest, self._folder.epoch(task_id))
            if place is not None:
                reason = self._folder.reason(place)
                return TaskView(
                    task_id=task_id, state=place.state, epoch=place.epoch, manifest=manifest, ack=None, reason=reason
                )
        # Past the fence, its ack not published yet (a crash there is finished by the next sweep); or lost.
        epoch = self._folder.epoch(task_id)
        pending = any(there(self._folder.claimed(w, task_id, epoch, "ack")) for w in self._folder.holders())
        reason = "only its record is there: it was never published, or its file is gone"
        return TaskView(
            task_id=task_id, state="claimed" if pending else "unknown", epoch=epoch, manifest=manifest, ack=None,
            reason="its ack is being published" if pending else reason,
        )  # fmt: skip

    def tasks(self, states: Iterable[TaskState]) -> list[TaskView]:
        """Finished tasks are read one by one, so asking for `done` is not cheap."""
        wanted = set(states)
        found: set[TaskId] = set()
        for state in ("held", "waiting", "ready", "claimed", "dead"):
            if state in wanted:
                places = (self._folder.parse(state, path) for path in self._folder.each(state))
                found |= {place.task_id for place in places if place is not None}
        if wanted & {"done", "cancelled"}:
            found |= self._folder.finished()
            for state in wanted & {"done", "cancelled"}:
                found |= set(self._folder.archive.ids(cancelled=state == "cancelled"))
        views = (self.get(task_id) for task_id in sorted(found))
        return [view for view in views if view.state in wanted]

    def depth(self) -> dict[TaskState, int]:
        """Tasks by live state and the dead; finished ones are not counted, they are no depth."""
        live: tuple[TaskState, ...] = ("held", "waiting", "ready", "claimed", "dead")
        return {
            state: sum(self._folder.parse(state, path) is not None for path in self._folder.each(state))
            for state in live
        }

    def compact(self, finished: timedelta, archive: timedelta, limit: int = 1000) -> Compacted:
        return self._compaction.step(finished, archive, limit)

    def sweep(self) -> Swept:
        self._recovery.run()
        return self._reaper.sweep()


def _ended(task_id: TaskId, manifest: Manifest | None, ack: Ack) -> TaskView:
    state: TaskState = "cancelled" if ack.status == "cancelled" else "done"
    return TaskView(task_id=task_id, state=state, epoch=ack.epoch, manifest=manifest, ack=ack, reason=ack.detail)


def _full(error: OSError, task_id: str) -> CalyxError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"no room for task {task_id}; it was not published, try again later")
    return Unavailable(f"task {task_id} could not be written ({error.strerror}); submit it again")
