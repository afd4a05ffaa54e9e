"""Doing what was rehearsed: exactly the plan, inside a watched journal, so that its undo is everybody's undo."""

import contextlib
import os
from collections.abc import Callable
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.errors import Drifted
from chassis.journal.announced import sign
from chassis.journal.extents import copy
from chassis.journal.survey import Found
from chassis.journal.targets import dress, give_attributes
from cli.run.plan import Change, Plan, drift


def apply(plan: Plan, guard: Callable[[], None]) -> None:
    """Make the real folders what the rehearsal left. `guard` raises when nothing more may change.

    Raises Drifted before anything is changed; whatever it raises later leaves a part of the plan, which the caller
    takes back by the journal.
    """
    if why := drift(plan):
        raise Drifted(f"{why}; nothing was changed, rehearse it again")
    for each in reversed(plan.changes):  # innermost first
        if each.op == "remove":
            guard()
            _open(Path(each.path).parent)
            _remove(each)
    late: list[Change] = []
    for n, each in enumerate(plan.changes):  # outermost first
        if each.of:
            late.append(each)
        elif each.op != "remove":
            guard()
            _open(Path(each.path).parent)
            _make(each, _on_the_way(each, n))
    for each in late:  # once the name that they are one file with is there
        guard()
        Path(each.path).hardlink_to(each.of)
    for path in sorted(plan.folders, reverse=True):  # innermost first: what is done inside moves the time outside
        _finish(Path(path), plan.folders[path])


def announced(plan: Plan) -> dict[str, list[str]]:
    """What a look at any moment of it may find, for the journal."""
    found: dict[str, list[str]] = {path: ["folder"] for path in plan.folders}
    for n, each in enumerate(plan.changes):
        may = found.setdefault(each.path, [])
        for seen, sha256 in ((each.before, each.before_sha256), (each.after, each.after_sha256)):
            may.append("absent" if seen is None else sign(seen.kind, sha256, seen.to))
        if each.op != "remove":
            found[str(_on_the_way(each, n))] = ["any"]
    return found


def _on_the_way(change: Change, n: int) -> Path:
    """Where the new content of the n-th change stands until its rename."""
    return Path(change.path).with_name(f".calyx-apply-{n}.tmp")


def _remove(change: Change) -> None:
    target = Path(change.path)
    if change.before is not None and change.before.kind == "folder":
        _open(target)
        target.rmdir()
    else:
        target.unlink()


def _make(change: Change, tmp: Path) -> None:
    """By a rename, so that nobody sees half of a file."""
    target, after = Path(change.path), change.after
    assert after is not None
    if after.kind == "folder":
        if change.op == "create":
            target.mkdir(mode=0o700)
    elif after.kind == "link":
        tmp.symlink_to(after.to)
        os.chown(tmp, after.uid, after.gid, follow_symlinks=False)
        os.utime(tmp, ns=(after.mtime_ns, after.mtime_ns), follow_symlinks=False)
        tmp.replace(target)
    elif change.op == "dress":
        dress(target, after.to_json(), durable=False)
    else:
        assert change.staged is not None
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with change.staged.open("rb") as reader, os.fdopen(fd, "wb") as writer:
            copy(reader.fileno(), writer.fileno(), after.size)
        dress(tmp, after.to_json(), durable=False)
        if change.op == "create" and lexists(target):
            tmp.unlink()
            raise Drifted(f"{target} appeared while the plan was applied")
        tmp.replace(target)


def _open(folder: Path) -> None:
    """The command may have opened a folder, changed it, and closed it again; its own mode comes at the end."""
    mode = folder.stat().st_mode & 0o7777
    if mode & 0o300 != 0o300 and os.geteuid() == folder.stat().st_uid:
        folder.chmod(mode | 0o700)


def _finish(folder: Path, after: Found) -> None:
    found = folder.stat()
    if (found.st_uid, found.st_gid) != (after.uid, after.gid):
        os.chown(folder, after.uid, after.gid)
    with contextlib.suppress(PermissionError):
        give_attributes(folder, after.attributes)
    folder.chmod(after.mode)
    os.utime(folder, ns=(found.st_atime_ns, after.mtime_ns))
