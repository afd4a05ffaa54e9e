"""Where a task lies in the exchange folder, and whether what lies there is the task it says it is."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_json
from chassis.canonical import canonical_json
from chassis.clock import parse_iso
from chassis.errors import InvalidInput
from chassis.exchange import rules
from chassis.exchange.archive import Archive
from chassis.exchange.manifest import MAX_MANIFEST_BYTES, TASK_ID, Ack, AckStatus, Manifest, TaskId
from chassis.exchange.moves import (
    Unfit,
    folder_of,
    link,
    move,
    name_of,
    names,
    read_identified,
    read_regular,
    spread,
    there,
)  # fmt: skip
from chassis.exchange.port import TaskState

FOLDERS = (
    "inbox", "tmp", "log", "tasks", "waiting", "awaited", "held", "ready", "claimed", "done", "acks", "epochs", "dead",
    "cancel", "workers",
)  # fmt: skip
MAX_ACK_BYTES = 16 * 1024 * 1024

_MARK = re.compile(r"e[1-9]\d{0,8}")
_NAME = re.compile(r"(?P<id>.+)\.e(?P<epoch>[1-9]\d{0,8})\.(?P<kind>[a-z]+)")
_PRIORITY = re.compile(r"p\d")
_KINDS = {
    "waiting": "later", "held": "held", "ready": "ready", "claimed": "claimed", "done": "done", "dead": "quarantine",
}  # fmt: skip
BESIDE = (".hb", ".holder", ".ack")
"""What lies beside a claim and goes with it."""
_GOOD_KEPT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One task's file: which state its folder means, at which epoch."""

    state: TaskState
    task_id: TaskId
    epoch: int
    path: str

    @property
    def later(self) -> bool:
        """Waiting for a time, not for dependencies."""
        return self.path.endswith(".later")

    @property
    def folder(self) -> str:
        """The name of the folder it lies in: a worker, a priority."""
        return name_of(folder_of(self.path))

    def beside(self, kind: str) -> str:
        """What lies beside a claim: hb (heartbeat counter), holder (its process) or ack (before it is published)."""
        return f"{self.path.removesuffix('claimed')}{kind}"


class Folder:
    """Paths, names and identity of the task files under one exchange root.

    A task is one inode: the same file is linked as `tasks/<id>.json` (the record, which outlives the task) and
    moved by rename from state to state. A copy has another inode and is never taken for the task. Its ack is
    `acks/<2 hex>/<id>.json`; `epochs/<id>/` has a mark for each epoch after the first, and is not there before.
    """

    def __init__(self, root: Path, valid: Callable[[Manifest], bool]) -> None:
        self.root, self.at, self._valid = root, str(root), valid
        self._good: dict[TaskId, AckStatus] = {}
        if not (root / FOLDERS[0]).exists():
            root.mkdir(parents=True, exist_ok=True)
            spread(root)
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        self.archive = Archive(root)

    def task(self, task_id: str) -> str:
        return f"{self.at}/tasks/{task_id}.json"

    def marks(self, task_id: str) -> str:
        return f"{self.at}/epochs/{task_id}"

    def open_marks(self, task_id: str) -> Path:
        """The folder of a task's later epochs, durably there."""
        folder = Path(self.marks(task_id))
        if not there(folder):
            folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(folder.parent)
        return folder

    def ack(self, task_id: str) -> str:
        return f"{self.at}/acks/{_shelf(task_id)}/{task_id}.json"

    def known(self, task_id: TaskId) -> bool:
        """Was this id ever given out? It then never is again. What is not published is not known yet."""
        if there(self.task(task_id)):
            return not self.unpublished(task_id)
        return self.archive.holds(task_id)

    @contextlib.contextmanager
    def intake(self, how: int) -> Iterator[None]:
        """Submitters share it (LOCK_SH); who takes back what one of them left has it alone (LOCK_EX)."""
        path = f"{self.at}/tmp/.lock"  # noqa: S108 - the exchange's own folder, not /tmp
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def unpublished(self, task_id: TaskId) -> bool:
        """Is there nothing of the task but its record? Each later step leaves another name of it, or its ack.

        In a copied station no file has two names: there the folders are looked through.
        """
        try:
            record = os.lstat(self.task(task_id))
        except FileNotFoundError:
            return False
        if record.st_nlink > 1 or not stat.S_ISREG(record.st_mode):
            return False
        manifest = self.read_manifest(task_id)
        for _ in range(2):  # it may move from a place not looked at yet to one already looked at
            if manifest is not None and (self.find(task_id, manifest, 1) or self.passed(task_id, 1)):
                return False
        return not there(self.ack(task_id)) and not there(self.marks(task_id))  # last: they are made before a move

    def compacted(self, task_id: TaskId) -> bool:
        """Is its record gone because the task ended long ago?"""
        return not there(self.task(task_id)) and self.archive.holds(task_id)

    def ended(self, task_id: TaskId) -> AckStatus | None:
        """How the task ended; None while it has no ack. A good end is remembered, it can't change any more."""
        known = self._good.get(task_id)
        if known is not None:
            return known
        if not there(self.ack(task_id)) and not self.compacted(task_id):
            return None
        ack = self.read_ack(task_id)
        if ack is None:
            return None
        if ack.status in rules.GOOD_ENDS:
            if len(self._good) >= _GOOD_KEPT:
                self._good.clear()
            self._good[task_id] = ack.status
        return ack.status

    def placed(self, manifest: Manifest) -> TaskState:
        """Where a task that is new belongs. One whose dependency failed is answered when it is looked at next."""
        return "ready" if rules.place(manifest, self.ended).state == "ready" else "waiting"

    def waiting(self, task_id: str) -> str:
        return f"{self.at}/waiting/{task_id}.waiting"

    def later(self, task_id: str, epoch: int) -> str:
        return f"{self.at}/waiting/{task_id}.e{epoch}.later"

    def held(self, task_id: str, epoch: int) -> str:
        return f"{self.at}/held/{task_id}.e{epoch}.held"

    def ready(self, manifest: Manifest, epoch: int) -> str:
        return f"{self.at}/ready/{manifest.owner}/p{manifest.priority}/{manifest.task_id}.e{epoch}.ready"

    def claimed(self, worker: str, task_id: str, epoch: int, kind: str = "claimed") -> str:
        """`kind` as in `Place.beside`."""
        return f"{self.at}/claimed/{worker}/{task_id}.e{epoch}.{kind}"

    def done(self, ack: Ack) -> str:
        day = ack.ended_at
        return f"{self.at}/done/{day.year:04}{day.month:02}{day.day:02}/{ack.task_id}.e{ack.epoch}.done"

    def dead(self, task_id: str, epoch: int) -> str:
        return f"{self.at}/dead/{task_id}.e{epoch}.quarantine"

    def cancel(self, task_id: str) -> str:
        return f"{self.at}/cancel/{task_id}"

    def target(self, state: TaskState, manifest: Manifest, epoch: int) -> str:
        """Where a task that nobody holds goes. Only a first epoch can wait for dependencies."""
        if state == "held":
            return self.held(manifest.task_id, epoch)
        if state == "waiting" and epoch == 1:
            return self.waiting(manifest.task_id)
        return self.ready(manifest, epoch)

    def finished(self) -> set[TaskId]:
        """Ids of what lies in done and has not been compacted."""
        days = names(f"{self.at}/done")
        found = (_NAME.fullmatch(name) for day in days for name in names(f"{self.at}/done/{day}"))
        return {TaskId(each["id"]) for each in found if each is not None}

    def parse(self, state: TaskState, path: str) -> Place | None:
        """The place a file name means in this state's folder, None for a name that means none."""
        name = name_of(path)
        task_id, epoch = name.removesuffix(".waiting"), 1
        if state != "waiting" or task_id == name:
            found = _NAME.fullmatch(name)
            if found is None or found["kind"] != _KINDS.get(state):
                return None
            task_id, epoch = found["id"], int(found["epoch"])
        if not TASK_ID.fullmatch(task_id):
            return None
        return Place(state=state, task_id=TaskId(task_id), epoch=epoch, path=path)

    def holders(self) -> list[str]:
        return names(f"{self.at}/claimed")

    def folders(self, state: TaskState) -> list[str]:
        if state == "ready":
            return [f"{self.at}/ready/{pool}/{p}" for pool in names(f"{self.at}/ready") for p in self.priorities(pool)]
        if state == "claimed":
            return [f"{self.at}/claimed/{worker}" for worker in self.holders()]
        return [f"{self.at}/{state}"]

    def each(self, state: TaskState) -> Iterator[str]:
        """Every entry of a state's folders, task or not, in order."""
        for folder in self.folders(state):
            for name in names(folder):
                if not (state == "claimed" and name.endswith(BESIDE)) and not name.endswith(".reason.json"):
                    yield f"{folder}/{name}"

    def priorities(self, pool: str) -> list[str]:
        """The priority folders of a pool, highest first."""
        return [p for p in reversed(names(f"{self.at}/ready/{pool}")) if _PRIORITY.fullmatch(p)]

    def find(self, task_id: TaskId, manifest: Manifest, epoch: int) -> Place | None:
        """Where the task lies now, among the places it can be in at this epoch (or the one before)."""
        for at in (epoch, epoch - 1):
            if at < 1:
                continue
            places: list[tuple[TaskState, str]] = [
                ("held", self.held(task_id, at)),
                ("waiting", self.later(task_id, at)),
                ("ready", self.ready(manifest, at)),
                *(("claimed", self.claimed(worker, task_id, at)) for worker in self.holders()),
                ("dead", self.dead(task_id, at)),
            ]
            if at == 1:
                places.insert(0, ("waiting", self.waiting(task_id)))
            for state, path in places:
                if there(path):
                    return Place(state=state, task_id=task_id, epoch=at, path=path)
        return None

    def passed(self, task_id: TaskId, epoch: int) -> bool:
        """Does the task lie in done, its ack perhaps not published yet?"""
        return any(
            there(f"{self.at}/done/{day}/{task_id}.e{at}.done")
            for day in names(f"{self.at}/done")
            for at in {max(1, epoch - 1), epoch}
        )

    def epoch(self, task_id: str) -> int:
        """The highest epoch ever given out, 1 if there was no second."""
        return _highest(names(self.marks(task_id)))

    def read_ack(self, task_id: str) -> Ack | None:
        """The task's ack. One that can't be read, or that nobody can have given, is read as `failed`: no score from it.

        A task that was acked has passed the fence, so its own file lies in done.
        """
        path = self.ack(task_id)
        try:
            ack = Ack.from_json(json.loads(read_regular(path, MAX_ACK_BYTES)))
            why = ""
        except (FileNotFoundError, NotADirectoryError):
            archived = None if there(self.task(task_id)) else self.archive.find(TaskId(task_id))
            return archived.ack if archived is not None else None
        except (InvalidInput, ValueError, RecursionError):
            ack, why = None, "it can't be read"
        manifest = self.read_manifest(task_id)
        if manifest is None:
            return ack
        if ack is not None:
            passed = there(self.done(ack))
            why = rules.disbelieved(manifest, ack) or ("" if passed else "the task has not been answered yet")
        if ack is not None and not why:
            return ack
        seen = datetime.fromtimestamp(os.lstat(path).st_mtime, UTC)
        return rules.answer(manifest, self.epoch(task_id), "failed", f"its ack is not believed: {why}", seen)

    def read_manifest(self, task_id: str) -> Manifest | None:
        """What the record says; None for an unknown or unreadable one."""
        try:
            return parse_manifest(read_regular(self.task(task_id), MAX_MANIFEST_BYTES))
        except (FileNotFoundError, NotADirectoryError, Unfit):
            return None

    def genuine(self, place: Place, pool: str | None = None) -> Manifest:
        """The manifest at a place, proven to be the submitted task. Raises Unfit, FileNotFoundError.

        `pool` is where it was found ready; None when it was not.
        """
        data, found = read_identified(place.path, MAX_MANIFEST_BYTES)
        manifest, granted = self._read(data)
        if manifest.task_id != place.task_id:
            raise Unfit(f"it holds task {manifest.task_id}, not {place.task_id}")
        if pool is not None and manifest.owner != pool:
            raise Unfit(f"it belongs to {manifest.owner}, not {pool}")
        self._identify(place, manifest, granted, found)
        if not granted:
            raise Ungranted("no valid grant")
        return manifest

    def _read(self, data: bytes) -> tuple[Manifest, bool]:
        """The manifest, and whether the CBO granted it. Raises Unfit for anything that is not exactly a manifest."""
        with contextlib.suppress(InvalidInput, ValueError, RecursionError):
            manifest = Manifest.as_signed(data)
            if self._valid(manifest):
                return manifest, True
        manifest = parse_manifest(data)  # none, or not granted, or written anew by another program
        return manifest, self._valid(manifest)

    def _identify(self, place: Place, manifest: Manifest, granted: bool, found: os.stat_result) -> None:
        """`found` is the file that the manifest was read from."""
        task = self.task(place.task_id)
        try:
            known = os.lstat(task)
        except FileNotFoundError:
            if self.archive.holds(place.task_id):
                raise Unfit("a task that already has its ack") from None
            # Lost by other hands: adopt what the CBO did sign.
            if not granted:
                raise Unfit("never submitted, and no valid grant") from None
            link(place.path, task)
            known = os.lstat(task)
        if (known.st_dev, known.st_ino) != (found.st_dev, found.st_ino):
            restored = known.st_nlink == 1 and read_regular(task, MAX_MANIFEST_BYTES) == canonical_json(
                manifest.to_json()
            )  # a copied or restored station: hard links are gone, contents are the same
            if not restored:
                raise Unfit("a copy of a known task, not the task")
        if there(self.ack(place.task_id)):
            raise Unfit("a task that already has its ack")
        if place.epoch != (current := self.epoch(place.task_id)) and not self._announced(place, manifest, current):
            raise Unfit(f"epoch {place.epoch} is not the current one ({current})")

    def _announced(self, place: Place, manifest: Manifest, current: int) -> bool:
        """Was the next epoch marked, and the move to it then cut short (a kill, a full disk)?"""
        if place.epoch != current - 1 or place.state not in ("claimed", "dead", "done"):
            return False
        found = self.find(place.task_id, manifest, current)
        return found is None or found.epoch == place.epoch

    def bury(self, place: Place, reason: str) -> bool:
        """Move a genuine task to the dead with its reason; False if somebody else moved it first."""
        target = self.dead(place.task_id, place.epoch)
        write_json(self._why_dead(place), {"reason": reason})
        try:
            move(place.path, target)
        except FileNotFoundError:
            return False
        except FileExistsError:
            return self.set_aside(place.path, reason) != ""
        fsync_dir(Path(target).parent)
        return True

    def _why_dead(self, place: Place) -> Path:
        return self.root / "dead" / f"{place.task_id}.e{place.epoch}.reason.json"

    def set_aside(self, path: str, reason: str) -> str:
        """Move anything that is no task to the dead under a name of its own; returns that name, "" if it is gone."""
        safe = re.sub(r"[^a-zA-Z0-9._-]", "_", name_of(path))[:100]
        for number in range(10_000):
            target = self.root / "dead" / f"{safe}.{number}.stray"
            try:
                move(path, target)
            except FileNotFoundError:
                return ""
            except FileExistsError:
                continue
            why = {"reason": reason, "was": name_of(folder_of(path))}
            write_json(target.with_name(f"{target.name}.reason.json"), why)
            return target.name
        return ""

    def not_before(self, place: Place) -> datetime | None:
        """The time a `later` task waits for; None when it is not known, which means now."""
        try:
            mark = json.loads(read_regular(f"{self.marks(place.task_id)}/e{place.epoch}", 4096))
            return parse_iso(mark["not_before"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def reason(self, place: Place) -> str:
        """Why a task is dead, or why it is at another epoch than its first; else empty."""
        why = Path(f"{self.marks(place.task_id)}/e{place.epoch}")
        if place.state == "dead":
            why = self._why_dead(place)
        elif place.epoch == 1:
            return ""
        try:
            return str(json.loads(read_regular(why, 65536))["reason"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""


@functools.lru_cache(maxsize=65536)
def ack_path(root: Path, task_id: str) -> Path:
    """Where a task's ack lies under an exchange's root, once it has one."""
    return root / "acks" / _shelf(task_id) / f"{task_id}.json"


def _shelf(task_id: str) -> str:
    return hashlib.sha256(task_id.encode()).hexdigest()[:2]


def _highest(entries: list[str]) -> int:
    """Of the marks e2, e3 …"""
    return max((int(n[1:]) for n in entries if n[0] == "e" and _MARK.fullmatch(n)), default=1)


class Ungranted(Unfit):
    """The submitted task itself, but without a valid grant."""


def parse_manifest(data: bytes) -> Manifest:
    """Raises Unfit for anything that is not exactly a manifest."""
    try:
        return Manifest.from_json(json.loads(data))
    except (InvalidInput, ValueError, RecursionError) as error:
        raise Unfit(f"not a manifest: {error}"[:500]) from error
