"""Every domain's standing: kept in memory, saved with each change, rebuildable from its entries."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from chassis.clock import iso, parse_iso
from chassis.domains import DomainManifest, Level
from chassis.errors import InvalidInput, NotFound
from services.cbo.autonomy_evaluator import Decision, Entry, Standing, Terms, decide, fold, run_required, step
from services.cbo.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One domain as people see it."""

    domain: str
    max_level: Level
    standing: Standing
    decision: Decision
    run_required: int
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A level change by the rule."""

    domain: str
    before: Level
    after: Level
    reason: str


class Ladder:
    """Reads and moves standings. Thread-safe; writes join the caller's transaction.

    A domain may be admitted or vanish while the station runs: `meet` takes new ones up; what one has earned or lost
    stays on record, so that it comes back at the level at which it went.
    """

    def __init__(self, store: Store, domains: Mapping[str, DomainManifest], now: datetime) -> None:
        self._store, self._domains = store, domains
        self._lock = threading.RLock()
        self._standings: dict[str, tuple[Standing, datetime]] = {}
        with store.transaction():
            for row in store.rows("ladder"):
                self._standings[row["domain"]] = (
                    Standing.from_json(json.loads(row["standing"])),
                    parse_iso(row["changed_at"]),
                )
            self.meet(now)

    def meet(self, now: datetime) -> None:
        """Take up domains, and editions of them, that are new since the last look."""
        for name, manifest in self._domains.items():
            with self._lock:
                known = self._standings.get(name)
            if known is None or known[0].digest != manifest.digest:
                self.take(name, Entry(pulse=0 if known is None else known[0].pulse, digest=manifest.digest), now)

    def terms(self, domain: str) -> Terms:
        manifest = self._domains.get(domain)
        return Terms(max_level=Level.OBSERVE) if manifest is None else terms_of(manifest)

    def standing(self, domain: str) -> Standing:
        """Of a domain that is not there any more: its last one, and nothing at all of one that never was."""
        with self._lock:
            known = self._standings.get(domain)
        if known is not None:
            return known[0]
        manifest = self._domains.get(domain)
        return first_standing(manifest) if manifest is not None else GONE

    def take(self, domain: str, entry: Entry, now: datetime) -> Changed | None:
        """Fold one entry in and save; says when the level changed by it.

        The memory copy moves at once: a caller whose transaction fails afterwards calls `reload`.
        A domain that is not there any more keeps what it had.
        """
        manifest = self._domains.get(domain)
        if manifest is None:
            return None
        with self._store.transaction(), self._lock:  # in this order: a pulse comes with its transaction open
            before, changed_at = self._standings.setdefault(domain, (first_standing(manifest), now))
            after = step(before, entry, self.terms(domain))
            if after.level != before.level:
                changed_at = now
            self._store.run("ladder_entry_insert", domain, iso(now), json.dumps(_entry_json(entry)))
            self._store.run("ladder_save", domain, json.dumps(after.to_json()), iso(changed_at))
            self._standings[domain] = (after, changed_at)
        if after.level == before.level:
            return None
        return Changed(domain=domain, before=before.level, after=after.level, reason=after.reason)

    def reload(self) -> None:
        """Back to what is saved."""
        rows = self._store.rows("ladder")
        with self._lock:
            for row in rows:
                self._standings[row["domain"]] = (
                    Standing.from_json(json.loads(row["standing"])),
                    parse_iso(row["changed_at"]),
                )

    def rebuild(self, domain: str) -> Standing:
        """The standing folded anew from every saved entry."""
        entries = (_entry_from_json(json.loads(row["entry"])) for row in self._store.rows("ladder_entries", domain))
        manifest = self._domains.get(domain)
        start = GONE if manifest is None else replace(first_standing(manifest), digest="")
        return fold(start, entries, self.terms(domain))

    def force(self, domain: str, level: Level, why: str, pulse: int, now: datetime) -> Changed | None:
        """A person's level. Raises NotFound, InvalidInput above the manifest's limit."""
        if domain not in self._domains:
            raise NotFound(f"there is no domain {domain}; `calyx ladder` shows them")
        if level > self.terms(domain).max_level:
            raise InvalidInput(f"the manifest of {domain} allows at most {self.terms(domain).max_level.name}")
        return self.take(domain, Entry(pulse=pulse, forced=level, why=why), now)

    def rung(self, domain: str) -> Rung:
        manifest = self._domains.get(domain)
        if manifest is None:
            raise NotFound(f"there is no domain {domain}; `calyx ladder` shows them")
        made = self._rung(domain, manifest)
        if made is None:
            raise NotFound(f"{domain} is only just admitted; ask again in a second")
        return made

    def _rung(self, domain: str, manifest: DomainManifest) -> Rung | None:
        with self._lock:
            known = self._standings.get(domain)
        if known is None:
            return None
        terms = terms_of(manifest)
        return Rung(
            domain=domain,
            max_level=terms.max_level,
            standing=known[0],
            decision=decide(known[0], terms),
            run_required=run_required(known[0], terms),
            changed_at=known[1],
        )

    def rungs(self) -> list[Rung]:
        """Of every domain that is there, as of one moment."""
        found = (self._rung(domain, manifest) for domain, manifest in sorted(self._domains.items()))
        return [rung for rung in found if rung is not None]


def terms_of(manifest: DomainManifest) -> Terms:
    top = manifest.max_level
    return Terms(max_level=min(top, Level.GUIDE) if manifest.effects == "irreversible" else top)


GONE = Standing(level=Level.OBSERVE, reason="there is no such domain any more")


def first_standing(manifest: DomainManifest) -> Standing:
    return Standing(level=manifest.start_level, reason=f"starts at {manifest.start_level.name} by its manifest")


def _entry_json(entry: Entry) -> dict[str, object]:
    return {
        "pulse": entry.pulse,
        "worked": entry.worked,
        "tes": entry.tes,
        "failures": entry.failures,
        "effects_held": entry.effects_held,
        "effects_failed": entry.effects_failed,
        "forced": None if entry.forced is None else int(entry.forced),
        "why": entry.why,
        "digest": entry.digest,
    }


def _entry_from_json(value: dict[str, object]) -> Entry:
    forced = value.pop("forced")
    return Entry(**value, forced=None if forced is None else Level(int(str(forced))))  # type: ignore[arg-type]  # JSON of our own
