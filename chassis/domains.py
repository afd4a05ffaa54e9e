"""Domain manifests: what an agent may do, how it is checked, how it is undone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from chassis.canonical import digest
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput


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
                objective=str(raw.get("objective", raw["title"])),
                params={str(k): str(v) for k, v in raw.get("params", {}).items()},
                digest=digest(raw),
                undo_by=str(raw.get("undo_by", raw["owner"])),
                rehearses=bool(raw.get("rehearses", True)),
                not_before=_moment(raw, "not_before"),
                expires_at=_moment(raw, "expires_at"),
                previous=str(raw.get("previous", "")),
                explore=_switch(raw.get("explore", True)),
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


def _switch(value: Any) -> bool:
    """on or off, which YAML reads as true and false where they are not quoted."""
    if value in (True, "on"):
        return True
    if value in (False, "off"):
        return False
    raise ValueError(f"explore is on or off, not {value!r}")


def _moment(raw: Mapping[str, Any], key: str) -> datetime | None:
    return parse_iso(raw[key]) if key in raw else None


def load_domains(folder: Path) -> dict[str, DomainManifest]:
    """Every `*.yaml` in the folder, by domain. One bad manifest refuses the lot, naming the file."""
    domains: dict[str, DomainManifest] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            manifest = DomainManifest.from_mapping(yaml.safe_load(path.read_text()))
        except InvalidInput as error:
            raise InvalidInput(f"{path.name}: {error.message}") from error
        domains[manifest.domain] = manifest
    return domains
