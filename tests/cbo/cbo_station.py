"""A CBO on a virtual clock with an in-memory exchange, a hand-driven agent and peers that answer as told."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chassis.audit import Audit
from chassis.canonical import Json
from chassis.clock import VirtualClock
from chassis.domains import DomainManifest, load_domains
from chassis.errors import Unavailable
from chassis.exchange.manifest import Ack, AckStatus, Manifest
from chassis.exchange.memory import MemoryExchange
from chassis.identity import Identity
from chassis.ids import CountedIds
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY, Layout
from services.cbo.bridge import Options, no_fault
from services.cbo.overseer import Overseer
from services.cbo.policy import Policy, pins_of
from services.cbo.ports import (
    Capacity,
    Compared,
    Experience,
    Health,
    Incident,
    Intent,
    Judgement,
    Moment,
    Outcome,
    Peers,
    Probed,
    Reading,
    Recalled,
    Recollection,
    ServiceState,
    Summary,
    Told,
    Trends,
)


def signed(manifest: Manifest) -> bool:
    """By this station's stand-in for a key; the real signatures have their own tests."""
    return manifest.grant == "signed"


class Silence:
    """Raises like a service that can't be reached, while it is `down`."""

    down = False

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("connection refused")


class FakeGovernor(Silence):
    def __init__(self) -> None:
        self.intents: tuple[Intent, ...] = ()
        self.admits = True
        self.judged: list[str] = []

    def capacity(self, pulse_id: str) -> Capacity:
        self._answer()
        self.judged.append(pulse_id)
        reading = Reading(value=40.0, state="ok", unit="percent", age_seconds=2.0, coverage=1.0)
        names = ("cpu_percent", "ram_percent", "disk_percent")
        return Capacity(readings=dict.fromkeys(names, reading), intents=self.intents)

    def admit(self, task_id: str, domain: str, owner: str) -> tuple[bool, str]:
        self._answer()
        return self.admits, "there is room" if self.admits else "RAM is at 97 %"


class FakeGuardian(Silence):
    def __init__(self) -> None:
        self.found: list[Incident] = []
        self.slots: dict[datetime, Any] = {}
        self.slots_from: datetime | None = None
        self.reported: list[tuple[str, str]] = []

    def report(self, target: str, symptom: str) -> None:
        self._answer()
        self.reported.append((target, symptom))

    def health(self, slots_since: datetime) -> Health:
        self._answer()
        slots = {start: state for start, state in self.slots.items() if start >= slots_since}
        services = (ServiceState(service="memory", state="up", age_seconds=1.0),)
        return Health(services=services, slots=slots, slots_from=self.slots_from)

    def incidents(self, since: datetime) -> tuple[Incident, ...]:
        self._answer()
        return tuple(each for each in self.found if (each.closed_at or each.opened_at) > since)

    def open_incidents(self) -> tuple[Incident, ...]:
        self._answer()
        return tuple(each for each in self.found if each.closed_at is None)


class FakeAnalytics(Silence):
    def trends(self) -> Trends:
        self._answer()
        return Trends(summary="flat", age_seconds=60.0)


class FakeProber(Silence):
    def __init__(self, name: str) -> None:
        self.name, self.asked = name, list[str]()
        self.verdict: Any = "confirmed"

    def probe(self, task_id: str, domain: str, doer: str, claims: Sequence[Json]) -> Probed:
        self._answer()
        assert doer != self.name, "the doer never certifies itself"
        self.asked.append(task_id)
        return Probed(verdict=self.verdict, prober=self.name, found="looked")

    def watch(self, task_ids: Sequence[str], doer: str, roots: Sequence[str], moment: Moment) -> str:
        self._answer()
        assert doer != self.name, "the doer never certifies itself"
        return ""

    def compare(self, task_id: str, doer: str, told: Told) -> Compared:
        self._answer()
        return Compared(probed=Probed(verdict="confirmed", prober=self.name, found="nothing else"))


class FakeMemory(Silence):
    def __init__(self) -> None:
        self.experiences: dict[str, Experience] = {}
        self.amended: dict[str, tuple[str, Outcome]] = {}
        self.matches: tuple[Recalled, ...] = ()
        self.summaries: tuple[Summary, ...] = ()
        self.judged: list[tuple[str, Judgement]] = []

    def recall(self, objective: str, domain: str, limit: int, since: datetime | None = None) -> Recollection:
        self._answer()
        counted: dict[tuple[str, str], Counter[str]] = {}
        for each in self.matches:
            counted.setdefault((each.domain, each.procedure), Counter())[each.outcome] += not each.rehearsal
        summaries = tuple(
            Summary(domain=domain, procedure=procedure, successes=ends["success"], failures=ends["failure"])
            for (domain, procedure), ends in counted.items()
        )
        return Recollection(matches=self.matches[:limit], summaries=(*summaries, *self.summaries))

    def judge(self, experience_id: str, judgement: Judgement) -> None:
        self._answer()
        self.judged.append((experience_id, judgement))

    def record(self, experience: Experience) -> None:
        self._answer()
        self.experiences.setdefault(experience.id, experience)

    def amend(self, experience_id: str, outcome: Outcome, evidence: str, amendment_id: str) -> None:
        self._answer()
        self.amended[amendment_id] = (experience_id, outcome)


@dataclass
class Answer:
    """How the agent answers its next tasks."""

    status: AckStatus | None = None
    """None: rehearsed for a rehearsal, else done."""
    seconds: float = 3.0
    files: int = 1
    applied: bool = True
    reverted: bool = False
    effects: tuple[Json, ...] | None = None
    claims: bool = True
    detail: str = "done as planned"


class Crash(BaseException):
    """The process is gone at this point."""


@dataclass
class Station:
    """One CBO and its world. `agent()` does what an agent does: claims and acks what is ready."""

    folder: Path
    interval: float = 60.0
    every_pulse_only: bool = True
    domains: dict[str, DomainManifest] = field(default_factory=lambda: load_domains(DEPLOY / "domains"))
    keep_pulses: int = 20_000
    policy: Path | None = None
    owners: tuple[str, ...] = ("governor", "guardian", "analytics", "memory")
    """Whose agent is there."""

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.layout = Layout(self.folder)
        self.folder.mkdir(exist_ok=True)
        self.identity = Identity(station_id="st-test", created_at=self.clock.now())
        self.kill_switch = KillSwitch(self.layout.kill_switch)
        self.exchange = MemoryExchange(self.clock, signed, self.kill_switch)
        self.governor, self.guardian = FakeGovernor(), FakeGuardian()
        self.memory, self.analytics = FakeMemory(), FakeAnalytics()
        self.probers = {"guardian": FakeProber("guardian"), "governor": FakeProber("governor")}
        self.answer = Answer()
        self.done: list[Manifest] = []
        self._ids = CountedIds()
        self.cbo = self.open()

    def open(self, fault: Callable[[str], None] = no_fault) -> Overseer:
        """Start the CBO, as after a crash."""
        self.cbo = Overseer(
            layout=self.layout,
            identity=self.identity,
            version="test",
            clock=self.clock,
            ids=self._ids,
            exchange=self.exchange,
            sign=lambda manifests: [each.with_grant("signed") for each in manifests],
            valid=signed,
            domains=self.domains,
            policy=Policy.load(self.policy or self._pinned()),
            peers=Peers(
                memory=self.memory,
                governor=self.governor,
                guardian=self.guardian,
                analytics=self.analytics,
                probers=self.probers,
            ),
            audit=Audit(self.layout.audit("cbo"), self.clock, "cbo"),
            options=Options(pulse_interval_seconds=self.interval, keep_pulses=self.keep_pulses, undo_wait_seconds=0.0),
            fault=fault,
        )
        self.cbo.start()
        if self.every_pulse_only:
            for name in (name for name, each in self.domains.items() if each.every is not None):
                self.cbo.desk.cancel_objective(f"o-builtin-{name.replace('_', '-')}", "test")
        return self.cbo

    def _pinned(self) -> Path:
        path = self.folder / "policy.json"
        path.write_bytes(pins_of(self.domains))
        return path

    def crash_at(self, point: str) -> None:
        """Run a pulse that ends at `point` as a killed process would, then start again."""

        def fault(here: str) -> None:
            if here == point:
                raise Crash(here)

        self.cbo.close()
        self.open(fault)
        try:
            self.cbo.run_pulse()
        except Crash:
            self.cbo.bridge.store.close()
            self.open()
            return
        raise AssertionError(f"the pulse never came to {point}")

    def agent(self) -> int:
        """Every agent takes what is ready for it and answers as `answer` says."""
        count = 0
        for owner in self.owners:
            for claim in self.exchange.claim(owner, f"{owner}-1", 20):
                count += 1
                self.done.append(claim.manifest)
                self.exchange.ack(claim, self.ack_for(claim.manifest, claim.epoch))
        return count

    def ack_for(self, task: Manifest, epoch: int) -> Ack:
        how = self.answer
        kind = self.domains[task.domain].probes[0]
        target = str(self.layout.root / "reports" / task.domain / f"{task.task_id}.json")
        if task.domain == "diagnostics":
            target = str(self.layout.root / "reports" / "diagnostics" / f"{task.task_id}.json")
        change = {"op": "create", "target": target, "before_sha256": None, "after_sha256": "00", "size_bytes": 1}
        status = how.status or ("undone" if task.undo_of else "rehearsed" if task.rehearsal else "done")
        effects = how.effects if how.effects is not None else (change,)
        ended = self.clock.now()
        return Ack(
            task_id=task.task_id,
            epoch=epoch,
            agent=task.owner,
            status=status,
            started_at=ended - timedelta(seconds=how.seconds),
            ended_at=ended,
            duration_seconds=how.seconds,
            detail=how.detail,
            files_changed=how.files,
            plan={"changes": list(effects), "notes": ""} if status == "rehearsed" else {},
            plan_digest=f"plan-{task.task_id}" if status == "rehearsed" else "",
            effects=effects if status in ("done", "undone") else (),
            claims=({"kind": kind, "target": target, "expect": {"sha256": "00"}},) if how.claims else (),
            cost={"cpu_seconds": 0.1, "bytes_written": 100.0},
            applied=how.applied and status in ("done", "failed"),
            reverted=how.reverted,
        )

    def pulse(self, times: int = 1) -> Json:
        """Pulses with the agents at work after each; the last record."""
        for _ in range(times):
            summary = self.cbo.run_pulse()
            self.agent()
            self.clock.advance(self.interval)
        return self.record(summary["id"])

    def record(self, pulse_id: str = "") -> Json:
        value: Json = json.loads(self.cbo.pulse(pulse_id)[1])
        return value

    def audit(self, event: str) -> list[Json]:
        lines = self.layout.audit("cbo").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]
