"""A change of the model: its vectors are made beside, recall answers with the old ones until the last one is there.

The file holds the vectors of both, by `model_sha256`; which of them serves is in `meta`, so that a restart goes on
where it was. The swap puts model and index in place in one step; old vectors are dropped in small steps afterwards.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import structlog

from services.memory.embedding import Embedder, Vectors
from services.memory.index import VectorIndex
from services.memory.queries import SQL
from services.memory.scan import lacking, scanning
from services.memory.shelf import Shelf, embed_objectives
from services.memory.store import Store

log = structlog.get_logger(__name__)

SERVING = "serving_model"
"""The key in `meta`: whose vectors recall answers with."""

LATE = 8
"""So many objectives that came last are embedded within the swap, while recording waits (0.1 s); more put it off."""

DROPPED_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """The model that is to serve, and how its index is opened."""

    embedder: Embedder
    open_index: Callable[[], VectorIndex]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Objectives that have their new vector, of all; both 0 when no change is under way."""

    done: int
    of: int


class Succession:
    """Blocking and thread-safe; every step is short. Without a successor it only drops what other models left."""

    def __init__(self, store: Store, shelf: Shelf, successor: Successor | None) -> None:
        self._store, self._shelf, self._successor = store, shelf, successor
        self._turn = threading.Lock()
        self._after = 0
        self._others_left = True
        self._retired: VectorIndex | None = None
        if successor is None and store.meta(SERVING) != shelf.embedder.model_sha256:
            store.set_meta(SERVING, shelf.embedder.model_sha256)

    @property
    def progress(self) -> Progress:
        successor = self._successor
        if successor is None:
            return Progress(done=0, of=0)
        with closing(self._store.snapshot()) as connection:
            done, of = connection.execute(SQL["progress"], (successor.embedder.model_sha256,)).fetchone()
        return Progress(done=done, of=of)

    def step(self, limit: int) -> int:
        """Embed up to `limit` objectives for the successor, or swap, or drop some old vectors; 0: nothing is left."""
        if not self._turn.acquire(blocking=False):
            return 0  # another thread is at it
        try:
            if self._successor is None:
                return self._drop()
            return self._embed(self._successor.embedder, limit) or self._swap(self._successor)
        finally:
            self._turn.release()

    def close(self) -> None:
        with self._turn:
            if self._retired is not None:
                self._retired.close()

    def _embed(self, embedder: Embedder, limit: int) -> int:
        with closing(self._store.snapshot()) as connection:
            found = connection.execute(SQL["pending_after"], (self._after, embedder.model_sha256, limit)).fetchall()
        if not found:
            self._after = 0  # from the start once more, before the swap is tried: a batch may have failed
            return 0
        made = embed_objectives(self._store, embedder, dict(map(tuple, found)))
        self._after = found[-1][0]
        return len(made)

    def _swap(self, successor: Successor) -> int:
        shelf, model = self._shelf, successor.embedder.model_sha256
        if (kept := self.progress).done < kept.of - LATE:
            return 0  # some could not be embedded; the old model serves on
        index = successor.open_index()
        with scanning(self._store) as found:
            index.rebuild(found.vectors(model, successor.embedder.dimension))
            bad = sorted(set(found.unusable_vectors))
        if bad:
            log.error("new vectors that can't be used are made anew", objectives=bad[:20])
            self._store.drop_vectors(model, bad)
            index.close()
            return len(bad)
        with shelf.swapping():
            late = sorted(lacking(shelf.catalog, np.array(sorted(index.keys()), dtype=np.int64)))
            stored = self._store.vectors(model, late)
            texts = self._store.objectives([key for key in late if key not in stored])
            if len(texts) > LATE:
                index.close()
                return len(texts)  # too many came meanwhile: embed them first
            stored |= embed_objectives(self._store, successor.embedder, texts)
            if set(late) - set(stored):
                index.close()
                return 0
            if stored:
                index.add(sorted(stored), _matrix(stored, successor.embedder.dimension))
            old = shelf.shown.index
            self._store.set_meta(SERVING, model)
            shelf.show(replace(shelf.shown, embedder=successor.embedder, index=index, waiting=Counter()))
            self._successor, self._retired, self._others_left = None, old, True
        log.info("the new model serves", model=successor.embedder.model, model_sha256=model[:12])
        return 1

    def _drop(self) -> int:
        """Vectors of other models go once every objective has one of this model, so that nothing is lost by a turn."""
        if not self._others_left or self._shelf.waiting:
            return 0
        if self._retired is not None:  # recalls that began before the swap are done with it by now
            self._retired.close()
            self._retired = None
        serving = self._shelf.embedder.model_sha256
        with closing(self._store.snapshot()) as connection:
            found = connection.execute(SQL["vectors_of_others"], (serving, DROPPED_AT_ONCE)).fetchall()
        for model in {row[1] for row in found}:
            self._store.drop_vectors(model, [key for key, named in found if named == model])
        self._others_left = bool(found)
        return len(found)


def serving_model(store: Store) -> str | None:
    """Whose vectors recall answers with, if the file says so and holds any."""
    serving = store.meta(SERVING)
    with closing(store.snapshot()) as connection:
        held = serving and connection.execute(SQL["any_vector"], (serving,)).fetchone()[0]
    return serving if held else None


def remember_folder(store: Store, model_sha256: str, folder: str) -> None:
    """Where this model was opened (empty: the package), for the day when another one takes its place."""
    known = json.loads(store.meta("model_folders") or "{}")
    if known.get(model_sha256) != folder:
        store.set_meta("model_folders", json.dumps({**known, model_sha256: folder}))


def folder_of(store: Store, model_sha256: str) -> str | None:
    """Where this model was last opened; None: never."""
    known: dict[str, str] = json.loads(store.meta("model_folders") or "{}")
    return known.get(model_sha256)


def _matrix(stored: dict[int, bytes], dimension: int) -> Vectors:
    joined = np.frombuffer(b"".join(stored[key] for key in sorted(stored)), dtype="<f4")
    return joined.reshape(len(stored), dimension)
