"""Effects of a program that knows nothing of the journal: its folders before and after, and the way back from there.

Before it starts, everything under its declared paths is kept (`chassis.journal.survey`). After it ended, or after a
crash, what differs becomes the task's changes, ordered so that undoing them last first always works: what was made
goes innermost first, what was removed comes back outermost first, folders get their times back at the very end.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.atomic import read_json, write_json
from chassis.canonical import Json
from chassis.errors import Drifted, Refused
from chassis.journal.boot import boot_id
from chassis.journal.cells import turned_intents
from chassis.journal.extents import copy
from chassis.journal.records import TaskLog
from chassis.journal.survey import Bounds, Found, look, survey, sync_file_system, take
from chassis.journal.targets import (
    dress,
    give_attributes,
    nearest_folder,
    real_target,
    refuse_secret,
    same_dress,
    snapshot,
)

PROBLEM = "left"
"""The operation of what changed and can't be undone: shown, never touched."""


def roots_of(paths: Iterable[Path], journal: Path) -> list[Path]:
    """The declared paths as they are watched: real, there, none inside another. Raises Refused."""
    real = sorted({real_target(path) for path in paths})
    for path in real:
        refuse_secret(path)
        if not lexists(path):
            raise Refused(f"{path} is not there; make it first, or name another path")
        if path.is_relative_to(journal) or journal.is_relative_to(path):
            raise Refused(f"{path} holds the journal; name a path that doesn't")
    return [path for path in real if not any(path != other and path.is_relative_to(other) for other in real)]


def begin(log: TaskLog, roots: list[Path], bounds: Bounds, *, undoes: str = "", whole: bool = False) -> None:
    """Keep everything under the roots; only when that is durable may the program start.

    `undoes`: the task whose undo is watched. The roots are then its targets, there or not, and no folder's contents.
    """
    before = take(roots, log.pre, bounds, deep=not undoes)
    if undoes and (other := _named_elsewhere(before)):
        raise Refused(f"{other} has another name, which would not be one file with it again")
    write_json(log.before, [found.to_json() for found in before], mode=0o600)
    log.append("watch", roots=[str(root) for root in roots], undoes=undoes, whole=whole, boot=boot_id())


def _named_elsewhere(before: Iterable[Found]) -> str:
    """A file that has more names than those looked at."""
    files = [found for found in before if found.kind == "file"]
    names = Counter(found.ino for found in files)
    return next((found.path for found in files if found.links > names[found.ino]), "")


def settle(log: TaskLog) -> None:
    """Compare, and make what differs the task's changes, all at once. Safe to repeat after a crash at any point.

    What the program wrote is on the disk before it is said to have been done, whether the program cared or not. An
    undo did that itself. Under another boot id every content is compared: a power cut can leave new bytes in a file
    whose times say that it was not touched.
    """
    seen = log.read()
    if not seen.undoes:
        _sync([Path(root) for root in seen.watched])
    before = {raw["path"]: (n, Found(**raw)) for n, raw in enumerate(read_json(log.before), 1)}
    after = {found.path: found for found in survey([Path(root) for root in seen.watched], deep=not seen.undoes)}
    intents = _in_order(log, before, after, by_content=seen.boot != boot_id() or not seen.boot)
    if seen.undoes:
        intents = turned_intents(log.folder, intents)
    write_json(log.after, intents, mode=0o600)
    log.append("settled")
    kept = {str(each["n"]) for each in intents}
    for blob in log.pre.iterdir():
        if blob.name not in kept:
            blob.unlink()


def _sync(roots: Iterable[Path]) -> None:
    for folder in {folder.stat().st_dev: folder for folder in map(nearest_folder, roots)}.values():
        sync_file_system(folder)


def _in_order(
    log: TaskLog, before: dict[str, tuple[int, Found]], after: dict[str, Found], *, by_content: bool
) -> list[Json]:
    """What was made, changed or removed, as the journal's intents. Undone in reverse."""
    numbers = iter(range(len(before) + 1, len(before) + 3 * (len(before) + len(after)) + 2))
    touched, times, unlocks, removed, made, changed, problems = set(), [], [], [], [], [], []

    for path, (n, was) in before.items():
        now = after.get(path)
        if now is not None and now.kind == was.kind:
            if (by_content or now.same != was.same) and was.kind != "folder":
                changed += _changed(log, n, was, now)
                if not by_content or any(each["target"] == path for each in changed[-1:]):
                    touched.add(str(Path(path).parent))  # putting a file back is a rename in its folder
            continue
        touched.add(str(Path(path).parent))
        if was.kind == "file":
            removed.append(_intent("remove", n, path, _kept(log, n, was), None))
        elif was.kind == "other":
            problems.append(_intent(PROBLEM, next(numbers), path, _bare(was), None))
        else:
            removed.append(_intent("rmdir" if was.kind == "folder" else "link", next(numbers), path, _bare(was), None))
        if was.kind == "folder":
            touched.add(path)
    for path, now in after.items():
        earlier = before.get(path)
        if earlier is not None and earlier[1].kind == now.kind:
            continue
        touched.add(str(Path(path).parent))
        if not _sayable(path + now.to):
            shown = path.encode(errors="backslashreplace").decode()
            problems.append(_intent(PROBLEM, next(numbers), shown, None, {"sha256": None, "size": now.size}))
            continue
        made.append(_made(next(numbers), now))
        if now.kind == "folder" and now.mode & 0o700 != 0o700:
            unlocks.append(_intent("unlock", next(numbers), path, None, _bare(now)))
    # What became another name of a shared file is parted from it before that file is written to again.
    changed.sort(key=lambda each: bool(each["op"] == "replace"))
    twins = _twins(numbers, before, after)
    touched |= {str(Path(each["target"]).parent) for each in twins}
    for path, (_, was) in before.items():
        now = after.get(path)
        if was.kind != "folder":
            continue
        here = _bare(now) if now is not None and now.kind == "folder" else None
        differs = any(here is None or here[name] != getattr(was, name) for name in DRESS)
        if path not in touched and not differs:
            continue
        times.append(_intent("folder", next(numbers), path, _bare(was), here))
        if here is not None and here["mode"] & 0o700 != 0o700:
            unlocks.append(_intent("unlock", next(numbers), path, _bare(was), here))
    # Undone from the end: open folders, take away what was made (innermost first), bring back what was removed
    # (outermost first), put contents back, and at last the folders' own modes and times (innermost first).
    return [*problems, *times, *twins, *changed, *reversed(removed), *made, *reversed(unlocks)]


def _twins(numbers: Iterator[int], before: dict[str, tuple[int, Found]], after: dict[str, Found]) -> list[Json]:
    """Names that were one file and are not any more, each with the name to be joined to: one that still is it."""
    groups: dict[int, list[Found]] = {}
    for _, was in before.values():
        if was.kind == "file" and was.links > 1:
            groups.setdefault(was.ino, []).append(was)
    found = []
    for ino, names in groups.items():
        stayed = [was for was in names if was.path in after and after[was.path].ino == ino]
        first = (stayed or names)[0]
        found += [
            _intent("twin", next(numbers), was.path, _bare(was), None, of=first.path)
            for was in names
            if was not in stayed and was is not first
        ]
    return found


def _sayable(text: str) -> bool:
    """A name that is not UTF-8 has no place in a record."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _made(n: int, now: Found) -> Json:
    if now.kind == "file":
        return _intent("create", n, now.path, None, _content(now), dirs=[])
    if now.kind == "folder":
        return _intent("mkdir", n, now.path, None, _bare(now))
    return _intent("link" if now.kind == "link" else "special", n, now.path, None, _bare(now))


def _changed(log: TaskLog, n: int, was: Found, now: Found) -> list[Json]:
    if was.kind == "link":
        same = all(getattr(was, name) == getattr(now, name) for name in ("to", "uid", "gid", "mtime_ns"))
        return [] if same else [_intent("link", n, was.path, _bare(was), _bare(now))]
    if was.kind == "other":
        return []
    after, kept = _content(now), _kept(log, n, was)
    joined = now.links > 1 and now.ino != was.ino  # it became one file with another name
    if after["sha256"] == kept["sha256"] and not joined:
        same = all(getattr(was, name) == getattr(now, name) for name in DRESS)
        return [] if same else [_intent("dress", n, was.path, kept, after)]
    # The other name of a shared file would keep the change if this one were replaced by a new file.
    shared = was.links > 1 and now.ino == was.ino
    return [_intent("rewrite" if shared else "replace", n, was.path, kept, after)]


def _intent(op: str, n: int, path: str, before: Json | None, after: Json | None, **more: object) -> Json:
    target = Path(path)
    tmp = target.with_name(f".calyx-undo-{n}.tmp")
    return {"n": n, "op": op, "target": path, "before": before, "after": after, "tmp": str(tmp), **more}


def _bare(found: Found) -> Json:
    return {**found.to_json(), "sha256": None}


def _content(found: Found) -> Json:
    """With the digest of what is there; none for what can't be read any more: then it can't be undone either."""
    try:
        seen = snapshot(Path(found.path))
    except Refused:
        seen = None
    return {**found.to_json(), "sha256": seen["sha256"] if seen else None}


def _kept(log: TaskLog, n: int, was: Found) -> Json:
    kept = snapshot(log.pre / str(n))
    return {**was.to_json(), "sha256": kept["sha256"] if kept else None}


# --- the way back, by operation: the check says what will be done or raises Drifted, the act may be repeated ------


def check(intent: Json, gone_by_then: bool) -> str:
    """For the operations that only a watched program's changes have.

    `gone_by_then`: the steps before this one leave nothing at the path, whatever is there now.
    """
    op, target, after = intent["op"], Path(intent["target"]), intent["after"]
    if op == PROBLEM:
        return f"leave {target} as it is: no plain file, or a name that can't be recorded"
    now = None if gone_by_then else look(target)
    if op == "twin":
        return f"make {target} one file with {intent['of']} again"
    if op == "rmdir":
        if now is not None:
            raise Drifted(f"something stands where the folder {target} was; nothing was touched")
        return f"make the folder {target} again"
    if op == "folder" and after is None:
        return f"give the folder {target} its mode and time back"
    if after is None:
        if now is not None:
            raise Drifted(f"something stands where the link {target} was; nothing was touched")
        return f"make the link {target} again"
    if now is None or now.kind != after["kind"] or (now.kind == "link" and now.to != after["to"]):
        raise Drifted(f"{target} is not as the task left it; nothing was touched")
    opened = {**after, "mode": after["mode"] | 0o700}  # by an undo that was interrupted
    if not same_dress(now.to_json(), after) and not (op == "folder" and same_dress(now.to_json(), opened)):
        raise Drifted(f"{target} got another mode or owner since the task; nothing was touched")
    if op in ("dress", "rewrite") and (snapshot(target) or {}).get("sha256") != after["sha256"]:
        raise Drifted(f"{target} was changed since the task; nothing was touched")
    return _WORDS[op].format(target=target)


_WORDS = {
    "dress": "give {target} its mode and time back",
    "rewrite": "put the former content of {target} back, under all its names",
    "mkdir": "remove the folder {target}, if it is empty then",
    "folder": "give the folder {target} its mode and time back",
    "unlock": "open the folder {target} for what follows",
    "link": "put the link {target} back as it was",
    "special": "remove {target}",
}
DRESS = ("mode", "uid", "gid", "mtime_ns", "attributes")


def act(log: TaskLog, n: int, intent: Json) -> None:
    """Undo one change. The world was checked before the first of them."""
    op, target, before = intent["op"], Path(intent["target"]), intent["before"]
    if op == "mkdir":
        with contextlib.suppress(OSError):  # somebody else's file in it keeps it
            target.rmdir()
    elif op == "special":
        target.unlink(missing_ok=True)
    elif op == "rmdir":
        target.mkdir(mode=0o700, exist_ok=True)
    elif op == "unlock":
        target.chmod(intent["after"]["mode"] | 0o700)
    elif op == "folder":
        _dress_folder(target, before)
    elif op == "link":
        _relink(target, Path(intent["tmp"]), before)
    elif op == "dress":
        dress(target, before)
    elif op == "twin":
        _join(target, Path(intent["of"]), Path(intent["tmp"]), before)
    elif op == "rewrite":
        with (log.pre / str(n)).open("rb") as reader, target.open("wb") as writer:
            copy(reader.fileno(), writer.fileno(), os.fstat(reader.fileno()).st_size)
        dress(target, before)
    # PROBLEM: nothing can be done


def _join(target: Path, of: Path, tmp: Path, before: Json) -> None:
    """Only where both are there and alike: a file that could not be put back is no reason to lose the other."""
    one, other = snapshot(target), snapshot(of)
    if one is None or other is None or one["ino"] == other["ino"] or one["sha256"] != other["sha256"]:
        return
    tmp.unlink(missing_ok=True)
    tmp.hardlink_to(of)
    tmp.replace(target)
    dress(target, before)


def _dress_folder(target: Path, before: Json) -> None:
    found = target.stat()
    if (found.st_uid, found.st_gid) != (before["uid"], before["gid"]):
        os.chown(target, before["uid"], before["gid"])
    target.chmod(before["mode"])
    give_attributes(target, before["attributes"])
    os.utime(target, ns=(found.st_atime_ns, before["mtime_ns"]))


def _relink(target: Path, tmp: Path, before: Json | None) -> None:
    if before is None:
        target.unlink(missing_ok=True)
        return
    tmp.unlink(missing_ok=True)
    tmp.symlink_to(before["to"])
    os.chown(tmp, before["uid"], before["gid"], follow_symlinks=False)
    os.utime(tmp, ns=(before["mtime_ns"], before["mtime_ns"]), follow_symlinks=False)
    tmp.replace(target)


OPERATIONS = frozenset({*_WORDS, "rmdir", "twin", PROBLEM})
