"""Where the keys of a TOML file stand in its text, found by tomlkit, so that comments and layout stay.

Keys with a value in lines of their own are spliced as those lines. In inline tables tomlkit makes the change itself.
"""

import datetime
from collections.abc import Sequence
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, InlineTable, Table

from chassis.canonical import Json

_PLAIN = (str, bool, int, float, datetime.date, datetime.time)


class TomlText:
    """A valid TOML file as text, with what it holds."""

    def __init__(self, text: str, tree: dict[str, Any]) -> None:
        self._text, self._tree = text, tree
        self._spans: dict[tuple[str, ...], tuple[int, int]] = {}
        self._end = "\r\n" if "\r\n" in text else "\n"
        self._document = _parsed(text)
        if tomlkit.dumps(self._document) != text:
            raise ValueError("it would be written otherwise than it was")

    def text_of(self, key: Sequence[str]) -> str:
        start, end = self._span(key)
        return self._text[start:end]

    def place_of(self, key: Sequence[str]) -> Json:
        """The neighbours, and the lines that go with the key; none in an inline table."""
        lines = self._lines(key)
        if lines is None:
            return {"after": None, "before": None, "piece": None}
        names = self._siblings(key)
        at = names.index(key[-1])
        after, before = (names[n] if 0 <= n < len(names) else None for n in (at - 1, at + 1))
        # Where a comment lies between, the other neighbour knows the place better.
        if after and before and (self._lines((*key[:-1], after)) or lines)[1] != lines[0]:
            after = None
        return {"after": after, "before": before, "piece": self._text[lines[0] : lines[1]]}

    def with_text(self, key: Sequence[str], value: str) -> str:
        start, end = self._span(key)
        return self._text[:start] + value + self._text[end:]

    def without(self, key: Sequence[str]) -> str:
        lines = self._lines(key)
        if lines is not None:
            kept = self._text[: lines[0]], self._text[lines[1] :]
            return (
                "".join(kept) if self._text.endswith("\n") or kept[1] else kept[0].removesuffix("\n").removesuffix("\r")
            )
        document = _parsed(self._text)
        self._holder(document, key).pop(key[-1])
        return tomlkit.dumps(document)

    def with_more(self, key: Sequence[str], value: str, place: Json | None) -> str:
        holder = self._holder(self._document, key)
        names = [] if isinstance(holder, InlineTable) else self._siblings(key)
        if place is not None and place["piece"] is not None:
            if place["after"] in names:
                return self._spliced(key, place["after"], place["piece"], behind=True)
            if place["before"] in names:
                return self._spliced(key, place["before"], place["piece"], behind=False)
        if names:
            start, _ = self._lines((*key[:-1], names[-1])) or (0, 0)
            line = self._text[start:]
            indent = line[: len(line) - len(line.lstrip(" \t"))]
            piece = f"{indent}{tomlkit.key(key[-1]).as_string()} = {value}{self._end}"
            return self._spliced(key, names[-1], piece, behind=True)
        document = _parsed(self._text)
        self._holder(document, key)[key[-1]] = _parsed(f"x = {value}\n")["x"]
        return tomlkit.dumps(document)

    def _spliced(self, key: Sequence[str], sibling: str, piece: str, *, behind: bool) -> str:
        lines = self._lines((*key[:-1], sibling))
        if lines is None:
            raise ValueError(f"{sibling} has no line of its own")
        before, after = self._text[: lines[behind]], self._text[lines[behind] :]
        if behind and not before.endswith("\n"):
            piece = self._end + piece.removesuffix("\n").removesuffix("\r")
        return before + piece + after

    def _holder(self, document: tomlkit.TOMLDocument, key: Sequence[str]) -> Any:
        holder: Any = document
        for part in key[:-1]:
            holder = holder[part]
        return holder

    def _siblings(self, key: Sequence[str]) -> list[str]:
        """Keys with a value in the same table, in order."""
        tree: Any = self._tree
        for part in key[:-1]:
            tree = tree[part]
        holder = self._holder(self._document, key)
        return [name for name in tree if not isinstance(holder[name], Table | AoT)]

    def _span(self, key: Sequence[str]) -> tuple[int, int]:
        if tuple(key) not in self._spans:
            self._spans[tuple(key)] = self._looked_up(key)
        return self._spans[tuple(key)]

    def _looked_up(self, key: Sequence[str]) -> tuple[int, int]:
        """Where the value stands: what a mark put in its place stands for."""
        mark = "calyx-was-here"
        while mark in self._text:
            mark += "-"
        holder = self._holder(self._document, key)
        value = holder[key[-1]]
        if isinstance(value, Table | AoT):
            raise ValueError("it is a table; name one key in it")
        holder[key[-1]] = mark
        before, found, after = tomlkit.dumps(self._document).partition(f'"{mark}"')
        holder[key[-1]] = value
        if tomlkit.dumps(self._document) != self._text:
            self._document = _parsed(self._text)
        if not found or not self._text.startswith(before) or not self._text.endswith(after):
            raise ValueError("its layout can't be kept")
        return len(before), len(self._text) - len(after)

    def _lines(self, key: Sequence[str]) -> tuple[int, int] | None:
        """The whole lines of a key; None where it shares one with others (an inline table)."""
        start, end = self._span(key)
        first, last = self._text.rfind("\n", 0, start) + 1, self._text.find("\n", end) + 1 or len(self._text)
        piece = self._text[first:last]
        try:
            alone = _parsed(piece)
        except (ValueError, TOMLKitError):
            return None
        return (first, last) if list(alone) == [key[-1]] else None


def made_toml(value: Any) -> str:
    """Raises TypeError for what is no text, number, truth, time, or list of these."""

    def check(each: Any) -> None:
        if isinstance(each, list):
            for one in each:
                check(one)
        elif not isinstance(each, _PLAIN):
            raise TypeError(f"{type(each).__name__} is no text, number, truth, time or list of these")

    check(value)
    return cast(str, tomlkit.item(value).as_string())


def _parsed(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise ValueError(str(error)) from error
