"""The policy gate's two halves, both deny by default: which manifests may run at all, and what the station's rules say.

The pins: the built-in manifests, by digest, for their owners, and those of outside programs that an operator key has
signed and a person has approved, in exactly that edition. The rules (`chassis.policy`) come from policy.yaml.

`python -m services.cbo.policy` prints the pins of the shipped manifests; they go into policy.json with a release.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from chassis.atomic import read_json
from chassis.canonical import canonical_json, digest
from chassis.clock import iso
from chassis.domains import DomainManifest, load_domains
from chassis.layout import DEPLOY
from chassis.policy import Verdict

SHIPPED = Path(__file__).with_name("policy.json")
SCHEMA = "calyx.policy/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """May it run, and why. `waits`: a no that time alone may change. `rule` is the name of the rule that decided;
    `within` are the folders to which it keeps the task, where it names any."""

    allowed: bool
    reason: str
    waits: bool = False
    rule: str = ""
    within: tuple[str, ...] = ()


def both(pinned: Ruling, verdict: Verdict) -> Ruling:
    """What the pins and the rules say together: yes only if both do."""
    if not pinned.allowed:
        return pinned
    rule = verdict.rule
    return Ruling(
        allowed=verdict.allowed,
        reason=f"{pinned.reason}; {verdict.reason}" if verdict.allowed else verdict.reason,
        waits=verdict.waits,
        rule="" if rule is None else rule.name,
        within=rule.paths if rule is not None and verdict.allowed else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`pins`: (domain, owner) → digest of the one manifest allowed. `broken` says why nothing is allowed."""

    pins: Mapping[tuple[str, str], str]
    digest: str
    broken: str = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it; what is missing or can't be read denies everything, with the reason."""
        try:
            raw = read_json(path)
            if raw["schema"] != SCHEMA:
                return cls._deny(f"policy {path.name} has schema {raw['schema']!r}, not {SCHEMA!r}")
            pins = {(str(each["domain"]), str(each["owner"])): str(each["manifest_digest"]) for each in raw["allow"]}
            return cls(pins=pins, digest=digest(raw))
        except FileNotFoundError:
            return cls._deny(f"policy {path.name} is missing")
        except (OSError, ValueError, KeyError, TypeError) as error:
            return cls._deny(f"policy {path.name} can't be read: {error!r}")

    @classmethod
    def _deny(cls, why: str) -> Self:
        return cls(pins={}, digest="", broken=why)

    def ruling(
        self, manifest: DomainManifest, *, owner: str = "", approved: str = "", now: datetime | None = None
    ) -> Ruling:
        """May this manifest run? `owner`: who would do the task, if not the manifest's own. `approved`: the digest of
        the edition that a person approved; without it and `now`, nothing from outside may."""
        if self.broken:
            return Ruling(allowed=False, reason=f"denied: {self.broken}")
        if owner and owner != manifest.owner:
            return Ruling(
                allowed=False, reason=f"denied: {manifest.domain} is {manifest.owner}'s by now, not {owner}'s"
            )
        if manifest.signed_by:
            return _admitted(manifest, approved, now)
        pinned = self.pins.get((manifest.domain, manifest.owner))
        if pinned is None:
            return Ruling(allowed=False, reason=f"denied: no rule allows {manifest.domain} to {manifest.owner}")
        if pinned != manifest.digest:
            return Ruling(
                allowed=False,
                reason=f"denied: the manifest of {manifest.domain} is not the pinned one "
                f"({manifest.digest[:12]} instead of {pinned[:12]})",
            )
        return Ruling(allowed=True, reason=f"built-in, pinned {pinned[:12]}, owner {manifest.owner}")


def _admitted(manifest: DomainManifest, approved: str, now: datetime | None) -> Ruling:
    edition = f"edition {manifest.serial} of {manifest.domain}, signed by {manifest.signed_by}"
    if approved != manifest.digest:
        return Ruling(allowed=False, reason=f"denied: {edition}, is not what a person approved")
    if now is None or manifest.expires_at is None:
        return Ruling(allowed=False, reason=f"denied: {edition}, has no known end")
    if why := manifest.out_of_time(now):
        return Ruling(allowed=False, reason=f"denied: {edition}, {why}")
    return Ruling(
        allowed=True, reason=f"admitted: {edition}, approved, until {iso(manifest.expires_at)}, owner {manifest.owner}"
    )


def pins_of(domains: Mapping[str, DomainManifest]) -> bytes:
    """What policy.json says when exactly these manifests are allowed to their owners."""
    allow = [
        {"domain": each.domain, "owner": each.owner, "manifest_digest": each.digest}
        for each in sorted(domains.values(), key=lambda each: each.domain)
    ]
    return canonical_json({"schema": SCHEMA, "allow": allow}) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(pins_of(load_domains(DEPLOY / "domains")))
