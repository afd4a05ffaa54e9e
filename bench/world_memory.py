"""The real memory for the bench's worlds: the service's own code in one process, on a virtual clock.

What a station has between planner and memory is all there: the CBO's peer, the wire, servicer, store, index and
MiniLM; the experience that the critique makes of a task; and what its end says of the experiences that it followed,
so that memory may evict some of them or raise its floor. Left out: gRPC's sockets and the disk's fsync.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the service: its pool only spins on a busy machine

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

from calyx.memory.v1 import memory_pb2_grpc

from bench.worlds import BEGAN, DOMAIN, Done, Kind
from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from chassis.executor import InlineExecutor
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served as ServedContract
from services.cbo.bridge import Options
from services.cbo.critique import experience_of
from services.cbo.followed import judgements
from services.cbo.peers import MemoryPeer
from services.cbo.ports import Recollection, Summary
from services.cbo.tasks import Task
from services.memory.exact import ExactIndex
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.polarity import opposed, polarity
from services.memory.recall import FLOOR
from services.memory.servicer import ALLOW, MemoryServicer
from services.memory.store import Store

CONTRACT = "calyx.memory.v1.MemoryService"
RECALL_LIMIT = Options().recall_limit
SHM = Path("/dev/shm")


@cache
def packaged() -> MiniLM:
    """One for all lives of a process; it remembers the vector of each text, and nothing else."""
    return MiniLM.packaged()


def alike(one: Kind, other: Kind) -> float:
    """Of all pairs of texts that ask for these, the share that recall would take for the same work."""
    texts, others = one.texts(), other.texts()
    above = packaged().embed(texts) @ packaged().embed(others).T > FLOOR
    pairs = [
        bool(above[row, column]) and opposed(polarity(text), polarity(another)) is None
        for row, text in enumerate(texts)
        for column, another in enumerate(others)
        if text != another
    ]
    return sum(pairs) / len(pairs)


class Served:
    """A memory that belongs to one life. `recall` and `record` as the CBO calls them, in a task's order."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(BEGAN)
        self.memory = Memory(
            store=Store(folder / "experience.sqlite", durable=False),
            embedder=packaged(),
            index=ExactIndex(packaged().dimension),
            clock=self.clock,
            audit=Audit(folder / "audit.jsonl", self.clock, "memory"),
        )
        servicer = MemoryServicer(
            self.memory, InlineExecutor(), clock=self.clock, root=folder, backups=folder / "backups", station_id="bench"
        )
        served = ServedContract(CONTRACT, memory_pb2_grpc.add_MemoryServiceServicer_to_server, servicer, ALLOW)
        self._peer = MemoryPeer(LocalChannel({CONTRACT: served}, "cbo"), "bench")
        self._recalled = Recollection()

    def recall(self, objective: str, kind: Kind, since: datetime | None, now: datetime) -> Sequence[Summary]:
        """`kind` is not looked at: memory has the words alone."""
        self.clock.advance(max(0.0, (now - self.clock.now()).total_seconds()))
        self._recalled = self._peer.recall(objective, DOMAIN, RECALL_LIMIT, since)
        return self._recalled.summaries

    def record(self, done: Done) -> None:
        """The experience as the critique makes it, and its judgement of what was recalled for it."""
        task = Task(
            id=TaskId(f"t-{done.number:06d}"), domain=DOMAIN, procedure=done.procedure, owner="bench",
            state="done" if done.success else "failed", level=Level.EXECUTE, created_at=done.at,
            objective=done.objective, prediction=done.prediction, dispatched_at=done.at, ended_at=done.at, scored=True,
            stability=float(done.success), recalled=tuple(each.to_json() for each in self._recalled.matches),
        )  # fmt: skip
        self._peer.record(experience_of(task, done.at))
        for experience, judgement in judgements(task, done.success).items():
            self._peer.judge(experience, judgement)


@contextmanager
def served() -> Iterator[Served]:
    """In a folder in memory where there is one; nothing of it is kept."""
    with tempfile.TemporaryDirectory(prefix="calyx-world-", dir=SHM if os.access(SHM, os.W_OK) else None) as folder:
        made = Served(Path(folder))
        try:
            yield made
        finally:
            made.memory.close()
