"""A service as an agent: one builder for the exchange, journal, consent and worker that each of them has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from chassis.atomic import FileState, file_state, read_json
from chassis.audit import Audit
from chassis.clock import Clock, parse_iso
from chassis.consent import ConsentFile
from chassis.domains import DomainManifest
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Exchange
from chassis.journal import Journal
from chassis.journal.targets import refuse_outside
from chassis.killswitch import KillSwitch
from chassis.layout import Layout
from chassis.work import Work
from chassis.worker import LeaseView, Worker

log = structlog.get_logger(__name__)

Leases = Callable[[str], LeaseView | None]


def declared_roots(layout: Layout, domains: Iterable[DomainManifest], agent: str) -> list[Path]:
    """The paths that the agent's own domain manifests declare, and its scratch folder."""
    declared = [path for domain in domains if domain.owner == agent for path in domain.paths]
    return [*(Path(path.replace("{station}", str(layout.root))) for path in declared), layout.work(agent)]


class LeaseFile:
    """The governor's leases as another agent on the same volume sees them: read again when the file changes.

    No file is no lease. An unreadable one puts everything to sleep: in doubt, no work.
    """

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._file, self._clock = layout.state("governor") / "leases.json", clock
        self._seen: FileState | None = None
        self._leases: list[LeaseView] = []
        self._unreadable = ""

    def __call__(self, target: str) -> LeaseView | None:
        """The sleep lease on this agent or domain, if any."""
        self._refresh()
        if self._unreadable:
            return LeaseView(kind="sleep", target=target, reason=self._unreadable)
        return self._find("sleep", target)

    def throttle(self, target: str) -> LeaseView | None:
        """The throttle lease on it, if any."""
        self._refresh()
        return self._find("throttle", target)

    def _find(self, kind: str, target: str) -> LeaseView | None:
        now = self._clock.now()
        return next(
            (each for each in self._leases if (each.kind, each.target) == (kind, target) and _holds(each, now)), None
        )

    def _refresh(self) -> None:
        try:
            if (seen := file_state(self._file)) == self._seen:
                return
            leases = read_json(self._file)["leases"]
            self._leases = [
                LeaseView(
                    kind=lease["kind"],
                    target=lease["target"],
                    until=parse_iso(lease["expires_at"]),
                    reason=lease["reason"],
                    share=lease.get("share"),
                )
                for lease in leases
            ]
            self._seen, self._unreadable = seen, ""
        except FileNotFoundError:
            self._seen, self._leases, self._unreadable = None, [], ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._seen, self._unreadable = None, f"the governor's leases can't be read: {error}"


def _holds(lease: LeaseView, now: datetime) -> bool:
    return lease.until is None or now < lease.until


KEPT_BYTES, KEPT_FOR, PRUNE_SECONDS = 2 * 2**30, timedelta(days=30), 6 * 3600.0
"""What the journal keeps of former contents, and of tasks at all; older ones go first, and `undo` then says so."""
PRUNES = "governor"
"""The agent that keeps the journal in these bounds: all agents share it, and reading all of it once is enough."""


DRILL_AGAIN_SECONDS = 60.0
"""So often a drill that failed is tried again (a full disk may be over), and what has changed is drilled anew."""


RECOVER_SECONDS = 10.0
"""So soon what a killed `calyx run` left half applied is taken back, or listed."""

VAIN_WAKES = 3


class Agent:
    """The worker with its drills done first, on its own thread, so that a slow disk delays no answer."""

    def __init__(self, worker: Worker, journal: Journal, clock: Clock, *, prunes: bool = True) -> None:
        self._worker, self._journal, self._clock, self._prunes = worker, journal, clock, prunes
        self._drill_at = clock.monotonic()
        self._recover_at = clock.monotonic() + RECOVER_SECONDS
        self._prune_at = clock.monotonic()  # at once: what grew before a restart is bounded too
        self._vain = 0

    def rest(self, seconds: float) -> bool:
        """Between two steps: until a task comes, or `seconds` are over. True when a step is due at once.

        What is ready but not for now (the kill switch, a sleep lease) must not keep the agent awake, so after a few
        wakes in vain it only rests until a step has answered something again.
        """
        if self._vain >= VAIN_WAKES:
            self._clock.wait(seconds)
            return False
        woken = self._worker.wait(seconds)
        self._vain += woken
        return woken

    def step(self) -> None:
        """Drill first, then claim and do what is ready; see to programs that were cut short; every six hours one agent
        bounds the journal.
        """
        if self._clock.monotonic() >= self._drill_at:
            self._drill_at = self._clock.monotonic() + DRILL_AGAIN_SECONDS
            for procedure, why in self._worker.drill().items():
                if why is not None:
                    log.error("drill failed: this procedure will not act", procedure=procedure, why=why)
        if self._worker.step():
            self._vain = 0
        if self._clock.monotonic() >= self._recover_at:
            self._recover_at = self._clock.monotonic() + RECOVER_SECONDS
            self._worker.recover(programs_only=True)
        if self._prunes and self._clock.monotonic() >= self._prune_at:
            self._prune_at = self._clock.monotonic() + PRUNE_SECONDS
            for task_id in self._journal.prune(KEPT_BYTES, KEPT_FOR, awaited=self._worker.awaits):
                log.info("can no longer be undone: its kept contents were dropped", task=task_id)


def build_agent(
    name: str,
    works: Sequence[Work],
    *,
    layout: Layout,
    exchange: Exchange,
    verifier: Callable[[Manifest], bool],
    kill_switch: KillSwitch,
    domains: Mapping[str, DomainManifest] | Iterable[DomainManifest],
    clock: Clock,
    audit: Audit,
    leases: Leases,
    station_id: str,
    heartbeat_seconds: float | None = 5.0,
) -> Agent:
    """An agent that owns `works`, with consent for its domains' declared and allowed paths only.

    Where `domains` is a live mapping (`DomainBook`, `LiveDomains`), a changed manifest is drilled anew; the folders
    stay those of the start. `heartbeat_seconds` None = no heartbeat thread (virtual clock). Makes the folders that it
    needs.
    """
    live = domains if isinstance(domains, Mapping) else {each.domain: each for each in domains}
    domains = tuple(live.values())
    roots = declared_roots(layout, domains, name)
    for root in roots:
        root.mkdir(parents=True, exist_ok=True)
    consents, own = ConsentFile(layout), {each.domain for each in domains if each.owner == name}
    declared = [root.resolve() for root in roots]

    def consent(path: Path) -> None:
        """As of now: a folder that is forbidden meanwhile is refused before the next change; a declared one stays where
        it was at the start.
        """
        refuse_outside([*declared, *(each.path for each in consents.here() if each.domain in own)], path)

    journal = Journal(layout.journal, clock, consent)
    worker = Worker(
        name,
        exchange,
        works,
        journal,
        verifier,
        kill_switch,
        clock,
        layout.work(name),
        audit,
        leases,
        station_id,
        heartbeat_seconds=heartbeat_seconds,
        manifests=lambda domain: live[domain].digest,
        drilled=layout.drilled(name),
    )
    return Agent(worker, journal, clock, prunes=name == PRUNES)
