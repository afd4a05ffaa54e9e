"""The whole station in one process on a virtual clock: the real cores, servicers, stores and exchange.

What is faked is the outside only: the machine's readings, the process manager, and time. A service is a
`Process` here; killing one drops it without a word, as kill -9 does, and the guardian brings it back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from calyx.analytics.v1 import analytics_pb2_grpc
from calyx.cbo.v1 import cbo_pb2_grpc
from calyx.governor.v1 import governor_pb2_grpc
from calyx.guardian.v1 import guardian_pb2_grpc
from calyx.memory.v1 import memory_pb2_grpc
from calyx.probe.v1 import probe_pb2_grpc

from chassis.agent import LeaseFile, build_agent
from chassis.audit import Audit
from chassis.canonical import Json
from chassis.clock import VirtualClock, iso
from chassis.consent import ConsentFile
from chassis.domains import load_domains
from chassis.exchange.files import FilesExchange
from chassis.exchange.folder import ack_path
from chassis.exchange.grants import Signer, Verifier
from chassis.executor import InlineExecutor
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY, SERVICES, Layout
from chassis.periodic import Periodic, VirtualSchedule
from chassis.probing import run_checks
from chassis.rng import Rng
from chassis.rpc import probe_servicer
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served
from chassis.runtime.fake import FakeRuntime
from chassis.signing import load_key, seal
from chassis.watchbook import WatchBook
from chassis.work import Work
from services.analytics import servicer as analytics_wire
from services.analytics.adapters import MemoryClient
from services.analytics.cheetah import Cheetah
from services.analytics.metrics_summary import MetricsSummary, station_sources
from services.cbo import servicer as cbo_wire
from services.cbo.bridge import Options
from services.cbo.drills import Drills
from services.cbo.overseer import Overseer
from services.cbo.peers import peers_over
from services.cbo.policy import SHIPPED, Policy
from services.governor import servicer as governor_wire
from services.governor.agent import governor_works
from services.governor.governor import Governor
from services.governor.holders import KernelHolders
from services.governor.leases import Leases
from services.governor.readings import Machine, Reading
from services.guardian import servicer as guardian_wire
from services.guardian.diagnostics import Diagnostics
from services.guardian.drift import ConfigDrift, Generations
from services.guardian.evidence import UnknownMachine
from services.guardian.guardian import Guardian, Ports
from services.guardian.health import LocalHealthProbe
from services.guardian.playbooks import load_playbooks, terms_of
from services.memory import servicer as memory_wire
from services.memory.embedding import Embedder
from services.memory.exact import ExactIndex
from services.memory.maintenance import IndexMaintenance
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.store import Store

KEPT_REPORTS = 100
"""Each is looked at before and after every check of the station: a day of them would take longer than the day."""
AGENT_SECONDS = 10.0
"""How often agents look for work; on real time it is every second."""


@cache
def packaged() -> MiniLM:
    """The packaged model, loaded once for every station of a process; it remembers nothing of what it embeds."""
    return MiniLM.packaged()


class Killed(BaseException):
    """What a planted kill -9 looks like from the inside."""


class Weather:
    """The machine's readings: a seeded walk, with RAM above 80 % in the given virtual hours."""

    def __init__(self, clock: VirtualClock, rng: Rng, busy_hours: frozenset[int]) -> None:
        self._clock, self._rng, self._busy = clock, rng, busy_hours

    def read(self) -> Machine:
        hour = int(self._clock.monotonic() // 3600)
        ram = 90.0 if hour in self._busy else 45.0
        return Machine(
            cpu=Reading.ok(5 + 20 * self._rng.uniform()),
            ram=Reading.ok(ram + 3 * self._rng.uniform()),
            swap=Reading.absent("no swap here"),
            disk=Reading.ok(40.0),
        )


class FlatStatistics:
    """No scipy in this process: the analysis runs, its trends are 'insufficient data'."""

    def run(self, request: Json) -> Json:
        def trend(metric: str, unit: str, points: list[list[float | None]]) -> Json:
            known = [value for _, value in points if value is not None]
            times = [at for at, value in points if at is not None and value is not None]
            return {
                "metric": metric, "unit": unit, "points": len(known), "unknown": len(points) - len(known),
                "verdict": "insufficient data", "slope_per_day": None, "slope_low": None, "slope_high": None,
                "p_value": None, "latest": known[-1] if known else None,
                "span_seconds": times[-1] - times[0] if times else 0.0,
            }  # fmt: skip

        series = request["series"].items()
        return {"trends": [trend(name, each["unit"], each["points"]) for name, each in series], "charts": []}


@dataclass
class Process:
    """One service as it runs: what it serves, what it repeats, and how its files are let go."""

    served: Sequence[Served]
    periodics: Sequence[Periodic]
    let_go: Callable[[], None] = field(default=lambda: None)


class VirtualStation:
    """Six services on one clock. `step(seconds)` moves all of them; `kill(service)` is kill -9.

    `explore` counts from the CBO's next start; `work` may stand in for any agent's work.
    """

    def __init__(
        self,
        root: Path,
        embedder: Embedder,
        *,
        seed: str,
        interval_seconds: float = 60.0,
        busy_hours: frozenset[int],
        work: Callable[[Work], Work] = lambda work: work,
    ) -> None:
        self.explore, self._work = True, work
        self.layout, self.embedder, self.interval_seconds = Layout(root), embedder, interval_seconds
        self.clock = VirtualClock()
        self.schedule = VirtualSchedule(self.clock)
        self.identity = found_station(self.layout, self.clock, CountedIds("virtual"))
        self.domains = load_domains(DEPLOY / "domains")
        self.weather = Weather(self.clock, Rng.of("weather", seed), busy_hours)
        self.fault: Callable[[str], None] = lambda _point: None
        self.starts: dict[str, int] = dict.fromkeys(SERVICES, 0)
        self.overseer: Overseer
        self._services: dict[str, object] = {}
        self._running: dict[str, Process] = {}
        self._builders: dict[str, Callable[[], Process]] = {
            "memory": self._memory,
            "governor": self._governor,
            "guardian": self._guardian,
            "cbo": self._cbo,
            "analytics": self._analytics,
            "dashboard": lambda: Process(served=[], periodics=[]),
        }
        self.runtime = FakeRuntime(
            SERVICES,
            clock=self.clock,
            on_start={name: lambda name=name: self._boot(name) for name in SERVICES},  # type: ignore[misc]  # default binds
            on_stop={name: lambda name=name: self._drop(name) for name in SERVICES},  # type: ignore[misc]  # likewise
        )
        for name in SERVICES:
            self._boot(name)

    # running

    def step(self, seconds: float) -> None:
        """Run everything that falls due in the next `seconds`. A planted Killed ends the CBO, as kill -9 would."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            try:
                self.schedule.run_until(until)
            except Killed:
                self.kill("cbo")

    def kill(self, service: str) -> None:
        """kill -9. Nobody brings the guardian back but supervisord, which does it after a second."""
        self.runtime.crash(service)
        self._drop(service)
        if service == "guardian":
            self.schedule.add(Periodic(name="supervisord", every_seconds=1e12, step=self._restart_guardian), first_in=1)

    def _restart_guardian(self) -> None:
        self.schedule.remove("supervisord")
        self.runtime.start("guardian")

    def channel(self, caller: str) -> LocalChannel:
        return LocalChannel(self._services, caller)

    def _boot(self, name: str) -> None:
        self.starts[name] += 1
        process = self._builders[name]()
        self._running[name] = process
        for each in process.served:
            owner = "" if each.full_name != probe_servicer.FULL_NAME else f"@{name}"
            self._services[each.full_name + owner] = each
        for periodic in process.periodics:
            self.schedule.add(
                Periodic(name=f"{name}.{periodic.name}", every_seconds=periodic.every_seconds, step=periodic.step)
            )

    def _drop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        for each in process.served:
            self._services.pop(each.full_name, None)
            self._services.pop(f"{each.full_name}@{name}", None)
        for periodic in process.periodics:
            self.schedule.remove(f"{name}.{periodic.name}")
        process.let_go()

    def _prober(self, name: str) -> LocalChannel:
        """Two services serve the probe contract; a channel leads to one of them."""
        services = self._services

        class OneProber(dict[str, object]):
            def get(self, key: str, default: object = None) -> object:  # type: ignore[override]  # one key type
                return services.get(f"{key}@{name}", default) if key == probe_servicer.FULL_NAME else services.get(key)

        return LocalChannel(OneProber(), "cbo")

    # the six services, wired as their __main__ does

    def _exchange(self) -> FilesExchange:
        verifier = Verifier(self.layout.keys / "grant.pub")
        return FilesExchange(self.layout.svf, self.clock, verifier.valid, KillSwitch(self.layout.kill_switch))

    def _agent(self, name: str, works: Sequence[Work], audit: Audit) -> Periodic:
        agent = build_agent(
            name,
            [self._work(each) for each in works],
            layout=self.layout,
            exchange=self._exchange(),
            verifier=Verifier(self.layout.keys / "grant.pub").valid,
            kill_switch=KillSwitch(self.layout.kill_switch),
            domains=self.domains.values(),
            clock=self.clock,
            audit=audit,
            leases=LeaseFile(self.layout, self.clock),
            station_id=self.identity.station_id,
            heartbeat_seconds=None,
        )
        return Periodic(name="agent", every_seconds=AGENT_SECONDS, step=agent.step)

    def _audit(self, name: str) -> Audit:
        return Audit(self.layout.audit(name), self.clock, name)

    def _ids(self, name: str) -> CountedIds:
        return CountedIds(f"{name[:2]}{self.starts[name]:04d}")

    def _memory(self) -> Process:
        self.layout.memory.mkdir(parents=True, exist_ok=True)
        audit = self._audit("memory")
        memory = Memory(
            store=Store(self.layout.memory / "experience.sqlite", durable=False),
            embedder=self.embedder,
            index=ExactIndex(self.embedder.dimension),
            clock=self.clock,
            audit=audit,
        )
        maintenance = IndexMaintenance.of(
            memory, self.layout, self.clock, self.clock.monotonic, self.identity.station_id
        )

        def catch_up() -> None:
            memory.catch_up()

        servicer = memory_wire.MemoryServicer(
            memory,
            InlineExecutor(),
            clock=self.clock,
            root=self.layout.root,
            backups=self.layout.memory / "backups",
            station_id=self.identity.station_id,
        )
        return Process(
            served=[
                Served(
                    "calyx.memory.v1.MemoryService",
                    memory_pb2_grpc.add_MemoryServiceServicer_to_server,
                    servicer,
                    memory_wire.ALLOW,
                )
            ],
            periodics=[
                Periodic(name="catch-up", every_seconds=60.0, step=catch_up),
                self._agent("memory", [maintenance], audit),
            ],
            let_go=memory.close,
        )

    def _probes(self, name: str, guardian: Guardian | None = None) -> Served:
        health, consents = guardian.state_of if guardian is not None else None, ConsentFile(self.layout)
        return Served(
            probe_servicer.FULL_NAME,
            probe_pb2_grpc.add_ProbeServiceServicer_to_server,
            probe_servicer.ProbeServicer(
                name,
                InlineExecutor(),
                self.clock,
                lambda checks: run_checks(checks, roots=[self.layout.root, *consents.folders()], health=health),
                WatchBook(
                    self.layout.state(name) / "watch",
                    lambda: [self.layout.root, *consents.folders()],
                    lambda task: ack_path(self.layout.svf, task),
                ),
            ),
            probe_servicer.ALLOW,
        )

    def _governor(self) -> Process:
        folder = self.layout.state("governor")
        folder.mkdir(parents=True, exist_ok=True)
        audit = self._audit("governor")
        leases = Leases(folder / "leases.json", self.clock, self._ids("governor"), audit)
        governor = Governor(
            meter=self.weather,
            clock=self.clock,
            leases=leases,
            audit=audit,
            folder=folder,
            station_id=self.identity.station_id,
        )
        works = governor_works(
            layout=self.layout,
            roots=[self.layout.logs, self.layout.work("governor")],
            exchange=self._exchange(),
            holders=KernelHolders(Path("/proc")),
            clock=self.clock,
            cpu_seconds=self.clock.monotonic,
        )
        return Process(
            served=[
                Served(
                    governor_wire.FULL_NAME,
                    governor_pb2_grpc.add_GovernorServiceServicer_to_server,
                    governor_wire.GovernorServicer(governor, InlineExecutor()),
                    governor_wire.ALLOW,
                ),
                self._probes("governor"),
            ],
            periodics=[
                Periodic(name="sampler", every_seconds=5.0, step=governor.sample),
                self._agent("governor", works, audit),
            ],
        )

    def _guardian(self) -> Process:
        audit = self._audit("guardian")
        playbooks = load_playbooks(DEPLOY / "playbooks")
        guardian = Guardian(
            self.layout,
            self.clock,
            self._ids("guardian"),
            Ports(
                probe=LocalHealthProbe(lambda service: service in self._running),
                runtime=self.runtime,
                machine=UnknownMachine(),
                audit=audit,
            ),
            playbooks,
            terms=terms_of(playbooks),
        )
        guardian.start()
        works: list[Work] = [
            Diagnostics(
                self.layout,
                self.clock,
                UnknownMachine(),
                guardian.health,
                lambda: (True, "virtual"),
                self.identity.station_id,
                kept=KEPT_REPORTS,
            ),
            ConfigDrift(layout=self.layout, deploy=DEPLOY, clock=self.clock, cpu_seconds=self.clock.monotonic),
        ]
        Generations(self.layout, DEPLOY).found(iso(self.clock.now()))
        return Process(
            served=[
                Served(
                    guardian_wire.FULL_NAME,
                    guardian_pb2_grpc.add_GuardianServiceServicer_to_server,
                    guardian_wire.GuardianServicer(guardian, InlineExecutor()),
                    guardian_wire.ALLOW,
                ),
                self._probes("guardian", guardian),
            ],
            periodics=[*guardian.periodics(tick_seconds=3.0), self._agent("guardian", works, audit)],
        )

    def _analytics(self) -> Process:
        cheetah = Cheetah(
            pulses=self.layout.pulses,
            folder=self.layout.trends,
            clock=self.clock,
            statistics=FlatStatistics(),
            memory=MemoryClient(self.channel("analytics"), self.identity.station_id),
        )
        self.layout.trends.mkdir(parents=True, exist_ok=True)
        works: list[Work] = [MetricsSummary(station_sources(self.layout), self.clock.monotonic)]

        def analyse() -> None:
            cheetah.refresh(12, 6 * 3600, 240)

        return Process(
            served=[
                Served(
                    "calyx.analytics.v1.AnalyticsService",
                    analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server,
                    analytics_wire.AnalyticsServicer(cheetah, self.layout.root, self.clock, InlineExecutor()),
                    analytics_wire.ALLOW,
                )
            ],
            periodics=[
                self._agent("analytics", works, self._audit("analytics")),
                Periodic(name="analysis", every_seconds=600.0, step=analyse),
            ],
        )

    def _cbo(self) -> Process:
        channels = {name: self.channel("cbo") for name in ("memory", "analytics")}
        channels |= {name: self._prober(name) for name in ("governor", "guardian")}
        drills = Drills(self.layout, self.domains)
        overseer = Overseer(
            layout=self.layout,
            identity=self.identity,
            version="virtual",
            clock=self.clock,
            ids=self._ids("cbo"),
            exchange=self._exchange(),
            sign=Signer.load(self.layout.secrets / "grant.key").sign_many,
            seal=partial(seal, signer=load_key(self.layout.secrets / "grant.key")),
            valid=Verifier(self.layout.keys / "grant.pub").valid,
            domains=self.domains,
            policy=Policy.load(SHIPPED),
            peers=peers_over(channels, self.identity.station_id),
            audit=self._audit("cbo"),
            drilled=drills,
            barred=drills.barred,
            options=Options(
                pulse_interval_seconds=self.interval_seconds, durable=False, undo_wait_seconds=0, explore=self.explore
            ),
            fault=lambda point: self.fault(point),
        )
        self.overseer = overseer
        overseer.start()
        return Process(
            served=[
                Served(
                    cbo_wire.FULL_NAME,
                    cbo_pb2_grpc.add_CboServiceServicer_to_server,
                    cbo_wire.CboServicer(overseer, InlineExecutor()),
                    cbo_wire.ALLOW,
                )
            ],
            periodics=overseer.periodics(reap_seconds=60.0, notify_seconds=60.0),
            let_go=overseer.bridge.store.close,
        )

    def close(self) -> None:
        """Let go of every file; nothing more runs."""
        for name in list(self._running):
            self._drop(name)
