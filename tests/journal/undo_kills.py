"""One sequence, killed where it is told to, recovered, undone and compared. See `bench/undo.py`.

A kill comes right before a syscall that changes something (Python's audit events, the rename of `chassis.exchange.
moves`, each `os.write`, half of whose bytes may be through) or at one of the journal's own fault points. A process
that is dead does nothing more: neither `finally` nor `except` gets anything done. Or it really is: a fork, SIGKILL.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undo_cells import alike
from undo_world import Picture, Step, World, picture

from chassis.errors import CalyxError, Drifted, Refused
from chassis.exchange import moves
from chassis.journal import Journal

CHANGING = frozenset(
    {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.utime", "os.truncate",
     "os.symlink", "os.setxattr", "os.removexattr", "shutil.rmtree"}
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The process is gone at this point."""


class Reaper:
    """Kills before the n-th boundary from `arm(n)` on; counts them all."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.dead = self.real = False
        self.seen = 0
        self._write, self._rename = os.write, moves._renameat2
        sys.addaudithook(self._audit)
        os.write = self._writing
        moves._renameat2 = self._renaming

    def arm(self, left: int | None, real: bool = False) -> None:
        self.left, self.real, self.dead, self.seen = left, real, False, 0

    def boundary(self, _step: str = "") -> None:
        if self.dead:
            raise Killed
        if self.left is None:
            return
        self.seen += 1
        if self.seen > self.left:
            if self.real:
                os.kill(os.getpid(), signal.SIGKILL)
            self.dead = True
            raise Killed

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if (self.left is not None or self.dead) and (
            event in CHANGING or (event == "open" and isinstance(given[2], int) and given[2] & _WRITES)
        ):
            self.boundary()

    def _writing(self, fd: int, data: Any) -> int:
        if self.left is None and not self.dead:
            return self._write(fd, data)
        try:
            self.boundary()
        except Killed:
            if self.left is not None and self.left % 2 and self.seen == self.left + 1:
                self._write(fd, bytes(data)[: len(data) // 2])  # a torn line
                self.seen += 1
            raise
        return self._write(fd, data)

    def _renaming(self, *given: Any) -> int:
        self.boundary()
        return int(self._rename(*given))


@dataclass(slots=True)
class Trial:
    """What came of one sequence; `wrong` is empty if all held."""

    seed: int
    steps: list[str] = field(default_factory=list)
    kills: int = 0
    drifts: int = 0
    redone: int = 0
    wrong: str = ""


def trial(
    seed: int, folder: Path, reaper: Reaper, kill_at: int | None = None, only: int | None = None, longest: int = 3
) -> Trial:
    """Run the sequence of `seed`. `only`: the one procedure of that number, killed at boundary `kill_at` of it."""
    chance = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reaper.arm(None)
    world = World(folder, chance)
    outside = picture(world.outside, True)
    steps = world.steps(chance.randrange(longest) + 1) if only is None else [world.procedure(only)]
    done = Trial(seed=seed, steps=[step.name for step in steps])
    fates = random.Random(seed ^ 0x5EED)
    pictures: list[Picture] = []
    whole = True
    try:
        for number, step in enumerate(steps):
            pictures.append(picture(world.data, True))
            last = number == len(steps) - 1
            at = kill_at if only is not None else fates.randrange(120) if last or fates.random() < 0.2 else None
            whole = _do(world, step, f"t{number}", at, fates.random() < 0.08, reaper, done)
            if not whole:
                _recover(world, fates, reaper, done)
                if not _undo(world, f"t{number}", fates, reaper, done):
                    return done
                _same(done, step.watched, pictures.pop(), world)
                steps = steps[:number]
                break
        for number in reversed(range(len(steps))):
            if done.wrong or not world.boot().can_undo(f"t{number}")[0]:
                pass  # nothing to undo must mean that nothing was done
            else:
                if fates.random() < 0.3 and not _drift(world, f"t{number}", fates, done):
                    return done
                if number == 0:
                    _append(world, pictures[0], fates)
                if not _undo(world, f"t{number}", fates, reaper, done):
                    return done
            # what a session undid left its folders the time of the undo, as any rename does
            _same(done, all(step.watched for step in steps[number:]) and whole, pictures[number], world)
        if not done.wrong and picture(world.outside, True) != outside:
            done.wrong = "something outside the declared folder was touched"
    except Exception as error:
        done.wrong = f"{type(error).__name__}: {error}"
    finally:
        reaper.arm(None)
    return done


def _do(world: World, step: Step, task_id: str, at: int | None, fork: bool, reaper: Reaper, done: Trial) -> bool:
    """True when it ran through."""
    world.chance.seed(f"{done.seed}/{task_id}")  # a fork draws for itself: the next task must not draw the same
    return _killed(lambda: step.run(world.boot(reaper.boundary), task_id), at, fork, reaper, done)


def _killed(act: Callable[[], object], at: int | None, fork: bool, reaper: Reaper, done: Trial) -> bool:
    if fork and at is not None:
        child = os.fork()
        if child == 0:
            try:
                reaper.arm(at, real=True)
                act()
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 1:
            raise RuntimeError("the child failed")
        killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        done.kills += killed
        return not killed
    reaper.arm(at)
    try:
        act()
    except Killed:
        done.kills += 1
        return False
    finally:
        killed = reaper.dead
        reaper.arm(None)
    if killed:
        raise RuntimeError("something went on although it had been killed")
    return True


def _recover(world: World, fates: random.Random, reaper: Reaper, done: Trial) -> None:
    for _ in range(2):
        if fates.random() < 0.5:
            _killed(lambda: world.boot(reaper.boundary).recover(), fates.randrange(25), False, reaper, done)
    world.boot().recover()
    if left := world.boot().recover():
        raise RuntimeError(f"a second recovery found more: {left}")


def _undo(world: World, task_id: str, fates: random.Random, reaper: Reaper, done: Trial) -> bool:
    if not world.boot().can_undo(task_id)[0]:
        return True
    if fates.random() < 0.4:
        world.cells.meddle(fates)
    before = picture(world.data, True)
    world.boot().undo(task_id, dry_run=True)
    if picture(world.data, True) != before:
        done.wrong = "the dry run changed something"
        return False
    by = f"{task_id}-u" if fates.random() < 0.5 else ""
    _undo_killed(world, task_id, by, fates, reaper, done)
    try:
        world.boot().undo(task_id)
    except Refused:
        return not by or _redo(world, by, before, fates, reaper, done)
    done.wrong = "an undone task was undone again"
    return False


def _undo_killed(world: World, task_id: str, by: str, fates: random.Random, reaper: Reaper, done: Trial) -> None:
    """Undone, killed in the middle or not."""
    at = fates.randrange(100) if fates.random() < 0.6 else None
    fork = fates.random() < 0.08
    if not _killed(lambda: world.boot(reaper.boundary).undo(task_id, by=by), at, fork, reaper, done):
        _recover(world, fates, reaper, done)
        if world.boot().can_undo(task_id)[0]:
            world.boot().undo(task_id, by=by)


def _redo(world: World, by: str, there: Picture, fates: random.Random, reaper: Reaper, done: Trial) -> bool:
    """The undo is undone: what the task had made is there again; and that is undone in its turn."""
    if not world.boot().can_undo(by)[0]:
        return True  # not kept: said in the report
    undone = picture(world.data, True)
    world.boot().undo(by, dry_run=True)
    if picture(world.data, True) != undone:
        done.wrong = "the dry run of undoing an undo changed something"
        return False
    if fates.random() < 0.3 and not _drift(world, by, fates, done):
        return False
    done.redone += 1
    again = f"{by}-u"
    _undo_killed(world, by, again, fates, reaper, done)
    _same(done, False, there, world)
    if done.wrong or not world.boot().can_undo(again)[0]:
        return False
    _undo_killed(world, again, "", fates, reaper, done)
    _same(done, False, undone, world)
    return not done.wrong


def _drift(world: World, task_id: str, fates: random.Random, done: Trial) -> bool:
    """A person changes one of the files that the task left: the undo refuses, and touches nothing."""
    journal: Journal = world.boot()
    last = {Path(change["target"]): change["op"] for change in journal.status(task_id).changes}
    targets = [
        path for path, op in last.items()
        if op in ("create", "replace", "rewrite") and path.is_file() and not path.is_symlink()
    ]  # fmt: skip
    if not targets:
        return _taken_over(world, task_id, fates, done)
    victim = fates.choice(targets)
    info, data = victim.stat(), victim.read_bytes()
    how = fates.choice(("bytes", "mode"))
    if how == "bytes":
        victim.write_bytes(data + b"by a person")
    else:
        victim.chmod(info.st_mode ^ 0o010)
    before = picture(world.data, True)
    try:
        journal.undo(task_id)
        done.wrong = f"an undo went over {victim.name!r}, whose {how} a person had changed"
    except Drifted:
        done.drifts += 1
    except CalyxError as error:
        done.wrong = f"drift was answered by {type(error).__name__}: {error}"
    if not done.wrong and picture(world.data, True) != before:
        done.wrong = "a refused undo touched something"
    victim.write_bytes(data)
    victim.chmod(info.st_mode & 0o7777)
    os.utime(victim, ns=(info.st_atime_ns, info.st_mtime_ns))
    return not done.wrong


def _taken_over(world: World, task_id: str, fates: random.Random, done: Trial) -> bool:
    """A person changes the very key or row that the task left last: the undo refuses, and touches nothing."""
    found = world.cells.take_over(world.root, task_id, fates)
    if found is None:
        return True
    victim, data = found
    before = picture(world.data, True)
    info = victim.stat()
    try:
        world.boot().undo(task_id)
        done.wrong = f"an undo went over {victim.name!r}, where a person had changed the same"
    except Drifted:
        done.drifts += 1
    except CalyxError as error:
        done.wrong = f"drift was answered by {type(error).__name__}: {error}"
    if not done.wrong and picture(world.data, True) != before:
        done.wrong = "a refused undo touched something"
    victim.write_bytes(data)
    os.utime(victim, ns=(info.st_atime_ns, world.cells.left_ns))
    return not done.wrong


def _append(world: World, expected: Picture, fates: random.Random) -> None:
    """A writer goes on in a rotated log: what it wrote comes after what was there."""
    changes = world.boot().status("t0").changes
    for target in {Path(change["target"]) for change in changes if change["op"] == "rotate"}:
        ops = [change["op"] for change in changes if change["target"] == str(target)]
        name = str(target.relative_to(world.data))
        if ops[-1] == "rotate" and not {"create", "replace"} & {*ops} and name in expected and fates.random() < 0.5:
            for tail in (b"one more\n", b"and more\n"):
                with target.open("ab") as log:
                    log.write(tail)
            was = expected[name]
            expected[name] = (*was[:4], None, bytes(was[5]) + b"one more\nand more\n", *was[6:])  # type: ignore[call-overload]  # a file's content


def _same(done: Trial, folder_times: bool, before: Picture, world: World) -> None:
    now = picture(world.data, True)
    if done.wrong:
        return
    for name in sorted({*before, *now}):
        one, other = before.get(name), now.get(name)
        if not folder_times and one and other and name_is_folder(one):
            one, other = _timeless(one), _timeless(other)
        elif one and other and one[4] is None:
            other = _timeless(other)
        if one and other and name.startswith("cells/") and alike(name, one[5], other[5]):  # type: ignore[arg-type]  # contents
            one, other = (*_timeless(one)[:5], *one[6:]), (*_timeless(other)[:5], *other[6:])
        if one != other:
            done.wrong = f"after the undo {name!r} was {one} and is {other}"
            return
    done.wrong = world.cells.lost()


def _timeless(entry: tuple[object, ...]) -> tuple[object, ...]:
    return (*entry[:4], None, *entry[5:])


def name_is_folder(entry: tuple[object, ...]) -> bool:
    return entry[0] == 0o040000
