"""The way back: everything is checked before anything is touched, then undone last change first."""

from collections.abc import Callable
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.canonical import Json
from chassis.errors import Drifted
from chassis.exchange.moves import move
from chassis.journal import cells, watched
from chassis.journal.extents import copy_durably
from chassis.journal.heirs import heir, remember, restored
from chassis.journal.inverse import decompressed, inverted_sha256
from chassis.journal.join import join_back
from chassis.journal.records import Entry, TaskLog
from chassis.journal.recovery import remove_empty
from chassis.journal.targets import (
    dress,
    nearest_folder,
    prefix_sha256,
    same_dress,
    same_file_system,
    snapshot,
    stands_still,
)


class Seen(dict[Path, Json | None]):
    """Paths as they will be once the changes checked so far are undone; others are as they are on disk. Rows are tried
    in `databases`."""

    def __init__(self, databases: cells.Databases) -> None:
        self.databases = databases


def check(log: TaskLog, entries: list[Entry], seen: Seen) -> tuple[str, ...]:
    """The steps an undo will take, in order. Raises Drifted if the world is not as the task left it.

    `seen` starts empty, or as the check of a later task left it: then that task's undo is assumed done.
    """

    def inside_remade(path: Path) -> bool:
        """Its folder will have been made again: what the path leads to now says nothing."""
        return bool((seen.get(path.parent) or {}).get("remade"))

    def look(path: Path) -> Json | None:
        if path in seen:
            return seen[path]
        return None if inside_remade(path) else snapshot(path)

    steps = []
    for entry in reversed(entries):
        op, target = entry.intent["op"], Path(entry.intent["target"])
        if op != watched.PROBLEM and not inside_remade(target):
            stands_still(target)
        if op in watched.OPERATIONS:
            if op == "rewrite":
                _check_kept(log, entry)
            gone_by_then = inside_remade(target) or (target in seen and seen[target] is None)
            steps.append(watched.check(entry.intent, gone_by_then))
        elif op in cells.KEYS:
            step, seen[target] = cells.check_keys(log, entry, look(target))
            steps.append(step)
            continue
        elif op in cells.ROWS:
            if target in seen:
                raise Drifted(f"{target} was changed as a file since; undo that first; nothing was touched")
            steps.append(cells.check_rows(entry, seen.databases))
            continue
        else:
            steps.append(_CHECKS[op](log, entry, look))
        if op == "unlock":
            continue  # leaves the folder where it is
        before = entry.intent["before"]
        restored = before if before is None else {**before, "restored": True, "remade": op == "rmdir"}
        if restored and lexists(log.pre / str(entry.n)):
            restored["kept"] = str(log.pre / str(entry.n))
        if op == "rotate":
            to = Path(entry.intent["to"])
            if _grown(look(to), look(target), before):
                restored = {**before, "restored": True, "sha256": "with what was appended since"}
            seen[to] = None
        seen[target] = restored
    return tuple(steps)


def act(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    """Undo one change and record it. Safe to repeat after a crash at any point."""
    fault("undo.before")
    if entry.intent["op"] in watched.OPERATIONS:
        watched.act(log, entry.n, entry.intent)
    elif entry.intent["op"] in cells.ROWS:
        cells.undo_rows(entry, fault)
    else:
        _ACTS[entry.intent["op"]](log, entry, fault)
    target, before = Path(entry.intent["target"]), entry.intent["before"]
    is_file = before is not None and (before["sha256"] is not None or entry.intent["op"] == "twin")
    if is_file and entry.intent["op"] != "rotate":
        restored(log.folder.parent, target, before["ino"])
    fsync_dir(nearest_folder(target.parent))
    if entry.intent["op"] == "folder" and not same_file_system(target.parent, log.pre):
        fsync_dir(target)  # its own mode and times: the next record's sync takes them along on its file system only
    fault("undo.acted")
    log.append("undid", n=entry.n)
    fault("undo.recorded")


Look = Callable[[Path], Json | None]


def _as_left(entry: Entry, look: Look) -> None:
    target, after = Path(entry.intent["target"]), entry.intent["after"]
    now = look(target)
    if now is None:
        raise Drifted(f"{target} is gone since the task; nothing was touched")
    if now["sha256"] != after["sha256"]:
        raise Drifted(f"{target} was changed since the task; nothing was touched")
    if not same_dress(now, after):
        raise Drifted(f"{target} got another mode or owner since the task; nothing was touched")


def _check_create(_log: TaskLog, entry: Entry, look: Look) -> str:
    _as_left(entry, look)
    return f"remove {entry.intent['target']}"


def _check_replace(log: TaskLog, entry: Entry, look: Look) -> str:
    _as_left(entry, look)
    _check_kept(log, entry)
    return f"put the former content of {entry.intent['target']} back"


def _check_kept(log: TaskLog, entry: Entry) -> None:
    kept = snapshot(log.pre / str(entry.n))
    if kept is None or kept["sha256"] != entry.intent["before"]["sha256"]:
        said = "is gone" if kept is None else "was written to since"
        raise Drifted(f"the kept content of {entry.intent['target']} {said}; nothing was touched")


def _check_remove(log: TaskLog, entry: Entry, look: Look) -> str:
    target, inverse = Path(entry.intent["target"]), entry.intent.get("inverse")
    if look(target) is not None or not (target.parent.is_dir() or (look(target.parent) or {}).get("remade")):
        raise Drifted(f"something stands where {target} was removed; nothing was touched")
    if inverse is None or lexists(log.pre / str(entry.n)):
        _check_kept(log, entry)
        return f"put {target} back"
    source = Path(inverse["source"])
    found = look(source)
    if found is None or found["sha256"] != inverse["source_sha256"]:
        raise Drifted(f"{source}, from which {target} would be made again, was changed; nothing was touched")
    return f"make {target} again from {source.name}"


def _check_rotate(log: TaskLog, entry: Entry, look: Look) -> str:
    intent = entry.intent
    target, to, before = Path(intent["target"]), Path(intent["to"]), intent["before"]
    stands_still(to)
    old, new = look(to), look(target)
    if old is None or new is None:
        raise Drifted(f"{to if old is None else target} is gone since the rotation; nothing was touched")
    if old["sha256"] != before["sha256"] and not _begins_as_rotated(to, old, before):
        raise Drifted(f"{to} no longer begins with what was rotated; nothing was touched")
    # Only the heir counts where there is one: the number of the inode it followed may be given out again.
    if new["ino"] != heir(log.folder.parent, target, intent["after"]["ino"]):
        raise Drifted(f"{target} was rotated or replaced since; undo that first; nothing was touched")
    return f"put {to.name} back as {target}, with what was appended since"


def _grown(old: Json | None, new: Json | None, before: Json) -> bool:
    """Something was appended since, to either file: then what comes back is not what an earlier change had left."""
    return bool(old and new and (new["size"] > 0 or old["sha256"] != before["sha256"]))


def _begins_as_rotated(to: Path, old: Json, before: Json) -> bool:
    """A segment grows while its writer has not let go. One that this task removed later is vouched for by that
    change's own check: it is not on disk to be read now."""
    if not lexists(to):
        return bool(old["size"] >= before["size"])
    return bool(prefix_sha256(to, before["size"]) == before["sha256"])


def _undo_create(_log: TaskLog, entry: Entry, _fault: Callable[[str], None]) -> None:
    target = Path(entry.intent["target"])
    now = snapshot(target)
    if now is not None and now["sha256"] == entry.intent["after"]["sha256"]:
        target.unlink()  # anything else there is somebody's own, made after a crash of this undo
    remove_empty(entry.intent["dirs"])


def _undo_replace(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    target, tmp, kept = Path(entry.intent["target"]), Path(entry.intent["tmp"]), log.pre / str(entry.n)
    if not lexists(kept):
        return  # it is back already: its inode was moved there
    now = snapshot(target)
    if now is None or now["sha256"] not in (entry.intent["after"]["sha256"], entry.intent["before"]["sha256"]):
        raise Drifted(f"{target} was changed while the undo was interrupted; it is left as it is")
    if same_file_system(kept, target.parent):
        kept.replace(target)
        return
    copy_durably(kept, tmp)
    dress(tmp, entry.intent["before"])
    fault("undo.copied")
    tmp.replace(target)
    fsync_dir(target.parent)  # before the other disk forgets what was kept
    kept.unlink()


def _undo_remove(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    target, tmp, kept = Path(entry.intent["target"]), Path(entry.intent["tmp"]), log.pre / str(entry.n)
    before, inverse = entry.intent["before"], entry.intent.get("inverse")
    if lexists(target):
        return  # it is back already
    if lexists(kept) and same_file_system(kept, target.parent):
        move(kept, target)
        return
    if lexists(kept):
        copy_durably(kept, tmp)
    else:
        _make_again(tmp, inverse, before["sha256"])
    dress(tmp, before)
    fault("undo.copied")
    move(tmp, target)
    fsync_dir(target.parent)
    kept.unlink(missing_ok=True)


def _make_again(tmp: Path, inverse: Json | None, sha256: str) -> None:
    if inverse is None:
        raise Drifted(f"the kept content for {tmp.parent} is gone; undo stopped here")
    source = Path(inverse["source"])
    if inverted_sha256(inverse["codec"], source) != sha256:
        raise Drifted(f"{source} gives other bytes than before; undo stopped here")
    tmp.unlink(missing_ok=True)
    with tmp.open("xb") as file:
        for part in decompressed(inverse["codec"], source):
            file.write(part)


def _undo_rotate(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    join_back(log, entry, fault)
    target = Path(entry.intent["target"])
    remember(log.folder.parent, target, entry.intent["before"]["ino"], target.stat().st_ino)


_CHECKS: dict[str, Callable[[TaskLog, Entry, Look], str]] = {
    "create": _check_create, "replace": _check_replace, "remove": _check_remove, "rotate": _check_rotate,
}  # fmt: skip
_ACTS: dict[str, Callable[[TaskLog, Entry, Callable[[str], None]], None]] = {
    "create": _undo_create, "replace": _undo_replace, "remove": _undo_remove, "rotate": _undo_rotate,
    **dict.fromkeys(cells.KEYS, cells.undo_keys),
}  # fmt: skip
