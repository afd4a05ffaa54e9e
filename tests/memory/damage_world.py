"""A memory of two days with a backup between them, and ways to damage each of its copies by a seed."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.errors import CalyxError
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.memory import Memory
from services.memory.portable import export
from services.memory.redo import RedoLog
from services.memory.restore import Restored, restore
from services.memory.store import Store

PAGE = 4096
ROWS = 160
LATER = ROWS // 2
"""From this row on it is the second day, and no backup has them."""


def open_memory(folder: Path, *, redo: bool = True) -> Memory:
    clock = VirtualClock(START)
    log = RedoLog(folder / "memory" / "redo", durable=False) if redo else None
    return Memory(
        store=Store(folder / "memory" / "experience.sqlite", durable=False, redo=log),
        embedder=HashEmbedder(),
        index=ExactIndex(64),
        clock=clock,
        audit=Audit(folder / "audit.jsonl", clock, "memory"),
    )


def fill(folder: Path) -> None:
    """Rows, long ones too, amendments; closed cleanly, so that everything lies in the file."""
    memory = open_memory(folder)
    for number in range(1, ROWS + 1):
        if number == LATER:
            memory.upkeep.backup(folder / "memory" / "backups")
        long = "the whole output of the probe, " * 300 if number % 40 == 0 else "probe confirmed"
        memory.record(experience(number, objective=f"objective number {number % 50}", evidence=f"{long} {number}"))
        if number % 25 == 0:
            memory.amend(f"e-{number - 1}", Outcome.FAILURE, "it regressed", f"later-{number}")
    memory.catch_up()
    memory.close()


def told(memory: Memory) -> dict[str, bytes]:
    """Every experience by value, by its id."""
    lines = [line for part in export(memory.store, "") for line in part.splitlines()]
    return {line.partition(b'"id":"')[2].partition(b'"')[0].decode(): line for line in lines[:-1]}


def flip(path: Path, place: int, chance: random.Random) -> None:
    """One to eight bits of one byte."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ chance.randrange(1, 256)]))


def file_of(folder: Path) -> Path:
    return folder / "memory" / "experience.sqlite"


def in_header(folder: Path, chance: random.Random) -> None:
    flip(file_of(folder), chance.randrange(100), chance)


def in_row(folder: Path, chance: random.Random) -> None:
    """In the text of a row: its evidence, which no index holds."""
    data, number = file_of(folder).read_bytes(), chance.randrange(1, ROWS + 1)
    place = data.index(f"probe confirmed {number}".encode() if number % 40 else f"probe,  {number}".encode())
    flip(file_of(folder), place + chance.randrange(6), chance)


def in_page(kind: int) -> Callable[[Path, random.Random], None]:
    """In a page of this type: 5 and 2 interior, 13 and 10 leaf, of tables and of indexes; 0: none of these."""

    def damage(folder: Path, chance: random.Random) -> None:
        data = file_of(folder).read_bytes()
        types = {data[n * PAGE]: n for n in range(1, len(data) // PAGE)}
        wanted = (kind,) if kind else tuple(each for each in types if each not in (2, 5, 10, 13))
        page = chance.choice([n for n in range(1, len(data) // PAGE) if data[n * PAGE] in wanted])
        flip(file_of(folder), page * PAGE + chance.choice(_used(data[page * PAGE : (page + 1) * PAGE])), chance)

    return damage


def _used(page: bytes) -> range | list[int]:
    """Where something stands: not the gap between the list of cells and the cells."""
    if page[0] not in (2, 5, 10, 13):
        return range(PAGE)
    cells, content = int.from_bytes(page[3:5], "big"), int.from_bytes(page[5:7], "big")
    head = (12 if page[0] in (2, 5) else 8) + 2 * cells
    return [*range(head), *range(content, PAGE)]


def in_backup(folder: Path, chance: random.Random) -> None:
    (path,) = (folder / "memory" / "backups").glob("*.sqlite")
    flip(path, chance.randrange(path.stat().st_size), chance)


def in_redo(folder: Path, chance: random.Random) -> None:
    """In what was written; a segment may be full of zeros behind it."""
    path = sorted((folder / "memory" / "redo").iterdir())[0]
    flip(path, chance.randrange(len(path.read_bytes().rstrip(b"\0"))), chance)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "header": in_header,
    "row": in_row,
    "interior page": in_page(5),
    "leaf page": in_page(13),
    "index leaf": in_page(10),
    "overflow page": in_page(0),
    "backup": in_backup,
    "redo log": in_redo,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`found`: named by verify or refused at the start; `harmless`: every experience reads as before.

    `whole`: after the restore everything reads as before, but for what was listed as lost.
    """

    found: bool
    harmless: bool
    said: str
    lost: tuple[str, ...]
    whole: bool


def trial(made: Path, folder: Path, kind: str, seed: int, *, alone: bool = False) -> Trial:
    """Damage a copy of a filled folder, verify once, restore and look; `alone`: without backup and redo log."""
    before = _told_once(made)
    shutil.copytree(made, folder)
    if alone:
        shutil.rmtree(folder / "memory" / "backups")
        shutil.rmtree(folder / "memory" / "redo")
    KINDS[kind](folder, random.Random(seed))
    said, after = "", {}
    try:
        memory = open_memory(folder)
    except (CalyxError, sqlite3.Error, ValueError, KeyError) as error:
        said = f"refused to start: {error}"
        done = offline(folder)
    else:
        verdict = memory.upkeep.verify()
        said = "; ".join(f"{each.what}: {each.why} ({each.done})" for each in verdict.damages)
        try:
            after = told(memory)
        except (CalyxError, sqlite3.Error):
            after = {}
        done = memory.upkeep.restore(None, dry_run=False)
        memory.close()
    restored = _told(folder)
    gone = {name for name in before if restored.get(name) != before[name]}
    rows = [each for each in done.lost if not each.startswith("outcome")]
    # A later outcome that is lost is listed by its number; its experience is there, with an earlier one.
    whole = set(restored) <= set(before) and (len(gone) == len(rows) or len(gone) > len(rows) < len(done.lost))
    whole &= {each for each in done.lost if each.startswith("e-")} <= gone
    return Trial(found=bool(said), harmless=after == before, said=said, lost=done.lost, whole=whole)


def offline(folder: Path) -> Restored:
    """As `python -m services.memory restore` does it."""
    redo = RedoLog(folder / "memory" / "redo", durable=False)
    done = restore(
        folder / "memory",
        backup=None,
        redo=redo,
        now=START,
        unseal=None,
        dry_run=False,
        swap=lambda put: put(),
        held_open=None,
    )
    redo.close()
    return done


@lru_cache(maxsize=1)
def _told_once(made: Path) -> dict[str, bytes]:
    """Of a filled folder that nobody changes; each trial has a copy of it."""
    return _told(made)


def _told(folder: Path) -> dict[str, bytes]:
    with closing(open_memory(folder)) as memory:
        return told(memory)
