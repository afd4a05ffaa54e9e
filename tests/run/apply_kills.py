"""An approved plan is applied, and killed right before its n-th change: then all of it is taken back, to the byte.

    python tests/run/apply_kills.py [--files 24] [--every 1] [--first 0] [--plant NAME]

Each kill is a fork and a real SIGKILL, at a change that Python's audit events show or at a step of the journal. One
line of JSON; exits 1 when one did not hold. `--files 500` is the size of the acceptance.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "protos" / "gen"), str(ROOT / "tests" / "journal")]

from undo_kills import Killed, Reaper  # noqa: E402 — found by the line above
from undo_world import Picture, picture  # noqa: E402

from chassis.clock import VirtualClock  # noqa: E402 — the path comes first
from chassis.journal import Journal, consent_within  # noqa: E402
from cli.run.applying import announced, apply  # noqa: E402
from cli.run.plan import Plan  # noqa: E402
from cli.run.stage import Stage  # noqa: E402

KINDS = ("edit", "rename", "remove", "create", "dress")


class Ground:
    """Two folders, and the plan of what an agent did with a copy of them."""

    def __init__(self, root: Path, files: int) -> None:
        self.root, self.one, self.two = root, root / "one", root / "two"
        (self.one / "folder").mkdir(parents=True)
        self.two.mkdir()
        for n in range(files):
            (self.one / f"{KINDS[n % 5]}-{n}").write_text(f"{n}\n" * 9)
            os.utime(self.one / f"{KINDS[n % 5]}-{n}", ns=(10**18, 10**18 + n))
        (self.one / "folder" / "in").write_text("in")
        (self.one / "keep").write_text("keep")
        (self.one / "twin").hardlink_to(self.one / "keep")
        (self.one / "link").symlink_to("keep")
        self.before = self.picture()
        stage = Stage(root / "stage", [self.one, self.two], lambda _: None)
        stage.look()
        (root / "stage").mkdir()
        one, two = (layer.upper for layer in stage.copies())
        self._work(one, two, files)
        self.plan: Plan = stage.plan()

    @staticmethod
    def _work(one: Path, two: Path, files: int) -> None:
        (two / "deep" / "er").mkdir(parents=True)
        for n in range(files):
            path = one / f"{KINDS[n % 5]}-{n}"
            if n % 5 == 0:
                path.write_text("edited")
            elif n % 5 == 1:
                path.rename(two / f"renamed-{n}")
            elif n % 5 == 2:
                path.unlink()
            elif n % 5 == 3:
                (two / "deep" / "er" / f"created-{n}").write_text(f"created {n}")
            else:
                path.chmod(0o600)
        (one / "folder").rename(two / "moved")
        (one / "hard").hardlink_to(one / "keep")
        (one / "link").unlink()
        (one / "link").symlink_to("folder")
        (one / "folder").symlink_to("../two")

    def picture(self) -> Picture:
        return {
            f"{each.name}/{name}": seen for each in (self.one, self.two) for name, seen in picture(each, True).items()
        }

    def journal(self, fault: Any = lambda _step: None) -> Journal:
        return Journal(self.root / "journal", VirtualClock(), consent_within([self.one, self.two]), fault)

    def apply(self, fault: Any) -> None:
        with self.journal(fault).watch("t1", 1, [self.one, self.two], announce=announced(self.plan)) as seen:
            apply(self.plan, lambda: None)
            seen.settle()
            seen.finish({"status": "done"})


def killed(ground: Ground, at: int, reaper: Reaper) -> bool:
    child = os.fork()
    if child == 0:
        try:
            reaper.arm(at, real=True)
            ground.apply(reaper.boundary)
            os._exit(0)
        except Killed:
            os._exit(2)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run that was to be killed ended with {status}")
    return status != 0


def look(ground: Ground, chance: random.Random, reaper: Reaper, found: Counter[str]) -> str:
    """What is wrong after the kill; empty if nothing is."""
    journal = ground.journal()
    state = journal.status("t1").state
    meddled = ground.two / "a person's" if chance.random() < 0.15 else None
    if meddled is not None:
        meddled.write_text("mine")
    if meddled is None and chance.random() < 0.4:  # the recovery is killed too
        child = os.fork()
        if child == 0:
            reaper.arm(chance.randrange(200), real=True)
            ground.journal(reaper.boundary).recover()
            os._exit(0)
        os.waitpid(child, 0)
    said = journal.recover(programs_only=chance.random() < 0.5)
    status = journal.status("t1")
    found[status.state] += 1
    if journal.recover(programs_only=True):
        return "a second recovery found more"
    if meddled is not None:
        if not meddled.exists() or meddled.read_text() != "mine":
            return "what a person wrote meanwhile was taken back with the rest"
        if status.state == "finished" and status.outcome != {"status": "done"}:
            found["left for a person to see"] += 1
            journal.undo("t1")  # which a person may well want, as it is listed
        meddled.unlink(missing_ok=True)
        os.utime(ground.two, ns=(10**18, ground.before["two/."][4]))
    if status.state == "finished" and status.outcome == {"status": "done"}:
        if state != "finished":
            return "what had not been finished was finished by nobody"
        if any((ground.one / f"remove-{n}").exists() for n in range(2, 500, 5)):
            return "it is finished, and not all of it is done"
        journal.undo("t1")
    if status.state not in ("none", "open", "finished", "undone"):
        return f"after the recovery it is {status.state}: {said}"
    now = ground.picture()
    for name in sorted({*now, *ground.before}):
        if now.get(name) != ground.before.get(name):
            return f"{name!r} was {ground.before.get(name)} and is {now.get(name)}; {said}, {status.state}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--plant", default="", choices=["", "half", "person"])
    given = parser.parse_args()
    if given.plant == "half":
        setattr(Journal, "_recover_program", lambda *_: "left as it is")  # noqa: B010 — that is what it is for
    elif given.plant == "person":
        from chassis.journal import announced as module

        module.strange = lambda *_: ""
    reaper, chance, found, wrong = Reaper(), random.Random(given.first), Counter[str](), list[str]()
    at, went = given.first, True
    while went:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            ground = Ground(Path(folder).resolve() / "w", given.files)
            went = killed(ground, at, reaper)
            found["kills"] += went
            if said := look(ground, chance, reaper, found):
                wrong.append(f"killed at {at}: {said}")
        at += given.every
    print(json.dumps({**found, "changes": len(ground.plan.changes), "boundaries": at, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
