"""One key of a JSON or TOML file: found, set and dropped in its text, so that nothing else of the file moves.

A change is a splice of the text where the key stands, in the file's own layout. It counts only if the file, parsed
anew, differs in that key and nothing else; what can't be done so is refused. A cell is what a key holds: its `text` as
it stands in the file, its `value` in one spelling (1, 1.0 and true are three), and its `place` between its neighbours.
"""

import copy
import functools
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from chassis.canonical import Json
from chassis.errors import InvalidInput, Refused
from chassis.journal.json_text import JsonText, made_json, parsed_json

MAX_BYTES = {".json": 4 << 20, ".toml": 64 << 10}
"""A larger file is no configuration. tomlkit takes 2 s for a change in 64 KiB."""

MAX_VALUE = 64 << 10
"""Characters of a value. The records of the journal hold it, and are kept when contents are dropped."""

Key = tuple[str, ...]


class Layout(Protocol):
    """Where things stand in a text that is valid."""

    def text_of(self, key: Key) -> str: ...

    def place_of(self, key: Key) -> Json: ...

    def with_text(self, key: Key, value: str) -> str:
        """The whole text with another value at a key that is there."""
        ...

    def without(self, key: Key) -> str: ...

    def with_more(self, key: Key, value: str, place: Json | None) -> str:
        """With a key that is not there, at its former place if that can be told, else behind its siblings."""
        ...


class Document:
    """A parsed file. Raises Refused for what is not exactly what its name says."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._toml = path, path.suffix.lower() == ".toml"
        refuse_large(path, len(data))
        try:
            self.text = data.decode()
            tree = self._parsed(self.text)
        except (ValueError, RecursionError) as error:
            kind = "TOML" if self._toml else "JSON"
            raise Refused(f"{path} is no {kind} that can be changed ({error}); nothing was changed") from error
        if not isinstance(tree, dict):
            raise Refused(f"{path} holds no object, so it has no keys; nothing was changed")
        self._tree: dict[str, Any] = tree

    def _parsed(self, text: str) -> Any:
        return tomllib.loads(text) if self._toml else parsed_json(text)

    @functools.cached_property
    def _layout(self) -> Layout:
        try:
            if not self._toml:
                return JsonText(self.text)
            from chassis.journal.toml_text import TomlText

            return TomlText(self.text, self._tree)
        except (ValueError, RecursionError) as error:
            raise Refused(f"the layout of {self._path} can't be kept ({error}); nothing was changed") from error

    def cell(self, key: Key) -> Json | None:
        """What the key holds; None where there is none. Refused where there is no object to hold it."""
        holder = self._holder(self._tree, key)
        if key[-1] not in holder:
            return None
        value, layout = holder[key[-1]], self._layout
        try:
            text = layout.text_of(key)
            if len(text) > MAX_VALUE:
                raise ValueError(f"it holds {len(text)} characters, at most {MAX_VALUE} are kept by the key")
            return {"text": text, "value": spelled(value), "place": layout.place_of(key)}
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(
                f"{named(key)} in {self._path} can't be changed alone ({error}); nothing was changed"
            ) from error

    def made(self, key: Key, value: Any) -> Json:
        """A cell of that value, in the file's layout. Raises InvalidInput for what the format can't hold."""
        self._holder(self._tree, key)
        try:
            text = self._written(key, value)
            text.encode()
            if len(text) > MAX_VALUE:
                raise ValueError(f"at most {MAX_VALUE} characters")
            return {"text": text, "value": spelled(self._alone(text))}
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"{named(key)} can't hold that value ({error})") from error

    def put(self, key: Key, cell: Json | None) -> "Document":
        """With that cell at the key; None for no key."""
        layout, wanted = self._layout, copy.deepcopy(self._tree)
        holder = self._holder(wanted, key)
        there = key[-1] in holder
        try:
            if cell is None:
                text = layout.without(key) if there else self.text
                holder.pop(key[-1], None)
            else:
                text = (
                    layout.with_text(key, cell["text"])
                    if there
                    else layout.with_more(key, cell["text"], cell.get("place"))
                )
                holder[key[-1]] = self._alone(cell["text"])
            done = Document(self._path, text.encode())
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(
                f"{named(key)} in {self._path} can't be changed alone ({error}); nothing was changed"
            ) from error
        if spelled(done._tree) != spelled(wanted):
            raise Refused(f"{named(key)} in {self._path} can't be changed without changing more; nothing was changed")
        return done

    def _written(self, key: Key, value: Any) -> str:
        if not self._toml:
            return made_json(self.text, key, value)
        from chassis.journal.toml_text import made_toml

        return made_toml(value)

    def _alone(self, text: str) -> Any:
        return self._parsed(f"x = {text}\n")["x"] if self._toml else self._parsed(text)

    def _holder(self, tree: dict[str, Any], key: Key) -> dict[str, Any]:
        for n, part in enumerate(key[:-1], 1):
            below = tree.get(part)
            if not isinstance(below, dict):
                raise Refused(f"{self._path} has no object {named(key[:n])}; nothing was changed")
            tree = below
        return tree


def refuse_large(path: Path, size: int) -> None:
    """Raises Refused, also for what is neither .json nor .toml."""
    most = MAX_BYTES.get(path.suffix.lower())
    if most is None:
        raise Refused(f"{path.name} is neither .json nor .toml; only those are changed by the key")
    if size > most:
        raise Refused(f"{path} has {size} bytes, at most {most} are changed by the key; nothing was changed")


def checked_key(key: Sequence[str]) -> Key:
    """Raises InvalidInput for what is no path of names."""
    if isinstance(key, str) or not key or not all(isinstance(part, str) for part in key):
        raise InvalidInput("a key is the names on the way to it, ('a', 'b') for b in a")
    try:
        "".join(key).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a key that is not UTF-8 can't be journaled") from error
    return tuple(key)


def named(key: Sequence[str]) -> str:
    """For people: a.b, parts in quotes where they have to be."""
    return ".".join(part if part.replace("_", "").replace("-", "").isalnum() else json.dumps(part) for part in key)


def spelled(value: Any) -> str:
    """Equal for equal values of equal types, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, default=lambda date: {type(date).__name__: date.isoformat()})


def value_of(cell: Mapping[str, Any] | None) -> str | None:
    return None if cell is None else cell["value"]
