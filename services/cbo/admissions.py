"""Domains of outside programs: a signed manifest is admitted by a person, once for each edition, and withdrawn at once.

What was approved is kept as facts; the envelope lies in `config/domains`, where every service verifies it again.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

import structlog

from chassis.atomic import write_whole
from chassis.canonical import digest, sha256_hex
from chassis.clock import iso
from chassis.consent import folder_of
from chassis.domain_book import DomainBook, verify
from chassis.domains import DomainManifest
from chassis.errors import CalyxError, Duplicate, InvalidInput, NotFound, Refused, Unavailable
from chassis.signing import strict_json, trusted_keys
from services.cbo.autonomy_evaluator import Entry
from services.cbo.bridge import Approval, Bridge
from services.cbo.endings import Notices, endings
from services.cbo.tasks import OPEN

log = structlog.get_logger(__name__)

LONGEST = timedelta(days=90)
"""An edition ends at most this long after its approval."""
EDITION = frozenset({"serial", "digest", "previous", "not_before", "expires_at", "signed_by", "title", "objective"})
"""What may differ between two editions without their being different work to the ladder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One domain as people see it; `blocked` says why it may not run, `warning` that it ends soon."""

    manifest: DomainManifest
    blocked: str
    warning: str = ""


class Admissions:
    """Admits, withdraws, lists. `cancel` ends one open task of a withdrawn domain. Thread-safe."""

    def __init__(self, bridge: Bridge, cancel: Callable[[str, str, str], object]) -> None:
        self._bridge, self._cancel = bridge, cancel
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._ending: set[str] = set()
        self._notices = Notices(bridge)

    def approve(self, envelope_json: str, who: str) -> DomainManifest:
        """Admit the manifest in a signed envelope; repeating it changes nothing. For a built-in domain that was
        revoked, `{"domain": "…"}` is enough: the policy pins the rest.

        Raises InvalidInput, BadSignature or Refused with the reason, which goes into the audit log too.
        """
        try:
            with self._lock:
                return self._approve(envelope_json, who)
        except CalyxError as error:
            sha256 = sha256_hex(envelope_json.encode(errors="surrogatepass"))
            self._bridge.audit.write("domain.refused", why=error.message[:500], by=who, envelope_sha256=sha256)
            raise

    def _approve(self, envelope_json: str, who: str) -> DomainManifest:
        try:
            raw = envelope_json.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("the envelope is not text") from error
        builtin = _readmission(raw)
        if builtin is not None:
            return self._readmit(builtin, who)
        bridge, now = self._bridge, self._bridge.clock.now()
        manifest = verify(raw, trusted_keys(bridge.layout.operator_keys), bridge.layout, self._builtin())
        before = bridge.approved(manifest.domain)
        again = before is not None and before.digest == manifest.digest
        self._check(manifest, before, again=again, now=now)
        self._write(manifest.domain, raw)
        if again:
            self._signed_anew(manifest, before, who)
            return manifest
        other = self._other_work(manifest)
        approval = Approval(
            digest=manifest.digest, serial=manifest.serial, signed_by=manifest.signed_by, by=who, at=now
        )  # fmt: skip
        with bridge.store.transaction():
            bridge.store.set_fact(f"domain:{manifest.domain}", json.dumps(approval.to_json()))
            bridge.store.set_fact(f"terms:{manifest.domain}", _terms(manifest))
            bridge.store.run("fact_drop", f"revoked:{manifest.domain}")
            bridge.consents.declared.approve(manifest, who, now)
            bridge.ladder.meet(now)
            standing = bridge.ladder.standing(manifest.domain)
            if other and standing.level > manifest.start_level:
                why = "the new edition declares other work"
                entry = Entry(pulse=standing.pulse, forced=manifest.start_level, why=why)
                bridge.ladder.take(manifest.domain, entry, now)
        bridge.audit.write(
            "domain.approved", domain=manifest.domain, by=who, digest=manifest.digest, serial=manifest.serial,
            signed_by=manifest.signed_by, owner=manifest.owner, paths=list(manifest.paths),
            expires_at=None if manifest.expires_at is None else iso(manifest.expires_at),
        )  # fmt: skip
        bridge.consents.notice()
        return manifest

    def _signed_anew(self, manifest: DomainManifest, before: Approval | None, who: str) -> None:
        """The same edition under other signatures: a key was rotated, or one more person signed. It stays approved."""
        if before is None or before.signed_by == manifest.signed_by:
            return
        approval = replace(before, signed_by=manifest.signed_by)
        self._bridge.store.set_fact(f"domain:{manifest.domain}", json.dumps(approval.to_json()))
        self._bridge.audit.write(
            "domain.signed", domain=manifest.domain, by=who, digest=manifest.digest, signed_by=manifest.signed_by,
            before=before.signed_by,
        )  # fmt: skip

    def _check(self, manifest: DomainManifest, before: Approval | None, *, again: bool, now: datetime) -> None:
        bridge, name = self._bridge, manifest.domain
        revoked = bridge.revoked(name)
        if why := manifest.out_of_time(now):
            raise Refused(f"{name}: {why}")
        if manifest.expires_at is not None and manifest.expires_at - now > LONGEST:
            raise Refused(f"{name}: it expires more than {LONGEST.days} days from now; sign it for a shorter time")
        if before is not None and revoked and manifest.serial <= before.serial:
            raise Refused(
                f"{name}: edition {before.serial} was revoked ({revoked}); sign a new one with a higher serial"
            )
        if before is not None and not again and manifest.serial <= before.serial:
            raise Refused(f"{name}: serial {manifest.serial} is not above {before.serial}, which was approved already")
        if manifest.previous and (before is None or manifest.previous != before.digest):
            known = "nothing was approved before" if before is None else f"the one before is {before.digest[:12]}"
            if not again:
                raise Refused(f"{name}: it follows {manifest.previous[:12]}, but {known}")
        if manifest.prober not in bridge.peers.probers:
            known = " or ".join(sorted(bridge.peers.probers))
            raise Refused(f"{name}: {manifest.prober} does not check the work of others; {known} does")
        for path in manifest.paths:
            try:
                found = folder_of(path, bridge.layout.root)
            except NotFound:
                continue  # not there, or not seen from here; every change asks again
            if str(found) != path:
                raise Refused(f"{name}: {path} leads to {found}; declare that")

    def _builtin(self) -> Mapping[str, DomainManifest]:
        return {name: each for name, each in self._bridge.domains.items() if not each.signed_by}

    def _other_work(self, manifest: DomainManifest) -> bool:
        before = self._bridge.store.fact(f"terms:{manifest.domain}")
        return before is not None and before != _terms(manifest)

    def _write(self, domain: str, raw: bytes) -> None:
        if not isinstance(self._bridge.domains, DomainBook):
            raise Refused("this station has built-in domains only")
        folder = self._bridge.layout.admitted
        path = folder / f"{domain}.json"
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if path.is_symlink() or not path.is_file() or path.read_bytes() != raw:
                write_whole(path, raw)
        except OSError as error:
            raise Unavailable(f"{path} can't be written: {error.strerror}; nothing was admitted") from error

    def _readmit(self, domain: str, who: str) -> DomainManifest:
        """Take a built-in domain back in after it was revoked."""
        manifest = self._bridge.domains.get(domain)
        if manifest is None or manifest.signed_by or not self._bridge.ruling(manifest).allowed:
            raise Refused(
                f"{domain[:60] or 'this'} is none of the built-in domains, and it is not signed; nothing changed"
            )
        self._bridge.store.run("fact_drop", f"revoked:{domain}")
        self._bridge.audit.write("domain.approved", domain=domain, by=who, digest=manifest.digest)
        return manifest

    def revoke(self, domain: str, why: str, who: str) -> None:
        """It has no right to run from now on; what is open of it is cancelled. The file stays. Raises NotFound."""
        bridge = self._bridge
        if domain not in bridge.domains and bridge.approved(domain) is None:
            raise NotFound(f"there is no domain {domain}; `calyx domain list` shows them")
        with self._lock, bridge.store.transaction():
            bridge.store.set_fact(f"revoked:{domain}", f"by {who}: {why or 'no reason given'}")
            bridge.consents.declared.withdraw(domain)
        bridge.audit.write("domain.revoked", domain=domain, by=who, why=why)
        bridge.consents.notice()
        for task in bridge.store.tasks("tasks_open"):
            if task.domain == domain and not task.undo_of and (task.state in OPEN or task.state == "held"):
                try:
                    self._cancel(task.id, f"{domain} was revoked", who)
                except (Refused, Duplicate) as error:
                    log.info("a task of a revoked domain ended by itself", task=task.id, why=error.message)

    def listed(self) -> list[Listed]:
        """Every domain there is, by name."""
        bridge = self._bridge
        found, soon = [], {each.domain: each.reason for each in endings(bridge, bridge.clock.now())}
        for name, manifest in sorted(bridge.domains.items()):
            revoked, ruling = bridge.revoked(name), bridge.ruling(manifest)
            blocked = f"revoked {revoked}" if revoked else "" if ruling.allowed else ruling.reason
            found.append(Listed(manifest=manifest, blocked=blocked, warning=soon.get(name, "")))
        return found

    def notice(self) -> None:
        """Take up what appeared, put on record what does not count and why, end what may not run any more."""
        bridge = self._bridge
        self._end()
        self._notices.step()
        if not isinstance(bridge.domains, DomainBook):
            return
        bridge.ladder.meet(bridge.clock.now())
        faults = dict(bridge.domains.faults)
        with self._lock:
            fresh = {name: why for name, why in faults.items() if self._faults.get(name) != why}
            self._faults = faults
        for name, why in sorted(fresh.items()):
            bridge.audit.write("domain.unverified", file=name[:200], why=why[:500])

    def _end(self) -> None:
        """Cancel tasks that are out while their domain lost its right to run, in whatever way."""
        bridge = self._bridge
        lost = {row["domain"]: self._lost(row["domain"]) for row in bridge.store.rows("domains_out")}
        out = [
            task for task in bridge.store.tasks("tasks_open")
            if lost.get(task.domain) and task.dispatched_at is not None and not task.undo_of
        ] if any(lost.values()) else []  # fmt: skip
        for task in out:
            why = lost[task.domain]
            if task.id not in self._ending and bridge.exchange.cancel(task.id, why):
                bridge.audit.write("task.cancelled", task=task.id, by="the station", why=why)
        self._ending = {task.id for task in out}

    def _lost(self, domain: str) -> str:
        """Why what is out of this domain has to end; empty when it may go on."""
        bridge = self._bridge
        manifest = bridge.domains.get(domain)
        if manifest is None:
            return f"there is no domain {domain} any more"
        if revoked := bridge.revoked(domain):
            return f"{domain} was revoked {revoked}"[:500]
        ruling = bridge.ruling(manifest) if manifest.signed_by else None
        return ruling.reason[:500] if ruling is not None and not ruling.allowed else ""


def _readmission(raw: bytes) -> str | None:
    """The domain's name where no more than that is said; None for anything else."""
    try:
        value = strict_json(raw)
    except InvalidInput as error:
        raise InvalidInput(f"the envelope can't be read: {error.message}") from error
    if isinstance(value, dict) and set(value) == {"domain"} and isinstance(value["domain"], str):
        return value["domain"]
    return None


def _terms(manifest: DomainManifest) -> str:
    """What makes it the same work: all but its dates and words."""
    return digest({key: value for key, value in asdict(manifest).items() if key not in EDITION})
