"""`experience.sqlite`: the truth. One writer, one reader; what was acknowledged is on the disk."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from chassis.errors import Damaged, Refused
from services.memory.commits import REDO_MARK, Change, Commits, T, Work
from services.memory.experience import Experience, Finding, told_finding
from services.memory.faults import explained
from services.memory.frames import check_wal
from services.memory.inserts import insert_finding, seq_of
from services.memory.members import bring_back, read
from services.memory.migrate import APPLICATION_ID, migrate, vector_digest
from services.memory.proof import prove
from services.memory.queries import SQL, migrations
from services.memory.recording import Appended, Recording, TakeUp, record_together
from services.memory.redo import Entry, RedoLog, Spoilt
from services.memory.replay import Replayed, first_lost, replay
from services.memory.rows import Stored

log = structlog.get_logger(__name__)

FACTS_KEPT = 2_000_000
"""Row numbers kept of the facts that recalls lately filtered by, in all: 16 MB."""

_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


class Store:
    """Blocking and thread-safe. `durable=False` leaves out the fsync, for a station on virtual time.

    Raises ResourceExhausted (disk full), Unavailable (read-only, unreachable), Damaged (pages that don't hold
    together) and Refused (a newer schema, a file of something else); a failed write leaves nothing half done.
    With `redo` each change is in that log, durable, before it is committed here; see replay.py.
    `change` is held while rows are committed and taken up in RAM (see commits.py).
    """

    def __init__(self, path: Path, *, durable: bool = True, redo: RedoLog | None = None) -> None:
        self.path, self.redo = path, redo
        self.change = threading.RLock()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._having: dict[tuple[str, str], NDArray[np.int64]] = {}
        with explained("open", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            prove(path, path.parent / "backups")
            fault = check_wal(path.with_name(path.name + "-wal")).fault
            self._durable = durable
            self._connect(lambda: self._make_up(fault) if fault or redo is not None else None)
        self._commits = Commits(self._writer, path, change=self.change, writing=self._write_lock, redo=redo)

    def _connect(self, then: Callable[[], None]) -> None:
        self._writer = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        self._writer.row_factory = sqlite3.Row
        try:
            self._prepare(self._durable)
            then()
            self._reader = self.snapshot()
            self._having.clear()
            self._reader.execute("PRAGMA cache_size = -16384")  # KiB: recall reads vectors from all over the file
        except BaseException:
            self._writer.close()
            raise

    def _prepare(self, durable: bool) -> None:
        version = _scalar(self._writer, "PRAGMA user_version")
        owner = _scalar(self._writer, "PRAGMA application_id")
        newest = len(migrations())
        if owner not in (0, APPLICATION_ID) or (
            owner == 0 and _scalar(self._writer, "SELECT count(*) FROM sqlite_schema")
        ):
            raise Refused(f"{self.path} is a database of something else; it was not touched, move it away")
        if version > newest:
            raise Refused(
                f"{self.path} has schema {version}, this version knows up to {newest}; it was not touched, "
                "install the newer station-calyx or restore a backup from before the upgrade"
            )
        self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # a new file can then shrink piece by piece
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        migrate(self._writer, version)
        self._writer.execute("PRAGMA foreign_keys = ON")

    def _make_up(self, fault: str) -> None:
        """Bring back what was acknowledged and is not in the file; says so. Damaged if the file does not hold now."""
        if fault:
            log.error("the WAL is damaged and SQLite drops the commits after the damage", why=fault)
        if self.redo is not None:
            mark = self._mark()
            if self.redo.last < mark:
                log.error("the redo log holds less than the store; it goes on from there", log_ends=self.redo.last)
                self.redo.begin_after(mark)
            if fault or self.redo.last > mark:
                # Pages may hold what came after the damaged place in the WAL and lack what came before: look at all.
                done = self.replay(self.redo.read(0 if fault else mark))
                if done.brought_back or done.lost:
                    log.error(
                        "the store lacked changes that were acknowledged; they were brought back from the redo log",
                        brought_back=done.brought_back,
                        lost=first_lost(done) or "none",
                    )
        if fault and (said := self._writer.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise Damaged(f"{self.path} is damaged since its WAL was ({said}); run `calyx memory restore`")

    def _mark(self) -> int:
        row = self._writer.execute(SQL["get_meta"], (REDO_MARK,)).fetchone()
        return int(row[0]) if row and row[0].isdigit() else 0

    def replay(self, entries: Iterable[Entry | Spoilt]) -> Replayed:
        """Bring back what these entries of a redo log hold and the store lacks; what is there stays as it is."""
        with self._writing("replay the redo log") as connection:
            done = replay(connection, entries)
            connection.execute(SQL["set_meta"], (REDO_MARK, str(max(self._mark(), done.through))))
        return done

    def snapshot(self) -> sqlite3.Connection:
        """A read-only connection of its own; the caller closes it."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda raw: raw.decode(errors="replace")  # damaged text then fails its digest
        return connection

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()
            if self.redo is not None:
                self.redo.close()

    @contextmanager
    def _rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._writer.in_transaction:
                self._writer.rollback()
            raise

    @contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._write_lock, explained(what, self.path), self._rolled_back_on_error():
            self._writer.execute("BEGIN IMMEDIATE")
            yield self._writer
            self._writer.execute("COMMIT")

    @contextmanager
    def _reading(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._read_lock, explained(what, self.path):
            yield self._reader

    # what is written

    def commit(self, what: str, work: Work[T]) -> T:
        """Run `work` in a transaction shared with other callers; returns its answer once that is durable.

        Never call it while holding `change`: what must follow the commit under it is the change's `then`.
        """
        return self._commits.do(what, work)

    def append(self, experience: Experience, recorded_at: str, then: TakeUp | None = None) -> Appended | None:
        """Store one experience durably; None if its id was already there, as a row or in a roll-up."""
        (answer,) = self.append_all([experience], recorded_at, then)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def append_all(
        self, experiences: Sequence[Experience], recorded_at: str, then: TakeUp | None
    ) -> list[Appended | BaseException | None]:
        """`append` for callers that wait together; each has its own answer, or what it would have raised."""
        works = [Recording(each, recorded_at, then) for each in experiences]
        return self._commits.do_all("record", works, record_together)

    def amend(self, event_id: str, finding: Finding, then: Callable[[int], None] | None = None) -> int | None:
        """Add an outcome as a new row and return its event's number; None if the amendment was already there.

        A rolled-up experience becomes a row again first: it is no longer routine.
        """

        def work(connection: sqlite3.Connection) -> Change[int | None]:
            brought = bring_back(connection, event_id)
            seq = seq_of(connection, event_id) if brought is None else brought
            if known := connection.execute(SQL["amendment"], (finding.amendment_id,)).fetchone():
                if known[0] != seq:
                    raise Refused(f"amendment {finding.amendment_id} belongs to another experience; choose a new id")
                return Change(result=None)
            outcome_seq = insert_finding(connection, seq, event_id, finding)
            entry = {"kind": "amend", "id": event_id, "outcome_seq": outcome_seq, "finding": told_finding(finding)}
            follow = None if then is None else lambda: then(seq)
            return Change(result=seq, entries=(entry,), day=finding.recorded_at[:10], then=follow)

        return self.commit("amend", work)

    def add_vectors(self, model_sha256: str, vectors: Sequence[tuple[int, str, bytes]]) -> None:
        """Give objectives, told as (key, text, vector), their vectors of this model; one that is there stays."""
        rows = [
            (key, model_sha256, len(vector) // 4, vector, vector_digest(text, model_sha256, len(vector) // 4, vector))
            for key, text, vector in vectors
        ]
        with self._writing("store vectors") as connection:
            connection.executemany(SQL["insert_vector"], rows)

    def drop_vectors(self, model_sha256: str, keys: Sequence[int]) -> None:
        """Forget vectors, which can be made anew."""
        with self._writing("drop vectors") as connection:
            connection.executemany(SQL["drop_vector"], [(key, model_sha256) for key in keys])

    def set_meta(self, key: str, value: str) -> None:
        with self._writing("write meta") as connection:
            connection.execute(SQL["set_meta"], (key, value))

    @contextmanager
    def transaction(self, what: str) -> Iterator[sqlite3.Connection]:
        """One durable transaction of the store's upkeep; recording waits for as long as it is open."""
        with self._writing(what) as connection:
            yield connection

    def give_back(self, pages: int) -> None:
        """Give at most so many free pages back to the disk, in one transaction."""
        with self._write_lock, explained("give pages back", self.path):
            # execute() would stop after the first page.
            self._writer.executescript(f"PRAGMA incremental_vacuum({pages})")

    def fold(self) -> None:
        """Fold the WAL into the file, as far as readers allow."""
        with self._write_lock, explained("fold the WAL in", self.path):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def vacuum(self) -> None:
        """Give free pages back to the disk and fold the WAL into the file."""
        with self._write_lock, explained("vacuum", self.path):
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def checkpoint(self) -> None:
        """Fold the WAL into the file; it begins anew."""
        with self._write_lock, explained("fold the WAL into", self.path):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def still(self) -> Iterator[Callable[[Callable[[], None]], None]]:
        """Nobody writes inside. Given is what closes the file, lets another be put in its place and opens that."""
        with self.change, self._write_lock:
            yield self._replaced

    def _replaced(self, swap: Callable[[], None]) -> None:
        with self._read_lock, explained("put another store in the place of", self.path):
            self._reader.close()
            self._writer.close()
            try:
                swap()
            finally:
                self._connect(lambda: None)
                self._commits.use(self._writer)

    # what is read

    def meta(self, key: str) -> str | None:
        with self._reading("read meta") as connection:
            row = connection.execute(SQL["get_meta"], (key,)).fetchone()
        return row[0] if row else None

    def schema_version(self) -> int:
        with self._reading("read the schema version") as connection:
            return _scalar(connection, "PRAGMA user_version")

    def count(self) -> int:
        with self._reading("count") as connection:
            return _scalar(connection, "SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM member)")

    def rolled_up(self) -> int:
        """How many of them live in roll-ups."""
        with self._reading("count members") as connection:
            return _scalar(connection, SQL["count_members"])

    def experiences(self, seqs: Sequence[int]) -> dict[int, Stored]:
        """The experiences with these numbers, rows or members, checked against their digests."""
        with self._reading("read experiences") as connection:
            return {each.seq: each for each in read(connection, seqs)}

    def newest(self, limit: int, domain: str) -> list[Stored]:
        with self._reading("list experiences") as connection:
            name, terms = ("newest_of_domain", (domain, limit)) if domain else ("newest", (limit,))
            seqs = [row[0] for row in connection.execute(SQL[name], terms)]
        found = self.experiences(seqs)
        return [found[seq] for seq in seqs if seq in found]

    def with_fact(self, key: str, value: str) -> NDArray[np.int64]:
        """Numbers of the rows with this fact, ascending; some may be gone. Never write to it.

        Rows are numbered in the order of their commits and keep their facts, so only what is newer than the last
        answer is read; as one text from SQLite, since there may be very many.
        """
        with self._reading("filter by context") as connection:
            known = self._having.pop((key, value), _NO_ROWS)
            newest = int(known[-1]) if len(known) else 0
            (told,) = connection.execute(SQL["joined_with_fact"], (key, value, newest)).fetchone()
            if told:
                known = np.concatenate([known, np.sort(np.fromstring(told, dtype=np.int64, sep=","))])
            self._having[key, value] = known  # at the end: the least lately asked for goes first
            while sum(map(len, self._having.values())) > FACTS_KEPT and len(self._having) > 1:
                del self._having[next(iter(self._having))]
        return known

    def objectives(self, keys: Sequence[int]) -> dict[int, str]:
        with self._reading("read objectives") as connection:
            return {row[0]: row[1] for row in connection.execute(SQL["objectives_by_key"], (json.dumps(list(keys)),))}

    def vectors(self, model_sha256: str, keys: Sequence[int]) -> dict[int, bytes]:
        """Vectors of this model by their objective's key; objectives without one are left out."""
        with self._reading("read vectors") as connection:
            found = connection.execute(SQL["vectors_by_key"], (model_sha256, json.dumps(list(keys))))
            return {row[0]: row[1] for row in found}


def _scalar(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])
