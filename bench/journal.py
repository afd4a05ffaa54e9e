"""What the journal costs: the same work with it and without, side by side.

    python bench/journal.py [--size 16M] [--rounds 5] [--changes 200] [--procedures gzip-6 …]
        [--folder DIR] [--json]
    python bench/journal.py --hostile
    python bench/journal.py --size 1G --rounds 3          (the figures of the acceptance; half an hour for xz)

Rotating logs with each procedure of `log_rotation`, by the domain's own code; either way each archive is decompressed
once and hashed before its log is removed. And one task with one durable change of a 10 KiB file, against the same
durable change by hand. Rounds are interleaved; medians. Exits 1 when a bound is missed: 15 % with gzip and xz, 50 %
with zstd, 3 ms a change.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "protos" / "gen")]

from chassis.atomic import fsync_dir  # noqa: E402 — the path comes first
from chassis.canonical import Json  # noqa: E402
from chassis.clock import SystemClock  # noqa: E402
from chassis.errors import ResourceExhausted  # noqa: E402
from chassis.exchange.manifest import Manifest, TaskId  # noqa: E402
from chassis.journal import Journal, consent_within  # noqa: E402
from chassis.journal.inverse import inverted_sha256  # noqa: E402
from chassis.journal.survey import Bounds  # noqa: E402
from services.governor.codecs import PROCEDURES  # noqa: E402
from services.governor.holders import Holding  # noqa: E402
from services.governor.log_rotation import LogRotation  # noqa: E402

FILES, CHANGE_BYTES = 8, 10 * 1024
BOUND_PERCENT = {"gzip": 15.0, "xz": 15.0, "zstd": 50.0}
BOUND_MS = 3.0
clock = SystemClock()


class Plain:
    """The same changes, durable, but with no way back."""

    def create(self, target: Path, source: Path, *, mode: int = 0o644) -> None:
        source.chmod(mode)
        _sync(source)
        source.rename(target)
        fsync_dir(target.parent)

    def replace(self, target: Path, source: Path, *, expect_sha256: str | None = None) -> None:
        if expect_sha256 is not None and hashlib.sha256(target.read_bytes()).hexdigest() != expect_sha256:
            raise AssertionError(target)
        self.create(target, source, mode=target.stat().st_mode & 0o7777)

    def remove(self, target: Path, *, inverse: Json | None = None) -> None:
        if inverse is not None:
            inverted_sha256(inverse["codec"], Path(inverse["source"]))  # as one must who removes the only copy
        target.unlink()
        fsync_dir(target.parent)

    def rotate(self, target: Path, to: Path) -> None:
        found = target.stat()
        target.rename(to)
        target.touch(mode=found.st_mode & 0o7777)
        os.chown(target, found.st_uid, found.st_gid)
        fsync_dir(target.parent)


class NobodyWrites:
    def writers(self, path: Path) -> Holding:
        return Holding(state="free")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def log_text(size: int, seed: int) -> Iterator[bytes]:
    """Lines as a web service writes them; gzip makes about a seventh of them."""
    chance, left, second = random.Random(seed), size, 0
    paths = [f"/api/v1/{chance.choice(('users', 'orders', 'items'))}/{chance.randrange(10**6)}" for _ in range(5000)]
    while left > 0:
        second += 1
        part = "".join(
            f"2026-11-23T08:{second // 60 % 60:02d}:{second % 60:02d}.{chance.randrange(10**6):06d}Z INFO request "
            f"id={chance.getrandbits(64):016x} path={chance.choice(paths)} "
            f"status={chance.choice((200, 200, 200, 404, 500))} ms={chance.expovariate(0.02):.1f}\n"
            for _ in range(2000)
        ).encode()[:left]
        left -= len(part)
        yield part


def rotation(folder: Path) -> LogRotation:
    return LogRotation(
        default_folder=folder, roots=lambda: [folder], holders=NobodyWrites(), clock=clock,
        cpu_seconds=time.process_time,
    )  # fmt: skip


def task(procedure: str, number: int) -> Manifest:
    now = clock.now()
    return Manifest(
        station_id="bench", task_id=TaskId(f"t{number}"), owner="bench", issuer="bench", domain="log_rotation",
        procedure=procedure, created_at=now, expires_at=now + timedelta(hours=1), ttl_seconds=3600,
        params={"min_bytes": "1"}, level="EXECUTE",
    )  # fmt: skip


@contextmanager
def effects(journal: Journal | None, task_id: str) -> Iterator[Any]:
    if journal is None:
        yield Plain()
        return
    with journal.session(task_id, 1, lambda: None) as session:
        yield session
        session.finish({})


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    began, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - began, time.process_time() - cpu


def rotate(root: Path, logs: Path, procedure: str, number: int, journaled: bool) -> tuple[float, float]:
    folder, scratch = root / "data" / f"r{number}", root / "scratch" / f"r{number}"
    scratch.mkdir(parents=True)
    shutil.copytree(logs, folder)
    os.sync()
    journal = Journal(root / "journal", clock, consent_within([root / "data"])) if journaled else None

    def act() -> None:
        with effects(journal, f"t{number}") as doing:
            rotation(folder).perform(task(procedure, number), scratch, doing)

    spent = timed(act)
    if journal is not None:
        journal.undo(f"t{number}")
        if {path.name for path in folder.iterdir()} != {path.name for path in logs.iterdir()}:
            raise AssertionError("the undo left something else")
    shutil.rmtree(folder)
    return spent


def change(root: Path, number: int, journal: Journal | None) -> tuple[float, float]:
    target, source = root / "data" / f"c{number}", root / "scratch" / f"c{number}"
    target.write_bytes(os.urandom(CHANGE_BYTES))
    source.write_bytes(os.urandom(CHANGE_BYTES))
    _sync(target)
    expected = hashlib.sha256(target.read_bytes()).hexdigest()

    def act() -> None:
        with effects(journal, f"c{number}") as doing:
            doing.replace(target, source, expect_sha256=expected)

    return timed(act)


def run(root: Path, size: int, rounds: int, changes: int, procedures: list[str]) -> dict[str, Any]:
    logs = root / "logs"
    for name in ("logs", "data", "scratch"):
        (root / name).mkdir()
    for number in range(FILES):
        with (logs / f"app{number}.log").open("wb") as log:
            log.writelines(log_text(size // FILES, number))
    found: dict[str, Any] = {"size_bytes": size, "rounds": rounds, "changes": changes, "rotation": {}}
    number = 0
    for procedure in procedures:
        with_it, without = [], []
        for _ in range(rounds):
            for journaled in (False, True):
                number += 1
                (with_it if journaled else without).append(rotate(root, logs, procedure, number, journaled))
        wall, base = (statistics.median(each[0] for each in some) for some in (with_it, without))
        cpu, base_cpu = (statistics.median(each[1] for each in some) for some in (with_it, without))
        found["rotation"][procedure] = {
            "seconds": round(wall, 3), "without": round(base, 3), "added_percent": round(100 * (wall / base - 1), 1),
            "cpu_added_percent": round(100 * (cpu / base_cpu - 1), 1),
            "bound_percent": BOUND_PERCENT[PROCEDURES[procedure].name],
        }  # fmt: skip
    if not changes:
        return {**found, "missed": _missed(found)}
    journal = Journal(root / "journal", clock, consent_within([root / "data"]))
    ours, plain = [], []
    for number in range(changes):
        ours.append(change(root, 2 * number, journal)[0] * 1e3)
        plain.append(change(root, 2 * number + 1, None)[0] * 1e3)
    added = statistics.median(ours) - statistics.median(plain)
    found["change_10_kib"] = {
        "ms": round(statistics.median(ours), 2), "without": round(statistics.median(plain), 2),
        "added_ms": round(added, 2), "p90_ms": round(sorted(ours)[len(ours) * 9 // 10], 2),
        "p90_without": round(sorted(plain)[len(plain) * 9 // 10], 2), "bound_ms": BOUND_MS,
    }  # fmt: skip
    return {**found, "missed": [*_missed(found), *(["change_10_kib"] if added > BOUND_MS else [])]}


def _missed(found: dict[str, Any]) -> list[str]:
    return [name for name, each in found["rotation"].items() if each["added_percent"] > each["bound_percent"]]


def hostile(root: Path) -> dict[str, float | str]:
    """Seconds of what is big without being much: a sparse file of 10 GiB, and 100,000 small files."""
    data = root / "data"
    data.mkdir()
    journal, found = Journal(root / "journal", clock, consent_within([data])), dict[str, float | str]()
    disk = data / "disk.img"
    with disk.open("wb") as file:
        file.truncate(10 * 2**30)
        file.seek(5 * 2**30)
        file.write(b"the only bytes")

    def remove() -> None:
        with journal.session("sparse", 1, lambda: None) as doing:
            doing.remove(disk)
            doing.finish({})

    found["sparse_10_gib_removed_s"] = round(timed(remove)[0], 2)
    found["sparse_10_gib_undone_s"] = round(timed(lambda: journal.undo("sparse"))[0], 2)
    found["sparse_10_gib_on_the_disk_bytes"] = disk.stat().st_blocks * 512
    disk.unlink()
    many = data / "many"
    many.mkdir()
    for number in range(100_000):
        (many / f"f{number}").write_bytes(b"%d" % number)

    def refused() -> None:
        try:
            with journal.watch("refused", 1, [many]):
                raise AssertionError("more than the bound, and it began")
        except ResourceExhausted as error:
            found["files_100000_refused"] = error.message.replace(str(root), "")

    found["files_100000_refused_s"] = round(timed(refused)[0], 2)

    def kept() -> None:
        with journal.watch("kept", 1, [many], Bounds(files=200_000)) as seen:
            for number in range(0, 100_000, 100):
                (many / f"f{number}").write_bytes(b"changed")
            seen.settle()
            seen.finish({})

    found["files_100000_kept_1000_changed_s"] = round(timed(kept)[0], 2)
    found["files_1000_undone_s"] = round(timed(lambda: journal.undo("kept"))[0], 2)
    if any((many / f"f{number}").read_bytes() != b"%d" % number for number in range(100_000)):
        raise AssertionError("the undo left something else")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="16M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--procedures", nargs="*", default=list(PROCEDURES), choices=list(PROCEDURES))
    parser.add_argument("--folder", help="on the disk that is asked about (default: the temporary folder)")
    parser.add_argument("--hostile", action="store_true", help="instead: a sparse file of 10 GiB, 100,000 files")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    size = int(given.size[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[given.size[-1]]
    with tempfile.TemporaryDirectory(prefix="calyx-journal-", dir=given.folder) as folder:
        if given.hostile:
            print(json.dumps(hostile(Path(folder)), indent=2))
            return 0
        found = run(Path(folder), size, given.rounds, given.changes, given.procedures)
    if given.json:
        print(json.dumps(found))
        return 1 if found["missed"] else 0
    print(f"{size / 2**20:.0f} MiB in {FILES} logs, medians of {given.rounds}; {given.changes} changes")
    for name, each in found["rotation"].items():
        print(
            f"  {name:8} {each['without']:8.2f} s, with the journal {each['seconds']:8.2f} s: "
            f"+{each['added_percent']:.1f} % (CPU +{each['cpu_added_percent']:.1f} %), "
            f"at most {each['bound_percent']:.0f} %"
        )
    if each := found.get("change_10_kib"):
        print(
            f"  a change {each['without']:8.2f} ms, with the journal {each['ms']:8.2f} ms: +{each['added_ms']:.2f} ms, "
            f"at most {each['bound_ms']:.0f} ms (p90 {each['p90_without']:.2f} and {each['p90_ms']:.2f} ms)"
        )
    return 1 if found["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
