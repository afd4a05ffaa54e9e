"""The memory itself: store first, then the index; recall by meaning, with a floor and with all the evidence."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import structlog

from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import InvalidInput
from services.memory.catalog import having, objectives_of
from services.memory.embedding import Embedder, check_vectors
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
from services.memory.rows import Stored
from services.memory.shelf import Shelf
from services.memory.store import Store
from services.memory.upkeep import Upkeep

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
    """Blocking and thread-safe. The store holds the truth; the shelf is made from it at the start.

    A row is acknowledged once it is durable. If it can't be embedded or indexed then, it is pending: counted,
    and taken up again by `catch_up`.
    """

    def __init__(self, *, store: Store, embedder: Embedder, index: VectorIndex, clock: Clock, audit: Audit) -> None:
        self._store, self._clock, self._audit = store, clock, audit
        self.shelf = Shelf(store, embedder, index)
        self.upkeep = Upkeep(store=store, shelf=self.shelf, clock=clock, audit=audit)
        self._counts = threading.Lock()
        self._recalls = self._hits = 0

    def catch_up(self) -> int:
        """Embed and index some of the objectives that are pending; returns how many were."""
        return self.shelf.embed_pending(DRAIN)

    # write

    def record(self, experience: Experience) -> bool:
        """Store it durably; False if the id was already there (nothing is changed then)."""
        check(experience)
        appended = self._store.append(
            experience, iso(self._clock.now()), then=lambda appended: self.shelf.add(appended, experience)
        )
        if appended is None:
            return False
        try:
            self.catch_up()
        except Exception:  # durable already: whatever model or index do, it is pending and not lost
            log.exception("could not embed or index an objective; its row is kept and pending", row=appended.seq)
        return True

    def amend(self, event_id: str, outcome: Outcome, evidence: str, amendment_id: str) -> bool:
        """Add a later outcome as a new row; False if this amendment was already there. TES stays as scored."""
        if not amendment_id.strip():
            raise InvalidInput("amendment_id is empty; the caller chooses it, so that a repeat is harmless")
        check_text(amendment_id, "amendment_id", MAX_WORD)
        check_text(evidence, "evidence", MAX_EVIDENCE, lines=True)
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
        seq = self._store.amend(event_id, finding, then=lambda seq: self.shelf.amend(seq, outcome))
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
        embedder = self.shelf.embedder
        vector = check_vectors(embedder.embed([query.objective]), embedder.dimension)[0]
        catalog, index = self.shelf.catalog, self.shelf.index  # a rebuild may put others in their place meanwhile
        rows, pending, waiting = catalog.rows(), self.shelf.pending, self.shelf.waiting
        keep = catalog.select(
            rows,
            namespace=query.namespace,
            domain=query.domain,
            procedure=query.procedure,
            since=None if query.since is None else query.since.timestamp(),
            among=self._with_facts(query),
        )
        if waiting:
            keep &= ~having(rows, waiting)
        searched = int(np.count_nonzero(keep))
        among = None if searched == len(rows) else objectives_of(rows, keep)
        hits = index.nearest(vector, CANDIDATES, among) if searched else []
        floor, lower = floors(query)
        hits = [hit for hit in hits if hit.cosine > lower]
        gated = gate(query, hits, self._store.objectives([hit.key for hit in hits]) if hits else {})
        mine = rows[keep & having(rows, [each.objective for each in gated])] if gated else rows[:0]
        matches = self._matches(query, pick(mine, gated, query.limit))
        with self._counts:
            self._recalls += 1
            self._hits += bool(matches)
        return Recalled(
            matches=tuple(matches),
            summaries=tuple(summarise(mine, gated, catalog)),
            floor=floor,
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
        embedder, pending = self.shelf.embedder, self.shelf.pending
        return Stats(
            experiences=len(self.shelf.catalog),
            vectors=len(self.shelf.catalog) - pending,
            recalls=self._recalls,
            hits=self._hits,
            model=f"{embedder.model} {embedder.model_sha256[:12]}",
            index=self.shelf.index.name,
            verified_at=parse_iso(verified_at) if verified_at else None,
            schema_version=self._store.schema_version(),
        )

    def close(self) -> None:
        self.shelf.index.close()
        self._store.close()
