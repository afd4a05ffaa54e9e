"""Who joined from outside: names, domains, and tokens of which only the sha256 is kept."""

import hmac
import json
import secrets
import threading
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from chassis.audit import Audit
from chassis.canonical import sha256_hex
from chassis.clock import Clock, iso, parse_iso
from chassis.domain_book import OWNER
from chassis.errors import InvalidInput, NotFound, Refused, Unauthenticated
from chassis.exchange.manifest import TASK_ID
from chassis.exchange.rules import ANSWERS
from chassis.identity import CALLERS
from services.cbo.rows import Row
from services.cbo.store import Store

RESERVED = frozenset({*CALLERS, ANSWERS, "agent", "inbox", "station", "policy"})
"""Names that mean somebody else in manifests, acks, leases and audit lines."""

MAX_DOMAINS = 32
MAX_VERSION = 120
MAX_CAPABILITIES, MAX_CAPABILITY = 32, 200
FLUSH_SECONDS = 10.0
"""How often signs of life go to disk; what an invitation or a revocation changes goes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One that was invited. `version`, `capabilities` and `report` are its own words, empty until it says them."""

    name: str
    domains: tuple[str, ...]
    invited_by: str
    invited_at: datetime
    revoked_at: datetime | None = None
    last_seen: datetime | None = None
    version: str = ""
    capabilities: tuple[str, ...] = ()
    report: str = ""
    reported_at: datetime | None = None


class Registry:
    """Thread-safe. The CBO is its one writer, so what is in memory is what is true: a revocation holds at once."""

    def __init__(self, store: Store, clock: Clock, audit: Audit) -> None:
        self._store, self._clock, self._audit = store, clock, audit
        self._lock = threading.RLock()
        self._known: dict[str, tuple[Agent, str]] = {}
        self._good: tuple[tuple[str, str], ...] = ()
        self._seen: set[str] = set()
        self._flushed = clock.monotonic()
        for row in store.rows("agents"):
            self._known[row["name"]] = (_from_row(row), row["token_sha256"])
        self._list_good()

    def invite(self, name: str, domains: tuple[str, ...], renew: bool, who: str) -> tuple[Agent, str]:
        """The agent and its token, which nobody can read again. Raises InvalidInput, Refused for one that is there."""
        _named(name)
        domains = tuple(dict.fromkeys(domains))
        if not domains or len(domains) > MAX_DOMAINS:
            raise InvalidInput(f"name 1 to {MAX_DOMAINS} domains that {name} may work in (--domain)")
        for domain in domains:
            if not TASK_ID.fullmatch(domain):
                raise InvalidInput(f"{domain[:120]!r} is no domain's name; they match {TASK_ID.pattern}")
        token = secrets.token_urlsafe(32)
        with self._lock:
            before = self._known.get(name)
            if before is not None and not renew:
                raise Refused(f"{name} was invited before; --renew gives it a new token and ends the old one")
            agent = Agent(name=name, domains=domains, invited_by=who, invited_at=self._clock.now())
            if before is not None:
                agent = replace(
                    before[0], domains=domains, invited_by=who, invited_at=agent.invited_at, revoked_at=None
                )
            self._audit.write("agent.invited", agent=name, domains=list(domains), by=who, renewed=before is not None)
            self._keep(agent, sha256_hex(token.encode()))
        return agent, token

    def revoke(self, name: str, why: str, who: str) -> Agent:
        """Its token is nobody's from the next call on. Idempotent. Raises NotFound."""
        with self._lock:
            agent, digest = self._find(name)
            if agent.revoked_at is None:
                agent = replace(agent, revoked_at=self._clock.now())
                self._known[name] = (agent, digest)
                self._list_good()  # before it is written: a full disk must not keep a bad token good
                self._audit.write("agent.revoked", agent=name, by=who, why=why[:500])
                self._keep(agent, digest)
            return agent

    def identify(self, token_sha256: str) -> str:
        """The agent whose good token has this digest; empty if nobody's. All are compared, each in the same time.

        It waits for no lock and no disk: the server's loop asks it for every request.
        """
        found = [name for name, digest in self._good if hmac.compare_digest(token_sha256, digest)]
        return found[0] if found else ""

    def seen(self, name: str) -> Agent:
        """It called just now. Raises Unauthenticated when its token was revoked between the gate and here."""
        with self._lock:
            known = self._known.get(name)
            if known is None or known[0].revoked_at is not None:
                raise Unauthenticated(f"the token of {name[:60]} was revoked")
            agent = replace(known[0], last_seen=self._clock.now())
            self._known[name] = (agent, known[1])
            self._seen.add(name)
            return agent

    def joined(self, name: str, version: str, capabilities: tuple[str, ...]) -> Agent:
        """What it says of itself. Raises InvalidInput when that is too much."""
        if len(version) > MAX_VERSION or len(capabilities) > MAX_CAPABILITIES:
            raise InvalidInput(f"a version has at most {MAX_VERSION} characters, and at most {MAX_CAPABILITIES} "
                               "capabilities are kept")  # fmt: skip
        if any(len(each) > MAX_CAPABILITY for each in capabilities):
            raise InvalidInput(f"a capability has at most {MAX_CAPABILITY} characters")
        with self._lock:
            new = name in self._known and self._known[name][0].last_seen is None
            before = self.seen(name)
            agent = replace(before, version=version, capabilities=capabilities)
            if new or (before.version, before.capabilities) != (version, capabilities):
                self._audit.write("agent.joined", agent=name, version=version, capabilities=list(capabilities))
            self._keep(agent, self._known[name][1])
            return agent

    def reported(self, name: str, text: str) -> Agent:
        with self._lock:
            agent = replace(self.seen(name), report=text, reported_at=self._clock.now())
            self._keep(agent, self._known[name][1])
            return agent

    def all(self) -> list[Agent]:
        with self._lock:
            return [agent for agent, _ in sorted(self._known.values(), key=lambda each: each[0].name)]

    def flush(self) -> bool:
        """Write signs of life down, now and then; True when it was time."""
        with self._lock:
            if self._clock.monotonic() - self._flushed < FLUSH_SECONDS:
                return False
            self._flushed = self._clock.monotonic()
            with self._store.transaction():
                for name in sorted(self._seen):
                    self._keep(*self._known[name])
            self._seen.clear()
            return True

    def _find(self, name: str) -> tuple[Agent, str]:
        if name not in self._known:
            raise NotFound(f"there is no agent {name[:60]}; `calyx agent list` shows them")
        return self._known[name]

    def _keep(self, agent: Agent, digest: str) -> None:
        self._store.run(
            "agent_save", agent.name, digest, json.dumps(agent.domains), agent.invited_by, iso(agent.invited_at),
            _text(agent.revoked_at), _text(agent.last_seen), agent.version, json.dumps(agent.capabilities),
            agent.report, _text(agent.reported_at),
        )  # fmt: skip
        self._known[agent.name] = (agent, digest)
        self._list_good()

    def _list_good(self) -> None:
        self._good = tuple((a.name, digest) for a, digest in self._known.values() if a.revoked_at is None)


def _named(name: str) -> None:
    if not OWNER.fullmatch(name):
        raise InvalidInput("an agent's name is that of a domain's owner: up to 40 lower-case letters, digits, - and _")
    if name in RESERVED:
        raise InvalidInput(f"{name} is a name of the station's own; choose another one")


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def _time(text: Any) -> datetime | None:
    return None if text is None else parse_iso(text)


def _from_row(row: Row) -> Agent:
    return Agent(
        name=row["name"],
        domains=tuple(json.loads(row["domains"])),
        invited_by=row["invited_by"],
        invited_at=parse_iso(row["invited_at"]),
        revoked_at=_time(row["revoked_at"]),
        last_seen=_time(row["last_seen"]),
        version=row["version"],
        capabilities=tuple(json.loads(row["capabilities"])),
        report=row["report"],
        reported_at=_time(row["reported_at"]),
    )
