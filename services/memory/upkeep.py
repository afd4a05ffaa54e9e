"""What keeps the memory right: verify, backup, rebuild, compaction. Recording and recall go on meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso
from chassis.errors import Damaged, Unavailable
from services.memory.backup import Backup, write_backup
from services.memory.compact import Compacted, Terms, compact, due_by_rule
from services.memory.integrity import Integrity
from services.memory.restore import Restored
from services.memory.roots import RootKeys
from services.memory.shelf import Shelf
from services.memory.store import Store
from services.memory.verify import Verdict

log = structlog.get_logger(__name__)


class Upkeep:
    """Blocking and thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        shelf: Shelf,
        clock: Clock,
        audit: Audit,
        terms: Terms | None = None,
        keys: RootKeys | None = None,
        restored: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._shelf, self._clock, self._audit = store, shelf, clock, audit
        self.integrity = Integrity(store=store, shelf=shelf, clock=clock, audit=audit, keys=keys, restored=restored)
        self._terms = Terms() if terms is None else terms
        self._compacting, self._backing_up = threading.Lock(), threading.Lock()

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
        """Check everything, and take out of use what is damaged; see integrity.py."""
        return self.integrity.verify()

    def backup(self, folder: Path) -> Backup:
        """Write a verified copy into `folder`."""
        with self._backing_up:
            made = write_backup(self._store, folder, self._clock.now())
            self._store.set_meta("backed_up_at", iso(self._clock.now()))
        self._audit.write("memory.backup", file=made.path.name, sha256=made.sha256, size_bytes=made.size_bytes)
        return made

    def rebuild_index(self) -> int:
        """Derive index and catalog anew from the store; returns how many rows recall can find."""
        found = self._shelf.rebuild()
        self._audit.write("memory.rebuild_index", vectors=found)
        return found

    def compact(self, *, dry_run: bool) -> Compacted:
        """Roll up, retire, give pages back; see compact.py. Unavailable while another one is under way."""
        with self._alone():
            now = self._clock.now()
            if not dry_run and (due := due_by_rule(self._store, self._terms.rules, now)):
                self._audit.write("memory.retire", due=due)  # before it is done: what goes never goes untold
            done = compact(self._store, self._shelf, self._terms, now, dry_run=dry_run)
            if not dry_run:
                self._store.set_meta("compacted_at", iso(self._clock.now()))
                self._audit.write("memory.compact", **asdict(done))
        return done

    def restore(self, backup: Path | None, *, dry_run: bool) -> Restored:
        """See integrity.py. Not beside a compaction or a backup, which read the file that goes."""
        with self._alone(), self._backing_up:
            return self.integrity.restore(backup, dry_run=dry_run)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._compacting.acquire(blocking=False):
            raise Unavailable("a compaction or a restore is under way; try again when it is over")
        try:
            yield
        finally:
            self._compacting.release()
