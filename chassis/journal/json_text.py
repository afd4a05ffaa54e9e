"""Where the members of JSON objects stand in their text."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chassis.canonical import Json

_SPACE = re.compile(r"[ \t\r\n]*")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def parsed_json(text: str) -> Any:
    """Raises ValueError, also for a key that is there twice and for NaN."""
    return _DECODER.decode(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """`start` of its name, `colon` where the name ends, `value` where that begins, and `end`."""

    name: str
    start: int
    colon: int
    value: int
    end: int


class JsonText:
    """A valid JSON object as text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text_of(self, key: Sequence[str]) -> str:
        member = self._member(key)
        return self._text[member.value : member.end]

    def place_of(self, key: Sequence[str]) -> Json:
        """The neighbours, and the piece of text that goes with the key."""
        opened, members, closed = self._object(key[:-1])
        at = [each.name for each in members].index(key[-1])
        start, end = self._piece(opened, members, closed, at)
        return {
            "after": members[at - 1].name if at else None,
            "before": members[at + 1].name if at + 1 < len(members) else None,
            "piece": self._text[start:end],
        }

    def with_text(self, key: Sequence[str], value: str) -> str:
        member = self._member(key)
        return self._text[: member.value] + value + self._text[member.end :]

    def without(self, key: Sequence[str]) -> str:
        opened, members, closed = self._object(key[:-1])
        start, end = self._piece(opened, members, closed, [each.name for each in members].index(key[-1]))
        return self._text[:start] + self._text[end:]

    def with_more(self, key: Sequence[str], value: str, place: Json | None) -> str:
        opened, members, _ = self._object(key[:-1])
        by_name = {each.name: each for each in members}
        lead, colon = _between(self._text, opened, members, key)
        if place is not None and (not members or ("\n" in _edges(place["piece"])) == ("\n" in lead)):
            if place["after"] in by_name:
                return self._spliced(by_name[place["after"]].end, place["piece"])
            if place["after"] is None and place["before"] in by_name:
                return self._spliced(by_name[place["before"]].start, place["piece"])
            if place["after"] is None and place["before"] is None and not members:
                return self._text[: opened + 1] + str(place["piece"]) + self._text[self._skip(opened + 1) :]
        piece = f"{lead}{_quoted(self._text, key[-1])}{colon}{value}"
        if members:
            return self._spliced(members[-1].end, "," + piece)
        closing = lead[: lead.rfind("\n") + 1] + _indent_of_line(self._text, opened) if "\n" in lead else ""
        return self._text[: opened + 1] + piece + closing + self._text[self._skip(opened + 1) :]

    def _spliced(self, at: int, piece: str) -> str:
        return self._text[:at] + piece + self._text[at:]

    def _piece(self, opened: int, members: list[Member], closed: int, at: int) -> tuple[int, int]:
        if at:
            return members[at - 1].end, members[at].end
        return (members[0].start, members[1].start) if len(members) > 1 else (opened + 1, closed)

    def _member(self, key: Sequence[str]) -> Member:
        return next(each for each in self._object(key[:-1])[1] if each.name == key[-1])

    def _object(self, key: Sequence[str]) -> tuple[int, list[Member], int]:
        """Where it opens, its members, where it closes."""
        at = self._skip(0)
        for part in key:
            at = next(each.value for each in self._members(at)[0] if each.name == part)
        members, closed = self._members(at)
        return at, members, closed

    def _members(self, opened: int) -> tuple[list[Member], int]:
        found: list[Member] = []
        at = self._skip(opened + 1)
        while self._text[at] != "}":
            name, colon = _DECODER.raw_decode(self._text, at)
            value = self._skip(self._skip(colon) + 1)
            _, end = _DECODER.raw_decode(self._text, value)
            found.append(Member(name=name, start=at, colon=colon, value=value, end=end))
            at = self._skip(end)
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return found, at

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at


def made_json(text: str, key: Sequence[str], value: Any) -> str:
    """The value in the layout of the text, as it would stand at that key. Raises ValueError, TypeError."""
    layout = JsonText(text)
    opened, members, _ = layout._object(key[:-1])
    lead, colon = _between(text, opened, members, key)
    plain = not text.isascii() or "\\u" not in text
    if "\n" not in lead:
        separators = (",", ":") if colon == ":" else (", ", ": ")
        return json.dumps(value, ensure_ascii=not plain, separators=separators, allow_nan=False)
    made = json.dumps(value, ensure_ascii=not plain, indent=_unit(text), allow_nan=False)
    return made.replace("\n", lead)


def _between(text: str, opened: int, members: list[Member], key: Sequence[str]) -> tuple[str, str]:
    """What stands before a member's name (after the comma), and between its name and value, in this object."""
    colon = text[members[-1].colon : members[-1].value] if members else _root_colon(text)
    if len(members) > 1:
        comma = text.index(",", members[-2].end)
        return text[comma + 1 : members[-1].start], colon
    if members:
        first = text[opened + 1 : members[0].start]
        return first if "\n" in first else " " if colon.endswith(" ") else "", colon
    unit = _unit(text)
    if not unit or len(key) == 1:
        return "", colon
    end = "\r\n" if "\r\n" in text else "\n"
    return end + _indent_of_line(text, opened) + unit, colon


def _edges(piece: str) -> str:
    """The blanks before its name and after its end: whether it stood in lines of its own."""
    return piece[: piece.find('"')] + piece[len(piece.rstrip()) :]


def _root_colon(text: str) -> str:
    members = JsonText(text)._object(())[1]
    return text[members[0].colon : members[0].value] if members else ": "


def _unit(text: str) -> str:
    """How far the root's members are indented; empty for a text in one line."""
    opened, members, _ = JsonText(text)._object(())
    lead = text[opened + 1 : members[0].start] if members else ""
    return lead[lead.rfind("\n") + 1 :] if "\n" in lead else ""


def _indent_of_line(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _quoted(text: str, name: str) -> str:
    return json.dumps(name, ensure_ascii=text.isascii() and "\\u" in text)
