"""One peer on the corpus: `python -m bench.speed.peers NAME FOLDER` reads FOLDER/job.npz, prints its figures as JSON.

Runs under .venv-bench. Only the search is timed, not the embedding: 10 nearest by cosine, and the same within one of 20
groups (a 5 % filter). How each is set up, by its own documentation:

- chroma: PersistentClient, collection with hnsw:space cosine, everything else as it comes; `where` filters.
- sqlite-vec: vec0 table, float[d] with cosine distance, `grp` as a metadata column; exact; through apsw, since Python's
  own sqlite3 is often built without extensions.
- lancedb: flat scan (no vector index) with cosine, a scalar bitmap index on `grp`, prefilter.
- mem0: `Memory` with infer=False (no language model is asked), its default vector store (Qdrant, on disk, in process)
  and an embedder that hands it our vectors; `search` with user_id, and with a metadata filter.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
Search = Callable[[NDArray[np.float32], int | None], list[int]]
"""Keys of the nearest to a vector, best first; within one group if it is given."""


def chroma(folder: Path, vectors: NDArray[np.float32], groups: NDArray[np.int64]) -> Search:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(folder / "chroma"), Settings(anonymized_telemetry=False))
    table = client.create_collection("peer", embedding_function=None, metadata={"hnsw:space": "cosine"})
    for at in range(0, len(vectors), 5000):
        part = range(at, min(at + 5000, len(vectors)))
        table.add(
            ids=[str(place) for place in part],
            embeddings=vectors[at : at + 5000],
            metadatas=[{"grp": int(groups[place])} for place in part],
        )

    def search(asked: NDArray[np.float32], group: int | None) -> list[int]:
        where = None if group is None else {"grp": group}
        found = table.query(query_embeddings=[asked], n_results=K, where=where, include=["distances"])
        return [int(each) for each in found["ids"][0]]

    return search


def sqlite_vec(folder: Path, vectors: NDArray[np.float32], groups: NDArray[np.int64]) -> Search:
    import apsw
    import sqlite_vec as extension

    connection = apsw.Connection(str(folder / "vec.db"))
    connection.enable_load_extension(True)
    connection.load_extension(extension.loadable_path())
    connection.execute(
        f"CREATE VIRTUAL TABLE peer USING vec0(embedding float[{vectors.shape[1]}] distance_metric=cosine, grp INTEGER)"
    )
    with connection:
        connection.executemany(
            "INSERT INTO peer (rowid, embedding, grp) VALUES (?, ?, ?)",
            ((place, vectors[place].tobytes(), int(groups[place])) for place in range(len(vectors))),
        )
    plain = "SELECT rowid FROM peer WHERE embedding MATCH ? AND k = ? ORDER BY distance"
    within = "SELECT rowid FROM peer WHERE embedding MATCH ? AND k = ? AND grp = ? ORDER BY distance"

    def search(asked: NDArray[np.float32], group: int | None) -> list[int]:
        terms = (asked.tobytes(), K) if group is None else (asked.tobytes(), K, group)
        return [row[0] for row in connection.execute(plain if group is None else within, terms)]

    return search


def lancedb(folder: Path, vectors: NDArray[np.float32], groups: NDArray[np.int64]) -> Search:
    import lancedb as lance
    import pyarrow as pa

    dimension = vectors.shape[1]
    rows = pa.table(
        {
            "key": pa.array(np.arange(len(vectors))),
            "grp": pa.array(groups),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension),
        }
    )
    table = lance.connect(str(folder / "lance")).create_table("peer", rows)
    table.create_scalar_index("grp", index_type="BITMAP")

    def search(asked: NDArray[np.float32], group: int | None) -> list[int]:
        ask = table.search(asked).distance_type("cosine").limit(K).select(["key"])
        if group is not None:
            ask = ask.where(f"grp = {group}", prefilter=True)
        return [int(each) for each in ask.to_arrow()["key"].to_pylist()]

    return search


def mem0(folder: Path, vectors: NDArray[np.float32], groups: NDArray[np.int64]) -> Search:
    os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=str(folder / "mem0"), OPENAI_API_KEY="unused", HOME=str(folder))
    from mem0 import Memory

    class Handed:
        """Stands for an embedder: the text names the vector."""

        def __init__(self) -> None:
            self.known: dict[str, NDArray[np.float32]] = {}

        def embed(self, text: str, memory_action: Any = None) -> list[float]:
            return [float(each) for each in self.known[text]]

        def embed_batch(self, texts: Sequence[str], memory_action: Any = None) -> list[list[float]]:
            return [self.embed(text) for text in texts]

    store = {
        "provider": "qdrant",
        "config": {"path": str(folder / "qdrant"), "embedding_model_dims": vectors.shape[1], "on_disk": True},
    }
    memory = Memory.from_config({"vector_store": store, "history_db_path": str(folder / "history.db")})
    handed = Handed()
    memory.embedding_model = handed
    for place, vector in enumerate(vectors):
        text = f"objective {place}"
        handed.known = {text: vector}
        memory.add(text, user_id="peer", infer=False, metadata={"grp": int(groups[place]), "key": place})

    def search(asked: NDArray[np.float32], group: int | None) -> list[int]:
        handed.known = {"asked": asked}
        filters = {"user_id": "peer"} if group is None else {"user_id": "peer", "grp": group}
        found = memory.search("asked", filters=filters, top_k=K, threshold=0.0)
        return [int(each["metadata"]["key"]) for each in found["results"]]

    return search


PEERS: dict[str, Callable[[Path, NDArray[np.float32], NDArray[np.int64]], Search]] = {
    "chroma": chroma,
    "sqlite-vec": sqlite_vec,
    "lancedb": lancedb,
    "mem0": mem0,
}


def figures(search: Search, job: Any, group: int) -> dict[str, Any]:
    """Milliseconds of each search, without and with the filter side by side, and recall@10 of both."""
    for asked in job["asked"][:10]:
        search(asked, None)
        search(asked, group)
    plain, filtered, right, right_filtered = [], [], 0, 0
    for place, asked in enumerate(job["asked"]):
        began = time.perf_counter()
        found = search(asked, None)
        plain.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        within = search(asked, group)
        filtered.append((time.perf_counter() - began) * 1000)
        right += len(set(found) & set(job["best"][place].tolist()))
        right_filtered += len(set(within) & set(job["best_within"][place].tolist()))
    count = K * len(job["asked"])
    return {"plain": plain, "filtered": filtered, "recall": right / count, "recall_filtered": right_filtered / count}


def rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def main() -> int:
    name, folder = sys.argv[1], Path(sys.argv[2])
    with np.load(folder / "job.npz") as file:
        job = {key: file[key] for key in file.files}
    before, began = rss_mib(), time.monotonic()
    search = PEERS[name](folder, job["vectors"], job["groups"])
    built = time.monotonic() - began
    print(
        json.dumps({**figures(search, job, int(job["group"])), "build_seconds": built, "rss_mib": rss_mib() - before})
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
