"""Changes to the world, each written down before it is made and confirmed after."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path
from typing import Any

from chassis.atomic import fsync_dir
from chassis.canonical import Json
from chassis.errors import Drifted, Refused
from chassis.exchange.moves import move
from chassis.journal.boot import written_out
from chassis.journal.extents import copy_durably
from chassis.journal.heirs import spoken_of
from chassis.journal.inverse import inverted_sha256
from chassis.journal.records import TaskLog
from chassis.journal.recovery import drop_strays, settle
from chassis.journal.targets import (
    Consent,
    Locks,
    attributes,
    dress,
    like,
    real_target,
    refuse_secret,
    same_file_system,
    snapshot,
)

Guard = Callable[[], None]
"""Raises Refused or LeaseLost when nothing may take effect any more: kill switch, claim, grant."""
Fault = Callable[[str], None]


def _nothing() -> None:
    """Nothing to verify."""


class JournaledEffects:
    """`chassis.work.Effects` for one claim of one task."""

    def __init__(
        self, log: TaskLog, locks: Locks, consent: Consent, guard: Guard, epoch: int, fault: Fault, next_n: int
    ) -> None:
        self._log, self._locks, self._consent, self._guard = log, locks, consent, guard
        self._epoch, self._fault, self._n = epoch, fault, next_n
        self._journal = log.folder.parent.resolve()
        self._changed: set[str] = set()
        self._seen: dict[Path, tuple[Json, int]] = {}

    @property
    def files_changed(self) -> int:
        """Distinct targets changed in this session."""
        return len(self._changed)

    def create(self, target: Path, source: Path, *, mode: int = 0o644) -> None:
        target = self._allowed(target)
        with self._changing(target):
            if lexists(target):
                raise Drifted(f"{target} is already there; nothing was changed")
            after = self._source(source)
            dirs = [folder for folder in [target.parent, *target.parent.parents] if not folder.exists()]
            tmp = self._intend("create", target, None, {**after, "mode": mode}, dirs=[str(d) for d in dirs])
            for folder in reversed(dirs):
                folder.mkdir()
                fsync_dir(folder.parent)
            self._stage(source, tmp, {"mode": mode, "uid": os.geteuid(), "gid": os.getegid()})
            self._place(target, lambda: _move_new(tmp, target), plain=True)
            self._remember_made(target, after)

    def replace(self, target: Path, source: Path, *, expect_sha256: str | None = None) -> None:
        target = self._allowed(target)
        with self._changing(target):
            before = self._there(target)
            if expect_sha256 is not None and before["sha256"] != expect_sha256:
                raise Drifted(f"{target} is not what was expected any more; nothing was changed")
            dressed = like(before)
            kept = self._keep(target, before)
            tmp = self._intend("replace", target, before, {**self._source(source), **dressed})
            self._stage(source, tmp, dressed)
            self._place(target, lambda: tmp.replace(target), lambda: _untouched(kept, before, target), plain=True)

    def remove(self, target: Path, *, inverse: Json | None = None) -> None:
        target = self._allowed(target)
        with self._changing(target):
            before = self._there(target)
            if inverse is not None:
                inverse = self._verified(inverse, before["sha256"])
            self._written_out(target)
            self._intend("remove", target, before, None, inverse=inverse)
            kept = self._log.pre / str(self._n)
            if same_file_system(target.parent, self._log.pre):
                self._place(target, lambda: move(target, kept), lambda: _untouched(kept, before, target))
            else:
                copy_durably(target, kept)
                dress(kept, before)
                if not self._log.in_order:
                    fsync_dir(kept.parent)
                self._place(target, target.unlink)
            if inverse is not None:
                kept.unlink()

    def rotate(self, target: Path, to: Path) -> None:
        target, to = self._allowed(target), self._allowed(to)
        with self._changing(target, to):
            before = self._there(target)
            if lexists(to):
                raise Drifted(f"{to} is already there; nothing was changed")
            if not same_file_system(target.parent, to.parent):
                raise Refused(f"{to} is on another file system than {target}; a rotation is a rename")
            self._written_out(target)
            empty = self._intend("rotate", target, before, None, to=str(to))
            _make_empty(empty, spoken_of(self._log.folder.parent, target))
            dress(empty, like(before))
            self._log.append("staged", n=self._n, after=snapshot(empty))
            self._fault("rotate.staged")
            self._changed.add(str(to))

            def swap() -> None:
                to.hardlink_to(target)
                self._fault("rotate.linked")
                empty.replace(target)

            self._place(target, swap)
            self._remember(to, before)

    @contextmanager
    def _changing(self, *targets: Path) -> Iterator[None]:
        """Locked, guarded, and settled one way or the other when it raises."""
        with self._locks.held(targets, self._log.task_id, self._epoch):
            self._guard()
            try:
                yield
            except Exception:
                for entry in self._log.read().half_done:
                    settle(self._log, entry)
                drop_strays(self._log)
                self._n = len(self._log.read().entries) + 1
                raise

    def _allowed(self, path: Path) -> Path:
        target = real_target(path)
        refuse_secret(target)
        if target.is_relative_to(self._journal):
            raise Refused("the journal itself is never a target")
        self._consent(target)
        return target

    def _there(self, target: Path) -> Json:
        before = self._known(target) or snapshot(target)
        if before is None:
            raise Drifted(f"{target} is not there; nothing was changed")
        return before

    def _known(self, path: Path) -> Json | None:
        """What this session read of that file, where nothing changed its inode since."""
        found, changed_ns = self._seen.get(path, (None, 0))
        if found is None or not lexists(path):
            return None
        info = path.lstat()
        now = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return found if now == (found["ino"], found["size"], found["mtime_ns"], changed_ns) else None

    def _remember(self, path: Path, found: Json) -> None:
        """Where our own rename put what was read before it. Its change time from now on: the rename set it."""
        info = path.lstat()
        if (info.st_ino, info.st_size, info.st_mtime_ns) == (found["ino"], found["size"], found["mtime_ns"]):
            self._seen[path] = ({**found, "mode": stat.S_IMODE(info.st_mode)}, info.st_ctime_ns)

    def _remember_made(self, path: Path, given: Json) -> None:
        """What was read of the source, now that it is here: under the same inode, or as a copy of our own."""
        info = path.lstat()
        if info.st_size == given["size"] and not attributes(path):
            found = {**given, "mode": stat.S_IMODE(info.st_mode), "uid": info.st_uid, "gid": info.st_gid}
            self._seen[path] = ({**found, "mtime_ns": info.st_mtime_ns, "ino": info.st_ino}, info.st_ctime_ns)

    def _source(self, source: Path) -> Json:
        if source.is_symlink():
            raise Refused(f"{source.name} is a link; give the finished file")
        found = snapshot(source)
        if found is None:
            raise Refused(f"the source {source.name} is not there")
        return {"sha256": found["sha256"], "size": found["size"]}

    def _verified(self, inverse: Json, sha256: str) -> Json:
        """The inverse with its source's digest, once it has been seen to give these bytes again."""
        source = real_target(Path(inverse["source"]))
        found = self._there(source)
        if inverted_sha256(inverse["codec"], source) != sha256:
            raise Drifted(f"{source} does not give the bytes of the target again; nothing was changed")
        return {
            "kind": "decompress", "codec": inverse["codec"], "source": str(source), "source_sha256": found["sha256"],
        }  # fmt: skip

    def _sibling(self, target: Path) -> Path:
        """Where the new content stands beside the target until the rename; found again after a crash by its name."""
        tag = hashlib.sha256(f"{self._log.task_id}/{self._n}".encode()).hexdigest()[:16]
        return target.with_name(f".calyx-{tag}.tmp")

    def _intend(self, op: str, target: Path, before: Json | None, after: Json | None, **more: Any) -> Path:
        tmp = self._sibling(target)
        self._fault(f"{op}.before_intent")
        self._log.promise(
            n=self._n, epoch=self._epoch, op=op, target=str(target), before=before, after=after, tmp=str(tmp),
            **more,
        )  # fmt: skip
        self._fault(f"{op}.intended")
        return tmp

    def _stage(self, source: Path, tmp: Path, dressed: Json) -> None:
        if same_file_system(source, tmp.parent):
            tmp.unlink(missing_ok=True)
            move(source, tmp)
        else:
            copy_durably(source, tmp)
        dress(tmp, dressed)
        self._fault("staged")

    def _written_out(self, target: Path) -> None:
        """What is kept as the target's own inode may have been written by somebody who never syncs."""
        written_out(target, in_order=self._log.in_order and same_file_system(target, self._log.pre))

    def _keep(self, target: Path, before: Json) -> Path:
        """The target's present inode in the journal too (a copy where it can't be linked), before it is replaced."""
        kept = self._log.pre / str(self._n)
        kept.unlink(missing_ok=True)
        if same_file_system(target, self._log.pre):
            self._written_out(target)
            kept.hardlink_to(target)
        else:
            copy_durably(target, kept)
            dress(kept, before)
        self._fault("kept")
        return kept

    def _place(
        self, target: Path, act: Callable[[], object], verify: Callable[[], None] = _nothing, *, plain: bool = False
    ) -> None:
        """The change itself: guarded once more right before, committed right after.

        `plain`: whatever anybody does to the target next, a recovery without the commit would come to the same, so
        that need not be on the disk at once; nor need the change itself where the file system keeps the order, as the
        next record that is synced takes it along, `finished` at the latest. A removed file that somebody makes again
        would be taken for untouched.
        """
        self._guard()
        act()
        self._fault("placed")
        verify()
        if not (plain and self._log.in_order and same_file_system(target.parent, self._log.pre)):
            fsync_dir(target.parent)
        self._log.append("commit", n=self._n, durable=not plain)
        self._changed.add(str(target))
        self._n += 1
        self._fault("committed")


def _make_empty(path: Path, taken: set[int]) -> None:
    """A new file whose inode number is not among these. One that is stays open until another is found."""
    with contextlib.ExitStack() as held:
        while True:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            held.callback(os.close, fd)
            if os.fstat(fd).st_ino not in taken:
                return
            path.unlink()


def _untouched(kept: Path, before: Json, target: Path) -> None:
    """A write between reading and renaming lands in the kept inode: then the change must not stand."""
    found = kept.stat()
    if (found.st_size, found.st_mtime_ns) != (before["size"], before["mtime_ns"]):
        raise Drifted(f"{target} was written to meanwhile; it is put back as it was")


def _move_new(tmp: Path, target: Path) -> None:
    try:
        move(tmp, target)
    except FileExistsError:
        raise Drifted(f"{target} appeared meanwhile; nothing was changed") from None
