"""A machine that reads what the test says."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.ids import CountedIds
from services.governor.governor import Governor, Terms
from services.governor.leases import Leases
from services.governor.readings import Machine, Reading

CALM = Machine(
    cpu=Reading.ok(10.0, total=4.0),
    ram=Reading.ok(40.0, source="cgroup-v1", total=8e9),
    swap=Reading.absent("no swap on this machine"),
    disk=Reading.ok(50.0, total=1e11),
    psi={"memory_full": Reading.ok(0.0, source="psi"), "cpu_some": Reading.ok(3.0, source="psi")},
)


@dataclass
class SetMeter:
    machine: Machine = CALM

    def read(self) -> Machine:
        return self.machine

    def set(self, **readings: Any) -> None:
        self.machine = replace(self.machine, **readings)


@dataclass
class Bench:
    """A governor on a virtual clock, with everything that was put into it."""

    folder: Path
    terms: Terms = field(default_factory=Terms)
    meter: SetMeter = field(default_factory=SetMeter)
    clock: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new process on the same folder."""
        self.state = self.folder / "governor"
        self.state.mkdir(parents=True, exist_ok=True)
        self.audit = Audit(self.folder / "audit" / "governor.jsonl", self.clock, "governor")
        self.leases = Leases(self.state / "leases.json", self.clock, CountedIds(), self.audit)
        self.governor = Governor(
            meter=self.meter,
            clock=self.clock,
            leases=self.leases,
            audit=self.audit,
            folder=self.state,
            station_id="st-1",
            terms=self.terms,
        )

    def run(self, samples: int, every: float = 5.0) -> None:
        for _ in range(samples):
            self.governor.sample()
            self.clock.advance(every)

    @property
    def events(self) -> list[str]:
        import json

        path = self.folder / "audit" / "governor.jsonl"
        return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []
