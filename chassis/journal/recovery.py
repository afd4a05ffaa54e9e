"""Half-done changes: each is finished if it already shows, taken back if not. Safe to repeat."""

import contextlib
from os.path import lexists  # Path.exists follows links, which a target must never do
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.canonical import Json
from chassis.exchange.moves import move
from chassis.journal.records import Entry, TaskLog
from chassis.journal.rows import row_ended
from chassis.journal.targets import nearest_folder, snapshot


def settle(log: TaskLog, entry: Entry) -> str:
    """Bring one uncommitted change to an end and record it; returns a line that says which."""
    intent = entry.intent
    target, tmp, kept = Path(intent["target"]), Path(intent["tmp"]), log.pre / str(entry.n)
    ended = _ENDS[intent["op"]](intent, target, tmp, kept)
    tmp.unlink(missing_ok=True)
    if not ended:
        remove_empty(intent.get("dirs", ()))
    fsync_dir(nearest_folder(target.parent))
    if ended:
        log.append("commit", n=entry.n)
        return f"{intent['op']} {target}: was done, is confirmed"
    kept.unlink(missing_ok=True)
    log.append("rolled_back", n=entry.n)
    return f"{intent['op']} {target}: was not done, is taken back"


def drop_strays(log: TaskLog) -> None:
    """What was kept for a change whose intent was never written: a second name of its target, which nobody needs."""
    known = {str(entry.n) for entry in log.read().entries}
    for blob in log.pre.iterdir():
        if blob.name not in known:
            blob.unlink()


def remove_empty(folders: list[str] | tuple[str, ...]) -> None:
    """Remove the folders a change had made, innermost first; one that is used by now stays."""
    for folder in folders:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def _create(intent: Json, target: Path, tmp: Path, _kept: Path) -> bool:
    return not lexists(tmp) and lexists(target)


def _replace(intent: Json, target: Path, tmp: Path, kept: Path) -> bool:
    if lexists(tmp) or not lexists(kept):
        return False
    now = snapshot(target)
    if now is not None and now["ino"] == intent["before"]["ino"]:
        return False  # by its inode: the new content may be the same as the old
    if _same(kept, intent["before"]):
        return True
    kept.replace(target)  # written to in the moment of the change: put back
    return False


def _remove(intent: Json, target: Path, _tmp: Path, kept: Path) -> bool:
    if lexists(target) or not lexists(kept):
        return False
    if _same(kept, intent["before"]):
        return True
    move(kept, target)
    return False


def _rotate(intent: Json, target: Path, tmp: Path, _kept: Path) -> bool:
    to = Path(intent["to"])
    if not lexists(to) or to.stat().st_ino != intent["before"]["ino"]:
        return False
    if lexists(tmp) or (lexists(target) and target.samefile(to)):
        to.unlink()  # linked, not yet swapped
        return False
    return True


_ENDS = {
    "create": _create, "replace": _replace, "remove": _remove, "rotate": _rotate,
    "set_key": _replace, "drop_key": _replace, "put_row": row_ended, "drop_row": row_ended,
}  # fmt: skip


def _same(kept: Path, before: Json) -> bool:
    found = kept.stat()
    return (found.st_size, found.st_mtime_ns) == (before["size"], before["mtime_ns"])
