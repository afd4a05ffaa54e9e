"""Cut the power under a busy exchange, again and again, and count what had been promised and is gone.

    python bench/powercut.py [--cuts 20] [--seed 1] [--plant file|folder]      (as root: it mounts loop devices)

The exchange lies in an ext4 image on a loop device. At a seeded moment its processes are stopped and the image is
copied without any sync: what the kernel had not yet sent to the device is not in the copy. The copy is mounted,
its journal replayed, and compared with every submit and ack that had returned before the moment. `--plant` leaves
out the fsyncs of files or of folders, to see that it is noticed. Exits 1 when a promise was broken.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from chassis.clock import SystemClock  # noqa: E402  (the path comes first)
from chassis.exchange import commits  # noqa: E402
from chassis.exchange.files import FilesExchange  # noqa: E402
from chassis.exchange.grants import Signer, Verifier, generate_key  # noqa: E402
from chassis.exchange.manifest import Ack, Manifest, TaskId  # noqa: E402
from chassis.exchange.port import Claim  # noqa: E402
from chassis.killswitch import KillSwitch  # noqa: E402

POOL = "pool"
IMAGE_BYTES = 512 << 20
"""Sparse; room for all that 20 cuts' time can submit."""
MAKES = {"ext4": ("mkfs.ext4", "-q", "-F", "-i", "4096", "-J", "size=16"), "xfs": ("mkfs.xfs", "-q", "-f")}
MOUNTED = {"ext4": "commit=300", "xfs": "nouuid"}
"""XFS writes its log of itself every 30 s only; a copy has the original's number."""
clock = SystemClock()


def exchange(root: Path, keys: Path) -> FilesExchange:
    return FilesExchange(root / "svf", clock, Verifier.load(keys / "grant.pub").valid, KillSwitch(root / "flag"), 60)


def objective(task_id: str) -> str:
    """Long enough for a page of its own, and known from the id alone."""
    return f"the whole of {task_id}: " + task_id * 40


def task(task_id: str, signer: Signer) -> Manifest:
    made = clock.now()
    return signer.sign(
        Manifest(
            station_id="st", task_id=TaskId(task_id), owner=POOL, issuer="cbo", domain="cut", procedure="p",
            objective=objective(task_id), created_at=made, expires_at=made + timedelta(days=1), ttl_seconds=86400,
            max_attempts=1000,
        )
    )  # fmt: skip


def answer(claim: Claim, detail: str) -> Ack:
    made = clock.now()
    return Ack(
        task_id=claim.manifest.task_id, epoch=claim.epoch, agent=POOL, status="done", started_at=made, ended_at=made,
        duration_seconds=0.0, detail=detail,
    )  # fmt: skip


# What runs on the doomed disk


class Promises:
    """What was promised, written where no power is cut. After SIGUSR1 the process stops right after the next one."""

    def __init__(self, folder: Path, name: str) -> None:
        self._stop = ""
        signal.signal(signal.SIGUSR1, lambda *_: self._arm("submit"))
        signal.signal(signal.SIGUSR2, lambda *_: self._arm("ack"))
        self._fd = os.open(folder / f"{name}.promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _arm(self, kind: str) -> None:
        self._stop = kind

    def keep(self, kind: str, task_id: str, detail: str = "-") -> None:
        os.write(self._fd, f"{kind} {task_id} {detail}\n".encode())
        if self._stop == kind:
            self._stop = ""
            os.kill(os.getpid(), signal.SIGSTOP)


def play(role: str, disk: Path, keys: Path) -> None:
    """`solo` submits and acks one task after another; `submitter` and `worker-<n>` share the work."""
    folder, promises, signer = exchange(disk, keys), Promises(keys, role), Signer.load(keys / "grant.key")
    worker, number, rng = folder.join(POOL), 0, random.Random(role)
    while True:
        if role in ("solo", "submitter"):
            size = 1 if role == "solo" else rng.choice([1, 1, 10])
            while role == "submitter" and folder.depth()["ready"] > 50:
                time.sleep(0.001)
            batch = [task(f"{role}-{number + n:06d}", signer) for n in range(size)]
            number += size
            for each, told in zip(batch, folder.submit_many(batch), strict=True):
                if isinstance(told, Exception):
                    raise told
                promises.keep("submit", each.task_id)
        if role != "submitter":
            for claim in folder.claim(POOL, worker, 1 if role == "solo" else rng.randint(1, 4)):
                detail = f"{claim.manifest.task_id}/{claim.epoch}/{worker}"
                folder.ack(claim, answer(claim, detail))
                promises.keep("ack", claim.manifest.task_id, detail)


def plant(bug: str) -> None:
    """Leave out the fsyncs of one kind in this process. No log gets full: its syncfs would make up for them all."""
    if bug:
        commits.SEGMENT_BYTES = 16 << 20
        is_it = {"file": stat.S_ISREG, "folder": stat.S_ISDIR}[bug]
        for name in ("fsync", "fdatasync"):
            real = getattr(os, name)
            setattr(os, name, lambda fd, real=real: None if is_it(os.fstat(fd).st_mode) else real(fd))


# The driver


@dataclass(slots=True)
class Loss:
    """What one cut broke; empty lists: nothing."""

    tasks: list[str] = field(default_factory=list)
    acks: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """Handed out once more although their ack had been promised."""
    promised: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0

    @property
    def faults(self) -> list[str]:
        return [
            f"{kind}: {each}"
            for kind, of in (("task", self.tasks), ("ack", self.acks), ("torn", self.torn), ("again", self.again))
            for each in of
        ]


def why_not(folder: Path, kind: str = "ext4") -> str:
    """Why no power can be cut here; empty if it can."""
    if os.geteuid() != 0:
        return "loop mounts need root"
    if not shutil.which(f"mkfs.{kind}") or not shutil.which("mount"):
        return f"there is no mkfs.{kind} or mount"
    try:
        with disk(folder / "trial", kind):
            return ""
    except (subprocess.CalledProcessError, OSError) as error:
        told = getattr(error, "stderr", b"") or str(error).encode()
        return f"loop mounts are not allowed here: {told.decode(errors='replace').strip()}"


@contextlib.contextmanager
def mounted(image: Path, kind: str = "ext4") -> Iterator[Path]:
    """Mounted with a commit interval so long that the timer never does what an fsync should have done."""
    point = image.with_suffix(".mnt")
    point.mkdir()
    _run("mount", "-o", f"loop,{MOUNTED[kind]}", str(image), str(point))
    try:
        yield point
    finally:
        _run("umount", "--lazy", str(point))  # whoever failed in it may still have a file open
        point.rmdir()


@contextlib.contextmanager
def disk(folder: Path, kind: str = "ext4", size: int = IMAGE_BYTES) -> Iterator[Path]:
    folder.mkdir()
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(size)
    _run(*MAKES[kind], str(image))
    with mounted(image, kind) as point:
        yield point
    image.unlink()


def snapshot(copies: Mapping[Path, Path]) -> None:
    """Each image's copy, all as they were at one moment. Whoever syncs the whole machine meanwhile (another bench) has
    parts of them written: so they are compared afterwards, and copied anew if they differ."""
    for _ in range(20):
        for image, copy in copies.items():
            _run("dd", f"if={image}", f"of={copy}", "bs=1M", "conv=sparse", "status=none")
        same = [subprocess.run(["cmp", "--silent", *pair], check=False).returncode for pair in copies.items()]
        if not any(same):
            return
    raise RuntimeError("somebody goes on writing to what was to be copied as it was at one moment")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def power_cuts(folder: Path, cuts: int, seed: int, bug: str = "") -> list[Loss]:
    """Run, cut, compare, go on. With a planted bug one process works alone: nobody else's fsync helps it out."""
    keys = folder / "keys"
    keys.mkdir(parents=True)
    generate_key(keys / "grant.key", keys / "grant.pub")
    rng, losses = random.Random(seed), []
    roles = ["solo"] if bug else ["submitter", "worker-1", "worker-2"]
    with disk(folder / "disk") as point, contextlib.ExitStack() as stack:
        exchange(point, keys)
        commits.sync_file_system(point)  # this disk's alone: a sync of all would save another run's planted losses
        children = [
            stack.enter_context(_child(role, point, keys, bug))
            for role in roles
        ]  # fmt: skip
        while not all((keys / f"{role}.promises").exists() for role in roles):
            time.sleep(0.01)
        for n in range(cuts):
            time.sleep(rng.uniform(0.05, 0.25))
            for child in children:  # each cut falls right after a promise, or anywhere
                armed = signal.SIGUSR1 if n % 2 == 0 else signal.SIGUSR2
                if child is children[n % len(children)] or bug:
                    child.send_signal(armed)
            _wait_for_one(children, 30.0 if bug else 0.3)  # alone it does stop; of several, one may never do that
            for child in children:
                child.send_signal(signal.SIGSTOP)
            for child in children:
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            promised = [line.split(" ") for role in roles for line in _lines(keys / f"{role}.promises")]
            snapshot({folder / "disk" / "disk.img": folder / "cut.img"})
            with mounted(folder / "cut.img") as copy:
                losses.append(compare(copy, keys, promised))
            (folder / "cut.img").unlink()
            for child in children:
                child.send_signal(signal.SIGCONT)
    return losses


def _wait_for_one(children: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until an armed process has stopped itself; for so long at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for child in children:
            if os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None:
                return
        time.sleep(0.001)


@contextlib.contextmanager
def _child(role: str, point: Path, keys: Path, bug: str) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: the kernel wakes the stopped ones of a process group whose shell goes away.
    child = subprocess.Popen(
        [sys.executable, __file__, "--role", role, str(point), str(keys), bug or "-"], start_new_session=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def compare(copy: Path, keys: Path, promised: list[list[str]]) -> Loss:
    """What a station finds that starts on this disk, beside what had been promised."""
    loss = Loss(promised=Counter(kind for kind, *_ in promised))
    before = exchange(copy, keys)
    worker = before.join(POOL)
    acked = {task_id: detail for kind, task_id, detail in promised if kind == "ack"}
    for kind, task_id, detail in promised:
        view = before.get(TaskId(task_id))
        if kind == "submit" and view.state not in ("ready", "claimed", "waiting", "done"):
            loss.tasks.append(f"{task_id} is {view.state}: {view.reason}")
        if view.manifest is not None and view.manifest.objective != objective(task_id):
            loss.torn.append(f"{task_id} has another manifest")
        if kind == "ack" and (view.ack is None or view.ack.detail != detail):
            loss.acks.append(f"{task_id} is {view.state}: {view.reason}")
    before.sweep()
    while claims := before.claim(POOL, worker, 50):
        for claim in claims:
            name = claim.manifest.task_id
            if name in acked:
                loss.again.append(name)
            if claim.manifest.objective != objective(name):
                loss.torn.append(f"{name} was handed out with another manifest")
            before.ack(claim, answer(claim, "after the cut"))
    loss.tasks += [
        f"{task_id} was never answered"
        for kind, task_id, _ in promised
        if kind == "submit" and before.get(TaskId(task_id)).state != "done"
    ]
    before.leave(worker)
    svf = copy / "svf"
    loss.set_aside = sum(not each.name.endswith(".json") for each in (svf / "dead").iterdir())
    for each in svf.rglob("*"):
        apart = each.relative_to(svf).parts[0] in ("dead", "tmp", "workers")
        if not apart and each.is_file() and each.suffix in (".done", ".json", ".ready") and not each.stat().st_size:
            loss.torn.append(f"{each.relative_to(svf)} is empty")
    return loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", default="", choices=["", "file", "folder"])
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, point, keys, bug = options.role
        plant("" if bug == "-" else bug)
        play(role, Path(point), Path(keys))
    with tempfile.TemporaryDirectory(prefix="calyx-cut-") as root:
        if reason := why_not(Path(root)):
            print(f"no power can be cut here: {reason}")
            return 2
        losses = power_cuts(Path(root) / "run", options.cuts, options.seed, options.plant)
    kinds = {kind: sum(len(getattr(loss, kind)) for loss in losses) for kind in ("tasks", "acks", "torn", "again")}
    promised = losses[-1].promised
    print(
        f"{len(losses)} cuts, seed {options.seed}; at the last one {promised['submit']} submits and {promised['ack']} "
        f"acks had been promised; {sum(loss.set_aside for loss in losses)} unusable files were set aside"
    )
    print(f"  lost tasks {kinds['tasks']}  lost acks {kinds['acks']}  torn {kinds['torn']}  twice {kinds['again']}")
    for fault in [fault for loss in losses for fault in loss.faults][:20]:
        print(" ", fault)
    return 1 if any(kinds.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
