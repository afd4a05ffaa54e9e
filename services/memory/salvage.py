"""Takes every row whose digest holds out of another copy of the store, whole or damaged, into a new one."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import structlog

from services.memory.damage import Damage
from services.memory.hashing import check_events, check_outcomes, vectors
from services.memory.inserts import objective_key
from services.memory.members import hydrate_members, insert_member, retired_digest
from services.memory.migrate import migrate
from services.memory.pages import Pages, Record
from services.memory.queries import SQL

log = structlog.get_logger(__name__)

MOST_AHEAD = 1_000_000
"""A highest number that is so far above every row that holds is damage and not believed."""

# What the columns of our tables hold: n nothing (the row's number stands there), s text, i whole number, r number,
# b bytes; a capital: or nothing. A table of its own numbers comes with n first.
_SHAPES = {
    "event": "nsssssisssssss",
    "outcome": "niSsRRIssss",
    "member": "nsissssRRIRsisss",
    "rollup": "nssssissss",
    "retired": "nsssssss",
    "feedback": "nissRsss",
    "standing": "nisssss",
    "objective": "ns",
    "confidence": "nr",
    "vector": "isibs",
    "meta": "ss",
    "highest": "si",
    "context": "iss",
}
_KINDS: dict[str, tuple[type, ...]] = {
    "n": (NoneType,),
    "s": (str,),
    "i": (int,),
    "r": (int, float),
    "b": (bytes,),
    "S": (str, NoneType),
    "I": (int, NoneType),
    "R": (int, float, NoneType),
}
_BY_LENGTH: dict[int, list[str]] = {}
for _name, _shape in _SHAPES.items():
    _BY_LENGTH.setdefault(len(_shape), []).append(_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """`events` were taken; `named`: ids that rows which don't hold still say; `highest`: numbers given, by table."""

    events: int
    named: dict[int, str]
    highest: dict[str, int]


def unpack(pages: Pages, into: Path) -> None:
    """Put whatever can be decoded into a database of our schema, unchecked; the first version of a row stays."""
    with closing(_empty(into)) as stage:
        facts = _pages_of(pages, "rollup_fact")
        stage.execute("BEGIN")
        for page, record in pages.records():
            for table in _BY_LENGTH.get(len(record.values), ()):
                if _fits(record, table) and not (table == "context" and page in facts):
                    own = _SHAPES[table].startswith("n")
                    _put(stage, table, (record.rowid, *record.values[1:]) if own else record.values)
        stage.execute("COMMIT")


def _empty(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    stage = sqlite3.connect(path, isolation_level=None)
    stage.execute("PRAGMA journal_mode = OFF")
    stage.execute("PRAGMA synchronous = OFF")
    migrate(stage, 0)
    for (name,) in stage.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        stage.execute(f'DROP TRIGGER "{name}"')
    stage.execute("CREATE TABLE highest (name TEXT, seq INTEGER)")
    return stage


def _pages_of(pages: Pages, table: str) -> set[int]:
    """The pages of one of our tables, if the schema can still be read."""
    for number in pages.tree(1):
        for record in pages.on(number, pages.page(number)):
            if record.values[:2] == ("table", table) and len(record.values) == 5 and isinstance(record.values[3], int):
                return pages.tree(record.values[3])
    return set()


def _fits(record: Record, table: str) -> bool:
    return (record.rowid is None) == (table == "context") and all(
        isinstance(value, _KINDS[kind]) for value, kind in zip(record.values, _SHAPES[table], strict=True)
    )


def _put(stage: sqlite3.Connection, table: str, values: tuple[object, ...]) -> None:
    try:
        marks = ", ".join("?" * len(values))
        stage.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)  # noqa: S608 — a name of ours
    except (sqlite3.IntegrityError, OverflowError):
        return  # a value that the schema refuses: no row of this table


def take(target: Path, source: Path, *, staged: bool) -> Taken:
    """Take what holds in `source` and is not in `target` yet. A staged source is unchecked and may be written."""
    damages: list[Damage] = []
    mode = "" if staged else "?mode=ro&immutable=1"
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}{mode}", uri=True, isolation_level=None)) as theirs,
        closing(sqlite3.connect(f"{target.absolute().as_uri()}", uri=True, isolation_level=None)) as ours,
    ):
        theirs.execute("PRAGMA journal_mode = OFF") if staged else None
        ours.execute("PRAGMA synchronous = OFF")
        ours.execute("ATTACH ? AS source", (f"{source.absolute().as_uri()}{mode}",))
        ours.executescript(SQL["salvage_begin"])
        before = _count(ours)
        checked = check_events(theirs, _highest(theirs, "event"), damages)
        bad = frozenset(checked.bad.tolist())
        ours.execute("BEGIN")
        ours.executemany("INSERT INTO good VALUES (?)", ((seq,) for seq in checked.seen.tolist() if seq not in bad))
        _script(ours, "salvage_events")
        named = {seq: name for seq, name in theirs.execute("SELECT seq, id FROM event").fetchall() if seq in bad}
        ours.execute("COMMIT")
        if staged:
            ours.executescript(f"BEGIN;{SQL['salvage_names']}COMMIT;")
        outcomes = check_outcomes(theirs, _highest(theirs, "outcome"), damages)
        wrong = frozenset(outcomes.bad.tolist())
        ours.execute("BEGIN")
        ours.executemany(
            "INSERT INTO good_outcome VALUES (?)", ((seq,) for seq in outcomes.seen.tolist() if seq not in wrong)
        )
        _script(ours, "salvage_outcomes")
        _take_members(ours, theirs)
        ours.execute("DELETE FROM good")
        for batch in vectors(theirs, damages):
            ours.executemany("INSERT OR IGNORE INTO good VALUES (?)", ((key,) for key, _, _ in batch))
        _script(ours, "salvage_vectors")
        _script(ours, "salvage_roots")
        if not staged:
            _script(ours, "salvage_unsealed")
            _script(ours, "salvage_meta")
        ours.execute("COMMIT")
        return Taken(events=_count(ours) - before, named=named, highest=_given(theirs, staged=staged))


def take_unsealed(target: Path, stage: Path) -> None:
    """Judgements and standings that nothing else brought back; they carry no digest, and are taken as they are."""
    with closing(sqlite3.connect(target, isolation_level=None)) as ours:
        ours.execute("ATTACH ? AS source", (str(stage),))
        ours.executescript(f"BEGIN;{SQL['salvage_unsealed']}COMMIT;")


def _take_members(ours: sqlite3.Connection, theirs: sqlite3.Connection) -> None:
    theirs.row_factory = sqlite3.Row
    taken = {seq for (seq,) in ours.execute(SQL["all_sealed_events"])}
    last = 0
    while rows := theirs.execute(SQL["all_members"], (last, 500)).fetchall():
        last = rows[-1]["seq"]
        for row, stored in zip(rows, hydrate_members(rows), strict=True):
            if stored.damage or stored.seq in taken or ours.execute(SQL["known"], {"id": row["id"]}).fetchone():
                continue
            facts = (
                *(row[name] for name in ("station_id", "namespace", "origin", "kind")),
                str(objective_key(ours, row["objective"])),
                *(row[name] for name in ("domain", "procedure", "outcome", "context")),
            )
            insert_member(ours, facts, stored.experience.context, dict(row))
    for row in theirs.execute(SQL["all_retired"]).fetchall():
        if retired_digest(row) == row["digest"] and row["seq"] not in taken:
            ours.execute(SQL["insert_retired"], dict(row))
    theirs.row_factory = None


def _script(connection: sqlite3.Connection, name: str) -> None:
    """Several statements inside the open transaction."""
    for statement in f"{SQL[name]}\n".split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM main.sealed_event").fetchone()[0])


def _highest(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT ifnull(max(seq), 0) FROM {table}").fetchone()[0])  # noqa: S608 — a name of ours


def _given(connection: sqlite3.Connection, *, staged: bool) -> dict[str, int]:
    """The highest numbers ever given, as far as they can be believed."""
    told = "SELECT name, max(seq) FROM highest GROUP BY name" if staged else "SELECT name, seq FROM sqlite_sequence"
    found: dict[str, int] = {}
    for name, number in connection.execute(told):
        if name not in ("event", "outcome") or not isinstance(number, int):  # none was given yet
            continue
        if 0 < number <= _highest(connection, name) + MOST_AHEAD:
            found[name] = number
    return found
