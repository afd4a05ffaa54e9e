"""What the parts of the CBO share: who and where we are, the ports, the stores, the knobs."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from chassis.audit import Audit
from chassis.canonical import Json
from chassis.checkpoints import Seal
from chassis.clock import Clock, iso, parse_iso
from chassis.domains import DomainManifest
from chassis.exchange.artifacts import Artifacts
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Exchange
from chassis.ids import Ids
from chassis.killswitch import KillSwitch
from chassis.layout import Layout
from services.cbo.bell import Bell
from services.cbo.consents import Consents
from services.cbo.kpis import WINDOW
from services.cbo.ladder import Ladder
from services.cbo.load import Load
from services.cbo.policy import Policy, Ruling
from services.cbo.policy_file import PolicyFile
from services.cbo.ports import Peers
from services.cbo.posterior import Key, Posterior, learned
from services.cbo.rows import posterior_from_row
from services.cbo.store import Store
from services.cbo.uplift import RECENT_RUNS, Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The knobs; seconds where not said otherwise."""

    pulse_interval_seconds: float = 60.0
    keep_pulses: int = 20_000
    keep_tasks: timedelta = timedelta(days=3)
    """Then a finished task is archived, and after `keep_archive` more only its id is kept."""
    keep_archive: timedelta = timedelta(days=365)
    probe_tries: int = 3
    """A prober that can't be reached is asked again in as many pulses; then the TES stays unknown."""
    undo_wait_seconds: float = 4.0
    answer_within: timedelta = timedelta(days=7)
    """How long a plan or proposal waits for a person; then it ends, as if it had never been made."""
    durable: bool = True
    """False: commits and records are not synced to disk. For a virtual station, whose day nobody needs to keep."""
    recall_limit: int = 8
    explore: bool = True
    """False: no domain tries a procedure to learn; each takes what is best as far as it is known."""
    windows: Mapping[str, timedelta] = field(
        default_factory=lambda: {
            "+1m": timedelta(minutes=1),
            "+1h": timedelta(hours=1),
            "+24h": timedelta(hours=24),
        }
    )


class Beliefs:
    """Posteriors per domain × procedure × context ('' is all of them), and per domain (procedure ''); saved with each
    change. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[Key, Posterior] = {}
        self.reload()

    def reload(self) -> None:
        rows = self._store.rows("posteriors")
        with self._lock:
            self._known = {(row["domain"], row["procedure"], row["context"]): posterior_from_row(row) for row in rows}

    def of(self, domain: str, procedure: str, now: datetime, context: str = "") -> Posterior:
        with self._lock:
            return self._known.get((domain, procedure, context), Posterior(at=now)).decayed(now)

    def all(self, now: datetime) -> dict[tuple[str, str], Posterior]:
        with self._lock:
            return {key[:2]: value.decayed(now) for key, value in self._known.items() if not key[2]}

    def learn(self, domain: str, procedure: str, success: bool, now: datetime, context: str = "") -> None:
        """One run with effects, or one regression, more."""
        with self._lock:
            changed = learned(self._known, domain, procedure, context, success, now)
        for key, known in changed.items():
            self._keep(key, known)
        whole = changed[domain, "", ""]
        self._store.run("confidence_insert", domain, iso(now), whole.mean, whole.successes, whole.failures)
        self._store.run("confidence_prune", domain, iso(now - WINDOW), RECENT_RUNS - 1)

    def recent(self, domain: str) -> datetime | None:
        """Since when memory is asked about a domain: its last `RECENT_RUNS` runs; None while there are fewer."""
        rows = self._store.rows("confidence_nth", domain, RECENT_RUNS - 1)
        return parse_iso(rows[0]["at"]) if rows else None

    def arms(self) -> dict[str, Arm]:
        """How what was decided with memory (`used`) and without it (`ignored`) has ended, as far as there is any."""
        return {
            row["memory"]: Arm(runs=int(row["runs"]), total=float(row["total"]), squares=float(row["squares"]))
            for row in self._store.rows("memory_trials")
        }

    def cost(self, domain: str, procedure: str, cost: Mapping[str, float], now: datetime) -> None:
        cpu, size = cost.get("cpu_seconds"), cost.get("bytes_written")
        if cpu is not None or size is not None:
            known = self.of(domain, procedure, now).costing(cpu, size, cost.get("bytes_in"))
            self._keep((domain, procedure, ""), known)

    def _keep(self, key: Key, known: Posterior) -> None:
        with self._lock:
            self._known[key] = known
        self._store.run(
            "posterior_save", *key, iso(known.at), known.successes, known.failures, known.cpu_seconds,
            known.bytes_written, known.bytes_in,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's yes to one edition of a signed domain manifest."""

    digest: str
    serial: int
    signed_by: str
    by: str
    at: datetime

    def to_json(self) -> Json:
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "at": iso(self.at)}

    @classmethod
    def from_json(cls, value: Json) -> "Approval":
        return cls(**{**value, "at": parse_iso(value["at"])})


def no_fault(_point: str) -> None:
    """Nothing goes wrong here."""


def all_drilled(_owner: str, _domain: str, _procedure: str) -> bool:
    """Where no agent says which drills it passed: its worker refuses by itself what passed none."""
    return True


def nothing_barred(_owner: str, _domain: str, _procedure: str) -> str:
    """Likewise."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """Everything the parts need. `fault` is called at named points, so that a test can end the CBO right there."""

    station_id: str
    founded_at: datetime
    version: str
    layout: Layout
    clock: Clock
    ids: Ids
    store: Store
    exchange: Exchange
    artifacts: Artifacts
    sign: Callable[[Sequence[Manifest]], Sequence[Manifest]]
    seal: Seal | None
    """Signs the day's checkpoint of the audit chains; None: the station has no key for it, and makes none."""
    kill_switch: KillSwitch
    audit: Audit
    domains: Mapping[str, DomainManifest]
    policy: Policy
    """The pins: which manifests may run at all."""
    policy_file: PolicyFile
    """The rules: what may happen, where and when."""
    peers: Peers
    ladder: Ladder
    beliefs: Beliefs
    consents: Consents
    options: Options
    fault: Callable[[str], None] = no_fault
    drilled: Callable[[str, str, str], bool] = all_drilled
    """Whether an owner's procedure in a domain has passed the drill of its undo."""
    barred: Callable[[str, str, str], str] = nothing_barred
    """Why it may not act at EXECUTE, since its drill failed or was for another edition; empty when it may."""
    load: Load = field(default_factory=Load)
    bell: Bell = field(default_factory=Bell)
    """Rung when a task was published, has moved or was answered."""

    def approved(self, domain: str) -> Approval | None:
        """Which edition of an outside program's domain a person approved; None for built-in ones and unknown ones."""
        text = self.store.fact(f"domain:{domain}")
        return None if text is None else Approval.from_json(json.loads(text))

    def ruling(self, manifest: DomainManifest, owner: str = "") -> Ruling:
        """What the policy says now about this manifest, its tasks done by `owner`."""
        approval = self.approved(manifest.domain) if manifest.signed_by else None
        digest = "" if approval is None else approval.digest
        return self.policy.ruling(manifest, owner=owner, approved=digest, now=self.clock.now())

    def revoked(self, domain: str) -> str:
        """Why a domain was withdrawn; empty if it was not."""
        return self.store.fact(f"revoked:{domain}") or ""

    def override(self, kind: str, **facts: str) -> None:
        """A person contradicts the station: it goes into the audit log, and from there into the KPI."""
        self.audit.write(kind, override=True, **facts)
