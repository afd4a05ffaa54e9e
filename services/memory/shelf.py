"""What recall works on, in RAM and made from the store: the catalog of all rows, the index of all objectives."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import structlog

from services.memory.catalog import Catalog, Facts, Standing
from services.memory.embedding import Embedder, Vectors, check_vectors
from services.memory.experience import REHEARSAL, Experience, Outcome
from services.memory.index import VectorIndex
from services.memory.recording import Appended
from services.memory.retention import remove_orphans
from services.memory.scan import lacking, scanning
from services.memory.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one recall works on, all of one model: vectors of two models are never compared.

    `waiting` are objectives that are not in the index yet, with the number of their rows.
    """

    embedder: Embedder
    index: VectorIndex
    catalog: Catalog
    waiting: Counter[int]

    @property
    def pending(self) -> int:
        """Durable rows that recall can't find yet."""
        return sum(self.waiting.values())


class Shelf:
    """`change` is held from a row's commit until it is in the catalog, so that a snapshot of both agrees.

    A row is in the catalog as soon as it is durable, and found once its objective is in the index; until then it is
    pending: counted, and taken up by `embed_pending`.
    """

    def __init__(self, store: Store, embedder: Embedder, index: VectorIndex) -> None:
        self._store = store
        self.shown = Shown(embedder=embedder, index=index, catalog=Catalog(), waiting=Counter())
        self.change = store.change
        self._rebuilding = threading.Lock()
        # What changed since a rebuild began; None: none is under way. Under `change`.
        self._meanwhile: list[Callable[[Catalog], None]] | None = None
        self._indexed_meanwhile: set[int] = set()
        self._gone_meanwhile: set[int] = set()
        self._claimed: set[int] = set()
        self.left_out: frozenset[int] = frozenset()  # quarantined rows, which a rebuild must not bring back
        self._entries = 0
        self._load(rebuild=False)

    def _load(self, *, rebuild: bool) -> None:
        """An index kept on disk is filled up, or rebuilt if it holds what the store does not."""
        model, dimension = self.embedder.model_sha256, self.embedder.dimension
        with scanning(self._store) as found:
            fresh, keys = found.catalog(), found.keys(model)
            present = self.index.keys()
            if rebuild or present - set(keys.tolist() if present else ()):
                self.index.rebuild(found.vectors(model, dimension))
            else:
                for batch, vectors in found.vectors(model, dimension):
                    missing = [place for place, key in enumerate(batch) if key not in present]
                    self.index.add([batch[place] for place in missing], vectors[missing] if present else vectors)
            bad = sorted(set(found.unusable_vectors))
            if not present.isdisjoint(bad):  # an index on disk must not know more than the store
                self.index.rebuild(found.vectors(model, dimension))
        if found.unusable:
            log.error("rows that can't be read are left out of recall; run verify", rows=found.unusable[:20])
        if bad:
            log.error("vectors that can't be used are made anew", objectives=bad[:20])
            self._store.drop_vectors(model, bad)
            keys = np.setdiff1d(keys, bad)
        self.shown = replace(self.shown, catalog=fresh, waiting=Counter(lacking(fresh, keys)))
        self._entries = len(keys)

    @property
    def embedder(self) -> Embedder:
        return self.shown.embedder

    @property
    def index(self) -> VectorIndex:
        return self.shown.index

    @property
    def catalog(self) -> Catalog:
        return self.shown.catalog

    @property
    def pending(self) -> int:
        """Durable rows that recall can't find yet."""
        return self.shown.pending

    @property
    def indexed(self) -> int:
        """How many entries the index should have; under `change`."""
        return self._entries

    @property
    def waiting(self) -> frozenset[int]:
        """Objectives that are not in the index yet."""
        return frozenset(self.shown.waiting)

    def add(self, appended: Appended, experience: Experience) -> None:
        """Put a durable row into the catalog; under `change`. Its objective may not be in the index yet."""
        key = appended.objective_key
        if key in self.shown.waiting or key not in self.index:
            self.shown.waiting[key] += 1  # before the row is seen, so that no recall takes it for compared
        self._put(
            Facts(
                seq=appended.seq,
                objective=key,
                namespace=experience.namespace,
                domain=experience.domain,
                procedure=experience.procedure,
                outcome=experience.outcome,
                standing=Standing.VALID,
                occurred=experience.occurred_at.timestamp(),
                tes=float("nan") if experience.tes is None else experience.tes,
                rehearsal=experience.context.get(REHEARSAL[0]) == REHEARSAL[1],
            )
        )

    def amend(self, seq: int, outcome: Outcome) -> None:
        self._note(lambda catalog: catalog.amend(seq, outcome))

    def stand(self, seq: int, standing: Standing) -> None:
        """Under `change`."""
        self._note(lambda catalog: catalog.stand(seq, standing))

    def forget(self, seqs: Collection[int]) -> None:
        """Leave out rows that the store has no more, or that are damaged; under `change`."""
        rows, waiting = self.catalog.rows(), self.shown.waiting
        if waiting:
            gone = np.isin(rows["seq"], np.fromiter(seqs, dtype=np.int64, count=len(seqs)))
            waiting.subtract(key for key in rows["objective"][gone].tolist() if key in waiting)
            for key in [key for key, left in waiting.items() if left < 1]:
                del waiting[key]
        self.shown = replace(self.shown, catalog=self.catalog.without(seqs))
        if self._meanwhile is not None:
            self._gone_meanwhile.update(seqs)

    def _put(self, facts: Facts) -> None:
        self._note(lambda catalog: catalog.add(facts) if facts.seq > catalog.last else None)

    def _note(self, change: Callable[[Catalog], None]) -> None:
        change(self.catalog)
        if self._meanwhile is not None:
            self._meanwhile.append(change)

    def embed_pending(self, limit: int) -> int:
        """Embed at most `limit` waiting objectives, oldest first, store their vectors and index them; returns how many.

        Several threads may do so at once; none takes what another has begun. What fails is tried again after the rest.
        """
        with self.change:
            shown = self.shown
            keys = list(islice((key for key in shown.waiting if key not in self._claimed), limit))
            self._claimed.update(keys)
        try:
            return self._embed(shown, keys) if keys else 0
        finally:
            with self.change:
                self._claimed.difference_update(keys)
                waiting = self.shown.waiting
                for key in keys:
                    if key in waiting:  # it failed: behind those that nobody has tried
                        waiting[key] = waiting.pop(key)

    def _embed(self, shown: Shown, keys: list[int]) -> int:
        # What is stored but was refused by the index then is only indexed.
        texts = self._store.objectives(keys)
        stored = self._store.vectors(shown.embedder.model_sha256, keys)
        stored |= embed_objectives(
            self._store, shown.embedder, {k: texts[k] for k in keys if k in texts and k not in stored}
        )
        ready = sorted(stored)
        joined = np.frombuffer(b"".join(stored[key] for key in ready), dtype="<f4")
        with self.change:
            if self.embedder is not shown.embedder:
                return len(ready)  # another model serves by now
            self._entries += sum(key not in self.index for key in ready)
            self.index.add(ready, joined.reshape(len(ready), shown.embedder.dimension))
            if self._meanwhile is not None:
                self._indexed_meanwhile.update(ready)
            for key in ready:
                self.shown.waiting.pop(key, None)
        return len(ready)

    def rebuild(self, orphans: Collection[int] = ()) -> int:
        """Derive index and catalog anew from the store; returns how many rows recall can find.

        They are made beside those in use: recall and recording go on, and wait only for the swap. `orphans` are
        objectives to be removed from the store in the moment of the swap, if no experience has them then.
        """
        model, dimension = self.embedder.model_sha256, self.embedder.dimension
        with self._rebuilding, ExitStack() as until_swapped:
            with self.change:
                self._meanwhile, self._indexed_meanwhile, self._gone_meanwhile = [], set(), set()
            try:
                with scanning(self._store) as found:
                    fresh = found.catalog().without(self.left_out)
                    keys = np.setdiff1d(found.keys(model), np.array(sorted(orphans), dtype=np.int64))

                    def batches() -> Iterator[tuple[list[int], Vectors]]:
                        nonlocal keys
                        for batch, vectors in found.vectors(model, dimension):
                            places = np.flatnonzero(np.isin(batch, keys)).tolist()
                            yield [batch[place] for place in places], vectors[places]
                        until_swapped.enter_context(self.change)  # from here on nothing changes
                        if late := sorted(self._late(set(orphans))):
                            keys = np.union1d(keys, late)
                            yield self._stored(late)

                    self.index.rebuild(batches())
                    bad = sorted(set(found.unusable_vectors))
                for change in self._meanwhile:
                    change(fresh)
                fresh = fresh.without(self._gone_meanwhile) if self._gone_meanwhile else fresh
                if bad:
                    log.error("vectors that can't be used are made anew", objectives=bad[:20])
                    self._store.drop_vectors(model, bad)
                held = np.setdiff1d(keys, bad)
                self.shown = replace(self.shown, catalog=fresh, waiting=Counter(lacking(fresh, held)))
                self._entries = len(held)
            finally:
                self._meanwhile = None
        return len(self.catalog) - self.pending

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Nothing changes and nobody rebuilds meanwhile."""
        with self._rebuilding, self.change:
            yield

    def show(self, shown: Shown) -> None:
        """Put another model with its whole index in place; inside `swapping`."""
        self.shown, self._entries = shown, len(shown.index)

    def _late(self, orphans: set[int]) -> set[int]:
        """Objectives that came into the index since the rebuild began, or that are no orphans after all."""
        if orphans:
            with self._store.transaction("forget objectives") as connection:
                orphans = orphans - remove_orphans(connection, orphans)
        stored = self._store.vectors(self.embedder.model_sha256, sorted(self._indexed_meanwhile | orphans))
        return set(stored)

    def _stored(self, keys: list[int]) -> tuple[list[int], Vectors]:
        found = self._store.vectors(self.embedder.model_sha256, keys)
        joined = np.frombuffer(b"".join(found[key] for key in keys), dtype="<f4")
        return keys, joined.reshape(len(keys), self.embedder.dimension)


def embed_objectives(store: Store, embedder: Embedder, texts: Mapping[int, str]) -> dict[int, bytes]:
    """Embed texts, told by their key, and store their vectors; returns them."""
    if not texts:
        return {}
    made: dict[int, bytes] = {}
    try:
        vectors = check_vectors(embedder.embed(list(texts.values())), embedder.dimension)
        made = {key: row.tobytes() for key, row in zip(texts, vectors, strict=True)}
    except Exception:
        if len(texts) == 1:
            raise
        for key, text in texts.items():  # one of them, maybe: the others need not wait for it
            try:
                made[key] = check_vectors(embedder.embed([text]), embedder.dimension)[0].tobytes()
            except Exception:
                log.exception("an objective could not be embedded; its rows are kept and pending", objective=key)
    store.add_vectors(embedder.model_sha256, [(key, texts[key], vector) for key, vector in made.items()])
    return made
