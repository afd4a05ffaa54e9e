"""Tables and fact sheets that fit the terminal: ids never break, words fold, the least important columns go first."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cli.output import say, shown

GAP = "  "
LEAST_WORDS = 20
"""A column of words is not squeezed under this many characters; it goes below its row instead."""
WIDTH_ELSEWHERE = 100
"""Where the output is not a terminal and COLUMNS is not set."""

_GREEN, _CYAN, _YELLOW, _RED, _DIM, _BOLD = "32", "36", "33", "31", "2", "1"
_INK = {
    **dict.fromkeys(("up", "ok", "done", "complete", "met", "active", "yes", "success", "pass", "confirmed"), _GREEN),
    **dict.fromkeys(("ready", "claimed", "waiting", "held", "starting"), _CYAN),
    **dict.fromkeys(("rehearsed", "proposed", "note", "minor", "stale", "interrupted", "degraded", "hold"), _YELLOW),
    **dict.fromkeys(("down", "failed", "dead", "missed", "fail", "failure", "no", "critical", "major", "deny"), _RED),
    **dict.fromkeys(("unknown", "expired", "cancelled", "rejected", "undone", "finished", "insufficient data"), _DIM),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """`state` is coloured, `number` stands right, `words` may fold. `drop`: 0 stays; the highest goes first."""

    name: str
    kind: Literal["plain", "state", "number", "words"] = "plain"
    drop: int = 0


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print a table as wide as the terminal; `empty` is said when there are no rows."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if not cells:
        tell(empty)
    for line in render(columns, cells, width(), colour=coloured()):
        say(line, plain=False)


def render(columns: Sequence[Column], rows: Sequence[Sequence[str]], wide: int, *, colour: bool = False) -> list[str]:
    """The table's lines. Only `words` fold; where even that is too wide, they go below, then each row is a list."""
    if not rows:
        return []
    kept = [n for n, column in enumerate(columns) if column.kind != "words" or any(row[n] for row in rows)]
    natural = {
        n: max(*(len(part) for part in columns[n].name.split("\n")), *(len(row[n]) for row in rows)) for n in kept
    }

    def least(n: int) -> int:
        return min(natural[n], LEAST_WORDS) if columns[n].kind == "words" else natural[n]

    def needed() -> int:
        return sum(least(n) for n in kept) + len(GAP) * (len(kept) - 1)

    while needed() > wide and (droppable := [n for n in kept if columns[n].drop]):
        kept.remove(max(droppable, key=lambda n: (columns[n].drop, n)))
    below = kept.pop() if needed() > wide and columns[kept[-1]].kind == "words" and len(kept) > 1 else None
    if needed() > wide:
        return _lists(columns, rows, wide)
    widths = {n: least(n) for n in kept}
    for _ in range(wide - needed()):
        shortest = max(kept, key=lambda n: natural[n] - widths[n])
        widths[shortest] = min(widths[shortest] + 1, natural[shortest])

    def line(texts: Sequence[str], ink: Sequence[str]) -> list[str]:
        folded = [fold(text, widths[n]) for text, n in zip(texts, kept, strict=True)]
        lines = []
        for level in range(max(len(parts) for parts in folded)):
            cells = []
            for parts, n, code in zip(folded, kept, ink, strict=True):
                part = parts[level] if level < len(parts) else ""
                padded = part.rjust(widths[n]) if columns[n].kind == "number" else part.ljust(widths[n])
                cells.append(_inked(padded if n != kept[-1] or code == "" else padded.rstrip(), code))
            lines.append(GAP.join(cells).rstrip())
        return lines

    made = line([columns[n].name for n in kept], [_BOLD if colour else ""] * len(kept))
    for row in rows:
        made += line([row[n] for n in kept], [_ink(columns[n], row[n]) if colour else "" for n in kept])
        if below is not None and row[below]:
            made += [_inked(f"    {part}", _DIM if colour else "") for part in fold(row[below], max(wide - 4, 8))]
    return made


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Label and value on each line; values fold, a list's items stand below each other."""
    rows = [(label, value if isinstance(value, list) else [shown(value)]) for label, value in pairs]
    edge = max((len(label) for label, _ in rows), default=0)
    room = max(width() - edge - 4, LEAST_WORDS)
    for label, values in rows:
        for n, part in enumerate(part for value in values for part in fold(value, room)):
            say(f"  {'' if n else label:<{edge}}{GAP}{part}".rstrip())


def tell(text: str, indent: str = "") -> None:
    """A sentence or two, folded between words."""
    for n, part in enumerate(fold(shown(text), max(width() - len(indent), LEAST_WORDS))):
        say(f"{indent if n or indent else ''}{part}")


def bullet(text: str) -> None:
    """One item of a list, folded under itself."""
    for n, part in enumerate(fold(shown(text), max(width() - 4, LEAST_WORDS))):
        say(f"  {'-' if n == 0 else ' '} {part}")


def fold(text: str, wide: int) -> list[str]:
    """Lines no wider than `wide`, broken between words; a word is broken only when it alone is wider."""
    return [
        part
        for given in text.split("\n")
        for part in textwrap.wrap(given, wide, break_on_hyphens=False) or [""]
    ]  # fmt: skip


def width() -> int:
    return shutil.get_terminal_size((WIDTH_ELSEWHERE, 24)).columns


def coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(state: str) -> str:
    """A state's word in its colour, where colours are wanted."""
    return _inked(state, _INK.get(state, "")) if coloured() else state


def _lists(columns: Sequence[Column], rows: Sequence[Sequence[str]], wide: int) -> list[str]:
    made: list[str] = []
    for row in rows:
        for n, column in enumerate(columns):
            name = " ".join(column.name.split())
            made.append(f"{name}: {row[n]}" if n == 0 else f"  {name}: {row[n]}")
    return made


def _ink(column: Column, text: str) -> str:
    return _INK.get(text.split(" (")[0], "") if column.kind == "state" else _DIM if text == "unknown" else ""


def _inked(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() else text
