"""Domain manifests: what an agent may do, how it is checked, how it is undone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from chassis.atomic import FileState, state_of
from chassis.canonical import digest
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput
from chassis.exchange.moves import lstats


class Level(IntEnum):
    """A domain's rung. The order is the meaning."""

    OBSERVE = 1
    SUGGEST = 2
    GUIDE = 3
    EXECUTE = 4


Effects = Literal["none", "reversible", "irreversible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What counts as fast and small in this domain; TES is linear between the two ends."""

    fast_s: float = 90.0
    slow_s: float = 900.0
    small_files: float = 1.0
    large_files: float = 10.0


EVERY: Mapping[str, timedelta | None] = {
    "every_pulse": None, "hourly": timedelta(hours=1), "daily": timedelta(days=1),
}  # fmt: skip
"""What `schedule` may say, and how long it is from one run to the next; None: not by time."""

METRICS = ("cpu_percent", "ram_percent", "swap_percent", "disk_percent")
"""What the governor reads, all of which are the better the lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where a task's changes are looked for beside those that its ack declares. `folders` None: the declared paths."""

    folders: tuple[str, ...] | None = None
    grows: tuple[str, ...] = ()
    """Names (as `*.log`) of files to which others append at any time: mere growth is held against nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainManifest:
    """One domain as declared. `digest` pins it: a new digest is a new domain to the ladder's evidence.

    Only a signed one, for a program from outside, has `signed_by` (set by whoever verified it, never by the manifest),
    `expires_at`, and perhaps `not_before` and the digest of the edition that it follows (`previous`).
    """

    domain: str
    title: str
    serial: int
    owner: str
    prober: str
    effects: Effects
    start_level: Level
    max_level: Level
    procedures: tuple[str, ...]
    probes: tuple[str, ...]
    limits: Limits
    ttl_seconds: float
    max_attempts: int
    per_pulse: int
    per_day: int
    paths: tuple[str, ...]
    every_pulse: bool
    every: timedelta | None
    """How often it comes up by itself; None, and not every pulse: only when it is asked for."""
    objective: str
    params: Mapping[str, str]
    digest: str
    undo_by: str
    """Who answers its undo tasks: the owner, or `governor` where the effects lie in the station's journal."""
    rehearses: bool = True
    """False: its agent can't rehearse, so that a person is asked instead at GUIDE."""
    not_before: datetime | None = None
    expires_at: datetime | None = None
    previous: str = ""
    signed_by: str = ""
    explore: bool = True
    """False (`explore: off`): the best known procedure, always; nothing is tried to learn."""
    windows: Mapping[str, float] | None = None
    """After how many seconds its effects are looked at again, by name, `+1m` among them; None: as the station does."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Readings that are compared before and after an effect: by how many points each may rise; None: only reported."""
    undo_on_regression: bool = False
    watched: Watched = Watched()
    checks: tuple[Mapping[str, Any], ...] = ()
    """What has to be true after every task with effects, whatever its ack claims: `{"kind", "target", "expect"}`."""

    def out_of_time(self, now: datetime) -> str:
        """Why it may not run now, as far as its own dates go; empty when it may."""
        if self.not_before is not None and now < self.not_before:
            return f"not valid before {iso(self.not_before)}"
        if self.expires_at is not None and now >= self.expires_at:
            return f"expired at {iso(self.expires_at)}; sign and approve a new edition"
        return ""

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Self:
        """Check and build one. Raises InvalidInput that names the key."""
        known = {
            "domain", "title", "serial", "owner", "prober", "effects", "start_level", "max_level", "procedures",
            "probes", "limits", "ttl_seconds", "max_attempts", "budget", "paths", "schedule", "objective", "params",
            "undo_by", "rehearses", "not_before", "expires_at", "previous", "explore",
            "windows", "metrics", "undo_on_regression", "watch", "checks",
        }  # fmt: skip
        name = raw.get("domain", "?")
        if unknown := set(raw) - known:
            raise InvalidInput(f"domain manifest {name}: unknown key {sorted(unknown)[0]!r}; remove it")
        try:
            budget = dict(raw.get("budget", {}))
            manifest = cls(
                domain=str(raw["domain"]),
                title=str(raw["title"]),
                serial=int(raw["serial"]),
                owner=str(raw["owner"]),
                prober=str(raw["prober"]),
                effects=raw["effects"],
                start_level=Level[raw.get("start_level", "GUIDE")],
                max_level=Level[raw.get("max_level", "EXECUTE")],
                procedures=tuple(raw["procedures"]),
                probes=tuple(raw["probes"]),
                limits=Limits(**raw.get("limits", {})),
                ttl_seconds=float(raw.get("ttl_seconds", 600)),
                max_attempts=int(raw.get("max_attempts", 3)),
                per_pulse=int(budget.get("per_pulse", 4)),
                per_day=int(budget.get("per_day", 20_000)),
                paths=tuple(raw.get("paths", ())),
                every_pulse=raw.get("schedule") == "every_pulse",
                every=EVERY[raw["schedule"]] if "schedule" in raw else None,
                objective=str(raw.get("objective", raw["title"])),
                params={str(k): str(v) for k, v in raw.get("params", {}).items()},
                digest=digest(raw),
                undo_by=str(raw.get("undo_by", raw["owner"])),
                rehearses=bool(raw.get("rehearses", True)),
                not_before=_moment(raw, "not_before"),
                expires_at=_moment(raw, "expires_at"),
                previous=str(raw.get("previous", "")),
                explore=_switch(raw.get("explore", True), "explore"),
                windows=_windows(raw["windows"]) if "windows" in raw else None,
                metrics=_metrics(raw.get("metrics", {})),
                undo_on_regression=_switch(raw.get("undo_on_regression", False), "undo_on_regression"),
                watched=_watched(raw.get("watch", {})),
                checks=tuple(map(_check, raw.get("checks", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"domain manifest {name}: {error!r}; see deploy/domains for examples") from error
        if manifest.effects not in ("none", "reversible", "irreversible"):
            raise InvalidInput(f"domain manifest {name}: effects must be none, reversible or irreversible")
        if manifest.prober == manifest.owner:
            raise InvalidInput(f"domain manifest {name}: the owner can't be its own prober")
        if not manifest.procedures:
            raise InvalidInput(f"domain manifest {name}: needs at least one procedure")
        if not manifest.probes and manifest.undo_by == manifest.owner:
            # Where the station's own journal has the effects, they are claimed as they are found, of whatever kind.
            raise InvalidInput(f"domain manifest {name}: needs at least one probe, which every result has to pass")
        return manifest


def _switch(value: Any, key: str) -> bool:
    """on or off, which YAML reads as true and false where they are not quoted."""
    if value in (True, "on"):
        return True
    if value in (False, "off"):
        return False
    raise ValueError(f"{key} is on or off, not {value!r}")


_SPAN = re.compile(r"\+([1-9][0-9]{0,3})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _windows(names: Sequence[str]) -> dict[str, float]:
    """`+1m` is always one: what held after a minute is what the ladder counts as evidence."""
    found = {}
    for name in names:
        match = _SPAN.fullmatch(str(name))
        if match is None:
            raise ValueError(f"a window is written as +90s, +1m, +1h or +7d, not {name!r}")
        found[str(name)] = float(int(match[1]) * _UNITS[match[2]])
    if "+1m" not in found:
        raise ValueError("the windows need +1m, on which the ladder's evidence rests")
    return found


def _metrics(raw: Mapping[str, Any]) -> dict[str, float | None]:
    """A positive number of points, or nothing."""
    if unknown := set(raw) - set(METRICS):
        raise ValueError(f"no metric {sorted(unknown)[0]!r}; there are {', '.join(METRICS)}")
    found = {str(name): None if points is None else float(points) for name, points in raw.items()}
    if any(points is not None and not points > 0 for points in found.values()):
        raise ValueError("a metric's bound is a positive number of points, or null")
    return found


def _watched(raw: Mapping[str, Any]) -> Watched:
    if unknown := set(raw) - {"folders", "grows"}:
        raise ValueError(f"watch takes folders and grows, not {sorted(unknown)[0]!r}")
    folders = raw.get("folders")
    return Watched(
        folders=None if folders is None else tuple(map(str, folders)), grows=tuple(map(str, raw.get("grows", ())))
    )


def _check(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    if set(raw) - {"kind", "target", "expect"} or not raw.get("kind") or not raw.get("target"):
        raise ValueError("a check is {kind, target, expect}")
    expect = {str(key): str(value) for key, value in dict(raw.get("expect") or {}).items()}
    return {"kind": str(raw["kind"]), "target": str(raw["target"]), "expect": expect}


def _moment(raw: Mapping[str, Any], key: str) -> datetime | None:
    return parse_iso(raw[key]) if key in raw else None


def load_domains(folder: Path) -> dict[str, DomainManifest]:
    """Every `*.yaml` in the folder, by domain. One bad manifest refuses the lot, naming the file."""
    domains: dict[str, DomainManifest] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            raw = yaml.safe_load(path.read_text())
            if not isinstance(raw, dict):
                raise InvalidInput("a domain manifest is a mapping")
            manifest = DomainManifest.from_mapping(raw)
        except InvalidInput as error:
            raise InvalidInput(f"{path.name}: {error.message}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path.name}: can't be parsed: {str(error).splitlines()[0]}") from error
        domains[manifest.domain] = manifest
    return domains


class LiveDomains(Mapping[str, DomainManifest]):
    """Those of a folder as they are now: read again when a file of it changed. One bad manifest refuses the lot.

    Not locked: for one thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self._domains: Mapping[str, DomainManifest] = {}

    def __getitem__(self, domain: str) -> DomainManifest:
        return self._now()[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> Mapping[str, DomainManifest]:
        try:
            if (seen := folder_state(self._folder, ".yaml")) != self._seen:
                self._domains = load_domains(self._folder)
                self._seen = seen
        except OSError as error:
            raise InvalidInput(f"{self._folder} can't be read: {error.strerror}") from error
        return self._domains


FolderState = list[tuple[str, FileState]]


def folder_state(folder: Path, suffix: str | tuple[str, ...]) -> FolderState:
    """What changes when one of its files of these names does: names, times, inodes, sizes. Raises OSError."""
    return sorted((name, state_of(info)) for name, info in lstats(folder, follow=True) if name.endswith(suffix))
