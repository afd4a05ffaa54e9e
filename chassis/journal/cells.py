"""The way back of keys and rows: what was set is taken back where it still holds what the task left, and no more."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from chassis.atomic import read_json, write_json
from chassis.canonical import Json, sha256_hex
from chassis.errors import Drifted, Refused
from chassis.journal import rows
from chassis.journal.documents import Document, named, refuse_large, value_of
from chassis.journal.extents import copy_durably
from chassis.journal.keyed import facts_of, stands, write_new
from chassis.journal.records import Entry, TaskLog
from chassis.journal.targets import dress, like, same_dress, same_file_system, snapshot

KEYS = frozenset({"set_key", "drop_key"})
ROWS = frozenset({"put_row", "drop_row"})
TURNED = "turned.json"
"""In the folder of an undo's own task: what it turns back by the key, for its own undo."""


class Databases:
    """The transactions in which a check tries its rows; all of them are rolled back at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._open = stack, dict[Path, rows.Database]()

    @classmethod
    @contextmanager
    def tried(cls) -> Iterator["Databases"]:
        with ExitStack() as stack:
            yield cls(stack)

    def of(self, path: Path) -> rows.Database:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(rows.transaction(path, rehearsed=True))
        return self._open[path]


def told(intent: Json) -> Json:
    """What of its keys or rows an ack and a report show; never a value."""
    cells = intent.get("cells", ())
    if intent["op"] in KEYS:
        return {"keys": [named(each["key"]) for each in cells]}
    return {"rows": [rows.row_named(each) for each in cells]} if intent["op"] in ROWS else {}


# --- keys ----------------------------------------------------------------------------------------------------------


def check_keys(log: TaskLog, entry: Entry, now: Json | None) -> tuple[str, Json]:
    """What will be done, and how the file will be then. Raises Drifted."""
    target, intent = Path(entry.intent["target"]), entry.intent
    if now is None:
        raise Drifted(f"{target} is gone since the task; nothing was touched")
    shown = ", ".join(named(each["key"]) for each in intent["cells"])
    if _whole(log, entry, now):
        kept = {**intent["before"], "restored": True, "kept": str(log.pre / str(entry.n))}
        return f"put {target} back as it was before {shown} changed", kept
    text = _turned(target, _content(target, now), intent["cells"])
    if text is None:
        raise Drifted(f"{shown} in {target} was changed since the task; nothing was touched")
    data = text.encode()
    then = {**now, "sha256": sha256_hex(data), "size": len(data), "data": data, "restored": True}
    return f"put {shown} in {target} back, and leave what others changed in it", then


def undo_keys(log: TaskLog, entry: Entry, fault: Callable[[str], None]) -> None:
    """Safe to repeat after a crash at any point."""
    target, tmp, kept = Path(entry.intent["target"]), Path(entry.intent["tmp"]), log.pre / str(entry.n)
    tmp.unlink(missing_ok=True)
    now = snapshot(target)
    if now is not None and _whole(log, entry, now):
        stands(target, now)
        if same_file_system(kept, target.parent):
            kept.replace(target)
            return
        copy_durably(kept, tmp)
        dress(tmp, entry.intent["before"])
        fault("undo.copied")
        tmp.replace(target)
        return
    cells = entry.intent["cells"]
    data = b"" if now is None else target.read_bytes()
    if now is not None and _turned(target, data, _other_way(cells)) is not None:
        return  # it is back already
    text = None if now is None else _turned(target, data, cells)
    if now is None or text is None:
        raise Drifted(f"{target} was changed while the undo was interrupted; it is left as it is")
    write_new(tmp, text.encode(), like(now))
    fault("undo.copied")
    stands(target, now)
    tmp.replace(target)


def _whole(log: TaskLog, entry: Entry, now: Json) -> bool:
    """Nobody else changed the file, and what it held before is kept: then all of it comes back, its time included."""
    after, before = entry.intent["after"], entry.intent["before"]
    if now["sha256"] != after["sha256"] or not same_dress(now, after):
        return False
    kept = snapshot(log.pre / str(entry.n))
    return kept is not None and bool(kept["sha256"] == before["sha256"])


def _content(target: Path, now: Json) -> bytes:
    """What the file holds by then."""
    if "data" in now:
        return bytes(now["data"])
    path = Path(now["kept"]) if "kept" in now else target
    if now.get("restored") and "kept" not in now:
        raise Drifted(f"what {target} will hold can't be seen before later changes are undone; undo those first")
    refuse_large(target, now["size"])
    return path.read_bytes()


def _turned(target: Path, data: bytes, cells: Sequence[Json]) -> str | None:
    """The text with each key as it was before; None where one does not hold what was left there."""
    try:
        document = Document(target, data)
        for cell in reversed(cells):
            key = tuple(cell["key"])
            if value_of(document.cell(key)) != value_of(cell["after"]):
                return None
            document = document.put(key, cell["before"])
    except Refused:  # what held the key is gone, or the file is none of its kind any more
        return None
    return document.text


def _other_way(cells: Sequence[Json]) -> list[Json]:
    return [{**each, "before": each["after"], "after": each["before"]} for each in reversed(cells)]


# --- rows ----------------------------------------------------------------------------------------------------------


def check_rows(entry: Entry, databases: Databases) -> str:
    """Tries it, in a transaction that is rolled back. Raises Drifted, Refused, Unavailable."""
    target, shown = Path(entry.intent["target"]), []
    database = databases.of(target)
    for cell in reversed(entry.intent["cells"]):
        if not database.turn(cell):
            raise Drifted(f"{rows.row_named(cell)} in {target} was changed since the task; nothing was touched")
        how = "remove" if cell["before"] is None else "put back"
        shown.append(f"{how} {rows.row_named(cell)} in {target}")
    return "; ".join(shown)


def undo_rows(entry: Entry, fault: Callable[[str], None]) -> None:
    """Safe to repeat after a crash at any point."""
    with rows.transaction(Path(entry.intent["target"])) as database:
        for cell in reversed(entry.intent["cells"]):
            database.turn(cell)
        fault("undo.staged")
        database.commit()


# --- the undo of an undo -------------------------------------------------------------------------------------------


def by_the_key(standing: Iterable[Entry]) -> tuple[dict[str, list[Json]], list[Json]]:
    """What an undo of these would turn back by the key: cells by file, and intents for rows. A file that was changed as
    a file, too, is left to the comparison of files."""
    cells: dict[str, list[Json]] = {}
    turned: list[Json] = []
    entries = list(standing)
    as_file = {entry.intent["target"] for entry in entries if entry.intent["op"] not in KEYS}
    as_file |= {entry.intent["to"] for entry in entries if "to" in entry.intent}
    for entry in reversed(entries):
        intent = entry.intent
        if intent["op"] in ROWS:
            other = _other_way(intent["cells"])
            op = "drop_row" if other[0]["after"] is None else "put_row"
            before, after = facts_of(other[0]["before"]), facts_of(other[0]["after"])
            turned.append({**intent, "op": op, "before": before, "after": after, "cells": other})
        elif intent["op"] in KEYS and intent["target"] not in as_file:
            cells.setdefault(intent["target"], []).extend(_other_way(intent["cells"]))
    return cells, turned


def keep_turned(folder: Path, standing: Iterable[Entry]) -> None:
    cells, turned = by_the_key(standing)
    if cells or turned:
        write_json(folder / TURNED, {"keys": cells, "rows": turned}, mode=0o600)


def turned_intents(folder: Path, intents: Sequence[Json]) -> list[Json]:
    """What an undo changed, as found by comparing files: by the key where it was done by the key, and its rows."""
    try:
        kept: Mapping[str, Any] = read_json(folder / TURNED)
    except FileNotFoundError:
        return list(intents)
    found = [
        {**each, "op": "set_key", "cells": kept["keys"][each["target"]]}
        if each["op"] == "replace" and each["target"] in kept["keys"]
        else each
        for each in intents
    ]
    first = max((each["n"] for each in found), default=0) + 1
    return found + [{**each, "n": first + n} for n, each in enumerate(kept["rows"])]


def as_files(entries: Iterable[Entry]) -> list[Entry]:
    """Those whose targets are looked at as files."""
    return [entry for entry in entries if entry.intent["op"] not in ROWS]
