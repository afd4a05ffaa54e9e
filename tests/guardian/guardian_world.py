from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.ids import CountedIds
from chassis.layout import DEPLOY, Layout
from chassis.runtime.fake import FakeRuntime
from services.guardian.guardian import TARGETS, Guardian, Ports
from services.guardian.health import Probe
from services.guardian.playbooks import load_playbooks


@dataclass
class FakeMachine:
    ram: float | None = 40.0
    free: int | None = 10 * 1024**3
    booted: datetime | None = None

    def ram_percent(self) -> float | None:
        return self.ram

    def disk_percent(self) -> float | None:
        return 50.0

    def disk_free_bytes(self) -> int | None:
        return self.free

    def booted_at(self) -> datetime | None:
        return self.booted


@dataclass
class World:
    """Services that serve while the fake runtime runs them, unless they hang; a guardian over them."""

    root: Path
    clock: VirtualClock = field(default_factory=VirtualClock)
    machine: FakeMachine = field(default_factory=FakeMachine)
    hung: set[str] = field(default_factory=set)
    sleeping: set[str] = field(default_factory=set)
    bad: dict[str, Callable[[], bool]] = field(default_factory=dict)
    probes: int = 0

    def __post_init__(self) -> None:
        self.layout = Layout(self.root)
        self.runtime = FakeRuntime(
            TARGETS, clock=self.clock, on_start={target: self._starter(target) for target in TARGETS}
        )
        self.guardian = self.begin()

    def _starter(self, target: str) -> Callable[[], None]:
        def start() -> None:
            self.hung.discard(target)
            if self.bad.get(target, lambda: False)():
                raise OSError("bad start")

        return start

    def probe(self, service: str, patience_seconds: float) -> Probe:
        self.probes += 1
        state = self.runtime._states[service]
        if state.state == "running" and service not in self.hung:
            return Probe(service=service, state="serving", version="1", pid=state.pid, started_at=state.started_at)
        return Probe(service=service, state="unreachable", detail="connection refused")

    def begin(self) -> Guardian:
        """A guardian process starts (again)."""
        ports = Ports(
            probe=self,
            runtime=self.runtime,
            machine=self.machine,
            audit=Audit(self.layout.audit("guardian"), self.clock, "guardian"),
            sleeping=self.sleeping.__contains__,
        )
        guardian = Guardian(
            self.layout, self.clock, CountedIds(), ports, load_playbooks(DEPLOY / "playbooks"), version="1"
        )
        guardian.start()
        self.guardian = guardian
        return guardian

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.guardian.tick()
            self.clock.advance(1.0)

    def states(self) -> dict[str, str]:
        return {row.service: row.state for row in self.guardian.health().services}

    def verbs(self, target: str) -> list[str]:
        return [verb for verb, t in self.runtime.calls if t == target]
