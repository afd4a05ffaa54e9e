"""Reads `policy.yaml` strictly: every fault with its line and column and what to do about it.

No YAML surprises: plain words stay words (22:00 is no number, no is no boolean), no aliases, no tags, no key twice.
The file's last line is `...`, YAML's own end mark, so that half a file is never taken for a whole one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chassis.canonical import sha256_hex
from chassis.policy import DAYS, Rule, RuleSet, placed

SCHEMA = "calyx.policy/2"
SHIPPED = Path(__file__).with_name("policy.yaml")
"""What counts on a station that never had a policy of its own."""
MAX_BYTES = 2 * 2**20
MAX_DEPTH = 8
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HOURS = r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"

_PLAIN_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"})
"""What YAML makes of plain text; we keep the text."""

Place = tuple[int, int]
Path_ = tuple[str | int, ...]
Name = Annotated[str, Field(min_length=1, max_length=120)]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong, where (both from 1), and what to do."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """Rules, or what is wrong with them: never both."""

    policy: RuleSet | None
    faults: tuple[Fault, ...] = ()

    @property
    def why(self) -> str:
        """The first fault in one line."""
        if not self.faults:
            return ""
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"{self.faults[0]}{more}"


def _left_out(**bounds: Any) -> Any:
    """A key that need not be there: then it is None. Written without a value it is refused, for None has no type."""
    return Field(default=None, **bounds)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RuleText(_Strict):
    """A rule as written."""

    allow: Name = _left_out()
    deny: Name = _left_out()
    agents: list[Name] = _left_out(min_length=1)
    asked_by: list[Name] = _left_out(min_length=1)
    domains: list[Name] = _left_out(min_length=1)
    procedures: list[Name] = _left_out(min_length=1)
    does: list[Literal["rehearse", "act"]] = _left_out(min_length=1)
    effects: list[Literal["none", "reversible", "irreversible"]] = _left_out(min_length=1)
    manifest: list[Literal["built-in", "signed"]] = _left_out(min_length=1)
    paths: list[Name] = _left_out(min_length=1)
    hours: str = _left_out(pattern=_HOURS)
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = _left_out(min_length=1)
    per_pulse: int = _left_out(ge=1)
    per_day: int = _left_out(ge=1)


class PolicyText(_Strict):
    """The file as written."""

    schema_: Literal["calyx.policy/2"] = Field(alias="schema")
    timezone: Literal["UTC", "local"] = "UTC"
    rules: list[RuleText]


KEYS: Mapping[type[BaseModel], tuple[str, ...]] = {
    PolicyText: ("schema", "timezone", "rules"),
    RuleText: tuple(RuleText.model_fields),
}


def parse(raw: bytes, station: str = "/station") -> Parsed:
    """The rules in a policy file, with `{station}` standing for that folder; or every fault in it, in order."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return _bad(Fault(line, 1, "this is not UTF-8 text; save it as UTF-8"))
    if len(raw) > MAX_BYTES:
        return _bad(Fault(1, 1, f"it is larger than {MAX_BYTES >> 20} MiB; keep it short"))
    if not text.strip():
        return _bad(Fault(1, 1, "it is empty; `calyx policy init` writes one to begin with"))
    try:
        root = yaml.compose(text, Loader=_LOADER)
        reading = _Reading()
        value = reading.value(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return _bad(Fault(*place, f"this is not YAML: {error.problem or error.context}"))
    except (yaml.YAMLError, RecursionError) as error:
        return _bad(Fault(1, 1, f"this is not YAML: {' '.join(str(error).split())[:200]}"))
    faults = list(reading.faults)
    if (end := _end_fault(text)) is not None:
        faults.append(end)
    whole: PolicyText | None = None
    try:
        whole = PolicyText.model_validate(value)
    except ValidationError as error:
        faults += [_fault(each, value, reading.places) for each in error.errors(include_url=False)]
    else:
        faults += _meaning(whole, reading.places)
    if faults or whole is None:
        return Parsed(policy=None, faults=tuple(sorted(set(faults))))
    rules = [_rule(n, each, reading.places, station) for n, each in enumerate(whole.rules)]
    return Parsed(policy=RuleSet.of(rules, digest=sha256_hex(raw), local=whole.timezone == "local"))


def _bad(fault: Fault) -> Parsed:
    return Parsed(policy=None, faults=(fault,))


def _end_fault(text: str) -> Fault | None:
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and lines[-1].rstrip() == "...":
        return None
    return Fault(len(lines), 1, 'the file ends here, but a whole policy ends with a line "..."; finish it, or add that')


class _Reading:
    """Nodes to plain values, remembering where each key and value stands."""

    def __init__(self) -> None:
        self.places: dict[Path_, Place] = {}
        self.faults: list[Fault] = []
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: Path_) -> Any:
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.places.setdefault(path, place)
        if id(node) in self._seen:
            self.faults.append(Fault(*place, "an alias repeats a part of the file; write it out"))
            return None
        self._seen.add(id(node))
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
            self.faults.append(Fault(*place, f"a tag ({node.tag[:60]}) means nothing here; remove it"))
            return None
        if len(path) > MAX_DEPTH:
            self.faults.append(Fault(*place, "this is nested too deep"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, (*path, n)) for n, each in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(Fault(*place, "a key is one word"))
                continue
            name = str(key.value)
            if name in found:
                first = self.places[(*path, name)][0]
                self.faults.append(Fault(*place, f'"{name}" stands here twice (first in line {first}); keep one'))
                continue
            self.places[(*path, name)] = place
            found[name] = self.value(value, (*path, name))
        return found


def _scalar(node: Any) -> Any:
    """Plain whole numbers are numbers, an empty value is None; everything else is its text."""
    text = node.value
    if node.style:
        return text
    if text in ("", "~", "null"):
        return None
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _fault(error: Any, value: Any, places: Mapping[Path_, Place]) -> Fault:
    """One of pydantic's findings, at its place, in our words."""
    path: Path_ = tuple(error["loc"])
    kind, given = error["type"], error.get("input")
    near = path
    while near not in places and near:
        near = near[:-1]
    line, column = places.get(near, (1, 1))
    key = next((str(each) for each in reversed(path) if isinstance(each, str)), "")
    if kind == "extra_forbidden":
        known = KEYS[RuleText if len(path) > 1 else PolicyText]
        return Fault(line, column, f'unknown key "{key}"; the keys here are {", ".join(known)}')
    if kind == "missing":
        return Fault(line, column, f'"{key}" is missing; add it' + (f": {SCHEMA}" if key == "schema" else ""))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        what = "keys with values are expected here" if not path else "a rule begins with `- allow: its name` or deny"
        return Fault(line, column, f"{what}, not {_shown(given)}")
    said = {
        "list_type": f"{key} is a list, like [a, b], not {_shown(given)}",
        "string_type": f"{key} is a text, not {_shown(given)}; quote it",
        "int_type": f"{key} is a whole number, not {_shown(given)}",
        "too_short": f"an empty {key} matches nothing; name some, or leave the key out",
        "string_too_short": f"{key} has an empty name; write one",
        "string_too_long": f"{key} has a name of more than 120 characters; shorten it",
        "greater_than_equal": f"{key} is at least 1, not {_shown(given)}; to allow nothing, leave the rule out",
        "string_pattern_mismatch": f"hours are like 22:00-06:00, not {_shown(given)}",
        "literal_error": f"{key} is {error.get('ctx', {}).get('expected', '')}, not {_shown(given)}",
    }.get(kind, f"{key}: {error['msg']}")
    return Fault(line, column, said)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__}" if isinstance(value, dict | list) else repr(value)


def _meaning(whole: PolicyText, places: Mapping[Path_, Place]) -> Iterator[Fault]:
    """What the types can't say."""
    names: dict[str, int] = {}
    for n, rule in enumerate(whole.rules):
        at = places["rules", n]
        if (rule.allow is None) == (rule.deny is None):
            yield Fault(*at, "a rule has one of allow and deny, with its name")
            continue
        name = rule.allow or rule.deny
        if name in names:
            yield Fault(*at, f'there is a rule "{name}" in line {names[name]} already; names are unique')
        names.setdefault(name, at[0])
        for key in ("per_pulse", "per_day"):
            if rule.deny is not None and getattr(rule, key) is not None:
                yield Fault(*places["rules", n, key], f"{key} belongs to an allow rule; remove it")
        if rule.hours is not None and len(set(rule.hours.split("-"))) == 1:
            yield Fault(*places["rules", n, "hours"], "these hours have no length; leave hours out for the whole day")
        for m, path in enumerate(rule.paths or ()):
            if not path.startswith(("/", "{station}")) or ".." in path.split("/"):
                yield Fault(
                    *places["rules", n, "paths", m], f"{path!r} is no full path; begin it with / or {{station}}"
                )


def _rule(n: int, text: RuleText, places: Mapping[Path_, Place], station: str) -> Rule:
    def some(names: list[Any] | None) -> frozenset[str] | None:
        return None if names is None else frozenset(names)

    return Rule(
        number=n + 1,
        line=places["rules", n][0],
        name=text.allow if text.allow is not None else text.deny,
        allow=text.allow is not None,
        agents=some(text.agents),
        asked_by=some(text.asked_by),
        domains=some(text.domains),
        procedures=some(text.procedures),
        does=some(text.does),
        effects=some(text.effects),
        manifest=some(text.manifest),
        paths=tuple(placed(each, station) for each in text.paths or ()),
        hours=None if text.hours is None else _minutes(text.hours),
        days=None if text.days is None else frozenset(DAYS.index(each) for each in text.days),
        per_pulse=text.per_pulse,
        per_day=text.per_day,
    )


def _minutes(hours: str) -> tuple[int, int]:
    start, end = (int(each[:2]) * 60 + int(each[3:]) for each in hours.split("-"))
    return start, end
