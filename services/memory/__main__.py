"""`python -m services.memory`: reads the settings and wires the memory service."""

import gc
import os

if __name__ == "__main__":
    gc.disable()  # what is loaded and read at the start stays; looking through it for garbage took a fifth of the time

# Before anything imports numpy or tokenizers: one thread each, a pool would cost memory and gain nothing here.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import fcntl
import json
import shutil
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

import prometheus_client
import structlog
from calyx.memory.v1 import memory_pb2_grpc

from chassis.agent import LeaseFile, build_agent
from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.domains import LiveDomains
from chassis.errors import CalyxError, Damaged, Refused, Unavailable
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Verifier
from chassis.executor import BoundedExecutor, ThreadExecutor
from chassis.identity import load_identity
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY
from chassis.periodic import Periodic
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, load
from services.memory.coarse import CoarseIndex
from services.memory.compact import Terms
from services.memory.drain import Drain
from services.memory.faults import explained
from services.memory.gather import Gather
from services.memory.index import VectorIndex
from services.memory.maintenance import AGENT, IndexMaintenance
from services.memory.memory import Memory
from services.memory.metrics import MemoryCollector, RecallMeter
from services.memory.minilm import MiniLM
from services.memory.nightly import EVERY_SECONDS, Nightly
from services.memory.redo import RedoLog
from services.memory.restore import finish, restore
from services.memory.retention import rules_of
from services.memory.servicer import ALLOW, MemoryServicer
from services.memory.settings import MemorySettings
from services.memory.signet import root_keys
from services.memory.store import Store
from services.memory.succession import Successor, folder_of, remember_folder, serving_model

log = structlog.get_logger(__name__)

EMBEDDING_THREADS = 2
DAYS_SECONDS = 600.0
"""How often it is asked whether a day is over whose root is to be signed."""

CALL_THREADS = 4
MOST_AT_ONCE = 128
"""Calls under way or waiting; about two seconds of recalls in a memory of a million. More are refused."""


def main() -> None:
    station = load(StationSettings, "memory")
    layout = station.layout
    settings = load(MemorySettings, "memory", layout)
    identity = load_identity(layout)
    clock, executor = SystemClock(), ThreadExecutor("memory", threads=CALL_THREADS)
    owned = own(layout.memory)
    finish(layout.memory)
    wanted = open_embedder(settings, layout.memory / "model")
    store = Store(layout.memory / "experience.sqlite", redo=RedoLog(layout.memory / "redo"))
    embedder = open_serving(settings, wanted, store, layout.memory / "model-before")
    index_of = partial(open_index, settings, layout.memory / "index", store=store)
    drain = Drain(EMBEDDING_THREADS, clock)
    audit, backups = Audit(layout.audit("memory"), clock, "memory"), layout.memory / "backups"
    memory = Memory(
        store=store,
        embedder=embedder,
        index=index_of(embedder),
        clock=clock,
        audit=audit,
        wake=drain.wake,
        successor=None if embedder is wanted else Successor(embedder=wanted, open_index=partial(index_of, wanted)),
        keys=root_keys(station.secrets / "memory.key", layout.keys / "memory.pub"),
        terms=Terms(older_than=timedelta(days=settings.roll_up_after_days), rules=rules_of(settings.retention)),
    )
    embedder.ready()
    wanted.ready()
    gc.freeze()
    gc.enable()
    meter = RecallMeter(prometheus_client.REGISTRY)
    prometheus_client.REGISTRY.register(MemoryCollector(memory, clock))

    night = Nightly(
        upkeep=memory.upkeep, store=store, clock=clock, audit=audit, backups=backups, hour=settings.nightly_hour
    )

    kill_switch, verifier = KillSwitch(layout.kill_switch), Verifier(layout.keys / "grant.pub")
    agent = build_agent(
        AGENT,
        [IndexMaintenance.of(memory, layout, clock, time.thread_time, identity.station_id)],
        layout=layout,
        exchange=FilesExchange(layout.svf, clock, verifier.valid, kill_switch),
        verifier=verifier.valid,
        kill_switch=kill_switch,
        domains=LiveDomains(DEPLOY / "domains"),
        clock=clock,
        audit=audit,
        leases=LeaseFile(layout, clock),
        station_id=identity.station_id,
    )

    def stop() -> None:
        memory.close()
        owned.close()

    run_service(
        service="memory",
        version=version("station-calyx"),
        station=station,
        settings=settings,
        served=[
            Served(
                "calyx.memory.v1.MemoryService",
                memory_pb2_grpc.add_MemoryServiceServicer_to_server,
                MemoryServicer(
                    memory,
                    BoundedExecutor(executor, MOST_AT_ONCE),
                    clock=clock,
                    root=layout.root,
                    backups=backups,
                    station_id=identity.station_id,
                    meter=meter,
                    recorder=Gather(memory.record_all, executor, MOST_AT_ONCE),
                ),
                ALLOW,
            )
        ],
        checks={"store and index": memory.upkeep.check},
        periodics=[
            *drain.periodics(memory.catch_up),
            Periodic(name="memory-days", every_seconds=DAYS_SECONDS, step=memory.upkeep.integrity.close_days),
            Periodic(name="agent", every_seconds=1.0, step=agent.step, rest=agent.rest),
            Periodic(name="memory-nightly", every_seconds=EVERY_SECONDS, step=night.step),
        ],
        clock=clock,
        executor=executor,
        on_stop=stop,
    )


def restore_offline(arguments: list[str]) -> None:
    """`python -m services.memory restore [BACKUP] [--dry-run]`: for a store that the service can't open.

    Works on the files, under the owner's lock; prints what came back as one line of JSON.
    """
    station = load(StationSettings, "memory")
    layout, clock = station.layout, SystemClock()
    names = [each for each in arguments if not each.startswith("-")]
    keys = root_keys(station.secrets / "memory.key", layout.keys / "memory.pub")
    with own(layout.memory):
        finish(layout.memory)
        redo = RedoLog(layout.memory / "redo")
        done = restore(
            layout.memory,
            backup=layout.root / names[0] if names else None,
            redo=redo,
            now=clock.now(),
            unseal=keys.unseal,
            dry_run="--dry-run" in arguments,
            swap=lambda put: put(),
            held_open=None,
        )
        redo.close()
        Audit(layout.audit("memory"), clock, "memory").write("memory.restore", offline=True, **asdict(done))
    sys.stdout.write(json.dumps(asdict(done)) + "\n")


def own(folder: Path) -> IO[bytes]:
    """Keep the folder to this process, as long as it lives: two owners of one index lose vectors."""
    with explained("use", folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".owner.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Refused(f"another memory service has {folder}; stop it first") from error
    return lock


def open_embedder(settings: MemorySettings, prepared: Path) -> MiniLM:
    """The packaged model, or the one in the folder given."""
    if settings.model_dir is not None:
        return MiniLM.from_folder(settings.model_dir, cached_texts=settings.cached_texts, prepared=prepared)
    return MiniLM.packaged(cached_texts=settings.cached_texts, prepared=prepared, beside=True)


def open_serving(settings: MemorySettings, wanted: MiniLM, store: Store, prepared: Path) -> MiniLM:
    """The model whose vectors the store holds, for as long as the wanted one has none; the wanted one otherwise."""
    folder = str(settings.model_dir.absolute()) if settings.model_dir is not None else ""
    remember_folder(store, wanted.model_sha256, folder)
    serving = serving_model(store)
    if serving in (None, wanted.model_sha256):
        shutil.rmtree(prepared, ignore_errors=True)
        return wanted
    where = folder_of(store, serving)
    try:
        if where is None:
            raise Unavailable(f"nobody knows where the model {serving[:12]} lies")
        before = settings.model_copy(update={"model_dir": Path(where) if where else None})
        old = open_embedder(before, prepared)
        if old.model_sha256 != serving:
            raise Damaged(f"{where or 'the package'} holds another model than {serving[:12]} by now")
    except CalyxError as error:
        log.error("the model before is gone; rows are pending until the new one has embedded them", why=str(error))
        return wanted
    return old


def open_index(settings: MemorySettings, folder: Path, embedder: MiniLM, *, store: Store) -> VectorIndex:
    """The index that the setting names; on disk a folder for each model."""
    source = partial(store.vectors, embedder.model_sha256)
    if settings.index == "exact":
        return CoarseIndex(embedder.dimension, source)
    try:
        from services.memory.chroma import ChromaIndex
    except ImportError as error:
        raise Unavailable("CALYX_MEMORY_INDEX=chroma needs chromadb; install station-calyx[memory-chroma]") from error
    return ChromaIndex(folder / embedder.model_sha256[:12], embedder.dimension, embedder.model_sha256, source)


if __name__ == "__main__":
    try:
        restore_offline(sys.argv[2:]) if sys.argv[1:2] == ["restore"] else main()
    except CalyxError as error:
        print(f"memory: can't start: {error}", file=sys.stderr)  # noqa: T201 — the one line a person sees
        raise SystemExit(1) from error
