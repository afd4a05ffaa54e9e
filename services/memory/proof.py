"""A migration is tried on a copy before it touches the real file: what must stay is compared, the rest checked."""

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from chassis.atomic import fsync_dir
from chassis.canonical import canonical_json
from chassis.errors import Damaged, Refused, ResourceExhausted
from services.memory.faults import explained
from services.memory.migrate import APPLICATION_ID, migrate, vector_digest
from services.memory.queries import SQL, migrations
from services.memory.rows import hydrate

log = structlog.get_logger(__name__)

BATCH = 500
MARKED = "damaged before schema"
"""How the digest begins of a row that did not match the one it had before a migration."""

_TABLES = ("experiences", "contexts", "confidences", "outcomes", "feedback", "meta")


def prove(path: Path, backups: Path) -> Path | None:
    """Try the migration of an existing file on a copy, which is kept; None if there is nothing to migrate.

    The real file is only read. Raises Refused, Damaged or ResourceExhausted with what to do; it is untouched then.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    newest = len(migrations())
    if path.with_name(f"{path.name}-journal").exists():  # a kill left it; SQLite rolls it back where it may write
        with explained("recover", path), closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version").fetchone()
    with explained("read", path), closing(_reader(path)) as real:
        version = real.execute("PRAGMA user_version").fetchone()[0]
        if not 0 < version < newest or real.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            return None
        log.info("bringing the store to a newer schema, on a copy first", schema=version, to=newest)
        kept = backups / f"experience-before-schema-{newest}.sqlite"
        copy, scratch = backups / f".{kept.name}.tmp", backups / f".scratch-schema-{newest}.sqlite"
        try:
            backups.mkdir(parents=True, exist_ok=True)
            _sweep(copy, scratch)
            _room(path, backups)
            with explained("copy the store before its migration", copy):
                real.execute("VACUUM INTO ?", (str(copy),))
                shutil.copyfile(copy, scratch)
            with explained("try the migration on a copy", scratch):
                _try(copy, scratch, version)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            copy.replace(kept)
            fsync_dir(backups)
        finally:
            _sweep(copy, scratch)
    return kept


def _try(copy: Path, scratch: Path, version: int) -> None:
    with closing(_reader(copy)) as before, closing(sqlite3.connect(scratch, isolation_level=None)) as after:
        if said := _unsound(before):
            raise Damaged(f"the store is damaged ({said}) and was not migrated; restore a backup, then start again")
        migrate(after, version)
        after.row_factory = sqlite3.Row
        if said := _unsound(after):
            raise _refused(version, said)
        for table in _TABLES:
            if _sum(before, SQL[f"proof_{table}"]) != _sum(after, SQL[f"proof_{table}"]):
                raise _refused(version, f"its {table} are not the same afterwards")
        texts = SQL["proof_objectives_1" if version < 2 else "proof_objectives"]
        if _sum(before, texts) != _sum(after, SQL["proof_objectives"]):
            raise _refused(version, "its objectives are not the same afterwards")
        if row := _first_unsealed(after):
            raise _refused(version, f"row {row} does not match its digest afterwards")


def _refused(version: int, why: str) -> Refused:
    return Refused(
        f"migrating a copy of the store from schema {version} failed: {why}; the store was not touched. "
        "Go on with the station-calyx that wrote it, and report this"
    )


def _unsound(connection: sqlite3.Connection) -> str:
    said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if said != "ok":
        return str(said)
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    return "" if broken is None else f"a row of {broken[0]} points at nothing in {broken[2]}"


def _sum(connection: sqlite3.Connection, statement: str) -> str:
    """sha256 over all rows, in their order."""
    total = hashlib.sha256()
    for row in connection.execute(statement):
        total.update(canonical_json(list(row)) + b"\n")
    return total.hexdigest()


def _first_unsealed(connection: sqlite3.Connection) -> str:
    """The first row or vector that fails its digest and was whole before; empty: none. Outcomes were compared."""
    last = 0
    while rows := connection.execute(SQL["all_events"], (last, BATCH)).fetchall():
        for row, each in zip(rows, hydrate(connection, rows), strict=True):
            if each.damage and "outcome" not in each.damage and not row["digest"].startswith(MARKED):
                return str(each.seq)
        last = rows[-1]["seq"]
    for text, model, dimension, vector, sealed, key in connection.execute(SQL["proof_all_vectors"]):
        if vector_digest(text, model, dimension, vector) != sealed:
            return f"{key} of the vectors"
    return ""


def _room(path: Path, backups: Path) -> None:
    needed, free = 3 * path.stat().st_size, shutil.disk_usage(backups).free
    if free < needed:
        raise ResourceExhausted(
            f"the disk of {backups} has {free:,} bytes free, trying the migration takes {needed:,}; "
            "the store was not touched, free some space and start again"
        )


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _sweep(*paths: Path) -> None:
    for path in paths:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
