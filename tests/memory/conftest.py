import os

# One thread, as the service has it; more only wait for each other here, and waiting costs their time.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from memory_fakes import START, HashEmbedder

from chassis.audit import Audit
from chassis.clock import VirtualClock
from services.memory.exact import ExactIndex
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.store import Store


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    return MiniLM.packaged()


@pytest.fixture
def make_memory(tmp_path: Path) -> Iterator[Callable[..., Memory]]:
    """Opens a memory on the test's folder; opening it once more is a restart."""
    with ExitStack() as opened:

        def make(embedder: Any = None, index: Any = None, **terms: Any) -> Memory:
            embedder = embedder or HashEmbedder()
            clock = VirtualClock(START)
            memory = Memory(
                store=Store(tmp_path / "memory" / "experience.sqlite", durable=False),
                embedder=embedder,
                index=ExactIndex(embedder.dimension) if index is None else index,
                clock=clock,
                audit=Audit(tmp_path / "audit" / "memory.jsonl", clock, "memory"),
                **terms,
            )
            opened.callback(memory.close)
            return memory

        yield make
