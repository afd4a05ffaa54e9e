"""The journal of one station: sessions of effects, their undo, and what a crash left."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from chassis.atomic import read_json, write_json
from chassis.canonical import Json
from chassis.clock import Clock, iso
from chassis.errors import CalyxError, NotFound, Refused
from chassis.exchange.moves import names, spread
from chassis.journal import announced, cells, retention, watched
from chassis.journal import undo as way_back
from chassis.journal.announced import Announced
from chassis.journal.boot import boot_id, keeps_order
from chassis.journal.effects import Fault, Guard
from chassis.journal.keyed import KeyedEffects
from chassis.journal.records import Entry, State, TaskJournal, TaskLog
from chassis.journal.recovery import drop_strays, settle
from chassis.journal.retention import Ended
from chassis.journal.survey import Bounds
from chassis.journal.targets import Consent, Locks


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoReport:
    """`steps` is what was done, or what would be done on a dry run, in order."""

    done: bool
    detail: str
    steps: tuple[str, ...] = ()
    redoable: bool = False
    """The undo can be undone in its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """`outcome` is what `Session.finish` was given; `changes` are those that stand in the world now."""

    state: State
    epoch: int
    changes: tuple[Json, ...]
    outcome: Json | None
    cut_short: bool = False
    """It was to be done whole, was not, and a recovery took it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A task that ended, and what is kept of what was there before it."""

    task_id: str
    ended_at: datetime
    kept_bytes: int
    undoable: bool


class Session(KeyedEffects):
    """The effects of one claim, from begin to finish."""

    def finish(self, outcome: Json) -> None:
        """The task's effects are all there. Kept, so that a redelivered task is answered, not done twice."""
        self._log.append("finished", outcome=outcome)
        self._log.close()
        self._fault("finished")


class Watch:
    """A program's run over declared folders: it has been looked at before; `settle` looks at it after."""

    def __init__(self, log: TaskLog, fault: Fault) -> None:
        self._log, self._fault = log, fault

    def settle(self) -> tuple[Json, ...]:
        """List what the program changed, which makes it undoable. It has to have ended."""
        watched.settle(self._log)
        self._fault("settled")
        return tuple(change(entry.intent) for entry in self._log.read().standing)

    def finish(self, outcome: Json) -> None:
        """What the task is answered with."""
        self._log.append("finished", outcome=outcome)
        self._log.close()


def no_guard() -> None:
    """Where nobody has to be asked."""


def no_fault(_step: str) -> None:
    """Where tests inject a crash."""


class Journal:
    """Undo for every change that went through it. One folder per task, 0700; all processes may share the root."""

    def __init__(self, root: Path, clock: Clock, consent: Consent, fault: Fault = no_fault) -> None:
        self._root, self._clock, self._consent, self._fault = root, clock, consent, fault
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (".locks", ".open"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        spread(root)
        self._in_order = keeps_order(root)
        self._after_boot()
        self._locks = Locks(root / ".locks", clock)

    def _log(self, task_id: str) -> TaskLog:
        return TaskLog(self._root, task_id, self._clock, in_order=self._in_order)

    def _after_boot(self) -> None:
        """Under another boot id a power cut may have taken marks away: see `chassis.journal.boot`. Safe to repeat."""
        file, boot = self._root / ".boot", boot_id()
        with contextlib.suppress(OSError, ValueError):
            if boot and read_json(file) == boot:
                return
        for task_id in names(self._root):
            if not task_id.startswith("."):
                log = self._log(task_id)
                journal = retention.readable(log)
                if journal is None or journal.state in ("open", "undoing") or not journal.settled:
                    log.mark()
        write_json(file, boot, mode=0o600, durable=False)  # lost or torn, it is another id

    @contextlib.contextmanager
    def session(self, task_id: str, epoch: int, guard: Guard) -> Iterator[Session]:
        """Effects for this claim; the task is locked meanwhile (Unavailable if another process has it).

        Raises Refused when an earlier attempt's changes still stand: undo them first.
        """
        log = self._log(task_id)
        log.start()
        with log.owned():
            journal = log.read()
            if journal.state == "undoing" or journal.standing or journal.half_done:
                raise Refused(f"task {task_id} has changes of an earlier attempt in place; undo them first")
            log.append("begin", task_id=task_id, epoch=epoch, durable=False)
            try:
                yield Session(log, self._locks, self._consent, guard, epoch, self._fault, len(journal.entries) + 1)
            except Exception:
                journal = log.read()
                if not journal.standing and not journal.half_done:
                    log.close()  # it changed nothing: nothing to recover
                raise

    @contextlib.contextmanager
    def watch(
        self, task_id: str, epoch: int, paths: Sequence[Path], bounds: Bounds | None = None, guard: Guard = no_guard,
        *, announce: Announced | None = None,
    ) -> Iterator[Watch]:  # fmt: skip
        """Keep all that is under these paths, then let a program change it; nobody else of the station does meanwhile.

        `announce`: all of this or nothing. What is cut short before it is finished is taken back by a recovery, unless
        somebody else changed something as well.
        Raises Refused, ResourceExhausted, Unavailable before the body runs; nothing was changed then. The caller
        vouches for consent. Whoever dies in the body leaves what `recover` and `undo` need.
        """
        log = self._log(task_id)
        roots = watched.roots_of(paths, self._root.resolve())
        log.start()
        with log.owned(), self._locks.held(roots, task_id, epoch):
            if log.read().state != "none":
                raise Refused(f"task {task_id} has been begun before; its program is not started twice")
            guard()
            log.append("begin", task_id=task_id, epoch=epoch, durable=False)
            try:
                if announce is not None:
                    announced.keep(log, announce)
                watched.begin(log, roots, bounds or Bounds(), whole=announce is not None)
            except BaseException:
                shutil.rmtree(log.pre, ignore_errors=True)
                log.close()  # nothing was started: nothing to recover
                raise
            self._fault("watched")
            yield Watch(log, self._fault)

    def status(self, task_id: str) -> TaskStatus:
        journal = self._log(task_id).read()
        changes = tuple(change(entry.intent) for entry in journal.standing)
        cut_short = journal.state == "undone" and journal.whole and not journal.answered
        return TaskStatus(
            state=journal.state, epoch=journal.epoch, changes=changes, outcome=journal.outcome, cut_short=cut_short
        )

    def can_undo(self, task_id: str) -> tuple[bool, str]:
        """Cheap: what the records say. `undo(dry_run=True)` looks at the world as well."""
        return self._undoable(self._log(task_id).read())

    def _undoable(self, journal: TaskJournal) -> tuple[bool, str]:
        if journal.state == "none" and (left := retention.gone(self._root).get(journal.task_id)):
            return False, f"task {journal.task_id} can't be undone: {left[1]}"
        return _undoable(journal)

    def undo(self, task_id: str, dry_run: bool = False, after: Sequence[str] = (), by: str = "") -> UndoReport:
        """Restore byte-identical content, mode and owner. Raises Drifted (nothing touched), Refused, NotFound.

        A dry run may name later tasks whose undo it takes for done already (`after`, newest first). `by` is the
        undo's own task: what it changes is kept under that id, so that `undo(by)` puts it back. Where it can't be
        kept (too much, in use, no room) the undo goes on without, and the report says so.
        """
        log = self._log(task_id)
        journal = log.read()
        if journal.state == "none" and task_id not in retention.gone(self._root):
            raise NotFound(f"nothing was journaled for task {task_id}")
        possible, reason = self._undoable(journal)
        if not possible:
            raise Refused(reason)
        with log.owned(), self._locks.held(_targets(journal), task_id, journal.epoch):
            journal = log.read()
            possible, reason = _undoable(journal)
            if not possible:  # by now
                raise Refused(reason)
            if not journal.settled:
                watched.settle(log)  # in the journal's own folder only, so on a dry run too
            for entry in [] if dry_run else journal.half_done:
                settle(log, entry)
            standing = log.read().standing
            with cells.Databases.tried() as databases:
                seen = way_back.Seen(databases)
                for later in map(self._log, after if dry_run else ()):
                    way_back.check(later, later.read().standing, seen)
                steps = way_back.check(log, standing, seen)
            if dry_run:
                return UndoReport(done=False, detail=f"{len(steps)} changes can be undone", steps=steps)
            lost = self._keep_for_redo(log, standing, by, journal.state) if by else ""
            self._way_back(log, journal)
            if by and not lost:
                self._settle_undo(self._log(by))
            said = f"; this undo can't be undone: {lost}" if lost else ""
            kept = bool(by) and not lost
            return UndoReport(done=True, detail=f"{len(steps)} changes undone{said}", steps=steps, redoable=kept)

    def _keep_for_redo(self, log: TaskLog, standing: Sequence[Entry], by: str, state: State) -> str:
        """Watch the targets under the id of the undo's own task; empty, or why they can't be kept."""
        own = self._log(by)
        if own.folder.is_dir():
            seen = own.read()
            if state == "undoing" and seen.undoes == log.task_id:
                return "" if not seen.settled else "it was begun before"
            shutil.rmtree(own.folder)  # begun before a crash, when nothing had been undone
        if state == "undoing":
            return "it was begun before"
        own.start()
        own.append("begin", task_id=by, epoch=1, durable=False)
        try:
            cells.keep_turned(own.folder, standing)
            watched.begin(own, _places(cells.as_files(standing)), Bounds(), undoes=log.task_id)
        except (CalyxError, OSError) as error:
            shutil.rmtree(own.folder, ignore_errors=True)
            own.close()
            return error.message if isinstance(error, CalyxError) else str(error)
        self._fault("undo.kept")
        return ""

    def _settle_undo(self, own: TaskLog) -> None:
        if not own.read().settled:
            watched.settle(own)
        self._fault("undo.settled")
        own.append("finished", outcome={"status": "undone"})
        own.close()

    def _way_back(self, log: TaskLog, journal: TaskJournal) -> None:
        if journal.state != "undoing":
            log.start()
            log.append("undo")
        for entry in reversed(log.read().standing):
            way_back.act(log, entry, self._fault)
        log.append("undone")
        log.close()

    def recover(self, *, programs_only: bool = False) -> list[str]:
        """Settle what crashed processes left half done; what a living one works on is left alone. One line each.

        `programs_only`: of watched programs alone. A task that an agent begins is then never in the way.
        """
        lines: list[str] = []
        logs = [self._log(task_id) for task_id in names(self._root / ".open")]
        if programs_only:
            logs = [log for log in logs if _cut_short_program(log)]
        for log in sorted(logs, key=_undoes):  # an undo is looked at once it is over
            task_id = log.task_id
            if not log.folder.is_dir():
                log.close()
                continue
            with log.held() as ours:
                if not ours:
                    continue
                try:
                    lines += [f"{task_id}: {line}" for line in self._recover(log)]
                except (CalyxError, OSError) as error:
                    why = error.message if isinstance(error, CalyxError) else str(error)
                    lines.append(f"{task_id}: can't be settled now: {why}")
        return lines

    def _recover(self, log: TaskLog) -> Iterator[str]:
        journal = log.read()
        with self._locks.held(_targets(journal), log.task_id, journal.epoch):
            for entry in journal.half_done:
                yield settle(log, entry)
            if journal.state == "open" and journal.settled:
                drop_strays(log)
            if journal.undoes:
                yield from self._recover_undo(log, journal)
            elif journal.state == "open" and journal.watched:
                yield self._recover_program(log, journal)
            elif journal.state == "undoing":
                self._way_back(log, journal)
                yield "the undo that was under way is finished"
            elif journal.state != "open":
                log.close()

    def _recover_program(self, log: TaskLog, journal: TaskJournal) -> str:
        if not journal.settled:
            watched.settle(log)
        found = log.read().standing
        also = announced.strange(log, found) if journal.whole else ""
        if journal.whole and not also:
            self._way_back(log, journal)
            return f"it was cut short before all of it was done; {len(found)} changes are taken back"
        log.append("finished", outcome={"status": "lost", "detail": "its holder ended before it answered"})
        log.close()
        said = f"its program was cut short; {len(found)} changes are listed and can be undone"
        return f"{said}, {also} among them, which is not as it was going to be" if also else said

    def _recover_undo(self, log: TaskLog, journal: TaskJournal) -> Iterator[str]:
        if journal.state == "undoing":
            self._way_back(log, journal)
            yield "the undo that was under way is finished"
        elif journal.state != "open":
            log.close()
        elif (state := self._log(journal.undoes).read().state) == "undone":
            self._settle_undo(log)
            yield f"the undo of {journal.undoes} is listed and can be undone"
        elif state != "undoing":  # it never began: nothing to put back
            shutil.rmtree(log.folder)
            log.close()

    def kept(self) -> tuple[Kept, ...]:
        """Each ended task whose former contents are kept, oldest first."""
        return tuple(
            Kept(
                task_id=each.task_id,
                ended_at=each.at,
                kept_bytes=each.kept_bytes,
                undoable=self.can_undo(each.task_id)[0],
            )
            for each in self._ended()
            if not each.dropped
        )

    def dropped(self) -> tuple[tuple[str, str], ...]:
        """Tasks that can no longer be undone because their contents were dropped, each with when and why."""
        there = map(retention.readable, retention.logs_in(self._root, self._log))
        found = {**retention.gone(self._root), **{j.task_id: (j.pruned_at, j.pruned) for j in there if j and j.pruned}}
        return tuple(
            (task_id, f"{task_id}: {reason}")
            for task_id, (_, reason) in sorted(found.items(), key=lambda each: (each[1][0], each[0]))
        )

    def _ended(self) -> list[Ended]:
        return retention.ended(retention.logs_in(self._root, self._log))

    def prune(
        self, max_bytes: int, max_age: timedelta, *, dry_run: bool = False,
        awaited: Callable[[str], bool] = lambda _task_id: False,
    ) -> list[str]:  # fmt: skip
        """Drop what ended longer ago, with its records, and else the oldest contents until no more bytes are kept.

        The records of a task that is `awaited` stay: it may be handed out again, and must not be done twice. Returns
        the ids of tasks that can no longer be undone because of it.
        """
        now, dropped = self._clock.now(), []
        for each, why in retention.due(self._ended(), max_bytes, max_age, now):
            whole = why == retention.AGE and not dry_run and not awaited(each.task_id)
            if (dry_run or self._drop(each, why, now, whole=whole)) and not each.dropped:
                dropped.append(each.task_id)
        if not dry_run:
            shutil.rmtree(self._root / ".leaving", ignore_errors=True)
        return dropped

    def _drop(self, each: Ended, why: str, now: datetime, *, whole: bool) -> bool:
        """False while somebody works on it."""
        log = self._log(each.task_id)
        reason = f"its kept contents were dropped on {iso(now)} to bound the journal ({why})"
        with log.held() as ours:
            if ours and whole:
                targets = _targets(log.read())
                retention.drop(self._root, log, reason, now)
                self._locks.forget(targets, lambda task_id: not self._log(task_id).folder.is_dir())
            elif ours and not each.dropped:
                retention.drop_contents(log, reason)
            return ours


def _undoes(log: TaskLog) -> bool:
    journal = retention.readable(log)
    return bool(journal and journal.undoes)


def _cut_short_program(log: TaskLog) -> bool:
    journal = retention.readable(log)
    return bool(journal and journal.watched and journal.state in ("open", "undoing") and not journal.undoes)


def change(intent: Json) -> Json:
    """An intent as `chassis.work.Change` shows it (plus where a rotation went)."""
    before, after = intent["before"], intent["after"]
    shown = {
        "op": intent["op"],
        "target": intent["target"],
        "before_sha256": before["sha256"] if before else None,
        "after_sha256": after["sha256"] if after else None,
        "size_bytes": (after or before)["size"],
    }
    if "kind" in (after or before):
        shown["kind"] = (after or before)["kind"]
    shown |= cells.told(intent)
    return {**shown, "to": intent["to"]} if "to" in intent else shown


def _undoable(journal: TaskJournal) -> tuple[bool, str]:
    if journal.state == "none":
        return False, f"nothing was journaled for task {journal.task_id}"
    if journal.state == "undone":
        return False, f"task {journal.task_id} was undone already at {journal.ended_at}"
    if journal.pruned:
        return False, f"task {journal.task_id} can't be undone: {journal.pruned}"
    if not journal.settled:
        return True, "cut short: what it changed is listed first"
    if not journal.standing and not journal.half_done:
        return False, f"task {journal.task_id} changed nothing"
    return True, f"{len(journal.standing)} changes"


def _places(entries: Sequence[Entry]) -> list[Path]:
    """Every path that an undo of these may touch, folders that a change had made among them."""
    found = {Path(entry.intent[key]) for entry in entries for key in ("target", "to", "of") if entry.intent.get(key)}
    return sorted(found | {Path(each) for entry in entries for each in entry.intent.get("dirs", ())})


def _targets(journal: TaskJournal) -> list[Path]:
    if journal.watched:
        rows = [Path(entry.intent["target"]) for entry in journal.entries if entry.intent["op"] in cells.ROWS]
        return sorted({*map(Path, journal.watched), *rows})
    found = [Path(entry.intent[key]) for entry in journal.entries for key in ("target", "to") if key in entry.intent]
    return sorted(set(found))
