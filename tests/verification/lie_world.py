"""A station with one domain whose agent may lie: real CBO, exchange, worker, journal, probers and files.

Stand-ins are what is not judged here: the governor's and guardian's readings, memory, and time. A case is one task:
dispatched, done (or not), seen, judged. Files have the kernel's times, whatever the virtual clock says.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calyx.probe.v1 import probe_pb2_grpc

from chassis.agent import Agent, build_agent
from chassis.audit import Audit
from chassis.canonical import Json, sha256_hex
from chassis.clock import SystemClock
from chassis.domains import DomainManifest, Level
from chassis.errors import LeaseLost
from chassis.exchange.files import FilesExchange
from chassis.exchange.folder import ack_path
from chassis.exchange.grants import Signer, Verifier, generate_key
from chassis.exchange.manifest import Ack, Manifest
from chassis.executor import InlineExecutor
from chassis.probing import run_checks
from chassis.rpc import probe_servicer
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served
from chassis.watchbook import WatchBook
from chassis.work import Change, Effects, Outcome, Plan
from services.cbo.bridge import Options
from services.cbo.objectives import Schedule
from services.cbo.overseer import Overseer
from services.cbo.peers import ProbePeer
from services.cbo.policy import Policy
from services.cbo.ports import Peers
from services.cbo.tasks import Task
from tests.cbo.cbo_station import Station

FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DOMAIN: Json = {
    "domain": "tidy", "title": "Double every text", "serial": 1, "owner": "governor", "prober": "guardian",
    "effects": "reversible", "procedures": ["plain"], "probes": ["file_digest"], "paths": ["{station}/shelf"],
    "limits": {"small_files": 100, "large_files": 1000}, "watch": {"grows": ["*.log"]},
}  # fmt: skip
POLISH: Json = {**DOMAIN, "domain": "polish", "owner": "analytics"}
"""A second domain on the same shelf, done by another agent: its changes are explained by its own ack."""

Extra = Callable[[Path], None]


def nothing(_shelf: Path) -> None:
    """Leave it."""


class Tidy:
    """For each `*.txt` of a folder a `.twice` with its content doubled; the text is removed.

    `only` None is honest. A number: only so many are done. `claim_all`: claims them all nevertheless.
    """

    procedures = ("plain",)

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.only: int | None = None
        self.claim_all = False
        self.during: Extra = nothing
        self.rehearsing: Extra = nothing

    def _texts(self, task: Manifest) -> list[Path]:
        return sorted(each for each in Path(task.params["folder"]).iterdir() if each.suffix == ".txt")

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        changes, claims = [], []
        for text in self._texts(task):
            data = text.read_bytes() * 2
            made = scratch / f"{text.name}.twice"
            made.write_bytes(data)
            after = sha256_hex(data)
            changes.append(
                Change(
                    op="create", target=f"{text}.twice", before_sha256=None, after_sha256=after, size_bytes=len(data)
                )
            )
            claims.append({"kind": "file_digest", "target": str(made), "expect": {"sha256": after}})
        if not task.approval:
            self.rehearsing(Path(task.params["folder"]))
        return Plan(changes=tuple(changes), claims=tuple(claims))

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        drilled = "drill" in task.task_id
        texts, claims = self._texts(task), []
        for number, text in enumerate(texts):
            data = text.read_bytes() * 2
            todo = drilled or self.only is None or number < self.only
            if todo:
                made = scratch / f"{text.name}.twice"
                made.write_bytes(data)
                effects.create(text.with_name(made.name), made)
                effects.remove(text)
            if todo or self.claim_all:
                expect = {"sha256": sha256_hex(data), "size": str(len(data))}
                claims.append({"kind": "file_digest", "target": f"{text}.twice", "expect": expect})
        if not drilled:
            self.during(Path(task.params["folder"]))
        return Outcome(detail=f"{len(claims)} doubled", claims=tuple(claims), no_work=not texts)

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "a.txt").write_text("drill")
        return {"folder": str(folder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of a case: the task as it was scored, and the pulse record that holds it."""

    task: Task
    record: Json

    @property
    def failed(self) -> bool:
        """Scored as a failure, and told to the ladder as one."""
        failures = self.record["critique"]["tes"][self.task.domain]["failures"]
        return self.task.scored and self.task.stability == 0.0 and failures >= 1


class LieStation(Station):
    """The CBO's station with the real exchange, agents and probers in the places of the hand-driven ones."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        domains = {each["domain"]: DomainManifest.from_mapping(each) for each in ({**DOMAIN, **fields}, POLISH)}
        super().__init__(folder=folder, domains=domains, every_pulse_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cbo.close()
        self.shelf = self.layout.root / "shelf"
        self.shelf.mkdir()
        self.layout.svf.mkdir(exist_ok=True)
        keys = self.layout.root / "keys"
        keys.mkdir(exist_ok=True)
        generate_key(keys / "grant.key", keys / "grant.pub")
        self.signer, self.verifier = Signer.load(keys / "grant.key"), Verifier.load(keys / "grant.pub")
        self.exchange = self._exchange()  # type: ignore[assignment]  # the real one
        self.works = {"governor": Tidy("tidy"), "analytics": Tidy("polish")}
        self.agents = {name: self._agent(name, work) for name, work in self.works.items()}
        for name in ("guardian", "governor"):
            self.probers[name] = self._prober(name)  # type: ignore[assignment]  # likewise
        self.restart()

    def restart(self) -> None:
        """The CBO again, as after a crash; the probers forget what they had in mind."""
        with suppress(Exception):
            self.cbo.close()
        for name in ("guardian", "governor"):
            self.probers[name] = self._prober(name)  # type: ignore[assignment]  # likewise
        self.open_real()

    def open_real(self) -> None:
        self.cbo = Overseer(
            layout=self.layout, identity=self.identity, version="test", clock=self.clock, ids=self._ids,
            exchange=self.exchange, sign=self.signer.sign_many, valid=self.verifier.valid, domains=self.domains,
            policy=Policy.load(self._pinned()),
            peers=Peers(
                memory=self.memory, governor=self.governor, guardian=self.guardian, analytics=self.analytics,
                probers=self.probers,
            ),
            audit=Audit(self.layout.audit("cbo"), self.clock, "cbo"),
            options=Options(pulse_interval_seconds=60.0, undo_wait_seconds=0.0, durable=False),
        )  # fmt: skip
        self.cbo.start()

    def _exchange(self) -> FilesExchange:
        return FilesExchange(self.layout.svf, self.clock, self.verifier.valid, self.kill_switch)

    def _agent(self, name: str, work: Tidy) -> Agent:
        return build_agent(
            name, [work], layout=self.layout, exchange=self._exchange(), verifier=self.verifier.valid,
            kill_switch=self.kill_switch, domains=self.domains.values(), clock=self.clock,
            audit=Audit(self.layout.audit(name), self.clock, name), leases=lambda _target: None,
            station_id=self.identity.station_id, heartbeat_seconds=None,
        )  # fmt: skip

    def _prober(self, name: str) -> ProbePeer:
        roots = [self.layout.root]
        book = WatchBook(self.layout.state(name) / "watch", lambda: roots, lambda task: ack_path(self.layout.svf, task))
        servicer = probe_servicer.ProbeServicer(
            name, InlineExecutor(), self.clock, lambda checks: run_checks(checks, roots=roots), book
        )
        served = Served(
            probe_servicer.FULL_NAME, probe_pb2_grpc.add_ProbeServiceServicer_to_server, servicer, probe_servicer.ALLOW
        )
        return ProbePeer(LocalChannel({probe_servicer.FULL_NAME: served}, "cbo"), name)

    # a case

    def stock(self, texts: int, others: int = 3) -> None:
        """What there is to do, and what is none of the task's business."""
        for number in range(texts):
            (self.shelf / f"n{number}.txt").write_text(f"text {number}\n" * (number + 1))
        for number in range(others):
            (self.shelf / f"keep{number}.md").write_text(f"keep {number}\n" * 40)
        (self.shelf / "sub").mkdir(exist_ok=True)
        (self.shelf / "sub" / "deep.md").write_text("deep\n")
        (self.shelf / "old.twice").write_text("done long ago\n")
        (self.shelf / "app.log").write_text("began\n")

    def execute(self, domain: str = "tidy") -> None:
        """Its level, by a person: what is looked at here is what comes of the acks."""
        if self.cbo.bridge.ladder.standing(domain).level is not Level.EXECUTE:
            self.cbo.desk.set_level(domain, Level.EXECUTE, "to see what it does", self.cbo.pulse_number(), "test")

    def dispatch(self, domain: str = "tidy", folder: Path | None = None) -> Task:
        """One objective, planned and published by a pulse; its task."""
        where = str(folder or self.shelf)
        made = self.cbo.desk.submit("double", domain, {"folder": where}, Schedule(), "", "operator")
        self.cbo.run_pulse()
        return next(t for t in self.cbo.bridge.store.tasks("tasks_newest", 20) if t.objective_id == made.id)

    def work(self, owner: str = "governor") -> None:
        self.agents[owner].step()

    def forge(self, ack: Callable[[Manifest, Ack], Ack], owner: str = "governor") -> None:
        """A program of its own that claims and acks by the same exchange, with an ack that it makes up."""
        exchange = self._exchange()
        worker = exchange.join(owner)
        for claim in exchange.claim(owner, worker, 1):
            now = self.clock.now()
            plain = Ack(
                task_id=claim.manifest.task_id, epoch=claim.epoch, agent=owner, status="done", started_at=now,
                ended_at=now, duration_seconds=1.0, detail="done", applied=True,
            )  # fmt: skip
            with suppress(LeaseLost):
                exchange.ack(claim, ack(claim.manifest, plain))
        exchange.leave(worker)

    def judge(self, task: Task) -> Found:
        """The CBO sees the ack, and scores it in its next pulse."""
        self.cbo.reap()
        self.clock.advance(60.0)
        self.cbo.run_pulse()
        return Found(task=self.cbo.bridge.store.task(task.id), record=self.record())

    def verdicts(self, task: Task) -> dict[str, str]:
        return {row["window"]: row["verdict"] for row in self.cbo.bridge.store.rows("verifications_of", task.id)}

    def close(self) -> None:
        self.cbo.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def station(**fields: Any) -> LieStation:
    return LieStation(Path(tempfile.mkdtemp(prefix="calyx-lies-", dir=FAST)) / "station", **fields)


def doubled(shelf: Path, texts: list[Path]) -> list[Json]:
    """The effects that an honest ack would declare for these texts, as they are now."""
    found: list[Json] = []
    for text in texts:
        data = text.read_bytes() * 2
        found.append(
            {
                "op": "create", "target": f"{text}.twice", "before_sha256": None, "after_sha256": sha256_hex(data),
                "size_bytes": len(data),
            }
        )  # fmt: skip
        found.append(
            {
                "op": "remove", "target": str(text), "before_sha256": sha256_hex(text.read_bytes()),
                "after_sha256": None, "size_bytes": text.stat().st_size,
            }
        )  # fmt: skip
    return found


def claims_of(effects: list[Json]) -> list[Json]:
    return [
        {"kind": "file_digest", "target": each["target"], "expect": {"sha256": each["after_sha256"]}}
        for each in effects
        if each["op"] == "create"
    ]


def after_the_ack(found: LieStation, task: Task) -> None:
    """Until the kernel's clock has ticked well past the ack's own time, so that what is written now is later."""
    acked = ack_path(found.layout.svf, task.id).lstat().st_ctime_ns
    mark, clock = found.layout.root / ".tick", SystemClock()
    ends = clock.monotonic() + 10.0
    while True:
        mark.write_text(json.dumps(acked))
        if mark.lstat().st_ctime_ns > acked + 30_000_000:
            return
        if clock.monotonic() > ends:
            raise AssertionError("the clock of the file system stands still")
