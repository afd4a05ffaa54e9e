"""Who holds a task, and how it leaves their hands: claimed, answered once, or given back."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from chassis.atomic import fsync_dir, write_json
from chassis.canonical import canonical_json
from chassis.clock import Clock, iso
from chassis.errors import AlreadyAcked, CalyxError, InvalidInput, LeaseLost, Unavailable
from chassis.exchange import pauses, rules
from chassis.exchange.commits import Commits, Record
from chassis.exchange.cursor import Cursor
from chassis.exchange.dependants import Dependants
from chassis.exchange.folder import MAX_ACK_BYTES, Folder, Place, Ungranted
from chassis.exchange.manifest import TASK_ID, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.moves import (
    Unfit,
    folder_of,
    move_into,
    name_of,
    names,
    read_regular,
    remove,
    there,
    write_new,
)
from chassis.exchange.port import Claim, Holder
from chassis.killswitch import KillSwitch


class Custody:
    """Claims and acks in the folder. `alive` is told each worker name before it holds anything."""

    def __init__(
        self,
        folder: Folder,
        clock: Clock,
        kill_switch: KillSwitch,
        alive: Callable[[str], None],
        commits: Commits,
    ) -> None:
        self._folder, self._clock, self._kill_switch, self._alive = folder, clock, kill_switch, alive
        self._at, self._commits = folder.at, commits
        self._dependants = Dependants(folder, self._go_on)
        self._turns = [threading.RLock() for _ in range(64)]
        self._no_undo: set[str] = set()  # names seen while the kill switch was engaged
        self._beside: set[str] = set()  # claims that something of ours lies beside
        self._cursors: dict[str, Cursor] = {}

    def give_back(self, worker: str) -> None:
        """The worker is dead for certain: publish the acks it had committed, return the rest at once."""
        self.finish_acks(worker)
        folder = f"{self._at}/claimed/{worker}"
        for name in names(folder):
            place = self._folder.parse("claimed", f"{folder}/{name}")
            if place is not None:
                self.send_back(place, "its holder is gone", 0.0)

    def claim(self, pool: str, worker: str, n: int = 1, holder: Holder | None = None) -> list[Claim]:
        if not TASK_ID.fullmatch(pool) or not TASK_ID.fullmatch(worker):
            raise InvalidInput("a pool and a worker are named like task ids")
        claims: list[Claim] = []
        if len(self._no_undo) > 200_000:
            self._no_undo.clear()
        for priority in self._folder.priorities(pool):
            folder = f"{self._at}/ready/{pool}/{priority}"
            cursor = self._cursors.setdefault(folder, Cursor(folder))
            free = self._free(folder, cursor)
            while taken := self._grab(free, cursor, worker, n - len(claims)):
                claims += self._judge(taken, pool, priority, worker, holder)
            if len(claims) >= n:
                break
        return claims

    def _free(self, folder: str, cursor: Cursor) -> Iterator[Place]:
        """What may be taken from a ready folder now."""
        stopped: bool | None = None
        for name in cursor.names():
            if stopped is None:
                stopped = self._kill_switch.engaged()
            if stopped and name in self._no_undo:
                continue
            place = self._folder.parse("ready", f"{folder}/{name}")
            if place is None:
                self._folder.set_aside(f"{folder}/{name}", "its name is no task's")
            elif not stopped or self._is_undo(place):
                yield place

    def _grab(self, free: Iterator[Place], cursor: Cursor, worker: str, room: int) -> list[Place]:
        """Moved one right after the other, to be looked into afterwards: so others seldom try for the same ones."""
        taken: list[Place] = []
        while len(taken) < room and (place := next(free, None)) is not None:
            mine = self._move(place, worker)
            if mine is not None:
                taken.append(mine)
            else:
                cursor.skip()
        return taken

    def claim_one(self, pool: str, worker: str, task_id: TaskId, holder: Holder | None = None) -> list[Claim]:
        """That very task, if it is ready in this pool."""
        if not all(TASK_ID.fullmatch(each) for each in (pool, worker, task_id)):
            raise InvalidInput("a pool, a worker and a task are named like task ids")
        manifest = self._folder.read_manifest(task_id)
        if manifest is None or manifest.owner != pool:
            return []
        epoch = self._folder.epoch(task_id)
        place = Place(state="ready", task_id=task_id, epoch=epoch, path=self._folder.ready(manifest, epoch))
        if not there(place.path) or (self._kill_switch.engaged() and not self._is_undo(place)):
            return []
        mine = self._move(place, worker)
        return self._judge([mine], pool, place.folder, worker, holder) if mine is not None else []

    def _is_undo(self, place: Place) -> bool:
        try:
            undo = bool(self._folder.genuine(place, name_of(folder_of(folder_of(place.path)))).undo_of)
        except (Unfit, FileNotFoundError):
            return False
        if not undo:
            self._no_undo.add(name_of(place.path))
        return undo

    def _move(self, place: Place, worker: str) -> Place | None:
        """Into the worker's folder; None if somebody was faster."""
        self._alive(worker)
        mine = self._folder.claimed(worker, place.task_id, place.epoch)
        try:
            move_into(place.path, mine)
        except FileNotFoundError:
            return None
        except FileExistsError:
            self._folder.set_aside(place.path, "a second file of a task that is being worked on")
            return None
        return Place(state="claimed", task_id=place.task_id, epoch=place.epoch, path=mine)

    def _judge(
        self, taken: Sequence[Place], pool: str, priority: str, worker: str, holder: Holder | None
    ) -> list[Claim]:
        """Those of the moved that are tasks to be done now; what is not goes where it belongs."""
        claims: list[Claim] = []
        for at, place in enumerate(taken):
            try:
                manifest = self.genuine(place, pool)
            except Unavailable:  # nobody can say whether it was granted
                for each in taken[at:]:
                    move_into(each.path, f"{self._at}/ready/{pool}/{priority}/{each.task_id}.e{each.epoch}.ready")
                raise
            if manifest is None:
                continue
            if manifest.priority != int(priority[1:]):
                self.bury(place, "found under another priority than its own")
                continue
            if self.expired(manifest):
                self.answer(place, manifest, "expired", "its time ran out before anyone took it")
                continue
            if holder is not None:
                remove(place.beside("holder"))
                write_new(place.beside("holder"), canonical_json(asdict(holder)))
                self._beside.add(place.path)
            claims.append(Claim(manifest=manifest, epoch=place.epoch, worker=worker))
        return claims

    def genuine(self, place: Place, pool: str | None = None) -> Manifest | None:
        """The task's manifest; None when it is none, which then lies among the dead with the reason.

        `pool` is where it was found ready; None when it was not.
        """
        try:
            return self._folder.genuine(place, pool)
        except Ungranted as error:
            self.bury(place, str(error))
        except Unfit as error:
            self._folder.set_aside(place.path, str(error))
        except FileNotFoundError:
            pass  # somebody else moved it
        return None

    def bury(self, place: Place, reason: str) -> None:
        self._folder.bury(place, reason)
        self._tidy(place.path)

    def _tidy(self, held: str) -> None:
        """Remove what lay beside a claim that is no more."""
        for kind in ("hb", "holder"):
            remove(f"{held.removesuffix('claimed')}{kind}")
        self._beside.discard(held)

    def expired(self, manifest: Manifest) -> bool:
        now = self._clock.now()
        if now < manifest.expires_at:
            return False
        return rules.expired(manifest, now, pauses.read(self._folder.root), self._kill_switch.engaged())

    def check(self, claim: Claim) -> bool:
        task_id = claim.manifest.task_id
        return there(self._folder.claimed(claim.worker, task_id, claim.epoch)) and not there(
            self._folder.cancel(task_id)
        )

    def heartbeat(self, claim: Claim) -> None:
        """Move the counter beside the claim. It needs no fsync: a power cut ends the holder too."""
        task_id = claim.manifest.task_id
        held = self._folder.claimed(claim.worker, task_id, claim.epoch)
        if not there(held):
            raise LeaseLost(f"task {task_id} is no longer held at epoch {claim.epoch}")
        self._beside.add(held)
        beat = self._folder.claimed(claim.worker, task_id, claim.epoch, "hb")
        fd = os.open(beat, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            said = os.pread(fd, 20, 0)
            count = int(said) if said.isdigit() else 0
            os.pwrite(fd, b"%d" % (count + 1), 0)
        finally:
            os.close(fd)

    def ack(self, claim: Claim, ack: Ack) -> None:
        refused = self.ack_many([(claim, ack)])[0]
        if refused is not None:
            raise refused

    def ack_many(self, answers: Sequence[tuple[Claim, Ack]]) -> list[CalyxError | OSError | None]:
        """The rename to done is the fence; what passed it is promised in the log, and only then published and told."""
        refused: list[CalyxError | OSError | None] = [None] * len(answers)
        passed: list[_Passed] = []
        with contextlib.ExitStack() as turns:
            for turn in sorted({hash(ack.task_id) % len(self._turns) for _, ack in answers}):
                turns.enter_context(self._turns[turn])
            for index, (claim, ack) in enumerate(answers):
                try:
                    passed.append(self._fence(index, claim, ack))
                except (CalyxError, OSError) as error:
                    refused[index] = error
            if passed:
                self._promise(passed, refused)
        for each in passed:
            if refused[each.index] is None:
                self._dependants.ended(each.ack.task_id)
        return refused

    def _fence(self, index: int, claim: Claim, ack: Ack) -> "_Passed":
        """From here on nobody else can end the task. Raises LeaseLost, AlreadyAcked, OSError: nothing has changed."""
        task_id = claim.manifest.task_id
        if (ack.task_id, ack.epoch) != (task_id, claim.epoch):
            raise InvalidInput("the ack names another task or epoch than the claim")
        held, done = self._folder.claimed(claim.worker, task_id, claim.epoch), self._folder.done(ack)
        pending, body = self._folder.claimed(claim.worker, task_id, claim.epoch, "ack"), canonical_json(ack.to_json())
        if not there(held):
            if there(pending) and there(done):
                self._finish(pending)  # it passed, but could not be published then
            raise self._not_ours(task_id, claim.epoch)
        self._commits.ready(len(body))
        try:
            write_new(pending, body)
        except FileExistsError:
            remove(pending)  # of an attempt that failed before the fence
            write_new(pending, body)
        try:
            move_into(held, done)
        except FileNotFoundError:
            remove(pending)
            raise self._not_ours(task_id, claim.epoch) from None
        return _Passed(index=index, ack=ack, held=held, done=done, pending=pending, body=body)

    def _promise(self, passed: Sequence["_Passed"], refused: list[CalyxError | OSError | None]) -> None:
        try:
            with self._commits.promise([Record(kind="A", body=each.body) for each in passed]):
                for each in passed:
                    try:
                        self._publish_ack(each.pending, each.ack, each.body)
                        if each.held in self._beside:
                            self._tidy(each.held)
                    except OSError as error:
                        refused[each.index] = error  # it is kept, and the next sweep publishes it
        except OSError as error:
            for each in passed:
                refused[each.index] = error
                with contextlib.suppress(OSError):  # still ours, and not answered: it can be tried again
                    move_into(each.done, each.held)

    def _not_ours(self, task_id: TaskId, epoch: int) -> CalyxError:
        known = self._folder.read_ack(task_id)
        if known is not None:
            return AlreadyAcked(f"task {task_id} has its ack ({known.status}); this one was not recorded")
        return LeaseLost(f"task {task_id} is no longer held at epoch {epoch}; nothing was recorded")

    def _publish_ack(self, pending: str, ack: Ack, body: bytes) -> None:
        """What another process put beside the claim, or a mark to cancel it, is left to the next sweep."""
        answer = self._folder.ack(ack.task_id)
        while True:
            try:
                move_into(pending, answer)
                return
            except FileExistsError:
                if self._same(answer, body):
                    remove(pending)
                    return
                # We passed the fence, so this is another hand's.
                self._folder.set_aside(answer, "an ack by somebody who did not hold the task")
            except FileNotFoundError:
                known = self._folder.read_ack(ack.task_id)  # the reaper finished it for us
                if known is None or (known.agent, known.epoch) != (ack.agent, ack.epoch):
                    raise
                return

    @staticmethod
    def _same(known: str, body: bytes) -> bool:
        try:
            return read_regular(known, MAX_ACK_BYTES) == body
        except (Unfit, FileNotFoundError, NotADirectoryError):
            return False

    def finish_acks(self, worker: str) -> None:
        """Publish acks whose task is past the fence; drop those whose claim was lost."""
        folder = f"{self._at}/claimed/{worker}"
        for name in names(folder):
            pending = f"{folder}/{name}"
            if name.endswith(".ack") and not there(f"{pending.removesuffix('ack')}claimed"):
                with contextlib.suppress(FileNotFoundError):
                    self._finish(pending)

    def _finish(self, pending: str) -> None:
        try:
            body = read_regular(pending, MAX_ACK_BYTES)
            ack = Ack.from_json(json.loads(body))
        except (Unfit, InvalidInput, ValueError, RecursionError):
            self._folder.set_aside(pending, "an unreadable ack")
            return
        if name_of(pending) != f"{ack.task_id}.e{ack.epoch}.ack":
            self._folder.set_aside(pending, "an ack under another task's name")
        elif there(self._folder.done(ack)):
            with self._commits.promise([Record(kind="A", body=body)]):
                self._publish_ack(pending, ack, body)
            self._dependants.ended(ack.task_id)
        else:
            remove(pending)

    def watch_dependencies(self, manifest: Manifest) -> None:
        self._dependants.watch(manifest)

    def sweep_dependencies(self) -> None:
        self._dependants.sweep()

    def lately_ended(self) -> Iterator[TaskId]:
        """What ended by this process's hand since the last call."""
        while self._dependants.lately:
            yield self._dependants.lately.popleft()

    def _go_on(self, task_id: TaskId, manifest: Manifest) -> None:
        """All that a waiting task waited for has ended."""
        place = Place(state="waiting", task_id=task_id, epoch=1, path=self._folder.waiting(task_id))
        self.put(place, manifest, durable=False)

    def nack(self, claim: Claim, delay_seconds: float, reason: str) -> None:
        place = Place(
            state="claimed",
            task_id=claim.manifest.task_id,
            epoch=claim.epoch,
            path=self._folder.claimed(claim.worker, claim.manifest.task_id, claim.epoch),
        )
        if self.send_back(place, reason, delay_seconds) is None:
            raise LeaseLost(f"task {place.task_id} is no longer held at epoch {place.epoch}; nothing was changed")

    def send_back(self, place: Place, reason: str, delay_seconds: float | None = None) -> rules.Return | None:
        """Give a claimed task back, or end it; None if it was no longer there."""
        manifest = self.genuine(place)
        if manifest is None:
            return None
        cancelled = self._cancelled(place.task_id)
        back = rules.returned(manifest, place.epoch, reason=reason, delay_seconds=delay_seconds, cancelled=cancelled)
        if back.to == "cancelled":
            return back if self.answer(place, manifest, "cancelled", back.reason) else None
        if back.to == "dead":
            self.bury(place, back.reason)
            return back
        not_before = self._clock.now() + timedelta(seconds=back.delay_seconds)
        moved = self.next_epoch(place, manifest, not_before if back.to == "later" else None, back.reason)
        return back if moved else None

    def next_epoch(self, place: Place, manifest: Manifest, not_before: datetime | None, reason: str) -> bool:
        """The mark of the new epoch is durable before the task moves, so that an older file is never taken for it."""
        epoch = place.epoch + 1
        marks = self._folder.open_marks(place.task_id)
        write_json(marks / f"e{epoch}", {"not_before": iso(not_before) if not_before else None, "reason": reason})
        target = self._folder.later(place.task_id, epoch) if not_before else self._folder.ready(manifest, epoch)
        try:
            move_into(place.path, target)
        except FileNotFoundError:
            return False
        fsync_dir(Path(target).parent)
        self._tidy(place.path)
        return True

    def put(self, place: Place, manifest: Manifest, *, durable: bool = True, ended: rules.EndOf | None = None) -> bool:
        """Where it belongs by its dependencies, at the same epoch; False if somebody else moved it first.

        Not durable is what the next sweep would do again after a power cut.
        """
        placement = rules.place(manifest, ended or self._folder.ended)
        if placement.state == "ends":
            return self.answer(place, manifest, placement.ends or "failed", placement.reason)
        target = self._folder.target(placement.state, manifest, place.epoch)
        if target == place.path:
            return False
        try:
            move_into(place.path, target)
        except FileNotFoundError:
            return False
        if durable:
            fsync_dir(Path(target).parent)
        if placement.state == "waiting":
            self._dependants.watch(manifest)
        return True

    def _cancelled(self, task_id: TaskId) -> str | None:
        try:
            return read_regular(self._folder.cancel(task_id), 65536).decode(errors="replace")
        except FileNotFoundError:
            return None
        except Unfit:
            return "cancelled"

    def answer(self, place: Place, manifest: Manifest, status: AckStatus, reason: str) -> bool:
        """The exchange itself takes the task and acks it; False if somebody else had it first."""
        mine = self._folder.claimed(rules.EXCHANGE, place.task_id, place.epoch)
        if place.path != mine:  # else an answer that was cut short
            try:
                move_into(place.path, mine)
            except (FileNotFoundError, FileExistsError):
                return False
        self._tidy(place.path)
        claim = Claim(manifest=manifest, epoch=place.epoch, worker=rules.EXCHANGE)
        self.ack(claim, rules.answer(manifest, place.epoch, status, reason, self._clock.now()))
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """An ack whose task is in done, not promised yet; `index` among those asked for together."""

    index: int
    ack: Ack
    held: str
    done: str
    pending: str
    body: bytes
