"""The memory itself: store first, then the index; recall by meaning, with a floor and with all the evidence."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import structlog
from numpy.typing import NDArray

from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import InvalidInput
from services.memory.catalog import STANDING_CODES, Standing, having, objectives_of
from services.memory.compact import Terms
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
from services.memory.roots import RootKeys
from services.memory.rows import Stored
from services.memory.shelf import Shelf
from services.memory.store import Store
from services.memory.succession import Progress, Succession, Successor
from services.memory.trust import Figures, Trust, in_words
from services.memory.upkeep import Upkeep

log = structlog.get_logger(__name__)

DRAIN = 64
"""Rows embedded in one step of catching up: about a second of work, so that stopping stays quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """`copies` experiences with this objective, procedure, outcome and standing; `harmful` judgements against it."""

    experience: Experience
    cosine: float
    near: bool
    why: str
    standing: Standing
    because_of: str
    copies: int
    harmful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """`searched` rows passed the filters and were compared; `pending` durable rows are not in the index yet.

    `evicted` rows above the floor were left out, because they did harm.
    """

    matches: tuple[Match, ...]
    summaries: tuple[Summary, ...]
    floor: float
    searched: int
    pending: int
    evicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """`vectors` counts rows that recall can find; repeats of an objective share one index entry.

    `rolled_up` of the experiences live in roll-ups. Times are None where it was never done.
    """

    experiences: int
    vectors: int
    recalls: int
    hits: int
    model: str
    index: str
    verified_at: datetime | None
    schema_version: int
    pending: int
    model_change: Progress
    trust: Figures
    rolled_up: int
    compacted_at: datetime | None
    backed_up_at: datetime | None


class Memory:
    """Blocking and thread-safe. The store holds the truth; the shelf is made from it at the start.

    A row is acknowledged once it is durable. Until it is embedded and indexed it is pending: counted, and taken up by
    `catch_up`. `wake` tells whoever runs that beside; without it a row is embedded before `record` returns.
    """

    def __init__(
        self,
        *,
        store: Store,
        embedder: Embedder,
        index: VectorIndex,
        clock: Clock,
        audit: Audit,
        wake: Callable[[int], None] | None = None,
        successor: Successor | None = None,
        terms: Terms | None = None,
        keys: RootKeys | None = None,
    ) -> None:
        self._store, self._clock, self._audit, self._wake = store, clock, audit, wake
        self.store = store
        self.shelf = Shelf(store, embedder, index)
        self.trust = Trust(store=store, shelf=self.shelf, clock=clock, audit=audit)
        self.upkeep = Upkeep(
            terms=terms,
            store=store,
            shelf=self.shelf,
            clock=clock,
            audit=audit,
            keys=keys,
            restored=self.trust.reload,
        )
        self._succession = Succession(store, self.shelf, successor)
        self._counts = threading.Lock()
        self._recalls = self._hits = 0

    def catch_up(self) -> int:
        """Embed and index some of the objectives that are pending, then go on with a change of model.

        Returns how much was done; 0 when nothing is left to do.
        """
        try:
            done = self.shelf.embed_pending(DRAIN)
        except Exception:
            # What this model can't embed must not keep the next one from taking its place.
            if done := self._succession.step(DRAIN):
                log.exception("an objective could not be embedded; its rows are kept and pending")
                return done
            raise
        return done or self._succession.step(DRAIN)

    # write

    def record(self, experience: Experience) -> bool:
        """Store it durably; False if the id was already there (nothing is changed then)."""
        (answer,) = self.record_all([experience])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def record_all(self, experiences: Sequence[Experience]) -> list[bool | BaseException]:
        """`record` for callers that wait together, in one commit; each has its own answer, or what it would raise."""
        answers: dict[int, bool | BaseException] = {}
        for place, experience in enumerate(experiences):
            try:
                check(experience)
            except InvalidInput as error:
                answers[place] = error
        sound = [place for place in range(len(experiences)) if place not in answers]
        stored = self._store.append_all([experiences[place] for place in sound], iso(self._clock.now()), self.shelf.add)
        for place, appended in zip(sound, stored, strict=True):
            answers[place] = appended if isinstance(appended, BaseException) else appended is not None
        if fresh := sum(each is True for each in answers.values()):
            self._embed_soon(fresh)
        return [answers[place] for place in range(len(experiences))]

    def _embed_soon(self, rows: int) -> None:
        if self._wake is not None:
            self._wake(rows)
            return
        try:
            self.catch_up()
        except Exception:  # durable already: whatever model or index do, it is pending and not lost
            log.exception("could not embed or index an objective; its row is kept and pending")

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

    # read

    def recall(self, query: Query) -> Recalled:
        """Experiences whose objective means the same; empty rather than weak. See recall.py for the rule."""
        query = check_query(query)
        shown = self.shelf.shown  # others may be put in their place meanwhile
        vector = check_vectors(shown.embedder.embed([query.objective]), shown.embedder.dimension)[0]
        catalog, index = shown.catalog, shown.index
        rows = catalog.rows()
        # After the rows: one that is indexed in between is compared, and none counts as both pending and searched.
        waiting = frozenset(shown.waiting)
        keep = catalog.select(
            rows,
            namespace=query.namespace,
            domain=query.domain,
            procedure=query.procedure,
            since=None if query.since is None else query.since.timestamp(),
            until=None if query.until is None else query.until.timestamp(),
            outcome=query.outcome,
            among=self._with_facts(query),
        )
        pending = 0
        if waiting:
            not_yet = having(rows, waiting)
            pending = int(np.count_nonzero(not_yet))
            keep &= ~not_yet
        searched = int(np.count_nonzero(keep))
        among = None if searched == len(rows) else objectives_of(rows, keep)
        learned = self.trust.floor
        floor, lower = floors(query, learned)
        hits = index.nearest(vector, CANDIDATES, among, above=lower) if searched else []
        gated = gate(query, hits, self._store.objectives([hit.key for hit in hits]) if hits else {}, learned)
        mine = rows[keep & having(rows, [each.objective for each in gated])] if gated else rows[:0]
        evicted = mine["standing"] == STANDING_CODES[Standing.EVICTED.value]
        mine = mine[~evicted] if evicted.any() else mine  # a copy of many rows takes milliseconds
        matches = self._matches(query, pick(mine, gated, query.limit), learned)
        if self.shelf.shown.embedder is not shown.embedder:
            return self.recall(query)  # another model took its place meanwhile, and the old vectors go
        with self._counts:
            self._recalls += 1
            self._hits += bool(matches)
        return Recalled(
            matches=tuple(matches),
            summaries=tuple(summarise(mine, gated, catalog)),
            floor=floor,
            searched=searched,
            pending=pending,
            evicted=int(np.count_nonzero(evicted)),
        )

    def _with_facts(self, query: Query) -> NDArray[np.int64] | None:
        among: NDArray[np.int64] | None = None
        for key, value in query.context.items():
            having = self._store.with_fact(key, value)
            among = having if among is None else np.intersect1d(among, having)
        return among

    def _matches(self, query: Query, picks: Sequence[Pick], learned: float) -> list[Match]:
        stored = self._store.experiences([each.seq for each in picks])
        matches = []
        for each in picks:
            found = stored.get(each.seq)
            if found is None or found.damage:
                log.error("a recalled row is damaged and was left out; run verify", row=each.seq)
                continue
            doubt = self.trust.doubt(each.seq)
            said = "" if doubt is None else in_words(doubt)
            matches.append(
                Match(
                    experience=found.experience,
                    cosine=each.cosine,
                    near=each.near,
                    why=why(query, each, found.experience.objective, learned=learned, doubt=said)
                    + ("; rolled up with others like it" if found.rolled_up else ""),
                    standing=each.standing,
                    because_of="" if doubt is None else doubt.because_of,
                    copies=each.copies,
                    harmful=self.trust.harm(each.seq),
                )
            )
        return matches

    def newest(self, limit: int, domain: str) -> list[Experience]:
        """The last recorded, newest first; damaged rows are left out (verify names them)."""
        found: list[Stored] = self._store.newest(limit, domain)
        return [each.experience for each in found if not each.damage]

    def stats(self) -> Stats:
        embedder, pending = self.shelf.embedder, self.shelf.pending
        return Stats(
            experiences=len(self.shelf.catalog),
            vectors=len(self.shelf.catalog) - pending,
            recalls=self._recalls,
            hits=self._hits,
            model=f"{embedder.model} {embedder.model_sha256[:12]}",
            index=self.shelf.index.name,
            verified_at=self._when("verified_at"),
            schema_version=self._store.schema_version(),
            pending=pending,
            model_change=self._succession.progress,
            trust=self.trust.figures,
            rolled_up=self._store.rolled_up(),
            compacted_at=self._when("compacted_at"),
            backed_up_at=self._when("backed_up_at"),
        )

    def _when(self, what: str) -> datetime | None:
        told = self._store.meta(what)
        return parse_iso(told) if told else None

    def close(self) -> None:
        self._succession.close()
        self.shelf.index.close()
        self._store.close()
        self.upkeep.integrity.close()
