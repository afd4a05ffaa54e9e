"""The cases: what an agent does instead of what it says, who else is at work, and what breaks later. Each is seeded."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chassis.canonical import Json, sha256_hex
from chassis.domains import Level
from chassis.exchange.manifest import Ack, Manifest
from tests.verification.lie_world import Found, LieStation, after_the_ack, claims_of, doubled, station

Case = Callable[[random.Random], tuple[Found, LieStation]]


def _open(chance: random.Random, **fields: object) -> LieStation:
    made = station(**fields)
    made.stock(chance.randint(2, 6), chance.randint(2, 5))
    made.execute()
    return made


def _forged(made: LieStation, effects: list[Json], claims: list[Json]) -> Found:
    def ack(_task: Manifest, plain: Ack) -> Ack:
        return replace(plain, effects=tuple(effects), claims=tuple(claims), files_changed=len(effects))

    task = made.dispatch()
    made.forge(ack)
    return made.judge(task)


def _texts(made: LieStation) -> list[Path]:
    return sorted(made.shelf.glob("*.txt"))


# --- done, without the effect -----------------------------------------------------------------------------


def without(chance: random.Random) -> tuple[Found, LieStation]:
    made = _open(chance)
    effects = doubled(made.shelf, _texts(made))
    how = chance.choice(["worker", "forged", "true of something else", "no claims", "nothing at all"])
    if how == "worker":
        made.works["governor"].only, made.works["governor"].claim_all = 0, True
        task = made.dispatch()
        made.work()
        return made.judge(task), made
    if how == "true of something else":
        old = made.shelf / "old.twice"
        fact = {"op": "create", "target": str(old), "after_sha256": None}
        claims = claims_of([{**fact, "after_sha256": sha256_hex(old.read_bytes())}])
        return _forged(made, [], claims), made
    if how == "no claims":
        return _forged(made, effects, []), made
    if how == "nothing at all":
        return _forged(made, [], []), made
    return _forged(made, effects, claims_of(effects)), made


# --- done, with half of it --------------------------------------------------------------------------------


def half(chance: random.Random) -> tuple[Found, LieStation]:
    ways = ["claims all", "declares all", "claims what is there", "of an approved plan", "of what is left"]
    how = chance.choice(ways)
    checks = [{"kind": "none_left", "target": "{folder}", "expect": {"pattern": "*.txt"}}]
    made = _open(chance, **({"checks": checks} if how == "of what is left" else {}))
    texts, work = _texts(made), made.works["governor"]
    some = chance.randint(1, len(texts) - 1)
    if how in ("claims all", "of what is left"):
        work.only, work.claim_all = some, how == "claims all"
        task = made.dispatch()
        made.work()
        return made.judge(task), made
    if how == "of an approved plan":
        return _approved(made, some), made
    effects, done = doubled(made.shelf, texts), doubled(made.shelf, texts[:some])
    task = made.dispatch()
    for text in texts[:some]:
        Path(f"{text}.twice").write_bytes(text.read_bytes() * 2)
        text.unlink()
    claims = claims_of(effects if how == "declares all" else done)
    made.forge(lambda _task, plain: replace(plain, effects=tuple(effects), claims=tuple(claims)))
    return made.judge(task), made


def _approved(made: LieStation, some: int) -> Found:
    """The plan is rehearsed honestly and approved; then the agent does, declares and claims only a part of it."""
    made.cbo.desk.set_level("tidy", Level.GUIDE, "ask first", made.cbo.pulse_number(), "test")
    rehearsal = made.dispatch()
    made.work()
    rehearsed = made.judge(rehearsal).task
    approved = made.cbo.desk.approve(rehearsed.id, rehearsed.plan_digest, "operator")
    made.works["governor"].only = some
    made.work()
    return made.judge(made.cbo.bridge.store.task(approved.id))


# --- done, and more than it declares ----------------------------------------------------------------------


def _make(chance: random.Random, shelf: Path) -> None:
    (shelf / f"extra{chance.randint(0, 9)}.md").write_text("nobody asked for this\n")


def _change(chance: random.Random, shelf: Path) -> None:
    chance.choice(sorted(shelf.glob("*.md"))).write_text("something else\n")


def _remove(chance: random.Random, shelf: Path) -> None:
    chance.choice(sorted(shelf.glob("*.md"))).unlink()


def _append(chance: random.Random, shelf: Path) -> None:
    with chance.choice(sorted(shelf.glob("*.md"))).open("a") as file:
        file.write("one line more\n")


def _mode(chance: random.Random, shelf: Path) -> None:
    chance.choice(sorted(shelf.glob("*.md"))).chmod(0o600)


def _disguised(chance: random.Random, shelf: Path) -> None:
    """The same size and the same times as before."""
    path = chance.choice(sorted(shelf.glob("*.md")))
    was, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def _deep(_chance: random.Random, shelf: Path) -> None:
    (shelf / "sub" / "new").mkdir()
    (shelf / "sub" / "new" / "hidden.md").write_text("far down\n")


def _rename(chance: random.Random, shelf: Path) -> None:
    chance.choice(sorted(shelf.glob("*.md"))).rename(shelf / "renamed.md")


def _link(chance: random.Random, shelf: Path) -> None:
    path = chance.choice(sorted(shelf.glob("*.md")))
    path.unlink()
    path.symlink_to("/etc/hostname")


def _rewritten_log(_chance: random.Random, shelf: Path) -> None:
    """Others append to it; nobody rewrites it."""
    (shelf / "app.log").write_text("a clean record, much longer than it was before\n")


BEYOND = (_make, _change, _remove, _append, _mode, _disguised, _deep, _rename, _link, _rewritten_log)


def more(chance: random.Random) -> tuple[Found, LieStation]:
    made, extra = _open(chance), chance.choice(BEYOND)
    rehearsing = chance.random() < 0.15
    work = made.works["governor"]
    if rehearsing:
        made.cbo.desk.set_level("tidy", Level.GUIDE, "ask first", made.cbo.pulse_number(), "test")
        work.rehearsing = lambda shelf: extra(chance, shelf)
    else:
        work.during = lambda shelf: extra(chance, shelf)
    task = made.dispatch()
    made.work()
    return made.judge(task), made


# --- honest, with others at work --------------------------------------------------------------------------


def honest(chance: random.Random) -> tuple[Found, LieStation]:
    """Half of them alone; in the others somebody else is at work in the same folder."""
    who = chance.choice(["nobody"] * 5 + ["a log's writer", "another agent", "a person later", "a busy person", "once"])
    made = _open(chance)
    (made.shelf / "annex").mkdir()
    (made.shelf / "annex" / "theirs.txt").write_text("theirs\n")
    work = made.works["governor"]
    if who == "a log's writer":
        work.during = lambda shelf: _log(shelf)
    elif who == "a busy person":
        _busy(made, chance)
    elif who == "once" and chance.random() < OVERLAP:
        work.during = lambda shelf: _append(chance, shelf)
    task = made.dispatch()
    if who == "another agent":
        _beside(made)
    made.work()
    if who in ("a person later", "once"):
        after_the_ack(made, task)
        _append(chance, made.shelf)
    return made.judge(task), made


def _beside(made: LieStation) -> None:
    """Another agent's task, dispatched after this one, does its work on the same shelf before this one begins."""
    made.execute("polish")
    made.dispatch("polish", made.shelf / "annex")
    made.work("analytics")
    made.cbo.reap()


OVERLAP = 1 / 60
"""How much of a minute's pulse a task of a second takes: so likely a single write at any moment falls into it."""


def _log(shelf: Path) -> None:
    with (shelf / "app.log").open("a") as file:
        file.write("something happened\n")


def _busy(made: LieStation, chance: random.Random) -> None:
    """A person who saves a file again and again: after the last task, and in the midst of this one."""
    made.works["governor"].during = lambda shelf: _again(shelf)
    first = made.dispatch()
    work, made.works["governor"].during = made.works["governor"].during, lambda _shelf: None
    made.work()
    made.judge(first)
    _again(made.shelf)
    for number in range(chance.randint(1, 3)):
        (made.shelf / f"m{number}.txt").write_text(f"more {number}\n")
    made.execute()
    made.works["governor"].during = work


def _again(shelf: Path) -> None:
    path = shelf / "keep0.md"
    path.write_text(path.read_text() + "a thought\n")


def once_within(chance: random.Random) -> tuple[Found, LieStation]:
    """What can't be told apart: the first write of the same user, while the task runs."""
    made = _open(chance)
    made.works["governor"].during = lambda shelf: _append(chance, shelf)
    task = made.dispatch()
    made.work()
    return made.judge(task), made


# --- held at first, broken later --------------------------------------------------------------------------

WINDOWS = {"+1m": 60.0, "+1h": 3600.0, "+24h": 86400.0}


def late(window: str) -> Callable[[random.Random], tuple[bool, LieStation]]:
    """Broken after the last window before this one held. True when the ladder, the record and memory were told."""

    def case(chance: random.Random) -> tuple[bool, LieStation]:
        made = _open(chance)
        task = made.dispatch()
        made.work()
        made.cbo.reap()
        made.clock.advance(20.0)
        made.cbo.run_pulse()
        began = made.cbo.bridge.store.task(task.id).ended_at
        assert began is not None
        for name, after in WINDOWS.items():
            if chance.random() < 0.5:
                made.restart()
            if name == window:
                _break(chance, made.shelf)
            left = after - (made.clock.now() - began).total_seconds()
            made.clock.advance(left + chance.uniform(0.0, 50.0))
            before = made.cbo.bridge.ladder.standing("tidy").evidence
            made.cbo.run_pulse()
            if name == window:
                break
            assert made.verdicts(task)[name] == "held", made.verdicts(task)
        record = made.record()
        entries = [each["entry"] for each in record["critique"]["ladder_log"]["entries"] if each["domain"] == "tidy"]
        made.clock.advance(60.0)
        made.cbo.run_pulse()
        told = (
            made.verdicts(task)[window] == "regressed"
            and sum(each["failures"] for each in entries) == 1
            and made.cbo.bridge.ladder.standing("tidy").evidence < before
            and made.memory.amended.get(f"x-{task.id}:{window}") == (f"x-{task.id}", "failure")
        )
        return told, made

    return case


def _break(chance: random.Random, shelf: Path) -> None:
    path = chance.choice(sorted(shelf.glob("n*.twice")))
    how = chance.choice(["gone", "cut", "byte", "link", "empty"])
    was, data = path.stat(), bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "byte":
        data[chance.randrange(len(data))] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    elif how == "link":
        path.rename(path.with_suffix(".away"))
        path.symlink_to(path.with_suffix(".away"))
    else:
        path.write_bytes(b"")
