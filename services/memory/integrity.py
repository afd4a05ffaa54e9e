"""One verify finds, names and takes out of use what is damaged; days that are over get their signed roots."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso
from chassis.errors import CalyxError
from services.memory.backup import check_backups, set_aside
from services.memory.damage import Damage, Kind, shortened
from services.memory.frames import WalIndex, check_wal
from services.memory.pages import Pages
from services.memory.quarantine import Quarantine
from services.memory.queries import SQL
from services.memory.restore import Restored, restore
from services.memory.roots import RootKeys, close_days
from services.memory.shelf import Shelf, Shown
from services.memory.store import Store
from services.memory.verify import Expected, Found, Verdict, check_redo, check_store

log = structlog.get_logger(__name__)

AT_ONCE = 64
"""Vectors made anew in one go."""


PASSING = frozenset({Kind.INDEX, Kind.CATALOG, Kind.BACKUP})
"""What a new index, another model or the end of an old backup may look like while it is looked at: only what is seen
twice is damage."""


class Integrity:
    """Blocking and thread-safe; recording and recall go on meanwhile."""

    def __init__(
        self,
        *,
        store: Store,
        shelf: Shelf,
        clock: Clock,
        audit: Audit,
        keys: RootKeys | None = None,
        restored: Callable[[], None] = lambda: None,
    ) -> None:
        self._restored = restored
        self._store, self._shelf, self._clock, self._audit = store, shelf, clock, audit
        self._keys = RootKeys() if keys is None else keys
        folder = store.path.parent
        self.backups = folder / "backups"
        self.quarantine = Quarantine(folder / "quarantine")
        self._wal = store.path.with_name(store.path.name + "-wal")
        self._wal_index = WalIndex(store.path.with_name(store.path.name + "-shm"))
        self._held_open: list[Pages] = []
        self._verifying = threading.Lock()
        self._leave_out()

    def close_days(self) -> None:
        """For a periodic: sign the root of each day that is over."""
        with self._verifying:  # a restore puts another file in the place of the one that is read here
            self._close_days()

    def _close_days(self) -> None:
        if days := close_days(self._store, self._clock.now(), self._keys.seal):
            self._audit.write("memory.roots", days=days, signed=self._keys.seal is not None)

    def verify(self) -> Verdict:
        """Check everything; quarantine, drop or make anew what is damaged. What it says of each is in `done`."""
        with self._verifying:
            found, backups = self._look()
            if any(each.kind in PASSING for each in found.damages):
                found, backups = self._look()
            damages = shortened(self._heal(found.damages))
        now = self._clock.now()
        self._audit.write(
            "memory.verify",
            ok=not damages,
            damages=len(found.damages),
            named=[f"{each.what}: {each.why}; {each.done}" for each in damages[:20]],
            experiences=found.rows,
            vectors=found.held,
            roots=found.roots,
            backups=backups,
        )
        for damage in damages[:20]:
            log.error("damage found", what=damage.what, why=damage.why, done=damage.done)
        try:
            self._store.set_meta("verified_at", iso(now))
        except CalyxError as error:  # the verdict is what was asked for
            log.error("could not note that the store was verified", why=error.message)
        return Verdict(
            damages=tuple(damages),
            experiences=found.rows,
            vectors=found.held,
            roots=found.roots,
            backups=backups,
            verified_at=now,
        )

    def _look(self) -> tuple[Found, int]:
        """Once more after a change of model: the index that was looked at is closed soon after it."""
        while True:
            shown, found = self._held_against(self._shelf)
            if self._shelf.shown.index is shown.index:
                break
        backups, damaged = check_backups(self.backups)
        found.damages += damaged
        return found, backups

    def _held_against(self, shelf: Shelf) -> tuple[Shown, Found]:
        store = self._store
        log_fault = self._check_wal()
        with closing(store.snapshot()) as connection:
            with shelf.change:
                # The first read fixes the snapshot; no row can be between store and catalog while it is taken.
                connection.execute("BEGIN")
                first = _first_read(connection)
                shown, entries = shelf.shown, shelf.index.keys()
                seqs, waiting = shown.catalog.rows()["seq"].copy(), shelf.waiting
            expected = Expected(
                seqs=seqs,
                waiting=waiting,
                index_keys=np.sort(np.fromiter(entries, dtype=np.int64, count=len(entries))),
                model_sha256=shown.embedder.model_sha256,
            )
            found = check_store(
                connection, expected, shown.index, quarantined=self.quarantine.rows, unseal=self._keys.unseal
            )
            found.damages[:0] = [*log_fault, *first]
            if store.redo is not None and not first:
                found.damages += check_redo(connection, store.redo)
        return shown, found

    def _check_wal(self) -> list[Damage]:
        # The log may begin anew while it is read: only a fault that stays is one.
        for _ in range(3):
            fault = check_wal(self._wal, self._wal_index.committed()).fault
            if not fault:
                return []
        return [Damage(what=self._wal.name, why=fault, kind=Kind.WAL)]

    # what is done about it

    def _heal(self, damages: Sequence[Damage]) -> list[Damage]:
        kinds = {each.kind for each in damages}
        done: dict[Kind, str] = {}
        by_kind = {kind: [each for each in damages if each.kind is kind] for kind in kinds}
        if Kind.ROW in kinds:
            done[Kind.ROW] = self._tried(lambda: self._quarantine(by_kind[Kind.ROW]))
        if kinds & {Kind.VECTOR, Kind.INDEX, Kind.CATALOG}:
            vectors = sorted({number for each in by_kind.get(Kind.VECTOR, []) for number in each.numbers})
            text = self._tried(lambda: self._make_anew(vectors))
            done |= dict.fromkeys((Kind.VECTOR, Kind.INDEX, Kind.CATALOG), text)
        if Kind.BACKUP in kinds:
            done[Kind.BACKUP] = self._tried(lambda: set_aside(self.backups, by_kind[Kind.BACKUP]))
        if Kind.WAL in kinds:
            whole = not kinds & {Kind.PAGES, Kind.ROW, Kind.GONE, Kind.ROOT}
            done[Kind.WAL] = self._tried(lambda: self._keep_wal(by_kind[Kind.WAL][0], fold=whole))
        done |= dict.fromkeys((Kind.PAGES, Kind.GONE), "nothing yet: run `calyx memory restore`")
        if all(_of_an_index(each) for each in by_kind.get(Kind.PAGES, [])) and not kinds & {Kind.ROW, Kind.GONE}:
            done[Kind.PAGES] = self._tried(self._reindex)
        done[Kind.REDO] = "left out of every replay; kept in the log"
        done[Kind.ROOT] = "nothing: a person has to look"
        return [replace(each, done=done[each.kind]) for each in damages]

    def _tried(self, what: Callable[[], str]) -> str:
        try:
            return what()
        except (CalyxError, sqlite3.Error, OSError) as error:
            return f"nothing, it could not be done: {error}"

    def _quarantine(self, damages: Sequence[Damage]) -> str:
        done = "quarantined: left out of recall, kept where it is"
        self.quarantine.put(damages, done, self._clock.now())
        self._leave_out()
        return done

    def _leave_out(self) -> None:
        rows = self.quarantine.rows
        with self._shelf.change:
            self._shelf.left_out = rows
            if rows:
                self._shelf.forget(rows)

    def _make_anew(self, vectors: Sequence[int]) -> str:
        if vectors:
            with self._store.transaction("drop damaged vectors") as connection:
                connection.executemany(SQL["drop_vectors_of"], [(key,) for key in vectors])
        self._shelf.rebuild()
        for _ in range(0, len(vectors), AT_ONCE):
            self._shelf.embed_pending(AT_ONCE)
        return "dropped and made anew, with the index" if vectors else "made anew"

    def _reindex(self) -> str:
        with self._store.transaction("make the indexes of the store anew") as connection:
            connection.execute("REINDEX")
        return "the rows are whole; SQLite's indexes were made anew from them"

    def _keep_wal(self, damage: Damage, *, fold: bool) -> str:
        kept = self.quarantine.keep_copy(self._wal, damage.why, self._clock.now())
        if not fold:
            return f"a copy was kept as quarantine/{kept.name}; run `calyx memory restore`"
        # Everything that was read through it holds: what it says goes into the file, and the log begins anew.
        self._store.checkpoint()
        return f"a copy was kept as quarantine/{kept.name}; what it holds is whole and was folded into the store"

    # restore

    def restore(self, backup: Path | None, *, dry_run: bool) -> Restored:
        """See restore.py. Recording waits; recall goes on, from the old store until the swap."""
        folder, now = self._store.path.parent, self._clock.now()
        with self._verifying:
            with self._store.still() as replaced:
                done = restore(
                    folder,
                    backup=backup,
                    redo=self._store.redo,
                    now=now,
                    unseal=self._keys.unseal,
                    dry_run=dry_run,
                    swap=replaced,
                    held_open=self._held_open,
                )
            if not dry_run:
                self._take_up(folder / done.set_aside)
        self._audit.write(
            "memory.restore",
            dry_run=dry_run,
            backup=done.backup,
            from_backup=done.from_backup,
            replayed=done.replayed,
            lost=list(done.lost[:100]),
            set_aside=done.set_aside,
        )
        return done

    def _take_up(self, aside: Path) -> None:
        self.quarantine.release(aside)
        self._wal_index.close()  # of the file that was replaced
        with self._shelf.change:
            self._shelf.left_out = frozenset()
        self._shelf.rebuild()
        self._restored()
        self._close_days()

    def close(self) -> None:
        """After the store."""
        self._wal_index.close()
        for pages in self._held_open:
            pages.close()
        self._held_open.clear()


def _of_an_index(damage: Damage) -> bool:
    """Does SQLite say so of an index only: its entries don't fit the rows, which are the truth."""
    return damage.why.startswith(("row ", "wrong # of entries in index ", "non-unique entry in index "))


def _first_read(connection: sqlite3.Connection) -> list[Damage]:
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        why = f"can't be read: {error}; run `calyx memory restore`"
        return [Damage(what="experience.sqlite", why=why, kind=Kind.PAGES)]
    return []
