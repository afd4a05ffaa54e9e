"""The CBO's memory of itself: `<station>/cbo/cbo.sqlite`, one writer, every transition a compare-and-set."""

import fcntl
import functools
import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from chassis.canonical import Json
from chassis.clock import iso
from chassis.errors import Damaged, NotFound, Refused, Unavailable
from chassis.replacing import finish
from services.cbo import objectives
from services.cbo.objectives import Objective
from services.cbo.rows import objective_from_row, objective_to_row, task_from_row, task_to_row
from services.cbo.tasks import OPEN, TRANSITIONS, Move, State, Task, targets_of

_SQL = Path(__file__).with_name("sql")
FILE = "cbo.sqlite"


@functools.cache
def _queries() -> Mapping[str, str]:
    parts = re.split(r"^-- name: (\w+)$", (_SQL / "queries.sql").read_text(), flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _schemas() -> list[tuple[int, Path]]:
    return [(int(path.name[:3]), path) for path in sorted(_SQL.glob("[0-9][0-9][0-9]_*.sql"))]


def newest_schema() -> int:
    return _schemas()[-1][0]


def last_ended(database: sqlite3.Connection) -> int:
    """The highest number of a pulse that ended, known or forgotten; 0 for none. Only the last can be under way."""
    return int(database.execute(_queries()["pulse_last_ended"]).fetchone()[0])


def pulse_id(number: int) -> str:
    return f"bp-{number:09d}"


class Store:
    """One connection shared by threads under one lock; WAL with FULL, so what is committed is on disk.

    Raises Unavailable when another CBO holds this station, Damaged when the file is no database of ours.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._guard = only_writer(folder / "cbo.lock")
        finish(folder / FILE)
        self._lock = threading.RLock()
        self._depth = 0
        self._sql = _queries()
        try:
            self._db = sqlite3.connect(folder / FILE, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            level = "FULL" if durable else "OFF"
            for pragma in ("journal_mode = WAL", f"synchronous = {level}", "foreign_keys = ON", "busy_timeout = 2000"):
                self._db.execute(f"PRAGMA {pragma}")
            self._migrate()
        except sqlite3.DatabaseError as error:
            self._guard.close()
            raise Damaged(
                f"{folder / FILE} can't be opened: {error}. It was not changed; stop the station and run "
                "`calyx cbo restore --dry-run`"
            ) from error

    def _migrate(self) -> None:
        done = self._db.execute("PRAGMA user_version").fetchone()[0]
        for number, path in _schemas():
            if number > done:
                script = f"BEGIN IMMEDIATE;\n{path.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
                try:
                    self._db.executescript(script)
                except sqlite3.Error:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._db.close()
            self._guard.close()

    def check(self) -> None:
        """Raises when the database does not answer."""
        self.value("SELECT count(*) FROM fact")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside are one commit; nested ones join the outer."""
        with self._lock:
            if self._depth:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have rolled it back, or left it open at the commit
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def run(self, name: str, *args: Any) -> int:
        """One named write; returns how many rows it changed."""
        with self._lock:
            return self._db.execute(self._sql[name], args).rowcount

    def rows(self, name: str, *args: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(self._sql[name], args).fetchall()

    def value(self, sql: str) -> Any:
        with self._lock:
            return self._db.execute(sql).fetchone()[0]

    # facts

    def fact(self, name: str) -> str | None:
        found = self.rows("fact", name)
        return None if not found else str(found[0][0])

    def set_fact(self, name: str, value: str) -> None:
        self.run("fact_set", name, value)

    # pulses

    def begin_pulse(self, now: datetime, *, written: bool) -> int:
        """Allocate the next number durably. `written`: the records of earlier pulses are in their files."""
        with self.transaction():
            self._db.execute(self._sql["pulse_begin"], (iso(now),))
            number = int(self._db.execute("SELECT last_insert_rowid()").fetchone()[0])
            self.run("pulse_name", pulse_id(number), number)
            if written:
                self.run("pulse_records_written", number)
        return number

    def end_pulse(self, number: int, status: str, summary: Json, record: bytes) -> None:
        self.run("pulse_end", status, json.dumps(summary), record, number)

    def last_ended(self) -> int:
        with self._lock:
            return last_ended(self._db)

    def skip_pulses(self, number: int) -> None:
        """Give out no number up to this one, nor end one that is under way: all of them are over."""
        with self.transaction():
            self.run("pulses_drop_running")
            self.run("pulses_forget_last")
            self.run("pulses_skip", number)

    # objectives

    def add_objective(self, objective: Objective) -> Objective:
        """Insert, or return the one that is there under the same key."""
        with self.transaction():
            if objective.key and (found := self.rows("objective_by_key", objective.key)):
                return objective_from_row(found[0])
            with self._lock:
                self._db.execute(self._sql["objective_insert"], objective_to_row(objective))
        return objective

    def objective(self, objective_id: str) -> Objective:
        found = self.rows("objective", objective_id)
        if not found:
            raise NotFound(f"there is no objective {objective_id}; `calyx objective list` shows them")
        return objective_from_row(found[0])

    def active_objectives(self) -> list[Objective]:
        return [objective_from_row(row) for row in self.rows("objectives_active")]

    def all_objectives(self) -> list[Objective]:
        return [objective_from_row(row) for row in self.rows("objectives")]

    def move_objective(self, objective: Objective, to: objectives.State) -> bool:
        if to not in objectives.TRANSITIONS[objective.state]:
            raise Refused(f"objective {objective.id} is {objective.state}; it can't become {to}")
        return self.run("objective_move", to, objective.id, objective.state) == 1

    # tasks

    def add_task(self, task: Task) -> bool:
        """False when the id is there already; nothing is changed then."""
        with self._lock:
            return self._db.execute(self._sql["task_insert"], task_to_row(task)).rowcount == 1

    def task(self, task_id: str) -> Task:
        found = self.find_task(task_id)
        if found is None:
            raise NotFound(
                f"there is no task {task_id}; `calyx task list` shows them, as far back as the archive is kept"
            )
        return found

    def find_task(self, task_id: str) -> Task | None:
        found = self.rows("task", task_id)
        return task_from_row(found[0]) if found else None

    def tasks(self, name: str, *args: Any) -> list[Task]:
        """By a named query that selects whole tasks."""
        return [task_from_row(row) for row in self.rows(name, *args)]

    def counts(self) -> dict[str, int]:
        return {row[0]: row[1] for row in self.rows("task_counts")}

    def move_task(self, task: Task, move: Move, now: datetime) -> bool:
        """Follow the exchange: compare-and-set from the state the task was read in; False if somebody was first."""
        _allowed(task, move.state)
        if move.ack is None and move.state in OPEN:
            return self.run("task_moved", move.state, move.attempt, task.id, task.state) == 1
        with self.transaction():
            ack, digest = None, ""
            if move.ack is not None:
                ack, digest = json.dumps(move.ack, sort_keys=True), str(move.ack.get("plan_digest", ""))
            ended = str(move.ack["ended_at"]) if move.ack is not None else iso(now)
            moved = self.run(
                "task_ended", move.state, move.attempt, ack, move.why, ended, digest, digest, task.id, task.state
            )  # fmt: skip
            if moved and move.ack is not None and move.state == "done" and not task.undo_of:
                for target in targets_of(move.ack):
                    self.run("target_insert", target, ended, task.id)
            return moved == 1

    def forget_tasks(self, before: datetime, limit: int = 200) -> int:
        """Let go of what ended before then, the oldest first, and of the ladder's entries of that time; how many tasks.

        Their ids are not free again: the exchange's archive keeps them. What the gates' log still speaks of stays, or
        `policy try` would take it for work that never ran.
        """
        with self.transaction():
            first = next((row["at"] for row in self.rows("gate_entry_first")), iso(before))
            until = min(iso(before), first)
            over = [row["id"] for row in self.rows("tasks_over", until, limit)]
            for task_id in over:
                for name in ("targets_forget", "verifications_forget", "agent_claims_drop", "task_forget"):
                    self.run(name, task_id)
            if over:
                self.run("aliases_forget")
            self.run("ladder_entries_forget", until)
        return len(over)

    def answer_task(self, task: Task, to: State, why: str) -> bool:
        """A person's or the planner's answer; compare-and-set."""
        _allowed(task, to)
        return self.run("task_answered", to, why, task.id, task.state) == 1


def _allowed(task: Task, to: str) -> None:
    if to != task.state and to not in TRANSITIONS[task.state]:
        raise Refused(f"task {task.id} is {task.state}; it can't become {to}")


def only_writer(path: Path) -> IO[str]:
    guard = path.open("a")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        guard.close()
        raise Unavailable(
            f"another CBO holds this station ({path}); one writes pulses, so this one does not start"
        ) from error
    return guard
