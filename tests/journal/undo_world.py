"""A small world to change and put back: all built-in procedures, the effects by chance, and programs that do as they
like below a declared folder. A sequence is known from its seed alone."""

import contextlib
import gzip
import lzma
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import zstandard
from undo_cells import Cells, rows_of

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.errors import CalyxError
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, Session, consent_within
from chassis.layout import Layout
from chassis.work import Effects, Outcome, Work
from services.analytics.metrics_summary import METRICS, MetricsSummary, Sources
from services.governor.cleanup import Cleanup
from services.governor.codecs import PROCEDURES as CODECS
from services.governor.disk_cleanup import DiskCleanup
from services.governor.holders import Holding
from services.governor.log_rotation import LogRotation
from services.guardian.diagnostics import Diagnostics
from services.guardian.drift import ConfigDrift, Generations
from services.guardian.guardian import Overview
from services.memory.embedding import Vectors
from services.memory.exact import ExactIndex
from services.memory.experience import Experience
from services.memory.experience import Outcome as Result
from services.memory.maintenance import IndexMaintenance
from services.memory.memory import Memory
from services.memory.store import Store

OLD = 10**18
NAMES = ("a.log", "b.log", "new\nline.log", "späce end .out", "-rf.log")
PACK = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.ZstdCompressor().compress}

Picture = dict[str, tuple[object, ...]]


def picture(folder: Path, folder_times: bool) -> Picture:
    """All that an undo gives back: kind, mode, owner, time, content or where a link points, attributes, and which
    names are one file."""
    found: Picture = {}
    first_name: dict[int, str] = {}
    every = [str(folder), *sorted(os.path.join(at, each) for at, *names in os.walk(folder) for each in sum(names, []))]  # noqa: PTH118, RUF017 — by the thousand
    for path in every:
        info, name = os.lstat(path), os.path.relpath(path, folder)
        kind, content = stat.S_IFMT(info.st_mode), b""
        when: int | None = info.st_mtime_ns
        if kind == stat.S_IFREG and path.endswith("cells/store.sqlite"):
            content, when = rows_of(Path(path)), None
        elif kind == stat.S_IFREG:
            content = Path(path).read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.fsencode(os.readlink(path))  # noqa: PTH115 — as text
        elif kind == stat.S_IFDIR and not folder_times:
            when = None
        attributes = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in xattrs(path))
        same = first_name.setdefault(info.st_ino, name) if kind == stat.S_IFREG else name
        found[name] = (kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, when, content, attributes, same)
    return found


def xattrs(path: str) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return []


class NobodyWrites:
    def writers(self, path: Path) -> Holding:
        return Holding(state="free")


class Idle:
    """A machine with nothing to say."""

    def ram_percent(self) -> None: ...
    def disk_percent(self) -> None: ...
    def disk_free_bytes(self) -> None: ...
    def booted_at(self) -> None: ...


class LengthEmbedder:
    """Says nothing of meaning; enough for an index that is held against its store."""

    model, model_sha256, dimension = "length", "0" * 64, 4

    def embed(self, texts: Sequence[str]) -> Vectors:
        found = np.array([[1.0, len(text), 0.0, 1.0] for text in texts], dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class ReopenedIndex(IndexMaintenance):
    """On the memory service's own code over a small store beside the world. Each run opens it anew, as a service does
    after a kill, its index right or, if `off`, with an entry too many.

    The index is derived and in RAM: no undo puts it back. What is compared is the record (a file of the world, to the
    byte) and that each run leaves the index with the store's entries and no other.
    """

    def __init__(self, folder: Path, station: Path, clock: VirtualClock, off: bool) -> None:
        self._store_folder, self._off = folder, off
        layout = Layout(station)
        self._folder, self._scratch_root = layout.memory / "maintenance", layout.work("memory")
        self._clock, self._cpu_seconds, self._station_id = clock, time.thread_time, "st-1"

    def fill(self) -> None:
        """Before any kill."""
        if not self._store_folder.exists():
            with self._opened() as memory:
                for number, words in enumerate(("rotate the logs", "clean the disk")):
                    memory.record(_experience(number, words, self._clock.now()))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Memory]:
        embedder = LengthEmbedder()
        self._store_folder.mkdir(exist_ok=True)
        audit = Audit(self._store_folder / "audit.jsonl", self._clock, "memory")
        store, index = Store(self._store_folder / "m.sqlite", durable=False), ExactIndex(embedder.dimension)
        memory = Memory(store=store, embedder=embedder, index=index, clock=self._clock, audit=audit)
        try:
            yield memory
        finally:
            memory.close()

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        with self._opened() as self._memory:
            index = self._memory.shelf.index
            right = index.keys()
            if self._off:
                index.add([999], np.ones((1, 4), dtype=np.float32))
            outcome = super().perform(task, scratch, effects)
            if not right or index.keys() != right:
                raise RuntimeError(f"the index holds {index.keys()}, the store {right}")
            return outcome


def _experience(number: int, objective: str, at: datetime) -> Experience:
    return Experience(
        id=f"e-{number}", station_id="st-1", namespace="default", origin="cbo", kind="task", objective=objective,
        domain="cleanup", procedure="scratch", task_id=f"t-{number}", pulse_id="bp-000000001", occurred_at=at,
        outcome=Result.SUCCESS,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One task of a sequence. `watched`: a program's; its folders' times come back, too."""

    name: str
    watched: bool
    run: Callable[[Journal, str], None]


class World:
    """`data` may be changed; `outside` and whatever a step does not name are bystanders."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root, self.chance, self.clock = root, chance, VirtualClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.data, self.scratch, self.outside = root / "data", root / "scratch", root / "outside"
        self.logs, self.work, self.out = self.data / "logs", self.data / "work", self.data / "out"
        self.station = self.data / "station"
        for folder in (self.data, self.scratch, self.outside, self.logs, self.work / "agent" / "old", self.out):
            folder.mkdir(parents=True, exist_ok=True)
        self.capacity = root / "outside" / "capacity.csv"
        self.cells = Cells(self.data / "cells", chance)
        self._fill()

    def _fill(self) -> None:
        for number, name in enumerate(NAMES):
            self.file(self.logs / name, self.text(), mode=self.chance.choice((0o600, 0o640, 0o644)))
            if number < 2:
                self.file(self.work / "agent" / "old" / f"part{number}", self.text())
        self.file(self.data / "bystander", b"not mine", 0o444)
        self.file(self.outside / "other", b"not mine either", 0o400)
        self.file(self.out / "older.json", b"{}")
        for name in ("reports/exports/old.zip", "reports/exports/older.zip", "memory/backups/experience-1.sqlite"):
            self.file(self.station / name, self.text())
        (self.data / "link").symlink_to("bystander")
        (self.data / "twin").hardlink_to(self.data / "logs" / "a.log") if self.chance.random() < 0.3 else None
        head = "slot_start," + ",".join(f"{metric}_mean,{metric}_max" for metric in METRICS)
        rows = [f"2020-01-0{day}T00:0{minute}:00Z" + ",1.5,2.5" * len(METRICS) for day in (1, 2) for minute in (0, 5)]
        self.capacity.write_text("\n".join([head, *rows]) + "\n")
        if self.chance.random() < 0.5:
            self.file(self.out / "2020-01-01.json", b"{}\n", 0o600)
        self._configure()

    def _configure(self) -> None:
        """A station's configuration, kept as a good generation and then meddled with; a record of the index or none."""
        config, places = self.station / "config", ("policy.yaml", "ladder.json", "paths.json")
        for name in places:
            self.file(config / name, self.text(), 0o600)
        Generations(Layout(self.station), self.outside / "deploy").found("2020-01-01T00:00:00.000000Z")
        for name in places:
            how = self.chance.choice(("", "bytes", "gone", "mode"))
            if how == "bytes":
                self.file(config / name, self.text())
            elif how == "gone":
                (config / name).unlink()
            elif how == "mode":
                (config / name).chmod(0o640)
        self.index_off = self.chance.random() < 0.5
        if self.chance.random() < 0.5:
            self.file(self.station / "memory" / "maintenance" / "index.json", b"{}\n", 0o600)

    def file(self, path: Path, data: bytes, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        if os.geteuid() == 0 and self.chance.random() < 0.3:
            os.chown(path, self.chance.randrange(3), self.chance.randrange(3))
        os.utime(path, ns=(OLD, OLD + self.chance.randrange(10**9)))
        return path

    def text(self) -> bytes:
        return b"".join(b"line %d\n" % self.chance.randrange(100) for _ in range(self.chance.randrange(1, 30)))

    def boot(self, fault: Callable[[str], None] = lambda _step: None) -> Journal:
        return Journal(self.root / "journal", self.clock, consent_within([self.data]), fault)

    def made(self) -> Path:
        path = self.scratch / f"made-{self.chance.randrange(10**12)}"
        path.write_bytes(self.text())
        return path

    # --- what a sequence is made of ---------------------------------------------------------------------------

    def steps(self, count: int) -> list[Step]:
        kinds = (self._procedure, self._procedure, self._effects, self._program, self._cells)
        return [self.chance.choice(kinds)() for _ in range(count)]

    def works(self) -> list[tuple[Work, str, dict[str, str]]]:
        rotation = LogRotation(
            default_folder=self.logs, roots=lambda: [self.data], holders=NobodyWrites(), clock=self.clock,
            cpu_seconds=time.thread_time,
        )  # fmt: skip
        cleanup = Cleanup(
            work=self.work, live=lambda _task: False, clock=self.clock,
            modified=lambda path: datetime.fromtimestamp(path.lstat().st_mtime, UTC),
        )  # fmt: skip
        summary = MetricsSummary(
            Sources(capacity=self.capacity, pulses=self.outside / "pulses", out=self.out), time.thread_time
        )
        disk = DiskCleanup(
            layout=Layout(self.station), scratch_root=self.data, clock=self.clock,
            modified=lambda path: datetime.fromtimestamp(path.lstat().st_mtime, UTC),
        )  # fmt: skip
        diagnostics = Diagnostics(
            Layout(self.root / "station"), self.clock, Idle(), self._overview, lambda: (True, ""), "st-1",
            file_seconds=lambda _path: None,
        )  # fmt: skip
        drift = ConfigDrift(
            layout=Layout(self.station), deploy=self.outside / "deploy", clock=self.clock, cpu_seconds=time.thread_time
        )
        index = ReopenedIndex(self.root / "memory", self.station, self.clock, self.index_off)
        found: list[tuple[Work, str, dict[str, str]]] = [(rotation, name, {"min_bytes": "1"}) for name in CODECS]
        found += [(cleanup, name, {"max_age_seconds": "0"}) for name in cleanup.procedures]
        found += [(summary, name, {}) for name in summary.procedures]
        found += [(disk, name, {"keep_backups": "3"}) for name in disk.procedures]
        found += [(diagnostics, name, {"folder": str(self.out)}) for name in diagnostics.procedures]
        found += [(index, name, {}) for name in index.procedures]
        found += [(drift, name, {"files": "config/paths.json"}) for name in drift.procedures]
        found += [(self.cells, name, {}) for name in self.cells.procedures]
        return [*found, (drift, "strict", {"accept": "yes"})]

    def _overview(self) -> Overview:
        return Overview(services=(), slots=(), slots_from=self.clock.now(), quarantined=())

    def _procedure(self) -> Step:
        """Each kind of work as often as any other, however many procedures it has."""
        works = self.works()
        domain = self.chance.choice(sorted({work.domain for work, _, _ in works}))
        return self.procedure(self.chance.choice([n for n, (work, _, _) in enumerate(works) if work.domain == domain]))

    def _cells(self) -> Step:
        works = self.works()
        return self.procedure(self.chance.choice([n for n, (work, _, _) in enumerate(works) if work is self.cells]))

    def procedure(self, number: int) -> Step:
        work, procedure, params = self.works()[number]
        if isinstance(work, ReopenedIndex | Cells):
            work.fill()

        def run(journal: Journal, task_id: str) -> None:
            self.clock.advance(60)
            made = self.clock.now()
            task = Manifest(
                station_id="st-1", task_id=TaskId(task_id), owner="agent", issuer="cbo", domain=work.domain,
                procedure=procedure, created_at=made, expires_at=made + timedelta(hours=1), ttl_seconds=3600,
                params=params, level="EXECUTE",
            )  # fmt: skip
            scratch = self.scratch / task_id
            scratch.mkdir()
            try:
                with journal.session(task_id, 1, lambda: None) as effects:
                    work.perform(task, scratch, effects)
                    effects.finish({})
            except CalyxError:
                # A program of the sequence made a folder or a link of its target: answered as the worker does.
                if work.domain not in ("config_drift", "index_maintenance"):
                    raise
                if journal.can_undo(task_id)[0]:
                    journal.undo(task_id)

        return Step(f"{work.domain}/{procedure}", False, run)

    def _effects(self) -> Step:
        def run(journal: Journal, task_id: str) -> None:
            with journal.session(task_id, 1, lambda: None) as effects:
                for _ in range(self.chance.randrange(1, 6)):
                    self._effect(effects)
                effects.finish({})

        return Step("effects", False, run)

    def _effect(self, effects: Session) -> None:
        chance = self.chance
        plain = [
            path for path in sorted(self.data.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.lstat().st_nlink == 1 and "cells" not in path.parts
        ]  # fmt: skip
        op, tag = chance.choice(("create", "replace", "remove", "squeeze", "rotate")), chance.randrange(10**9)
        if op == "create" or not plain:
            effects.create(self.data / chance.choice((".", f"deep{tag}/er")) / f"n\n{tag}", self.made())
            return
        target = chance.choice(plain)
        if op == "replace":
            effects.replace(target, self.made())
        elif op == "remove":
            effects.remove(target)
        elif op == "rotate":
            effects.rotate(target, target.with_name(f"{target.name}.{tag}"))
        else:
            codec = chance.choice(sorted(PACK))
            packed, made = target.with_name(f"{target.name}.{tag}.{codec}"), self.made()
            made.write_bytes(PACK[codec](target.read_bytes()))
            effects.create(packed, made)
            effects.remove(target, inverse={"kind": "decompress", "codec": codec, "source": str(packed)})

    def _program(self) -> Step:
        def run(journal: Journal, task_id: str) -> None:
            with journal.watch(task_id, 1, [self.data]) as watch:
                for _ in range(self.chance.randrange(1, 9)):
                    misdeed(self.data, self.chance)
                watch.settle()
                watch.finish({})

        return Step("program", True, run)


DEEDS = (
    "write", "append", "truncate", "sparse", "remove", "mkdir", "rmtree", "chmod", "chown", "touch", "symlink",
    "relink", "rename", "over", "hard", "unhard", "lock", "xattr", "kind",
)  # fmt: skip


def misdeed(data: Path, chance: random.Random) -> None:
    """One thing that a program may do below a folder."""
    every = [
        path for path in sorted(data.rglob("*"))
        if not path.parent.is_symlink() and "cells" not in path.relative_to(data).parts
    ]  # fmt: skip
    files = [path for path in every if path.is_file() and not path.is_symlink()]
    folders = [data, *(path for path in every if path.is_dir() and not path.is_symlink())]
    links = [path for path in every if path.is_symlink()]
    deed, into, tag = chance.choice(DEEDS), chance.choice(folders), chance.randrange(10**9)
    any_one, one = chance.choice(every or [data]), chance.choice(files) if files else None
    with contextlib.suppress(PermissionError):  # it may have locked itself out, unless it is root
        if deed == "write":
            (into / f"w\n{tag}").write_bytes(chance.randbytes(20))
        elif deed == "append" and one:
            with one.open("ab") as file:
                file.write(b"more")
        elif deed == "truncate" and one:
            os.truncate(one, chance.randrange(10))
        elif deed == "sparse" and one:
            os.truncate(one, 1 << 16)
        elif deed == "remove" and files and one:
            one.unlink()
        elif deed == "mkdir":
            (into / f"d{tag}").mkdir()
        elif deed == "rmtree" and len(folders) > 1:
            shutil.rmtree(chance.choice(folders[1:]))
        elif deed == "chmod" and not any_one.is_symlink():
            any_one.chmod(chance.choice((0o600, 0o755, 0o711)) | (0o100 if any_one.is_dir() else 0))
        elif deed == "chown" and os.geteuid() == 0:
            os.chown(any_one, chance.randrange(4), chance.randrange(4), follow_symlinks=False)
        elif deed == "touch":
            os.utime(any_one, ns=(1, tag), follow_symlinks=False)
        elif deed == "symlink":
            (into / f"l{tag}").symlink_to(chance.choice(("nowhere", str(data), "..", "a\nb")))
        elif deed == "relink" and links:
            link = chance.choice(links)
            link.unlink()
            link.symlink_to("elsewhere")
        elif deed == "rename" and any_one != data and not into.is_relative_to(any_one):
            any_one.rename(into / f"r{tag}")
        elif deed == "over" and len(files) > 1 and one:
            one.replace(chance.choice(files))
        elif deed == "hard" and one:
            (into / f"h{tag}").hardlink_to(one)
        elif deed == "unhard":
            twins = [path for path in files if path.lstat().st_nlink > 1]
            if twins:
                chance.choice(twins).unlink()
        elif deed == "lock" and into != data:
            into.chmod(0o500)
        elif deed == "xattr" and one:
            with contextlib.suppress(OSError):
                os.setxattr(one, "user.calyx", b"%d" % tag)
        elif deed == "kind" and one:
            one.unlink()
            chance.choice((Path.mkdir, lambda path: path.symlink_to("..")))(one)
