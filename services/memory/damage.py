"""What verify finds, by what can be done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_NAMED = 200
"""So many damages are named one by one; how many more there are is said in one line."""


class Kind(StrEnum):
    """Rows are quarantined, derived things made anew, copies set aside; the rest waits for a restore."""

    PAGES = "pages"
    ROW = "row"
    GONE = "gone"
    ROOT = "root"
    WAL = "wal"
    VECTOR = "vector"
    INDEX = "index"
    CATALOG = "catalog"
    BACKUP = "backup"
    REDO = "redo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """`numbers` are rows of event, or objectives' keys for vectors; `done` says what was done about it."""

    what: str
    why: str
    kind: Kind = Kind.PAGES
    numbers: tuple[int, ...] = ()
    done: str = "nothing"


def shortened(damages: Sequence[Damage]) -> list[Damage]:
    """The first of each kind, so that a thousand of one don't hide the one of another."""
    if len(damages) <= MOST_NAMED:
        return list(damages)
    by_kind: dict[Kind, list[Damage]] = {}
    for each in damages:
        by_kind.setdefault(each.kind, []).append(each)
    share = MOST_NAMED // len(by_kind)
    named = [each for found in by_kind.values() for each in found[:share]]
    return [*named, Damage(what="and more", why=f"{len(damages) - len(named)} further damages of these kinds")]
