"""Cut the power under a busy journal, again and again: is every task whole, undone, or undoable to the byte?

    python bench/journal_cuts.py [--cuts 20] [--seed 1] [--disk ext4|xfs] [--apart] [--plant file|folder|pre]

By the method of `bench/powercut.py` (as root: it mounts loop devices). Two players do and undo tasks by chance: single
effects, rotations that are compressed, programs below a watched folder, undos with a way back; others write to the same
folders without any sync. A third process syncs by chance, so that the disk holds now more, now less of it. At a seeded
moment (right after a promise, at a step of the journal, or anywhere) the image is copied. The copy is mounted at the
same place under another boot id, recovered, and its latest tasks are undone one by one. `--apart`: the journal lies on
another disk than what it is for. `--plant` leaves out the syncs of files, of folders, or of what is kept. Exits 1 when
a promise was broken.
"""

import argparse
import contextlib
import ctypes
import gzip
import hashlib
import json
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from bench.powercut import IMAGE_BYTES, disk, snapshot, why_not  # noqa: E402  (the path comes first)
from chassis.clock import SystemClock  # noqa: E402
from chassis.errors import CalyxError  # noqa: E402
from chassis.exchange import commits  # noqa: E402
from chassis.journal import Journal, consent_within, effects  # noqa: E402
from chassis.journal.journal import Session, no_fault  # noqa: E402

Picture = dict[str, list[Any]]
LOOKED_BACK = 12
"""So many of the latest tasks are undone on each copy; of the older ones the state is compared."""
clock = SystemClock()
_libc = ctypes.CDLL(None, use_errno=True)


def is_undo(task: str) -> bool:
    return task.split("-")[1].startswith("u")


def picture(folder: Path) -> Picture:
    """What there is: kind, mode, and of files their time and content."""
    found: Picture = {}
    for path in sorted(folder.rglob("*")):
        info, name = path.lstat(), str(path.relative_to(folder))
        if stat.S_ISREG(info.st_mode):
            text = path.read_bytes()
            shown = text.decode() if name.startswith("log") and text.isascii() else hashlib.sha256(text).hexdigest()
            found[name] = ["file", info.st_mode & 0o7777, info.st_mtime_ns, shown]
        elif stat.S_ISLNK(info.st_mode):
            found[name] = ["link", str(path.readlink())]
        else:
            found[name] = ["folder", info.st_mode & 0o7777]
    return found


# What runs on the doomed disk


class Told:
    """Each beginning and each promise, written where no power is cut. Stops after the next promise or at a step."""

    def __init__(self, safe: Path, role: str) -> None:
        self._fd = os.open(safe / f"{role}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._promise, self._steps, self._chance = False, -1, random.Random(role)
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_promise", True))
        signal.signal(signal.SIGUSR2, lambda *_: setattr(self, "_steps", self._chance.randrange(1, 25)))

    def say(self, what: str, **facts: object) -> None:
        os.write(self._fd, json.dumps({"what": what, **facts}).encode() + b"\n")
        if what == "end" and self._promise:
            self._promise = False
            os.kill(os.getpid(), signal.SIGSTOP)

    def step(self, _name: str) -> None:
        self._steps -= self._steps >= 0
        if self._steps == 0:
            os.kill(os.getpid(), signal.SIGSTOP)


class Player:
    """One folder, in which tasks come and are taken back, the latest first."""

    def __init__(self, role: str, data: Path, kept: Path, safe: Path) -> None:
        self.folder, self.told, self.chance = data / role, Told(safe, role), random.Random(f"{role} plays")
        self.scratch, self.role, self.number = data / f"{role}-scratch", role, 0
        for each in (self.folder, self.scratch):
            each.mkdir()
        self.journal = Journal(kept / "journal", clock, consent_within([self.folder]), self.told.step)
        self.standing: list[str] = []
        self.logs: list[Path] = []

    def play(self) -> None:
        while True:
            for _ in range(self.chance.randrange(3)):
                self.outside()
            turn = self.chance.random()
            if turn < 0.35 and self.standing:
                self.undo()
            elif turn < 0.55 and self.role != "solo":  # it syncs the whole disk, what was left out among it
                self.program()
            else:
                self.session()
            for left in self.scratch.iterdir():
                left.unlink()

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{self.role}-{kind}{self.number}"

    def text(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((30, 3000, 9000, 40000)))

    def outside(self) -> None:
        """Somebody else writes, and syncs nothing: a file of its own, or another line of a log."""
        if self.logs and self.chance.random() < 0.6:
            path, text = self.chance.choice(self.logs), f"line {self.name('l')} " + "x" * self.chance.randrange(3000)
        elif self.chance.random() < 0.3:
            path, text = self.folder / self.name("log").replace(f"{self.role}-", ""), "the first line "
            self.logs.append(path)
        else:
            path = self.folder / self.name("wild")
            self.told.say("outside", path=path.name, text="")
            path.write_bytes(self.text())
            return
        self.told.say("outside", path=path.name, text=text + "\n")
        with path.open("a") as log:
            log.write(text + "\n")

    def files(self) -> list[Path]:
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.name.startswith("log")]

    def made(self) -> Path:
        path = self.scratch / self.name("made")
        path.write_bytes(self.text())
        return path

    def _begin(self, kind: str, task: str, **more: str) -> None:
        self.told.say("begin", kind=kind, task=task, before=picture(self.folder), **more)

    def _end(self, task: str, by: str = "") -> None:
        self.told.say("end", task=task, after=picture(self.folder), by=by)

    def session(self) -> None:
        task = self.name("s")
        self._begin("session", task)
        with self.journal.session(task, 1, lambda: None) as doing:
            for _ in range(self.chance.randrange(1, 4)):
                self.effect(doing)
            doing.finish({"task": task})
        self._end(task)
        self.standing.append(task)

    def effect(self, doing: Session) -> None:
        files, logs = self.files(), self.logs
        op = self.chance.choice(("create", "replace", "replace", "remove", "remove", "rotate", "squeeze"))
        if op in ("rotate", "squeeze") and logs:
            log = self.chance.choice(logs)
            to = log.with_name(self.name("segment").replace(f"{self.role}-", ""))
            doing.rotate(log, to)
            if op == "squeeze":
                packed = self.scratch / "packed"
                packed.write_bytes(gzip.compress(to.read_bytes()))
                doing.create(to.with_name(f"{to.name}.gz"), packed)
                doing.remove(to, inverse={"kind": "decompress", "codec": "gzip", "source": f"{to}.gz"})
        elif op == "create" or not files:
            where = self.folder / self.chance.choice((".", self.name("deep") + "/er"))
            doing.create(where / self.name("c"), self.made())
        elif op == "remove" and len(files) > 8:
            doing.remove(self.chance.choice(files))
        else:
            doing.replace(self.chance.choice(files), self.made())

    def program(self) -> None:
        task = self.name("p")
        self._begin("watch", task)
        with self.journal.watch(task, 1, [self.folder]) as seen:
            for _ in range(self.chance.randrange(1, 6)):
                self.misdeed()
            seen.settle()
            seen.finish({"task": task})
        self._end(task)
        self.standing.append(task)

    def misdeed(self) -> None:
        files, deed = self.files(), self.chance.randrange(8)
        one = self.chance.choice(files) if files else None
        if deed == 0 or one is None:
            (self.folder / self.name("w")).write_bytes(self.text())
        elif deed == 1:
            with one.open("r+b") as file:  # in place, of the same size
                file.write(self.chance.randbytes(min(one.stat().st_size, 5000)))
        elif deed == 2:
            one.write_bytes(self.text())
        elif deed == 3 and len(files) > 8:
            one.unlink()
        elif deed == 4:
            (self.folder / self.name("d")).mkdir()
        elif deed == 5:
            folders = [path for path in sorted(self.folder.rglob("*")) if path.is_dir()]
            one.rename(self.chance.choice([self.folder, *folders]) / self.name("r"))
        elif deed == 6:
            one.chmod(self.chance.choice((0o600, 0o640, 0o444)))
        else:
            (self.folder / self.name("ln")).symlink_to("nowhere")

    def undo(self) -> None:
        of, by = self.standing.pop(), self.name("u") if self.chance.random() < 0.4 else ""
        self._begin("undo", self.name("undo"), of=of, by=by)
        done = self.journal.undo(of, by=by)
        self._end(of, by if done.redoable else "")
        if is_undo(of):
            self.standing.clear()  # what it had taken back is there again: what came before that is covered
        if done.redoable:
            self.standing.append(by)
            for change in self.journal.status(by).changes:  # a log among them is not written to any more
                self.logs = [log for log in self.logs if str(log) != change["target"]]


def meddle(data: Path) -> None:
    """The kernel's own writing back, only sooner: what is dirty goes to the disk with its metadata, or without."""
    chance = random.Random("meddler")
    while True:
        time.sleep(chance.uniform(0, 0.02))
        with contextlib.suppress(OSError, IndexError):
            if chance.random() < 0.2:
                (data / "synced").write_text(str(chance.random()))
                _on(data / "synced", os.fsync)
            else:
                some = chance.choice([path for path in sorted(data.rglob("*")) if path.is_file()])
                _on(some, lambda fd: _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7))


def _on(path: Path, act: Any) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        act(fd)
    finally:
        os.close(fd)


def _left_out(file: Path, *, in_order: bool) -> None:
    """Synced or not, nobody can tell until the power goes."""


def plant(bug: str) -> None:
    """Leave out the syncs of one kind in this process."""
    if bug == "pre":
        setattr(effects, "written_out", _left_out)  # noqa: B010 — no name that the module gives away
    elif bug:
        is_it = {"file": stat.S_ISREG, "folder": stat.S_ISDIR}[bug]
        for name in ("fsync", "fdatasync"):
            real = getattr(os, name)
            setattr(os, name, lambda fd, real=real: None if is_it(os.fstat(fd).st_mode) else real(fd))


# The driver


@dataclass(slots=True)
class Cut:
    """What one cut broke; no faults: nothing."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def journal_cuts(
    folder: Path,
    cuts: int,
    seed: int,
    *,
    kind: str = "ext4",
    apart: bool = False,
    bug: str = "",
    size: int = IMAGE_BYTES,
) -> list[Cut]:
    """Run, cut, compare, go on. With a planted bug one process plays alone, until it shows: nobody else's sync helps
    it out."""
    safe = folder / "safe"
    safe.mkdir(parents=True)
    chance, found = random.Random(seed), []
    roles = ["solo"] if bug else ["one", "two"]
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(disk(folder / "disk", kind, size))
        kept = stack.enter_context(disk(folder / "kept", kind, size)) if apart else data
        Journal(kept / "journal", clock, consent_within([data]))
        for each in {data, kept}:
            commits.sync_file_system(each)
        children = [stack.enter_context(_child(role, data, kept, safe, bug)) for role in roles]
        meddlers = [] if bug else [stack.enter_context(_child("meddler", data, kept, safe, ""))]
        while not all(_lines(safe, role) for role in roles):
            time.sleep(0.01)
        for n in range(cuts):
            time.sleep(chance.uniform(0.05, 0.4))
            first = children[n % len(children)]
            if how := (signal.SIGUSR1, signal.SIGUSR2, None)[0 if bug else n % 3]:
                first.send_signal(how)
                _until_stopped(first)
            for child in [*children, *meddlers]:
                child.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            images = [each.with_suffix(".img") for each in ([data, kept] if apart else [data])]
            found.append(_cut(images, folder, safe, roles))
            if bug and found[-1].faults:
                break
            for child in [*children, *meddlers]:
                child.send_signal(signal.SIGCONT)
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _until_stopped(child: subprocess.Popen[bytes]) -> None:
    while os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        time.sleep(0.001)


def _lines(safe: Path, role: str) -> list[dict[str, Any]]:
    path = safe / f"{role}.told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def _child(role: str, data: Path, kept: Path, safe: Path, bug: str) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: the kernel wakes the stopped ones of a process group whose shell goes away.
    child = subprocess.Popen(
        [sys.executable, __file__, "--role", role, str(data), str(kept), str(safe), bug or "-"], start_new_session=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _cut(images: list[Path], folder: Path, safe: Path, roles: list[str]) -> Cut:
    """Copy the images and look at the copies, mounted where the originals are, in a world of that process alone."""
    taken = {image: folder / f"cut-{image.parent.name}.img" for image in images}
    snapshot(taken)
    copies = [str(each) for image, copy in taken.items() for each in (copy, image.with_suffix(".mnt"))]
    looked = subprocess.run(
        ["unshare", "--mount", sys.executable, __file__, "--look", str(safe), ",".join(roles), *copies],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for copy in copies[::2]:
        Path(copy).unlink()
    if looked.returncode:
        return Cut(faults=[f"the look at the copy failed: {looked.stderr[-1500:]}"])
    said = json.loads(looked.stdout.splitlines()[-1])
    return Cut(faults=said["faults"], counts=Counter(said["counts"]))


# The look at a copy, after the cut


def look_at(safe: Path, roles: list[str], copies: list[str]) -> Cut:
    """In a mount namespace of our own: the copies in the place of the disks, and another boot."""
    boot = safe / "boot_id"
    boot.write_text(f"{os.urandom(8).hex()}\n")
    _mount("--bind", str(boot), "/proc/sys/kernel/random/boot_id")
    for image, point in zip(copies[::2], copies[1::2], strict=True):
        device = subprocess.run(
            ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
        ).stdout.strip()
        xfs = subprocess.run(["blkid", "-o", "value", "-s", "TYPE", image], capture_output=True, text=True, check=False)
        try:
            _mount("-o", "nouuid" if xfs.stdout.strip() == "xfs" else "commit=300", device, point)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)  # once it is unmounted
    data, kept = Path(copies[1]), Path(copies[-1])
    cut = Cut()
    journal = Journal(kept / "journal", clock, consent_within([data]), no_fault)
    lines = journal.recover()
    cut.faults += [f"recovery: {line}" for line in lines if "can't be settled" in line]
    if again := journal.recover():
        cut.faults.append(f"a second recovery found more: {again}")
    cut.counts["recovered"] = len(lines)
    for role in roles:
        _Look(journal, data / role, _lines(safe, role), cut).compare()
    return cut


def _mount(*arguments: str) -> None:
    _run("mount", *arguments)


class _Look:
    """One player's folder after the cut, against all that it had told."""

    def __init__(self, journal: Journal, folder: Path, told: list[dict[str, Any]], cut: Cut) -> None:
        self._journal, self._folder, self._told, self._cut = journal, folder, told, cut
        self._outside = [(n, each["path"], each["text"]) for n, each in enumerate(told) if each["what"] == "outside"]
        self._kept_since: dict[str, int] = {}

    def compare(self) -> None:
        standing, undone, ends = self._history()
        last = next((each for each in reversed(self._told) if each["what"] == "begin"), None)
        in_flight = last is not None and not any(each["what"] == "end" for each in self._told[self._told.index(last) :])
        self._cut.counts["promised"] += ends
        self._cut.counts["in flight"] += in_flight
        for task in undone:
            self._fault(self._journal.status(task).state == "undone", f"{task}: its undo was promised, and is gone")
        for task, *_ in standing:
            seen = self._journal.status(task)
            if in_flight and last is not None and last.get("of") == task:
                continue
            self._fault(seen.state == "finished", f"{task}: had been finished, and is {seen.state}")
        if in_flight and last is not None:
            self._end_in_flight(last, standing)
        elif standing or undone:
            self._same(self._told_last("end")["after"], len(self._told), "the promised state")
        for task, at, before in reversed(standing[-LOOKED_BACK:]):
            if not self._undone(task):
                return
            self._same(before, at, f"{task} undone")
            if is_undo(task):
                return  # what that undo had undone is there again, and undone for good

    def _history(self) -> tuple[list[tuple[str, int, Picture]], list[str], int]:
        """Which tasks stand, each with where it began and what there was; which were undone; the promises."""
        standing: list[tuple[str, int, Picture]] = []
        undone, begun, ends = [], None, 0
        for n, each in enumerate(self._told):
            if each["what"] == "begin":
                begun = (n, each)
            elif each["what"] == "end" and begun is not None:
                at, it = begun
                ends += 1
                changed = [
                    name
                    for name in {*it["before"], *each["after"]}
                    if it["before"].get(name) != each["after"].get(name)
                ]
                self._kept_since |= dict.fromkeys(changed, at)
                if it["kind"] == "undo":
                    standing = [] if is_undo(it["of"]) else [one for one in standing if one[0] != it["of"]]
                    undone.append(it["of"])
                    if each["by"]:
                        standing.append((each["by"], at, it["before"]))
                else:
                    standing.append((it["task"], at, it["before"]))
                begun = None
        return standing, undone, ends

    def _told_last(self, what: str) -> dict[str, Any]:
        return next(each for each in reversed(self._told) if each["what"] == what)

    def _end_in_flight(self, last: dict[str, Any], standing: list[tuple[str, int, Picture]]) -> None:
        """Whatever it had come to: done or undone, nothing between."""
        at = self._told.index(last)
        if last["kind"] != "undo":
            if self._journal.can_undo(last["task"])[0] and not self._undone(last["task"]):
                return
            self._same(last["before"], at, f"{last['task']} ({last['kind']}), cut short and undone")
            return
        state = self._journal.status(last["of"]).state
        self._fault(state in ("finished", "undone"), f"{last['of']}: its undo was cut short, and it is {state}")
        before = next(before for task, _, before in standing if task == last["of"])
        where = next(began for task, began, _ in standing if task == last["of"])
        if state == "undone":
            if last["by"] and self._journal.can_undo(last["by"])[0]:
                if not self._undone(last["by"]):
                    return
                self._same(last["before"], at, f"{last['by']}, the undo of an undo cut short")
                standing.clear()
                return
            standing[:] = [] if is_undo(last["of"]) else [one for one in standing if one[0] != last["of"]]
            self._same(before, where, f"{last['of']}, whose undo was cut short")
        else:
            self._same(last["before"], at, f"{last['of']}, whose undo never began")

    def _undone(self, task: str) -> bool:
        for change in self._journal.status(task).changes:
            name = str(Path(str(change["target"])).relative_to(self._folder))
            at = next(n for n, each in enumerate(self._told) if task in (each.get("task"), each.get("by")))
            self._kept_since[name] = max(at, self._kept_since.get(name, -1))
        try:
            self._journal.undo(task)
        except CalyxError as error:
            self._cut.faults.append(f"{task} can't be undone: {error.message}")
            return False
        self._cut.counts["undone"] += 1
        return True

    def _same(self, expected: Picture, at: int, what: str) -> None:
        """As it was then. What others wrote without a sync is as it may be, unless a task has kept it since."""
        now = picture(self._folder)
        for name in sorted({*expected, *now}):
            writes = [(n, text) for n, path, text in self._outside if path == name]
            if writes and (writes[-1][0] > at or self._kept_since.get(name, -1) < writes[-1][0]):
                if name.startswith("log") and name in now and name in expected:
                    self._log(expected[name], now[name], [text for n, text in writes if n > at], f"{what}: {name}")
                continue
            if expected.get(name) != now.get(name):
                self._cut.faults.append(f"{what}: {name!r} was {_short(expected, name)} and is {_short(now, name)}")
                return

    def _log(self, was: list[Any], now: list[Any], later: list[str], what: str) -> None:
        """All that a log may be: what was there and what came after, or the beginning of that, and the zeros that
        ext4 leaves where a size came to the disk before its bytes."""
        whole, there = was[3] + "".join(later), now[3].rstrip("\0")
        n = next((n for n, (a, b) in enumerate(zip(whole, there, strict=False)) if a != b), len(whole))
        sizes = f"{len(was[3])} then, {len(whole)} with all that was written"
        shown = f"byte {n} of {len(there)} ({sizes}): {there[max(0, n - 20) : n + 60]!r}"
        self._fault(whole.startswith(there), f"{what} has other bytes than were ever written, {shown}")

    def _fault(self, holds: bool, what: str) -> None:
        if not holds:
            self._cut.faults.append(what)


def _short(of: Picture, name: str) -> str:
    return str([str(each)[:80] for each in of[name]]) if name in of else "absent"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", default="ext4", choices=["ext4", "xfs"])
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--plant", default="", choices=["", "file", "folder", "pre"])
    parser.add_argument("--role", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--look", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        role, data, kept, safe, bug = given.role
        plant("" if bug == "-" else bug)
        meddle(Path(data)) if role == "meddler" else Player(role, Path(data), Path(kept), Path(safe)).play()
    if given.look:
        cut = look_at(Path(given.look[0]), given.look[1].split(","), given.look[2:])
        print(json.dumps({"faults": cut.faults, "counts": cut.counts}))
        return 0
    with tempfile.TemporaryDirectory(prefix="calyx-cut-") as root:
        if reason := why_not(Path(root), given.disk):
            print(f"no power can be cut here: {reason}")
            return 2
        found = journal_cuts(
            Path(root) / "run", given.cuts, given.seed, kind=given.disk, apart=given.apart, bug=given.plant
        )
    counts: Counter[str] = sum((cut.counts for cut in found), Counter())
    faults = [f"cut {n}: {fault}" for n, cut in enumerate(found, 1) for fault in cut.faults]
    print(
        f"{len(found)} cuts on {given.disk}{', the journal on a disk of its own' if given.apart else ''}, seed "
        f"{given.seed}; at the last one {found[-1].counts['promised']} promises; {counts['in flight']} tasks were in "
        f"flight, recoveries said {counts['recovered']} things, {counts['undone']} tasks were undone and compared"
    )
    print(f"  broken {len(faults)}")
    for fault in faults[:20]:
        print(" ", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    shutil.which("mount")
    sys.exit(main())
