"""Objectives and their vectors for `bench/recall_speed.py`, kept in a cache folder between runs.

Texts are the real sentences of ../shared/data/recall (CLINC150 and WebArena), then the same sentences in templates
("please …", "… on host db-17", "… for the weekly report of March"), drawn with a seed; none twice. Queries are drawn
in the same way from another seed and are none of the texts.

The first REAL vectors are the model's own. What is beyond would take hours to embed (about 200 a second), so its
vectors are a real vector moved by the difference of two other real vectors that belong to one sentence in two
templates, times 0.5 to 1.5, made unit length again: the direction in which a template really moves a sentence, on
another sentence. Every system gets the same vectors, and exact neighbours are computed from these.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.memory.minilm import MiniLM

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "recall"
REAL = 100_000
QUERIES = 1_000
PIECE = 2_000

HOSTS = [f"{kind}-{number}" for kind in ("db", "web", "cache", "mail", "build", "node") for number in range(1, 60)]
PEOPLE = ["Ana", "Bo", "Chen", "Dee", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jun", "Kim", "Lea", "Max", "Nia", "Oto"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"]
TOPICS = ["the weekly report", "the audit", "the release", "the migration", "the review", "the backlog", "the demo"]
TEMPLATES = [
    "please {s}", "{s} on host {host}", "{s} for {who}", "{s} for {topic} of {month}", "{s} before {month} {day}",
    "{who} asks: {s}", "task {number}: {s}", "{s} again, as in {month}", "{s} (ticket {number})",
    "when {topic} is done, {s}", "{s} and tell {who}", "on {month} {day}: {s}", "{s} for {topic} with {who}",
    "{s} on host {host} by {month} {day}", "for {who} and {who2}: {s}",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """`synthetic` of the vectors are moved ones; `asked` are vectors of the queries."""

    texts: list[str]
    vectors: NDArray[np.float32]
    queries: list[str]
    asked: NDArray[np.float32]
    synthetic: int


def sentences() -> list[str]:
    """Every line of the data once, shuffled with a seed."""
    found: dict[str, None] = {}
    for name in ("clinc.jsonl", "webarena.jsonl"):
        with (DATA / name).open() as file:
            found.update((json.loads(line)["text"], None) for line in file)
    lines = list(found)
    random.Random(1).shuffle(lines)
    return lines


def drawn(seed: int) -> Iterator[str]:
    """Sentences in templates without end."""
    lines, draw = sentences(), random.Random(seed)
    while True:
        draw.shuffle(lines)
        for line in lines:
            yield draw.choice(TEMPLATES).format(
                s=line, host=draw.choice(HOSTS), who=draw.choice(PEOPLE), who2=draw.choice(PEOPLE),
                topic=draw.choice(TOPICS), month=draw.choice(MONTHS), day=draw.randint(1, 28),
                number=draw.randint(1000, 99_999),
            )  # fmt: skip


def texts(count: int) -> list[str]:
    """The first `count` objectives: the sentences themselves, then templates."""
    found = dict.fromkeys(sentences()[:count])
    more = drawn(2)
    while len(found) < count:
        found[next(more)] = None
    return list(found)


def queries(without: set[str]) -> list[str]:
    """QUERIES objectives that are in nobody's memory."""
    more, found = drawn(3), dict[str, None]()
    while len(found) < QUERIES:
        line = next(more)
        if line not in without:
            found[line] = None
    return list(found)


def corpus(size: int, cache: Path, processes: int = 2) -> Corpus:
    """Texts and vectors; embeds what the cache does not have."""
    real = min(size, REAL)
    told = texts(size)
    asked = queries(set(texts(max(size, 10 * REAL))))  # the same at every size
    own = embedded("objectives", told[:real], cache, processes)
    vectors = own
    if size > real:
        vectors = np.empty((size, own.shape[1]), dtype=np.float32)
        vectors[:real] = own
        move(vectors, real)
    return Corpus(
        texts=told,
        vectors=vectors,
        queries=asked,
        asked=embedded("queries", asked, cache, processes),
        synthetic=size - real,
    )


def embedded(name: str, lines: list[str], cache: Path, processes: int) -> NDArray[np.float32]:
    """Vectors of `lines`, in pieces of PIECE, each kept in the cache under what it is made from."""
    cache.mkdir(parents=True, exist_ok=True)
    pieces = [lines[first : first + PIECE] for first in range(0, len(lines), PIECE)]
    model = MiniLM.packaged().model_sha256
    paths = [cache / f"{name}-{number}-{mark([model, *piece])}.npy" for number, piece in enumerate(pieces)]
    missing = [(path, piece) for path, piece in zip(paths, pieces, strict=True) if not path.exists()]
    if missing:
        count = sum(len(piece) for _, piece in missing)
        print(f"embedding {count} {name} with {processes} processes", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(processes) as pool:
            for done, _ in enumerate(pool.map(_embed, missing), start=1):
                print(f"{done} of {len(missing)} pieces", file=sys.stderr, flush=True)
    return np.concatenate([np.load(path) for path in paths])


def mark(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _embed(job: tuple[Path, list[str]]) -> None:
    path, lines = job
    model = MiniLM.packaged(cached_texts=0)
    making = path.with_suffix(f".{os.getpid()}.npy")
    np.save(making, model.embed(lines))
    making.rename(path)


def move(vectors: NDArray[np.float32], real: int) -> None:
    """Fill `vectors` from `real` on, in place; see above. Deterministic."""
    rng = np.random.default_rng(4)
    count = len(sentences())
    templated = np.arange(count, real)  # each of these is some sentence in a template; neighbours stand for one
    nearest = _nearest_sentence(vectors, count, templated[: 4 * count])
    for first in range(real, len(vectors), 50_000):
        last = min(first + 50_000, len(vectors))
        size = last - first
        base = rng.integers(0, real, size)
        shift = rng.integers(0, nearest.size, size)
        moved = vectors[templated[shift]] - vectors[nearest[shift]]
        moved *= rng.uniform(0.5, 1.5, size).astype(np.float32)[:, None]
        moved += vectors[base]
        vectors[first:last] = moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _nearest_sentence(vectors: NDArray[np.float32], count: int, templated: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each templated text the plain sentence nearest to it: nearly always its own."""
    found = np.empty(templated.size, dtype=np.int64)
    for first in range(0, templated.size, 4096):
        part = templated[first : first + 4096]
        found[first : first + 4096] = (vectors[part] @ vectors[:count].T).argmax(axis=1)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="embed the corpus of bench/recall_speed.py")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--size", type=int, default=REAL)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    made = corpus(options.size, options.cache, options.processes)
    print(len(made.texts), made.vectors.shape, made.synthetic)
