"""`experience.sqlite`: the truth. One writer, one reader; what was acknowledged is on the disk."""

import errno
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.errors import CalyxError, Damaged, Internal, NotFound, Refused, ResourceExhausted, Unavailable
from services.memory.experience import Experience, Finding, event_digest, first_finding
from services.memory.members import bring_back, read
from services.memory.migrate import APPLICATION_ID, migrate, vector_digest
from services.memory.queries import SQL, migrations
from services.memory.rows import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The number of a new row and of its objective."""

    seq: int
    objective_key: int


class Store:
    """Blocking and thread-safe. `durable=False` leaves out the fsync, for a station on virtual time.

    Raises ResourceExhausted (disk full), Unavailable (read-only, unreachable), Damaged (pages that don't hold
    together) and Refused (a newer schema, a file of something else); a failed write leaves nothing half done.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        with explained("open", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            try:
                self._prepare(durable)
                self._reader = self.snapshot()
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
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        migrate(self._writer, version)
        self._writer.execute("PRAGMA foreign_keys = ON")

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

    def append(self, experience: Experience, recorded_at: str) -> Appended | None:
        """Store one experience durably; None if its id was already there, as a row or in a roll-up."""
        row = {
            "id": experience.id,
            "station_id": experience.station_id,
            "namespace": experience.namespace,
            "origin": experience.origin,
            "kind": experience.kind,
            "domain": experience.domain,
            "procedure": experience.procedure,
            "task_id": experience.task_id,
            "pulse_id": experience.pulse_id,
            "occurred_at": iso(experience.occurred_at),
            "recorded_at": recorded_at,
            "digest": event_digest(experience, recorded_at),
        }
        with self._writing("record") as connection:
            if connection.execute(SQL["known"], {"id": experience.id}).fetchone():
                return None
            key = _objective_key(connection, experience.objective)
            seq = connection.execute(SQL["insert_event"], {**row, "objective": key}).lastrowid
            assert seq is not None  # an insert always has one
            facts = [(seq, key, value) for key, value in experience.context.items()]
            connection.executemany(SQL["insert_context"], facts)
            if experience.confidence is not None:
                connection.execute(SQL["insert_confidence"], (seq, experience.confidence))
            _insert_finding(connection, seq, experience.id, first_finding(experience, recorded_at))
        return Appended(seq=seq, objective_key=key)

    def amend(self, event_id: str, finding: Finding) -> int | None:
        """Add an outcome as a new row and return its event's number; None if the amendment was already there.

        A rolled-up experience becomes a row again first: it is no longer routine.
        """
        with self._writing("amend") as connection:
            seq = bring_back(connection, event_id)
            seq = _seq_of(connection, event_id) if seq is None else seq
            if known := connection.execute(SQL["amendment"], (finding.amendment_id,)).fetchone():
                if known[0] != seq:
                    raise Refused(f"amendment {finding.amendment_id} belongs to another experience; choose a new id")
                return None
            _insert_finding(connection, seq, event_id, finding)
        return seq

    def add_feedback(self, event_id: str, useful: bool, query: str, caller: str, recorded_at: str) -> int:
        """Add a judgement; returns how many there are."""
        with self._writing("record feedback") as connection:
            seq = _seq_of(connection, event_id)
            connection.execute(
                SQL["insert_feedback"], (seq, "useful" if useful else "useless", query, caller, recorded_at)
            )
            return int(connection.execute(SQL["count_feedback"]).fetchone()[0])

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

    def vacuum(self) -> None:
        """Give free pages back to the disk and fold the WAL into the file."""
        with self._write_lock, explained("vacuum", self.path):
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

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

    def with_fact(self, key: str, value: str) -> set[int]:
        with self._reading("filter by context") as connection:
            return {row[0] for row in connection.execute(SQL["with_fact"], (key, value))}

    def objectives(self, keys: Sequence[int]) -> dict[int, str]:
        with self._reading("read objectives") as connection:
            return {row[0]: row[1] for row in connection.execute(SQL["objectives_by_key"], (json.dumps(list(keys)),))}

    def vectors(self, model_sha256: str, keys: Sequence[int]) -> dict[int, bytes]:
        """Vectors of this model by their objective's key; objectives without one are left out."""
        with self._reading("read vectors") as connection:
            found = connection.execute(SQL["vectors_by_key"], (model_sha256, json.dumps(list(keys))))
            return {row[0]: row[1] for row in found}

    def pending(self, model_sha256: str, limit: int) -> list[tuple[int, str]]:
        """(key, text) of objectives without a vector of this model, oldest first."""
        with self._reading("read pending objectives") as connection:
            return [tuple(row) for row in connection.execute(SQL["pending"], (model_sha256, limit))]


def _objective_key(connection: sqlite3.Connection, text: str) -> int:
    row = connection.execute(SQL["objective_key"], (text,)).fetchone()
    if row:
        return int(row[0])
    connection.execute(SQL["insert_objective"], (text,))
    return _scalar(connection, "SELECT last_insert_rowid()")


def _insert_finding(connection: sqlite3.Connection, seq: int | None, event_id: str, finding: Finding) -> None:
    fields = {
        "event": seq,
        "amendment_id": finding.amendment_id,
        "outcome": finding.outcome.value,
        "tes": finding.tes,
        "duration_seconds": finding.duration_seconds,
        "files_changed": finding.files_changed,
        "cost": canonical_json(dict(finding.cost)).decode(),
        "evidence": finding.evidence,
        "recorded_at": finding.recorded_at,
        "digest": finding.digest(event_id),
    }
    connection.execute(SQL["insert_outcome"], fields)


def _seq_of(connection: sqlite3.Connection, event_id: str) -> int:
    row = connection.execute(SQL["known"], {"id": event_id}).fetchone()
    if row is None:
        raise NotFound(f"there is no experience {event_id!r}")
    if gone := connection.execute(SQL["retired"], (event_id,)).fetchone():
        raise Refused(
            f"experience {event_id!r} was retired at {gone[1]} by the policy {gone[0]!r}; only its id is kept"
        )
    return int(row[0])


def _scalar(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


@contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, with what was kept and what to do."""
    try:
        yield
    except CalyxError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _explain(what, path, error) from error


def _explain(what: str, path: Path, error: Exception) -> CalyxError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        return ResourceExhausted(
            f"the disk of {path} is full: could not {what}, nothing was half done; free some space"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"could not {what}: {path} is damaged ({error}); run `calyx memory verify`, restore a backup")
    if code == sqlite3.SQLITE_READONLY:
        return Unavailable(f"could not {what}: {path} is read-only; make its folder writable for the memory service")
    if isinstance(error, (OSError, sqlite3.OperationalError)):
        return Unavailable(f"could not {what}: {path} can't be used now ({error}); nothing was half done")
    return Internal(f"could not {what} in {path}: {error}; nothing was half done")
