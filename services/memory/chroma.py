"""Chroma as the index: gives candidates, which are re-scored exactly from the store's vectors.

One process owns the folder: two writers on one PersistentClient lose vectors without a word.
"""

import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings

from chassis.atomic import write_whole
from chassis.canonical import canonical_json
from services.memory.embedding import Vectors
from services.memory.index import Keys, Near, VectorSource, score

BATCH = 1000
WIDER = 200
"""Candidates asked for, so that what the graph misses at the edge and what a filter drops still leaves enough."""

FEW = 4096
"""Up to this many allowed entries an exact scan of the store's own vectors is faster and loses nothing."""


class ChromaIndex:
    """Lives in `<folder>/<generation>`; the file `CURRENT` names the one in use.

    A folder made with another model or dimension is not used: the index then starts empty and is filled anew.
    """

    name = "chroma"

    def __init__(self, folder: Path, dimension: int, model_sha256: str, source: VectorSource) -> None:
        self._folder, self._dimension, self._model_sha256, self._source = folder, dimension, model_sha256, source
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        current = self._current()
        self._generation = int(current.get("generation", 0))
        if current != self._label(self._generation):
            self._generation += 1
            shutil.rmtree(folder / str(self._generation), ignore_errors=True)
        self._client, self._collection = self._open(self._generation)
        self._mark(self._generation)

    def _label(self, generation: int) -> dict[str, Any]:
        return {"generation": generation, "model_sha256": self._model_sha256, "dimension": self._dimension}

    def _current(self) -> dict[str, Any]:
        try:
            current = json.loads((self._folder / "CURRENT").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return current if isinstance(current, dict) else {}

    def _mark(self, generation: int) -> None:
        write_whole(self._folder / "CURRENT", canonical_json(self._label(generation)))

    def _open(self, generation: int) -> tuple[Any, Any]:
        client = chromadb.PersistentClient(
            path=str(self._folder / str(generation)), settings=Settings(anonymized_telemetry=False)
        )
        # Unit vectors: the inner product is the cosine, and the stored bytes stay as they came.
        space = {"hnsw:space": "ip"}
        return client, client.get_or_create_collection("experience", embedding_function=None, metadata=space)

    def __len__(self) -> int:
        return int(self._collection.count())

    def __contains__(self, key: int) -> bool:
        return bool(self._collection.get(ids=[str(key)], include=[])["ids"])

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        if vectors.shape != (len(keys), self._dimension):
            raise ValueError(f"{len(keys)} keys with vectors of shape {vectors.shape}")
        with self._lock:
            _add(self._collection, keys, vectors)

    def nearest(self, vector: Vectors, limit: int, among: Keys | None = None, *, above: float = -2.0) -> list[Near]:
        if limit < 1:
            return []
        if among is not None and among.size <= FEW:
            return self._scored(vector, among.tolist(), above)[:limit]
        with self._lock:
            count = len(self)
            if count == 0:
                return []
            answer = self._collection.query(
                query_embeddings=[vector], n_results=min(count, max(WIDER, 4 * limit)), include=[]
            )
        keys = [int(each) for each in answer["ids"][0]]
        if among is not None:
            allowed = set(among.tolist())
            keys = [key for key in keys if key in allowed]
        return self._scored(vector, keys, above)[:limit]

    def _scored(self, vector: Vectors, keys: Sequence[int], above: float) -> list[Near]:
        truth = self._source(keys)
        size = 4 * self._dimension
        known = [key for key in keys if len(truth.get(key) or b"") == size]
        if not known:
            return []
        vectors = np.frombuffer(b"".join(truth[key] for key in known), dtype="<f4").reshape(len(known), -1)
        return [each for each in score(vector, known, vectors) if each.cosine > above]

    def keys(self) -> set[int]:
        with self._lock:
            return {int(each) for each in self._collection.get(include=[])["ids"]}

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._lock:
            for batch in _batches(keys, BATCH):
                got = self._collection.get(ids=[str(key) for key in batch], include=["embeddings"])
                for key, vector in zip(got["ids"], got["embeddings"], strict=True):
                    found[int(key)] = np.asarray(vector, dtype="<f4").tobytes()
        return found

    def rebuild(self, batches: Iterable[tuple[Sequence[int], Vectors]]) -> None:
        fresh = self._generation + 1
        shutil.rmtree(self._folder / str(fresh), ignore_errors=True)  # what a crash in an earlier rebuild left
        client, collection = self._open(fresh)
        for keys, vectors in batches:
            for places in _batches(range(len(keys)), BATCH):
                _add(collection, [keys[i] for i in places], vectors[places])
        self._mark(fresh)
        with self._lock:
            old, old_client = self._generation, self._client
            self._generation, self._client, self._collection = fresh, client, collection
        old_client.close()
        shutil.rmtree(self._folder / str(old), ignore_errors=True)  # deleting entries would not shrink it

    def close(self) -> None:
        with self._lock:
            self._client.close()


def _add(collection: Any, keys: Sequence[int], vectors: Vectors) -> None:
    # `add` keeps what is there under a known id and says nothing; the store is append-only, so that is right.
    if keys:
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        collection.add(ids=[str(key) for key in first], embeddings=vectors[list(first.values())])


def _batches(items: Sequence[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
