"""Fifty seeded moments on a virtual clock: the switch comes in by four ways in the middle of everything, often with a
stall right there; nothing takes effect more than 2 s after it, nothing queued is lost, and all goes on after it."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub

from chassis.agent import Agent
from chassis.audit import Audit
from chassis.domains import Level
from chassis.errors import CalyxError
from chassis.exchange.port import Claim
from chassis.killswitch import KillSwitch
from chassis.periodic import Periodic
from chassis.rng import Rng
from chassis.work import Work
from cli.main import main
from cli.reach import Reach
from services.dashboard.desk import Desk
from services.dashboard.peers import connect_all
from tests.virtual.virtual_station import Killed, VirtualStation, packaged

MOMENTS = 50
BOUND_SECONDS = 2.0
IN_CBO = ("planned", "submitted", "dispatched", "probed")
IN_WORKER = ("claimed", "create.before_intent", "create.intended", "staged", "before_ack")
RESTARTED = ("cbo", "governor", "analytics", "guardian")
WAYS = ("file", "command", "page", "rpc")


class Watched(VirtualStation):
    """Faults in the agents' hands too, and the time of every commit in the journal."""

    def __init__(self, root: Path) -> None:
        self.armed = ""
        self.commits: list[tuple[float, str]] = []
        self.hits: Counter[str] = Counter()
        self.rng = Rng.of("killswitch", "moments")
        super().__init__(root, packaged(), seed="switch", interval_seconds=10.0, busy_hours=frozenset())
        self.fault = self.hit
        self.switch = KillSwitch(self.layout.kill_switch)
        self.engaged_at: float | None = None
        self.way, self.stall, self.dies = "file", 0.0, False

    def _agent(self, name: str, works: Sequence[Work], audit: Audit) -> Periodic:
        made = super()._agent(name, works, audit)
        agent: Agent = made.step.__self__  # type: ignore[attr-defined]  # a bound method
        agent._journal._fault = agent._worker._fault = self.hit
        exchange = agent._worker._exchange
        claim = exchange.claim

        def claiming(*given: Any, **more: Any) -> list[Claim]:
            claims = claim(*given, **more)
            if claims:
                self.hit("claimed")
            return claims

        exchange.claim = claiming  # type: ignore[method-assign]  # to stand between claim and effect
        return made

    def hit(self, point: str) -> None:
        if point == "placed":
            self.commits.append((self.clock.monotonic(), point))
        if point == self.armed:
            self.armed = ""
            self.engage()
            self.hits[point] += 1
            if self.stall:
                self.clock.advance(self.stall)
            if self.dies:
                raise Killed

    def engage(self) -> None:
        """By the way of this moment; a CBO that is down leaves the command and the page to set the flag themselves."""
        reach = Reach(self.layout.root, self.clock, lambda _layout, _service: self.channel("operator"))  # type: ignore[arg-type,return-value]  # in this process
        if self.way == "command":
            assert main(["stop", "--why", "a moment"], reach) == 0
        elif self.way == "page":
            self.page().set_kill_switch(True, "a moment", "a person")
        elif self.way == "rpc":
            try:
                CboServiceStub(self.channel("operator")).SetKillSwitch(
                    cbo_pb2.SetKillSwitchRequest(engaged=True, why="a moment")
                )
            except CalyxError:
                self.switch.engage("a moment", "somebody", self.clock.now())
        else:
            self.layout.kill_switch.write_text("a moment\n")
        assert self.switch.engaged()
        self.engaged_at = self.clock.monotonic()

    def page(self) -> Desk:
        audit = Audit(self.layout.audit("dashboard"), self.clock, "dashboard")
        return Desk(
            connect_all(lambda _name: self.channel("dashboard")), self.layout, self.clock, audit,  # type: ignore[arg-type,return-value]  # likewise
            environment={}, known_secrets=lambda: (),
        )  # fmt: skip

    def release(self, way: str) -> None:
        if way == "file":
            self.layout.kill_switch.unlink()
        elif way == "page":
            self.page().set_kill_switch(False, "", "a person")
        else:
            CboServiceStub(self.channel("operator")).SetKillSwitch(cbo_pb2.SetKillSwitchRequest(engaged=False))

    def pick(self, among: Sequence[str]) -> str:
        return among[int(self.rng.uniform() * len(among))]

    def wanted(self, name: str, domain: str) -> None:
        CboServiceStub(self.channel("operator")).SubmitObjective(
            cbo_pb2.SubmitObjectiveRequest(text=name, domain=domain, idempotency_key=name)
        )


@pytest.fixture
def station() -> Iterator[Watched]:
    # In memory where there is a place for it: what is tested is the logic, durability has its own tests.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="calyx-switch-", dir=base))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    made = Watched(root / "station")
    made.layout.logs.mkdir(exist_ok=True)
    made.step(30)
    for domain in ("diagnostics", "metrics_summary"):
        made.overseer.desk.set_level(domain, Level.EXECUTE, "the moments", made.overseer.pulse_number(), "test")
    yield made
    made.close()
    structlog.reset_defaults()
    shutil.rmtree(root)


def moment(station: Watched, n: int) -> list[str]:
    """One of them; what was wrong with it."""
    station.wanted(f"queued {n}", "metrics_summary")
    kind = n % 4
    station.way = station.pick(WAYS)
    station.stall = 3.0 if station.rng.uniform() < 0.5 else 0.0
    station.dies = False
    station.engaged_at = None
    if kind == 0:
        station.armed, station.dies = station.pick(IN_CBO), station.rng.uniform() < 0.3
    elif kind in (1, 2):
        station.armed = station.pick(IN_WORKER)
    else:
        station.step(10 * station.rng.uniform())
        station.kill(station.pick(RESTARTED))
        station.step(2 * station.rng.uniform())
        station.engage()
    for _ in range(30):
        if station.engaged_at is not None:
            break
        station.step(10)
    if station.engaged_at is None:
        return [f"moment {n} never came: {station.armed}"]
    began = station.engaged_at
    station.step(20)
    late = [at - began for at, _ in station.commits if at > began + BOUND_SECONDS]
    released = station.clock.monotonic()
    station.release(station.pick(("file", "page", "rpc")))
    station.step(20)
    wrong = [f"moment {n}: an effect {each:.1f} s after the switch" for each in late]
    if not any(at >= released for at, _ in station.commits):
        wrong.append(f"moment {n}: nothing went on after resume")
    return wrong


def test_in_fifty_moments_nothing_takes_effect_after_the_switch_and_nothing_queued_is_lost(
    station: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [each for n in range(MOMENTS) for each in moment(station, n)]
    assert wrong == []
    station.step(120)
    store = station.overseer.bridge.store
    mine = {each.text: each for each in store.all_objectives() if each.text.startswith("queued ")}
    assert [name for name, each in mine.items() if each.state != "done"] == [] and len(mine) == MOMENTS
    tasks = store.tasks("tasks_newest", 5000)
    done = {task.objective_id for task in tasks if task.state == "done"}
    assert {each.id for each in mine.values()} <= done, "queued and lost"
    assert store.tasks("tasks_by_state", "dead", 9) == []
    assert not any(task.scored and task.tes_note == "ended as expired" for task in tasks)
    assert set(station.hits) >= {"dispatched", "claimed", "create.intended", "staged"}, "every kind of moment came"
    lines = station.layout.audit("cbo").read_text()
    assert lines.count('"kill_switch.engaged"') == lines.count('"kill_switch.released"') == MOMENTS


@pytest.mark.parametrize("service", RESTARTED)
def test_the_switch_survives_the_restart_of_every_service(station: Watched, service: str) -> None:
    station.layout.kill_switch.write_text("look first\n")
    station.step(20)
    station.kill(service)
    station.step(60)
    assert station.starts[service] == 2
    before = len(station.commits)
    station.step(60)
    assert len(station.commits) == before
    asked = CboServiceStub(station.channel("operator")).GetStation(cbo_pb2.GetStationRequest())
    assert (asked.kill_switch, asked.kill_switch_why) == (True, "look first")


def test_who_released_it_is_on_record_and_an_approval_outdated_by_the_world_changes_nothing(station: Watched) -> None:
    station.switch.engage("look first", "somebody", station.clock.now())
    station.step(60)
    station.release("page")
    station.step(1)
    released = [line for line in station.layout.audit("cbo").read_text().splitlines() if "kill_switch.released" in line]
    assert '"by":"dashboard"' in released[0]
    assert '"who":"a person"' in station.layout.audit("dashboard").read_text()

    log = station.layout.logs / "app.log"
    log.write_text("line\n" * 20_000)
    station.wanted("rotate the logs", "log_rotation")
    station.step(60)
    cbo = CboServiceStub(station.channel("operator"))
    waiting = cbo.ListTasks(cbo_pb2.ListTasksRequest(waiting_for_person=True, limit=50)).tasks
    plan = next(task for task in waiting if task.objective == "rotate the logs")
    with log.open("a") as more:
        more.write("changed meanwhile\n" * 20_000)
    before = {path.name: path.read_bytes() for path in station.layout.logs.iterdir()}
    second = cbo.ApproveTask(cbo_pb2.ApproveTaskRequest(id=plan.id, plan_digest=plan.plan_digest))
    again = cbo.ApproveTask(cbo_pb2.ApproveTaskRequest(id=plan.id, plan_digest=plan.plan_digest))
    assert (second.already, again.already, again.task.id) == (False, True, second.task.id)
    station.step(60)
    ended = cbo.GetTask(cbo_pb2.GetTaskRequest(id=second.task.id)).task
    assert (ended.state, ended.tes_note) == ("failed", "stopped by a failed test, nothing applied")
    assert "the world no longer matches the approved plan; nothing was changed" in ended.ack_json
    assert {path.name: path.read_bytes() for path in station.layout.logs.iterdir()} == before
