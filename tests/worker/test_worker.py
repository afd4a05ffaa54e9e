"""The worker over the real exchange, the real journal and a small work of its own."""

import errno
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))
from exchange_world import LEASE, SIGNER, VERIFIER, World

from chassis.agent import Agent
from chassis.audit import Audit, verify
from chassis.canonical import sha256_hex
from chassis.errors import Refused
from chassis.exchange.files import FilesExchange
from chassis.exchange.manifest import Manifest
from chassis.journal import Journal, consent_within
from chassis.work import Change, Effects, Outcome, Plan
from chassis.worker import GIVEN_BACK_SECONDS, LeaseView, Worker
from tests.full_disk import full_disk


class Crash(BaseException):
    """The process is gone at this point."""


class Doubling:
    """Writes `<name>.twice` beside each file of a folder, and removes the file."""

    domain = "doubling"
    procedures = ("plain", "broken", "idle", "lossy")

    def __init__(self) -> None:
        self.between: Callable[[], None] = lambda: None
        self.performed = 0

    def _files(self, task: Manifest) -> list[Path]:
        return sorted(p for p in Path(task.params["folder"]).iterdir() if p.suffix == ".txt")

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        changes = []
        for path in self._files(task):
            data = path.read_bytes()
            (scratch / path.name).write_bytes(data * 2)
            target = f"{path}.{task.created_at:%H%M%S}.twice"
            changes.append(
                Change(op="create", target=target, before_sha256=None, after_sha256=sha256_hex(data * 2), size_bytes=1)
            )
        return Plan(changes=tuple(changes), claims=({"kind": "file_digest", "target": "x", "expect": {}},), notes="ok")

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        self.performed += 1
        if task.procedure == "idle":
            return Outcome(detail="did nothing")
        claims = []
        for path in self._files(task):
            made = scratch / path.name
            made.write_bytes(path.read_bytes() * 2)
            target = path.with_name(f"{path.name}.{task.created_at:%H%M%S}.twice")
            effects.create(target, made)
            claims.append({"kind": "file_digest", "target": str(target), "expect": {}})
            self.between()
            if task.procedure == "lossy":
                path.write_bytes(b"behind the journal's back")
            effects.remove(path)
            if task.procedure == "broken" and "drill" not in task.task_id:
                raise RuntimeError("secret text that no ack may show")
        if not claims:
            return Outcome(detail="nothing to double", no_work=True)
        return Outcome(detail=f"{len(claims)} doubled", claims=tuple(claims), cost={"cpu_seconds": 0.1})

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "a.txt").write_text("drill")
        (folder / "a.txt").chmod(0o600)
        return {"folder": str(folder)}


class Yard:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = World("files", root)
        self.work, self.steps = Doubling(), []
        self.folder = root / "data"
        self.folder.mkdir()
        (self.folder / "a.txt").write_text("alpha")
        (self.folder / "b.txt").write_text("beta")
        self.leases: dict[str, LeaseView] = {}
        self.crash_at = ""
        self.audit = Audit(root / "audit.jsonl", self.world.clock, "test")
        self.journal, self.worker = self.boot()
        self.worker.drill()

    def boot(self) -> tuple[Journal, Worker]:
        """A new process of the agent, on the same folders."""
        journal = Journal(self.root / "journal", self.world.clock, consent_within([self.folder]), self.fault)
        self.exchange = FilesExchange(
            self.root / "svf", self.world.clock, VERIFIER.valid, self.world.kill_switch, LEASE
        )
        worker = Worker(
            "governor", self.exchange, [self.work], journal, VERIFIER.valid, self.world.kill_switch, self.world.clock,
            self.root / "work", self.audit, self.leases.get, "st-1", code_version="v1", fault=self.fault,
        )  # fmt: skip
        return journal, worker

    def reboot(self) -> None:
        """What the kernel does to a killed process's lock, then the next boot."""
        self.exchange.leave("governor-000001")
        self.crash_at = ""
        self.journal, self.worker = self.boot()
        self.worker.drill()

    def fault(self, step: str) -> None:
        self.steps.append(step)
        if step == self.crash_at:
            raise Crash

    def submit(self, task_id: str, **fields) -> None:
        values = {"domain": "doubling", "procedure": "plain", "level": "EXECUTE", **fields}
        values.setdefault("params", {"folder": str(self.folder)})
        self.world.exchange.submit(self.world.task(task_id, **values))

    def ack(self, task_id: str):
        return self.world.exchange.get(task_id).ack

    def files(self) -> dict[str, str]:
        return {p.name: p.read_text() for p in sorted(self.folder.iterdir())}


BEFORE = {"a.txt": "alpha", "b.txt": "beta"}
AFTER = {"a.txt.000000.twice": "alphaalpha", "b.txt.000000.twice": "betabeta"}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_an_executed_task_is_done_journaled_and_acked_with_what_changed(yard: Yard) -> None:
    yard.submit("t1")
    assert yard.worker.step() == 1
    ack = yard.ack("t1")
    assert (ack.status, ack.detail, ack.files_changed, ack.applied) == ("done", "2 doubled", 4, True)
    assert [effect["op"] for effect in ack.effects] == ["create", "remove", "create", "remove"]
    assert len(ack.claims) == 2
    assert yard.files() == AFTER
    assert not (yard.root / "work" / "t1").exists(), "scratch goes with the ack"
    assert yard.worker.step() == 0
    assert verify(yard.root / "audit.jsonl").first_bad is None


@pytest.mark.parametrize("fields", [{}, {"rehearsal": True, "level": "GUIDE"}, {"undo_of": "t0"}], ids=str)
def test_a_task_granted_for_another_station_is_not_done_here(yard: Yard, fields: dict) -> None:
    yard.submit("t1", station_id="st-2", **fields)
    yard.worker.step()
    ack = yard.ack("t1")
    assert (ack.status, ack.applied) == ("failed", False)
    assert "st-2" in ack.detail
    assert yard.files() == BEFORE


def test_an_undo_task_restores_everything_even_under_the_kill_switch(yard: Yard) -> None:
    yard.submit("t1")
    yard.worker.step()
    yard.submit("t1-d1", undo_of="t1", params={"dry_run": "true"})
    yard.worker.step()
    assert yard.files() == AFTER, "a dry run changes nothing"
    assert len(yard.ack("t1-d1").effects) == 4
    yard.world.kill_switch.engage("stop", "me", yard.world.clock.now())
    yard.submit("t1-u1", undo_of="t1", params={})
    assert yard.worker.step() == 1
    assert (yard.ack("t1-u1").status, yard.files()) == ("undone", BEFORE)
    yard.submit("t1-u2", undo_of="t1", params={})
    yard.worker.step()
    assert yard.ack("t1-u2").status == "failed"
    assert "undone already" in yard.ack("t1-u2").detail


def test_a_rehearsal_changes_nothing_and_leaves_its_copies_for_the_prober(yard: Yard) -> None:
    yard.submit("r1", rehearsal=True, level="GUIDE")
    yard.worker.step()
    ack = yard.ack("r1")
    assert (ack.status, ack.files_changed, ack.applied) == ("rehearsed", 0, False)
    assert len(ack.plan["changes"]) == 2
    assert ack.plan_digest
    assert ack.claims
    assert yard.files() == BEFORE
    assert (yard.root / "work" / "r1" / "a.txt").read_text() == "alphaalpha"


def test_an_approved_plan_is_performed_as_of_its_rehearsal_however_late(yard: Yard) -> None:
    yard.submit("r1", rehearsal=True, level="GUIDE")
    yard.worker.step()
    yard.world.clock.advance(3661)
    yard.submit("r1-a", level="GUIDE", rehearsal_of="r1", plan_digest=yard.ack("r1").plan_digest, approval="alex")
    yard.worker.step()
    assert (yard.ack("r1-a").status, yard.files()) == ("done", AFTER)


def test_an_approved_plan_is_not_performed_on_another_world(yard: Yard) -> None:
    yard.submit("r1", rehearsal=True, level="GUIDE")
    yard.worker.step()
    (yard.folder / "c.txt").write_text("new")
    yard.submit("r1-a", level="GUIDE", rehearsal_of="r1", plan_digest=yard.ack("r1").plan_digest, approval="alex")
    yard.worker.step()
    assert "no longer matches the approved plan" in yard.ack("r1-a").detail
    assert yard.files() == {**BEFORE, "c.txt": "new"}


def test_below_execute_nothing_has_effects_without_an_approval(yard: Yard) -> None:
    yard.submit("t1", level="GUIDE")
    yard.worker.step()
    assert (yard.ack("t1").status, yard.files()) == ("failed", BEFORE)


def test_a_failure_after_a_change_is_taken_back_and_its_text_stays_in_the_log(yard: Yard) -> None:
    yard.submit("t1", procedure="broken")
    yard.worker.step()
    ack = yard.ack("t1")
    assert (ack.status, ack.applied, ack.reverted, ack.files_changed) == ("failed", True, True, 2)
    assert "secret text" not in ack.detail
    assert yard.files() == BEFORE


def test_the_kill_switch_between_two_effects_stops_the_task_and_takes_it_back(yard: Yard) -> None:
    yard.work.between = lambda: yard.world.kill_switch.engage("stop", "me", yard.world.clock.now())
    yard.submit("t1")
    yard.worker.step()
    ack = yard.ack("t1")
    assert (ack.status, ack.applied, ack.reverted) == ("cancelled", True, True)
    assert "kill switch" in ack.detail
    assert yard.files() == BEFORE


def test_under_the_kill_switch_nothing_is_claimed(yard: Yard) -> None:
    yard.submit("t1")
    yard.world.kill_switch.engage("stop", "me", yard.world.clock.now())
    assert yard.worker.step() == 0
    assert yard.world.exchange.get("t1").state == "ready"


def test_a_cancelled_task_stops_before_its_next_effect_and_is_taken_back(yard: Yard) -> None:
    yard.work.between = lambda: yard.world.exchange.cancel("t1", "enough")
    yard.submit("t1")
    yard.worker.step()
    assert (yard.ack("t1").status, yard.ack("t1").reverted, yard.files()) == ("cancelled", True, BEFORE)


def test_a_holder_that_lost_its_lease_changes_nothing_more_and_answers_nothing(yard: Yard) -> None:
    yard.work.between = yard.world.stale
    yard.submit("t1")
    assert yard.worker.step() == 0
    assert yard.ack("t1") is None
    assert yard.world.exchange.get("t1").epoch == 2
    yard.work.between = lambda: None
    yard.world.clock.advance(2)
    yard.world.exchange.sweep()
    assert yard.worker.step() == 1, "the next holder takes back what was applied and does the task from the start"
    assert (yard.ack("t1").status, yard.files()) == ("done", AFTER)


def test_nothing_acts_without_a_passed_drill(yard: Yard) -> None:
    _, fresh = yard.boot()
    yard.submit("t1")
    fresh.step()
    assert "has not been drilled" in yard.ack("t1").detail
    assert yard.files() == BEFORE


def test_drills_refuse_an_empty_footprint_and_an_undo_that_does_not_restore(yard: Yard) -> None:
    results = yard.worker.drill()
    assert results["doubling/plain"] is None
    assert "changed nothing" in results["doubling/idle"]
    assert "a.txt" in results["doubling/lossy"]
    yard.submit("t1", procedure="lossy")
    yard.worker.step()
    assert "may not act" in yard.ack("t1").detail
    assert yard.files() == BEFORE


def test_a_domain_without_effects_passes_its_drill_with_an_empty_footprint(yard: Yard, tmp_path: Path) -> None:
    worker = Worker(
        "governor", yard.exchange, [yard.work], yard.journal, VERIFIER.valid, yard.world.kill_switch, yard.world.clock,
        tmp_path / "other", effectless=frozenset({"doubling"}),
    )  # fmt: skip
    assert worker.drill()["doubling/idle"] is None


def test_passed_drills_are_remembered_for_the_same_code_and_failed_ones_are_not(yard: Yard) -> None:
    performed = yard.work.performed
    _, again = yard.boot()
    results = again.drill()
    assert yard.work.performed == performed + 2, "only the failed ones are drilled again"
    assert results["doubling/plain"] is None
    assert results["doubling/idle"]


def test_a_sleeping_agent_claims_nothing_and_a_sleeping_domain_gets_its_task_back_later(yard: Yard) -> None:
    yard.submit("t1")
    yard.leases["governor"] = LeaseView(kind="sleep", target="governor")
    assert yard.worker.step() == 0
    assert yard.world.exchange.get("t1").state == "ready"
    del yard.leases["governor"]
    until = yard.world.clock.now() + timedelta(seconds=60)
    yard.leases["doubling"] = LeaseView(kind="sleep", target="doubling", until=until)
    assert yard.worker.step() == 0
    assert yard.files() == BEFORE
    del yard.leases["doubling"]
    yard.world.clock.advance(60)
    yard.world.exchange.sweep()
    assert yard.worker.step() == 1
    assert yard.ack("t1").status == "done"


def test_an_unknown_domain_or_procedure_is_refused(yard: Yard) -> None:
    yard.submit("t1", domain="other")
    yard.submit("t2", procedure="other")
    assert yard.worker.step() == 2
    assert {yard.ack("t1").status, yard.ack("t2").status} == {"failed"}


def test_an_expired_grant_key_stops_every_effect(yard: Yard) -> None:
    calls = iter([True, False])
    worker = Worker(
        "governor", yard.exchange, [yard.work], yard.journal, lambda m: next(calls, False) and VERIFIER.valid(m),
        yard.world.kill_switch, yard.world.clock, yard.root / "work", code_version="v1",
    )  # fmt: skip
    worker.drill()
    yard.submit("t1")
    worker.step()
    assert (yard.ack("t1").status, yard.files()) == ("failed", BEFORE)


@pytest.mark.parametrize("step", ["finished", "before_ack"])
def test_a_task_whose_effects_were_committed_before_a_crash_is_answered_and_not_done_twice(
    yard: Yard, step: str
) -> None:
    yard.submit("t1")
    yard.crash_at = step
    performed = yard.work.performed
    with pytest.raises(Crash):
        yard.worker.step()
    assert yard.ack("t1") is None
    yard.reboot()
    drills = yard.work.performed
    assert yard.worker.step() == 1
    ack = yard.ack("t1")
    assert (ack.status, ack.epoch, ack.files_changed) == ("done", 2, 4)
    assert yard.work.performed == drills > performed, "performed once, before the crash"
    assert yard.files() == AFTER


@pytest.mark.parametrize("step", ["create.intended", "placed", "committed", "remove.intended"])
def test_a_task_cut_short_by_a_crash_is_redelivered_and_done_from_the_start(yard: Yard, step: str) -> None:
    yard.submit("t1")
    yard.crash_at = step
    with pytest.raises(Crash):
        yard.worker.step()
    yard.reboot()
    assert yard.worker.step() == 1
    assert (yard.ack("t1").status, yard.files()) == ("done", AFTER)
    assert yard.journal.undo("t1").done
    assert yard.files() == BEFORE


@pytest.mark.parametrize("step", ["undo.acted", "undo.recorded", "undone"])
def test_an_undo_cut_short_by_a_crash_is_finished_and_answered(yard: Yard, step: str) -> None:
    yard.submit("t1")
    yard.worker.step()
    yard.submit("t1-u1", undo_of="t1", params={})
    yard.crash_at = step
    with pytest.raises(Crash):
        yard.worker.step()
    yard.reboot()
    yard.worker.step()
    assert (yard.ack("t1-u1").status, yard.files()) == ("undone", BEFORE)


def test_a_manifest_altered_after_signing_never_reaches_the_work(yard: Yard) -> None:
    signed = yard.world.task("t1", domain="doubling", procedure="plain", level="GUIDE", rehearsal=True)
    yard.world.exchange.submit(replace(signed, level="EXECUTE", rehearsal=False))
    assert yard.worker.step() == 0
    assert yard.world.exchange.get("t1").state == "dead"
    assert SIGNER.sign(signed) == signed


def test_a_target_without_consent_is_refused_and_untouched(yard: Yard, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.txt").write_text("not yours")
    yard.submit("t1", params={"folder": str(outside)})
    yard.worker.step()
    assert yard.ack("t1").status == "failed"
    assert "outside the folders" in yard.ack("t1").detail
    assert [p.name for p in outside.iterdir()] == ["x.txt"]
    with pytest.raises(Refused):
        yard.journal.undo("t1")


@pytest.mark.parametrize("fields", [{}, {"rehearsal": True, "level": "GUIDE"}], ids=["done", "rehearsed"])
def test_a_task_that_meets_a_full_disk_is_given_back_and_done_when_there_is_room(yard: Yard, fields: dict) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    yard.submit("t1", **fields)
    yard.work.between = full
    rehearse, yard.work.rehearse = yard.work.rehearse, full  # type: ignore[method-assign]
    yard.worker.step()
    assert yard.ack("t1") is None
    assert yard.files() == BEFORE
    view = yard.world.exchange.get("t1")
    assert (view.state, view.epoch) == ("waiting", 2)
    yard.work.between, yard.work.rehearse = lambda: None, rehearse  # type: ignore[method-assign]
    yard.world.clock.advance(GIVEN_BACK_SECONDS)
    yard.world.exchange.sweep()
    assert yard.worker.step() == 1
    assert yard.ack("t1").status == ("rehearsed" if fields else "done")
    assert yard.files() == (BEFORE if fields else AFTER)


def test_a_disk_that_stays_full_ends_a_task_without_a_score(yard: Yard) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    yard.work.between = full
    yard.submit("t1", max_attempts=2)
    for _ in range(2):
        yard.worker.step()
        yard.world.clock.advance(GIVEN_BACK_SECONDS)
        yard.world.exchange.sweep()
    view = yard.world.exchange.get("t1")
    assert (view.state, view.ack) == ("dead", None)
    assert "the disk is full" in view.reason
    assert yard.files() == BEFORE


def test_a_drill_that_a_full_disk_failed_is_passed_later(yard: Yard) -> None:
    fresh = Worker(
        "governor", yard.exchange, [yard.work], yard.journal, VERIFIER.valid, yard.world.kill_switch, yard.world.clock,
        yard.root / "fresh",
    )  # fmt: skip
    agent = Agent(fresh, yard.journal, yard.world.clock)
    with full_disk():
        agent.step()
    yard.world.clock.advance(61)
    yard.submit("t1")
    agent.step()
    assert yard.ack("t1").status == "done"


def test_an_agent_tries_its_failed_drills_again_after_a_minute(yard: Yard) -> None:
    agent = Agent(yard.worker, yard.journal, yard.world.clock)
    agent.step()
    performed = yard.work.performed
    yard.world.clock.advance(59)
    agent.step()
    assert yard.work.performed == performed
    yard.world.clock.advance(2)
    agent.step()
    assert yard.work.performed == performed + 2, "the two that failed, and no other"


def test_on_a_full_disk_the_kill_switch_still_engages(yard: Yard) -> None:
    with full_disk():
        yard.world.kill_switch.engage("stop", "me", yard.world.clock.now())
    assert yard.world.kill_switch.engaged()
