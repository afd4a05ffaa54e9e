"""A task done again: its procedure on the journaled pre-image, in a scratch folder, compared with what it left.

The real files are only read. Contents come from the journal: a kept inode, what was renamed aside, or what a verified
inverse gives again; each is checked against its digest before it counts.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chassis.canonical import Json
from chassis.clock import Clock
from chassis.errors import CalyxError, NotFound
from chassis.exchange.manifest import Manifest
from chassis.journal import Journal, consent_within
from chassis.journal.cells import ROWS
from chassis.journal.cells import told as named_cells
from chassis.journal.inverse import decompressed, inverted_sha256
from chassis.journal.records import Entry, TaskLog
from chassis.journal.targets import prefix_sha256, snapshot
from chassis.work import Work

Status = Literal["same", "differs", "not reproducible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """`changes`: each with what the task left and what came out now, by digest."""

    task: str
    status: Status
    reason: str
    changes: tuple[Json, ...] = ()

    def to_json(self) -> Json:
        return {"task": self.task, "status": self.status, "reason": self.reason, "changes": list(self.changes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The scratch folder in which real paths stand again, and what the task did to them."""

    root: Path
    changes: Sequence[Json]

    def here(self, path: Path | str) -> Path:
        """Where a real path stands."""
        return self.root / str(path).lstrip("/")

    def real(self, path: str) -> str:
        return path.removeprefix(str(self.root))

    def paths(self, *ops: str) -> list[Path]:
        """The real targets of these operations, in order."""
        return [Path(each["target"]) for each in self.changes if each["op"] in ops]


Again = Callable[[World], tuple[Work, Mapping[str, str]]]
"""The work as it stands in that world, and the params that point it there. Raises a CalyxError with the reason why it
can't be done again."""


def reproduce(task: Manifest, journal: Path, folder: Path, clock: Clock, again: Again) -> Reproduced:
    """Raises nothing that a work can cause. The scratch folder is emptied before and after."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return _reproduce(task, journal, folder.resolve(), clock, again)
    except CalyxError as error:
        return Reproduced(task=task.task_id, status="not reproducible", reason=error.message)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reproduce(task: Manifest, journal: Path, folder: Path, clock: Clock, again: Again) -> Reproduced:
    log = TaskLog(journal, task.task_id, clock)
    known = log.read()
    why = {
        "none": "it changed nothing that was journaled",
        "undone": "it was undone, which took its pre-image out of the journal again",
        "undoing": "it is being undone",
        "open": "it has not ended",
    }.get(known.state, known.pruned)
    if known.watched:
        why = "an outside program did it, of whose procedure nothing is known here"
    if why or not known.standing:
        return Reproduced(task=task.task_id, status="not reproducible", reason=why or "it changed nothing")
    if any(entry.intent["op"] in ROWS for entry in known.standing):
        raise NotFound("it changed rows of a database, whose other rows are not kept")
    changes = [_told(entry.intent) for entry in known.standing]
    world = World(root=folder / "world", changes=changes)
    _stage(log, known.standing, world)
    work, params = again(world)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    there = Journal(folder / "journal", clock, consent_within([world.root]))
    with there.session(task.task_id, 1, lambda: None) as effects:
        work.perform(_as(task, params), scratch, effects)
        effects.finish({})
    came = [_told(each.intent, world) for each in TaskLog(folder / "journal", task.task_id, clock).read().standing]
    return _compared(task.task_id, changes, came)


def _as(task: Manifest, params: Mapping[str, str]) -> Manifest:
    return Manifest.from_json({**task.to_json(), "params": dict(params), "level": "EXECUTE", "rehearsal": False})


def _told(intent: Json, world: World | None = None) -> Json:
    """A change without what is the machine's own (inodes, times)."""
    real = (lambda path: path) if world is None else world.real
    before, after = intent["before"], intent["after"]
    told = {
        "op": intent["op"],
        "target": real(intent["target"]),
        "before": None if before is None else before["sha256"],
        "after": None if after is None else after["sha256"],
        **named_cells(intent),
    }
    return {**told, "to": real(intent["to"])} if "to" in intent else told


def _stage(log: TaskLog, entries: Sequence[Entry], world: World) -> None:
    """Every target as the task found it. Raises NotFound when a content is not there any more."""
    made: set[str] = set()
    for entry in entries:
        intent = entry.intent
        target, before = intent["target"], intent["before"]
        if target not in made and before is not None:
            place = world.here(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            _put(log, entries, entry, place)
            place.chmod(before["mode"] & 0o7777)
            os.utime(place, ns=(before["mtime_ns"], before["mtime_ns"]))
        made |= {target, intent.get("to") or target}
        world.here(target).parent.mkdir(parents=True, exist_ok=True)


def _put(log: TaskLog, entries: Sequence[Entry], entry: Entry, place: Path) -> None:
    before = entry.intent["before"]
    sha256, size = before["sha256"], before["size"]
    for kept in (log.pre / str(each.n) for each in entries):
        if (found := snapshot(kept)) is not None and found["sha256"] == sha256:
            shutil.copyfile(kept, place)
            return
    aside = Path(entry.intent.get("to", place))
    found = snapshot(aside) if aside != place else None
    if found is not None and found["size"] >= size and prefix_sha256(aside, size) == sha256:
        with aside.open("rb") as renamed, place.open("xb") as out:
            shutil.copyfileobj(renamed, out)
            out.truncate(size)
        return
    for inverse in (each.intent["inverse"] for each in entries if each.intent.get("inverse")):
        source = Path(inverse["source"])
        if source.is_file() and inverted_sha256(inverse["codec"], source) == sha256:
            with place.open("xb") as out:
                out.writelines(decompressed(inverse["codec"], source))
            return
    raise NotFound(f"what {entry.intent['target']} held before is not kept any more")


def _compared(task: str, left: Sequence[Json], came: Sequence[Json]) -> Reproduced:
    def key(change: Json) -> tuple[str, str, str]:
        return change["target"], change["op"], str(change.get("keys", ""))

    now = {key(each): each for each in came}
    changes = [{**each, "again": now.pop(key(each), {}).get("after", "nothing")} for each in left]
    changes += [{**each, "again": each["after"], "after": "nothing"} for each in now.values()]
    differing = [each for each in changes if each["again"] != each["after"]]
    if not differing:
        count = "the one change" if len(changes) == 1 else f"all {len(changes)} changes"
        return Reproduced(task=task, status="same", reason=f"{count} came out alike", changes=tuple(changes))
    first = differing[0]
    reason = f"{len(differing)} of {len(changes)} changes differ, first {first['op']} {first['target']}"
    return Reproduced(task=task, status="differs", reason=reason, changes=tuple(changes))
