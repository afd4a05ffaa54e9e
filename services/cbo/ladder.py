"""Every domain's standing: kept in memory, saved with each change, rebuildable from the pulse records."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from chassis.canonical import Json
from chassis.clock import Clock, iso, parse_iso
from chassis.domains import DomainManifest, Level
from chassis.errors import InvalidInput, NotFound, Refused
from services.cbo.autonomy_evaluator import (
    Decision,
    Entry,
    Standing,
    Terms,
    decide,
    demotions_recent,
    effects_missing,
    just_demoted,
    run_required,
)
from services.cbo.ladder_log import Taken, begin
from services.cbo.store import Store

RECORDED = "ladder_recorded"
"""The fact that says up to which entry the pulse records hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One domain as people see it. `level` is what it may do now; `standing` keeps what was earned."""

    domain: str
    terms: Terms
    standing: Standing
    decision: Decision
    run_required: int
    effects_missing: int
    demotions: int
    """By the rule, within the pulses that double the run."""
    changed_at: datetime

    @property
    def level(self) -> Level:
        return self.decision.level

    @property
    def max_level(self) -> Level:
        return self.terms.max_level


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

    def __init__(self, store: Store, domains: Mapping[str, DomainManifest], clock: Clock, code: str = "") -> None:
        """`code` names the release, which is the code behind the built-in domains."""
        self._store, self._domains, self._clock, self._code = store, domains, clock, code
        self._lock = threading.RLock()
        self._standings: dict[str, tuple[Standing, datetime]] = {}
        with store.transaction():
            for row in store.rows("ladder"):
                self._standings[row["domain"]] = (
                    Standing.from_json(json.loads(row["standing"])),
                    parse_iso(row["changed_at"]),
                )
            if store.fact(RECORDED) is None:
                store.set_fact(RECORDED, str(self._newest_entry()))
            self.meet(clock.now())

    def meet(self, now: datetime) -> None:
        """Take up domains, and editions of them, that are new since the last look."""
        for name, manifest in self._domains.items():
            with self._lock:
                known = self._standings.get(name)
            code = "" if manifest.signed_by else self._code  # nobody here sees the code of an outside program
            if known is None or known[0].digest != manifest.digest or (code and known[0].code != code):
                pulse = 0 if known is None else known[0].pulse
                self.take(name, Entry(pulse=pulse, digest=manifest.digest, code=code), now)

    def terms(self, domain: str) -> Terms:
        manifest = self._domains.get(domain)
        return Terms(max_level=Level.OBSERVE) if manifest is None else self._terms(manifest)

    def _terms(self, manifest: DomainManifest) -> Terms:
        top = manifest.max_level
        if manifest.effects == "irreversible":
            top = min(top, Level.GUIDE)
        revoked = self._store.fact(f"revoked:{manifest.domain}")
        void = f"revoked {revoked}" if revoked else manifest.out_of_time(self._clock.now())
        return Terms(max_level=top, void=void)

    def standing(self, domain: str) -> Standing:
        """Of a domain that is not there any more: its last one, and nothing at all of one that never was."""
        with self._lock:
            known = self._standings.get(domain)
        if known is not None:
            return known[0]
        manifest = self._domains.get(domain)
        return begin(manifest.start_level) if manifest is not None else GONE

    def take(self, domain: str, entry: Entry, now: datetime) -> Changed | None:
        """Fold one entry in and save; says when the level changed by it.

        The memory copy moves at once: a caller whose transaction fails afterwards calls `reload`.
        A domain that is not there any more keeps what it had.
        """
        manifest = self._domains.get(domain)
        if manifest is None:
            return None
        terms = self.terms(domain)
        taken = Taken(
            domain=domain, entry=entry, max_level=terms.max_level, start_level=manifest.start_level, void=terms.void
        )  # fmt: skip
        with self._store.transaction(), self._lock:  # in this order: a pulse comes with its transaction open
            before, changed_at = self._standings.get(domain, (begin(manifest.start_level), now))
            after = taken.after(before)
            if after.level != before.level:
                changed_at = now
            self._store.run(
                "ladder_entry_insert", domain, iso(now), json.dumps({**taken.to_json(), "before": before.to_json()})
            )
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

    def hand_over(self) -> Json:
        """For the pulse record, inside its transaction: what was taken in since the last one, where its domain stood
        before each, and where all stand."""
        after = int(self._store.fact(RECORDED) or 0)
        entries = [json.loads(row["entry"]) for row in self._store.rows("ladder_entries_after", after)]
        self._store.set_fact(RECORDED, str(after + len(entries)))
        with self._lock:
            standings = {domain: each.to_json() for domain, (each, _) in sorted(self._standings.items())}
        before = [each.pop("before", None) for each in entries]
        return {"after": after, "entries": entries, "before": before, "standings": standings}

    def _newest_entry(self) -> int:
        return int(self._store.value("SELECT coalesce(max(number), 0) FROM ladder_entry"))

    def force(self, domain: str, level: Level, why: str, pulse: int, now: datetime) -> Changed | None:
        """A person's level. Raises NotFound, InvalidInput above the manifest's limit, Refused for a rise that the
        manifest or the rule forbids now: demotion beats approval."""
        if domain not in self._domains:
            raise NotFound(f"there is no domain {domain}; `calyx ladder` shows them")
        terms, standing = self.terms(domain), self.standing(domain)
        if level > terms.max_level:
            raise InvalidInput(f"the manifest of {domain} allows at most {terms.max_level.name}")
        if level > standing.level and terms.void:
            raise Refused(f"{domain} can't rise: {terms.void}")
        if level > standing.level and just_demoted(standing, pulse):
            raise Refused(f"{domain} was demoted in this very pulse ({standing.reason}); raise it after the next one")
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
        terms = self._terms(manifest)
        return rung_of(domain, known[0], terms, known[1])

    def rungs(self) -> list[Rung]:
        """Of every domain that is there, as of one moment."""
        found = (self._rung(domain, manifest) for domain, manifest in sorted(self._domains.items()))
        return [rung for rung in found if rung is not None]


def rung_of(domain: str, standing: Standing, terms: Terms, changed_at: datetime) -> Rung:
    return Rung(
        domain=domain,
        terms=terms,
        standing=standing,
        decision=decide(standing, terms),
        run_required=run_required(standing, terms),
        effects_missing=effects_missing(standing, terms),
        demotions=demotions_recent(standing, terms),
        changed_at=changed_at,
    )


GONE = Standing(level=Level.OBSERVE, reason="there is no such domain any more")
