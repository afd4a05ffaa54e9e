"""Many callers, one commit: whoever comes first commits for all who came by then, each in a savepoint of its own."""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from chassis.canonical import canonical_json
from chassis.errors import CalyxError
from services.memory.faults import explain, explained
from services.memory.queries import SQL
from services.memory.redo import RedoLog

log = structlog.get_logger(__name__)

MOST = 256
"""Changes in one commit, so that nobody waits long for the others."""

REDO_MARK = "redo_through"
"""The key in `meta`: the number of the redo log's last entry that this database holds, written with each commit."""

LATE = "the clock was set back: more was recorded on it after it was signed"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """What one piece of work did: its answer, what the redo log keeps of it, what follows once it is durable.

    `day` (yyyy-mm-dd) is that of the rows it recorded; empty: none.
    """

    result: T
    entries: tuple[Mapping[str, Any], ...] = ()
    day: str = ""
    then: Callable[[], None] | None = None


Work = Callable[[sqlite3.Connection], Change[T]]

Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Change[T]]]
"""Does several pieces of work as calling each in its order would, with fewer statements."""


@dataclass(slots=True, kw_only=True)
class _Request:
    what: str
    work: Work[Any]
    together: Together[Any] | None
    woken: threading.Event = field(default_factory=threading.Event)
    change: Change[Any] | None = None
    told: list[bytes] = field(default_factory=list)
    error: BaseException | None = None
    settled: bool = False

    def answer(self) -> Any:
        if self.error is not None:
            return self.error
        assert self.change is not None  # settled without an error
        return self.change.result


class Commits:
    """Blocking and thread-safe; alone in its thread it commits at once, in the order of the calls.

    `change` is held from BEGIN until every `then` has run, so that a snapshot taken under it agrees with what is in
    RAM. Never call `do` while holding it, or from within `work` or `then`: another caller may be committing for you.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        change: AbstractContextManager[Any],
        writing: AbstractContextManager[Any],
        redo: RedoLog | None,
    ) -> None:
        self._connection, self._path, self._redo = connection, path, redo
        self._change, self._writing = change, writing
        self._queueing = threading.Lock()
        self._queue: list[_Request] = []
        self._led = False

    def use(self, connection: sqlite3.Connection) -> None:
        """Go on with another connection; by whoever holds both locks."""
        self._connection = connection

    def do(self, what: str, work: Work[T]) -> T:
        """Run `work` in a transaction and return its answer once that is durable, or raise what it raised.

        `work` may be run more than once, if SQLite gives up the whole transaction for another caller's failure.
        """
        (answer,) = self.do_all(what, [work])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def do_all(
        self, what: str, works: Sequence[Work[T]], together: Together[T] | None = None
    ) -> list[T | BaseException]:
        """`do` for several that wait together; each has its own answer, or what it raised.

        With `together` they and their like run as one as long as nothing fails; else each has a savepoint of its own.
        """
        mine = [_Request(what=what, work=work, together=together) for work in works]
        if not mine:
            return []
        with self._queueing:
            self._queue.extend(mine)
            lead, self._led = not self._led, True
        for each in mine:
            if not lead:
                each.woken.wait()
            lead = False
            if not each.settled:
                self._lead()
        return [each.answer() for each in mine]

    def _lead(self) -> None:
        with self._queueing:
            group, self._queue = self._queue[:MOST], self._queue[MOST:]
        try:
            self._commit(group)
        finally:
            with self._queueing:
                successor = self._queue[0] if self._queue else None
                self._led = successor is not None
            for each in group:
                if each.change is None and each.error is None:
                    each.error = RuntimeError("the commit was interrupted")
                each.settled = True
                each.woken.set()
            if successor is not None:
                successor.woken.set()

    def _commit(self, group: Sequence[_Request]) -> None:
        with self._change:
            try:
                with self._writing:
                    self._transact(group)
            except Exception as error:  # the commit's own failure is everybody's, unless they had one already
                for each in group:
                    known = error if isinstance(error, CalyxError) else explain(each.what, self._path, error)
                    each.error = each.error or known
                return
            for each in group:
                if each.error is None and each.change is not None and each.change.then is not None:
                    try:
                        each.change.then()
                    except Exception as error:
                        log.exception("a durable change could not be taken up in memory; restart the service")
                        each.error = error

    def _transact(self, group: Sequence[_Request]) -> None:
        try:
            left = list(group)
            while left:
                self._connection.execute("BEGIN IMMEDIATE")
                self._run(left)
                left = [each for each in left if each.error is None]
                if self._connection.in_transaction:
                    break  # else SQLite gave it up: once more, without the one that failed
            if not left:
                return
            for day in {each.change.day for each in left if each.change is not None and each.change.day}:
                self._connection.execute(SQL["mark_late"], {"day": day, "why": LATE})
            self._make_durable([entry for each in left for entry in each.told])
        finally:
            if self._connection.in_transaction:
                self._connection.rollback()

    def _run(self, requests: Sequence[_Request]) -> None:
        """Until all have run, or SQLite gave up the transaction."""
        for together, some in groupby(requests, key=attrgetter("together")):
            several = list(some)
            if together is not None and len(several) > 1:
                if self._together(together, several, sole=len(several) == len(requests)):
                    continue
                if not self._connection.in_transaction:
                    return
            for each in several:
                if not self._one(each) and not self._connection.in_transaction:
                    return

    def _together(self, together: Together[Any], several: Sequence[_Request], *, sole: bool) -> bool:
        """Run them in one savepoint. If anything fails nothing was done, and each is to run alone.

        The `sole` work of a transaction needs no savepoint, which would copy each page that it touches.
        """
        if not sole:
            self._connection.execute("SAVEPOINT callers")
        try:
            for each, change in zip(several, together(self._connection, [one.work for one in several]), strict=True):
                each.change, each.told = change, [canonical_json(dict(entry)) for entry in change.entries]
            if not sole:
                self._connection.execute("RELEASE callers")
        except Exception as error:
            log.info("callers of one commit are told apart, since one of them fails", why=str(error))
            for each in several:
                each.change, each.told, each.together = None, [], None
            if sole:
                self._connection.rollback()  # SQLite may have done so already: then nothing
            else:
                self._undo("callers")
            return False
        return True

    def _undo(self, savepoint: str) -> None:
        if self._connection.in_transaction:  # a full disk may have ended it
            self._connection.execute(f"ROLLBACK TO {savepoint}")
            self._connection.execute(f"RELEASE {savepoint}")

    def _one(self, request: _Request) -> bool:
        """Run one caller's work; what fails undoes only its own, where SQLite lets it."""
        self._connection.execute("SAVEPOINT caller")
        try:
            with explained(request.what, self._path):
                request.change = request.work(self._connection)
            request.told = [canonical_json(dict(entry)) for entry in request.change.entries]
            self._connection.execute("RELEASE caller")
        except Exception as error:
            request.change, request.error = None, error
            self._undo("caller")
            return False
        return True

    def _make_durable(self, entries: Sequence[bytes]) -> None:
        if self._redo is None or not entries:
            self._connection.execute("COMMIT")
            return
        with self._redo.written(entries) as through:
            self._connection.execute(SQL["set_meta"], (REDO_MARK, str(through)))
            self._connection.execute("COMMIT")
