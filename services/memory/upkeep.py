"""What keeps the memory right: verify, backup, rebuild, compaction. Recording and recall go on meanwhile."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso
from chassis.errors import Damaged
from services.memory.backup import Backup, write_backup
from services.memory.shelf import Shelf
from services.memory.store import Store
from services.memory.verify import Expected, Verdict, check_store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    merged: int
    kept: int


class Upkeep:
    """Blocking and thread-safe."""

    def __init__(self, *, store: Store, shelf: Shelf, clock: Clock, audit: Audit) -> None:
        self._store, self._shelf, self._clock, self._audit = store, shelf, clock, audit

    def check(self) -> None:
        """For health: the store answers, and the index holds an entry for each objective. Raises what is wrong."""
        self._store.meta("verified_at")
        with self._shelf.change:
            held, wanted = len(self._shelf.index), self._shelf.indexed
        if held != wanted:
            raise Damaged(
                f"the index has {held} entries, the store {wanted} objectives; run `calyx memory rebuild-index`"
            )

    def verify(self) -> Verdict:
        """Check everything that is stored; see verify.py."""
        shelf = self._shelf
        with closing(self._store.snapshot()) as connection:
            with shelf.change:
                # The first read fixes the snapshot; no row can be between store and catalog while it is taken.
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                expected = Expected(
                    seqs=frozenset(shelf.catalog.rows()["seq"].tolist()),
                    waiting=shelf.waiting,
                    index_keys=frozenset(shelf.index.keys()),
                    model_sha256=shelf.embedder.model_sha256,
                )
            damages, checked, held = check_store(connection, expected, shelf.index)
        now = self._clock.now()
        self._audit.write("memory.verify", ok=not damages, damages=len(damages), experiences=checked, vectors=held)
        for damage in damages[:20]:
            log.error("damage found", what=damage.what, why=damage.why)
        self._store.set_meta("verified_at", iso(now))
        return Verdict(damages=tuple(damages), experiences=checked, vectors=held, verified_at=now)

    def backup(self, folder: Path) -> Backup:
        """Write a verified copy into `folder`."""
        made = write_backup(self._store, folder, self._clock.now())
        self._audit.write("memory.backup", file=made.path.name, sha256=made.sha256, size_bytes=made.size_bytes)
        return made

    def rebuild_index(self) -> int:
        """Derive index and catalog anew from the store; returns how many rows recall can find."""
        found = self._shelf.rebuild()
        self._audit.write("memory.rebuild_index", vectors=found)
        return found

    def compact(self, *, dry_run: bool) -> Compacted:
        """Give free pages back to the disk."""
        kept = len(self._shelf.catalog)
        if not dry_run:
            self._store.vacuum()
            self._audit.write("memory.compact", merged=0, kept=kept)
        return Compacted(merged=0, kept=kept)
