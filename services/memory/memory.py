"""The memory itself: store first, then the index; recall by meaning, with a floor and with all the evidence."""

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import Damaged, InvalidInput
from services.memory.backup import Backup, write_backup
from services.memory.catalog import Catalog, Facts
from services.memory.embedding import Embedder, Vectors, check_vectors
from services.memory.experience import MAX_EVIDENCE, MAX_WORD, Experience, Finding, Outcome, check, check_text
from services.memory.index import VectorIndex
from services.memory.recall import (
    CANDIDATES,
    Pick,
    Query,
    Summary,
    check_query,
    floors,
    gate,
    pick,
    summarise,
    why,
)
from services.memory.rows import Embedded, Stored
from services.memory.scan import scan
from services.memory.store import Store
from services.memory.verify import Expected, Verdict, check_store

log = structlog.get_logger(__name__)

DRAIN = 64
"""Rows embedded in one step of catching up: about a second of work, so that stopping stays quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    experience: Experience
    cosine: float
    near: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """`searched` rows passed the filters and were compared; `pending` durable rows are not in the index yet."""

    matches: tuple[Match, ...]
    summaries: tuple[Summary, ...]
    floor: float
    searched: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    merged: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """`vectors` counts rows that recall can find; repeats of an objective share one index entry."""

    experiences: int
    vectors: int
    recalls: int
    hits: int
    model: str
    index: str
    verified_at: datetime | None
    schema_version: int


class Memory:
    """Blocking and thread-safe. The store holds the truth; index and catalog are made from it at the start.

    A row is acknowledged once it is durable. If it can't be embedded or indexed then, it is pending: counted,
    and taken up again by `catch_up`.
    """

    def __init__(self, *, store: Store, embedder: Embedder, index: VectorIndex, clock: Clock, audit: Audit) -> None:
        self._store, self._embedder, self._index, self._clock, self._audit = store, embedder, index, clock, audit
        self._catalog = Catalog()
        # Held from a row's commit until it is in index and catalog, so that a snapshot of both agrees.
        self._change = threading.Lock()
        self._counts = threading.Lock()
        self._rows = self._recalls = self._hits = 0
        self._load()

    # start

    def _load(self) -> None:
        """Index and catalog from the store. An index kept on disk is filled up, or rebuilt if it has too much."""
        found = scan(self._store, self._embedder.model_sha256, self._embedder.dimension, self._catalog)
        if found.unusable:
            log.error("rows with an unusable vector are left out of recall", rows=found.unusable[:20])
        present = self._index.keys()
        if present - set(found.keys) - set(self._catalog.entry_keys().tolist()):
            self._index.rebuild([(found.keys, found.vectors)])
        elif missing := [place for place, key in enumerate(found.keys) if key not in present]:
            self._index.add([found.keys[place] for place in missing], found.vectors[missing])
        for facts in found.facts:
            self._catalog.add(facts)
        self._rows = found.rows

    def catch_up(self) -> int:
        """Embed and index some of the rows that are pending; returns how many were."""
        if not self._pending():
            return 0
        done = 0
        for seq, objective in self._store.pending(self._embedder.model_sha256, DRAIN):
            vector = check_vectors(self._embedder.embed([objective]), self._embedder.dimension)
            with self._change:
                stored = self._store.experiences([seq])[seq]
                if stored.damage:
                    log.error("a damaged row is not embedded", row=seq, damage=stored.damage)
                    continue
                self._store.set_vector(stored, self._embedded(vector))
                self._make_findable(seq, stored.experience, vector)
                done += 1
        if not done:  # embedded, but the index refused them then: taken up from the store as at the start
            with self._change:
                before = len(self._catalog)
                self._load()
                done = len(self._catalog) - before
        return done

    def _pending(self) -> int:
        return self._rows - len(self._catalog)

    # write

    def record(self, experience: Experience) -> bool:
        """Store it durably; False if the id was already there (nothing is changed then)."""
        check(experience)
        vector = self._embed_or_none(experience.objective)
        with self._change:
            now = iso(self._clock.now())
            seq = self._store.append(experience, now, None if vector is None else self._embedded(vector))
            if seq is None:
                return False
            self._rows += 1
            if vector is not None:
                try:
                    self._make_findable(seq, experience, vector)
                except Exception:  # durable already: it is pending, not lost
                    log.exception("the index refused a row; it is durable and pending", row=seq)
        return True

    def _embed_or_none(self, objective: str) -> Vectors | None:
        try:
            return check_vectors(self._embedder.embed([objective]), self._embedder.dimension)
        except Exception:  # whatever the model does, what happened is kept
            log.exception("could not embed an objective; its row is kept and pending")
            return None

    def _embedded(self, vector: Vectors) -> Embedded:
        return Embedded(
            vector=vector[0].tobytes(),
            model_sha256=self._embedder.model_sha256,
            dimension=self._embedder.dimension,
        )

    def _make_findable(self, seq: int, experience: Experience, vector: Vectors) -> None:
        if self._catalog.key_of(experience.objective) is None:
            self._index.add([seq], vector)
        tes = float("nan") if experience.tes is None else experience.tes
        self._catalog.add(
            Facts(
                seq=seq,
                objective=experience.objective,
                namespace=experience.namespace,
                domain=experience.domain,
                procedure=experience.procedure,
                outcome=experience.outcome,
                occurred=experience.occurred_at.timestamp(),
                tes=tes,
            )
        )

    def amend(self, event_id: str, outcome: Outcome, evidence: str, amendment_id: str) -> bool:
        """Add a later outcome as a new row; False if this amendment was already there. TES stays as scored."""
        if not amendment_id.strip():
            raise InvalidInput("amendment_id is empty; the caller chooses it, so that a repeat is harmless")
        check_text(amendment_id, "amendment_id", MAX_WORD)
        check_text(evidence, "evidence", MAX_EVIDENCE, lines=True)
        with self._change:
            finding = Finding(
                amendment_id=amendment_id,
                outcome=outcome,
                tes=None,
                duration_seconds=None,
                files_changed=None,
                cost={},
                evidence=evidence,
                recorded_at=iso(self._clock.now()),
            )
            seq = self._store.amend(event_id, finding)
            if seq is not None:
                self._catalog.amend(seq, outcome)
        return seq is not None

    def feedback(self, event_id: str, useful: bool, query: str, caller: str) -> int:
        """Keep a judgement; returns how many there are by now."""
        check_text(query, "query", MAX_EVIDENCE, lines=True)
        labels = self._store.add_feedback(event_id, useful, query, caller, iso(self._clock.now()))
        self._audit.write("memory.feedback", id=event_id, useful=useful, caller=caller, labels=labels)
        return labels

    # read

    def recall(self, query: Query) -> Recalled:
        """Experiences whose objective means the same; empty rather than weak. See recall.py for the rule."""
        query = check_query(query)
        vector = check_vectors(self._embedder.embed([query.objective]), self._embedder.dimension)[0]
        catalog = self._catalog  # a rebuild may put another in its place meanwhile
        rows, pending = catalog.rows(), self._pending()
        keys = catalog.entry_keys()
        keep = catalog.select(
            rows,
            namespace=query.namespace,
            domain=query.domain,
            procedure=query.procedure,
            since=None if query.since is None else query.since.timestamp(),
            among=self._with_facts(query),
        )
        searched = int(keep.sum())
        among = None
        if searched < len(rows):
            named = np.zeros(keys.size, dtype=np.bool_)
            named[rows["entry"][keep]] = True
            among = keys[named]
        hits = self._index.nearest(vector, CANDIDATES, among) if searched else []
        entries = {hit.key: entry for hit in hits if (entry := catalog.entry_of(hit.key)) is not None}
        gated = gate(query, hits, entries, catalog.objectives.words)
        mine = rows[keep & np.isin(rows["entry"], [each.entry for each in gated])] if gated else rows[:0]
        matches = self._matches(query, pick(mine, gated, query.limit))
        with self._counts:
            self._recalls += 1
            self._hits += bool(matches)
        return Recalled(
            matches=tuple(matches),
            summaries=tuple(summarise(mine, gated, catalog)),
            floor=floors(query)[0],
            searched=searched,
            pending=pending,
        )

    def _with_facts(self, query: Query) -> set[int] | None:
        among: set[int] | None = None
        for key, value in query.context.items():
            having = self._store.with_fact(key, value)
            among = having if among is None else among & having
        return among

    def _matches(self, query: Query, picks: Sequence[Pick]) -> list[Match]:
        stored = self._store.experiences([each.seq for each in picks])
        matches = []
        for each in picks:
            found = stored.get(each.seq)
            if found is None or found.damage:
                log.error("a recalled row is damaged and was left out; run verify", row=each.seq)
                continue
            reason = why(query, each, found.experience.objective)
            matches.append(Match(experience=found.experience, cosine=each.cosine, near=each.near, why=reason))
        return matches

    def newest(self, limit: int, domain: str) -> list[Experience]:
        """The last recorded, newest first; damaged rows are left out (verify names them)."""
        found: list[Stored] = self._store.newest(limit, domain)
        return [each.experience for each in found if not each.damage]

    def stats(self) -> Stats:
        verified_at = self._store.meta("verified_at")
        return Stats(
            experiences=self._rows,
            vectors=len(self._catalog),
            recalls=self._recalls,
            hits=self._hits,
            model=f"{self._embedder.model} {self._embedder.model_sha256[:12]}",
            index=self._index.name,
            verified_at=parse_iso(verified_at) if verified_at else None,
            schema_version=self._store.schema_version(),
        )

    # upkeep

    def check(self) -> None:
        """For health: the store answers, and the index holds an entry for each objective. Raises what is wrong."""
        self._store.meta("verified_at")
        with self._change:
            held, wanted = len(self._index), len(self._catalog.entry_keys())
        if held != wanted:
            raise Damaged(
                f"the index has {held} entries, the store {wanted} objectives; run `calyx memory rebuild-index`"
            )

    def verify(self) -> Verdict:
        """Check everything that is stored; see verify.py. Recording and recall go on meanwhile."""
        with closing(self._store.snapshot()) as connection:
            with self._change:
                # The first read fixes the snapshot; no row can be between store and index while it is taken.
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                rows, keys = self._catalog.rows(), self._catalog.entry_keys()
                key_by_seq = dict(zip(rows["seq"].tolist(), keys[rows["entry"]].tolist(), strict=True))
                expected = Expected(key_by_seq=key_by_seq, index_keys=self._index.keys())
            damages, checked, held = check_store(connection, expected, self._index)
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
        with self._change:
            fresh = Catalog()
            found = scan(self._store, self._embedder.model_sha256, self._embedder.dimension, fresh)
            self._index.rebuild([(found.keys, found.vectors)])
            for facts in found.facts:
                fresh.add(facts)
            self._catalog, self._rows = fresh, found.rows
        self._audit.write("memory.rebuild_index", vectors=len(fresh), unusable=len(found.unusable))
        return len(fresh)

    def compact(self, *, dry_run: bool) -> Compacted:
        """Give free pages back to the disk. Nothing is merged: repeats share one index entry as it is."""
        if not dry_run:
            self._store.vacuum()
            self._audit.write("memory.compact", merged=0, kept=self._rows)
        return Compacted(merged=0, kept=self._rows)

    def close(self) -> None:
        self._index.close()
        self._store.close()
