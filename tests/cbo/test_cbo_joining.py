"""What outside agents may do: the same gates as everybody, their own tasks only, and never their own judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_station import domains_with, outside
from cbo_station import Station
from hypothesis import given
from hypothesis import strategies as st

from chassis.audit import Audit
from chassis.domains import Level
from chassis.errors import (
    CalyxError,
    Drifted,
    InvalidInput,
    LeaseLost,
    NotFound,
    PermissionDenied,
    Refused,
    ResourceExhausted,
)
from chassis.exchange.files import FilesExchange
from chassis.exchange.port import Holder
from chassis.ids import CountedIds
from services.cbo import joining, proposals
from services.cbo.answers import Answer
from services.cbo.holders import accepted
from services.cbo.joining import Claimed, Held, Joining, Sample
from services.cbo.ports import Recalled
from services.cbo.proposals import Wish
from services.cbo.tasks import Task
from services.governor.leases import Leases


class Scout:
    """An agent's side of the joining, without a wire; `leases` is the governor's own file."""

    def __init__(self, station: Station, name: str = "scout", domains: tuple[str, ...] = ("sorting", "asking")) -> None:
        self.station, self.name = station, name
        station.cbo.agents.invite(name, domains, False, "operator")
        folder = station.layout.state("governor")
        folder.mkdir(exist_ok=True)
        audit = Audit(station.layout.audit("governor"), station.clock, "governor")
        self.leases = Leases(folder / "leases.json", station.clock, CountedIds(), audit)

    @property
    def joining(self) -> Joining:
        return self.station.cbo.joining

    def propose(self, key: str = "k-1", domain: str = "sorting", objective: str = "sort it", **more: Any) -> Task:
        wish = Wish(source=f"agent:{self.name}", domain=domain, objective=objective, key=key, **more)
        return self.joining.propose(self.name, wish)

    def claim(self, task_id: str = "", session: str = "s1", limit: int = 1) -> Claimed:
        return self.joining.claim(self.name, session, limit, task_id, None)

    def hold(self, task_id: str = "") -> Held:
        claim, task = self.claim(task_id).claims[0]
        return Held(session="s1", task_id=task.id, epoch=claim.epoch)

    def beat(self, held: Held, cpu: float | None = None) -> str:
        sample = Sample(cpu_percent=cpu, rss_bytes=None, progress="", at=self.station.clock.now())
        return self.joining.heartbeat(self.name, held, sample).order

    def ack(self, held: Held, **facts: Any) -> tuple[str, bool]:
        return self.joining.ack(self.name, held, Answer(**{"status": "done", **facts}))

    def manifest(self, task: Task) -> Any:
        return self.station.exchange.get(task.id).manifest


DIGEST = {"kind": "file_digest", "target": "/x", "expect": {"sha256": "00"}}
PLAN = {"changes": [{"op": "create", "target": "/x", "before_sha256": None, "after_sha256": "00", "size_bytes": 1}]}


@pytest.fixture
def station(new_station: Callable[..., Station]) -> Station:
    made = new_station(
        domains=domains_with(
            outside("sorting", "scout"),
            outside("asking", "scout", rehearses=False, max_attempts=1),
            outside("watched", "scout", rehearses=False, undo_by="governor"),
            outside("roving", "rover"),
        )
    )
    assert isinstance(made, Station)
    return made


@pytest.fixture
def scout(station: Station) -> Scout:
    return Scout(station)


def at_level(station: Station, level: Level, domain: str = "sorting") -> None:
    station.cbo.desk.set_level(domain, level, "for the test", 0, "operator")


# proposing


@pytest.mark.parametrize(
    ("level", "domain", "state", "rehearsal"),
    [
        (Level.EXECUTE, "sorting", "ready", False),
        (Level.GUIDE, "sorting", "ready", True),
        (Level.SUGGEST, "sorting", "proposed", None),
        (Level.OBSERVE, "sorting", "rejected", None),
        (Level.EXECUTE, "asking", "ready", False),
        (Level.GUIDE, "asking", "proposed", None),
    ],
)
def test_a_proposal_goes_as_far_as_its_domains_level(
    station: Station, scout: Scout, level: Level, domain: str, state: str, rehearsal: bool | None
) -> None:
    at_level(station, level, domain)
    task = scout.propose(domain=domain)
    manifest = scout.manifest(task)
    assert task.state == state and task.prediction == 0.5 and task.source == "agent:scout"
    assert (None if manifest is None else manifest.rehearsal) is rehearsal
    assert task.why.startswith("level:") is (state != "ready")
    assert len(station.audit("task.proposed")) == 1


def test_the_same_key_is_the_same_task_whatever_became_of_it(station: Station, scout: Scout) -> None:
    task = scout.propose()
    scout.ack(scout.hold(), status="failed", detail="no")
    assert scout.propose(objective="something else").id == task.id
    other = Scout(station, "rover", ("roving",))
    assert other.propose(domain="roving").id != task.id, "another agent's key is another key"


def test_a_procedure_nobody_declared_is_refused_by_the_gate_with_its_reason(station: Station, scout: Scout) -> None:
    task = scout.propose(procedure="magic")
    assert task.state == "rejected" and "declares no procedure" in task.why
    assert station.audit("policy.blocked")[0]["task"] == task.id


def test_under_the_kill_switch_a_proposal_is_held_and_goes_on_after_it(station: Station, scout: Scout) -> None:
    station.cbo.desk.set_kill_switch(True, "look", "operator")
    task = scout.propose()
    assert task.state == "held" and not scout.claim().claims
    station.cbo.desk.set_kill_switch(False, "", "operator")
    station.cbo.run_pulse()
    assert scout.joining.task("scout", task.id).state == "ready"


def test_the_budget_of_a_domain_holds_for_its_agent(new_station: Callable[..., Station]) -> None:
    station = new_station(domains=domains_with(outside("sorting", "scout", budget={"per_pulse": 2})))
    scout = Scout(station)
    states = [scout.propose(f"k-{n}", objective=f"sort {n}").state for n in range(3)]
    assert states == ["ready", "ready", "held"]


def test_a_domain_that_is_not_the_tokens_or_not_the_agents_is_refused(station: Station, scout: Scout) -> None:
    with pytest.raises(PermissionDenied, match="not for diagnostics"):
        scout.propose(domain="diagnostics")
    greedy = Scout(station, "greedy", ("diagnostics", "nowhere", "sorting"))
    with pytest.raises(PermissionDenied, match="done by guardian"):
        greedy.propose(domain="diagnostics")
    with pytest.raises(NotFound, match="sign its manifest"):
        greedy.propose(domain="nowhere")
    assert greedy.joining.join("greedy", "", ()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": " "}, {"objective": "x" * 2001}, {"key": ""}, {"key": "k" * 201}, {"ttl_seconds": 0.0},
        {"ttl_seconds": float("nan")}, {"params": {"a": "b" * 20_000}}, {"params": {str(n): "" for n in range(65)}},
        {"objective": "half \ud800"},
    ],
)  # fmt: skip
def test_a_wish_that_can_not_be_meant_makes_no_task(station: Station, scout: Scout, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        scout.propose(**wrong)
    assert station.cbo.bridge.store.counts() == {}


def test_a_shorter_ttl_than_the_domains_is_kept_and_a_longer_one_is_not(scout: Scout) -> None:
    assert scout.manifest(scout.propose("a", objective="a", ttl_seconds=5)).ttl_seconds == 5
    assert scout.manifest(scout.propose("b", objective="b", ttl_seconds=9999)).ttl_seconds == 600


def test_a_wish_that_waits_for_a_person_is_not_made_again(station: Station, scout: Scout) -> None:
    first = scout.propose("a", "asking")
    assert scout.propose("b", "asking").id == first.id
    with pytest.raises(Refused, match="other params") as refused:
        scout.propose("c", "asking", params={"folder": "elsewhere"})
    assert refused.value.detail["task"] == first.id
    station.cbo.desk.reject(first.id, "no", "operator")
    assert scout.propose("b", "asking").id == first.id, "a key stays with its task"
    assert scout.propose("c", "asking").id != first.id


def test_too_many_open_tasks_of_one_agent_are_refused(
    station: Station, scout: Scout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "MAX_OPEN", 3)
    for n in range(3):
        scout.propose(f"k-{n}", objective=f"sort {n}")
    with pytest.raises(ResourceExhausted, match="not ended"):
        scout.propose("k-3", objective="sort 3")
    assert Scout(station, "rover", ("roving",)).propose(domain="roving").state == "ready"


def test_a_flood_of_proposals_and_reports_is_refused_until_it_ebbs(station: Station, scout: Scout) -> None:
    at_level(station, Level.OBSERVE)
    for n in range(300):
        scout.propose(f"k-{n}", objective=f"sort {n}")
    with pytest.raises(ResourceExhausted, match="try again in 1 s"):
        scout.propose("k-300")
    station.clock.advance(1)
    scout.propose("k-300")
    for _ in range(60):
        scout.joining.report("scout", "here", "")
    with pytest.raises(ResourceExhausted):
        scout.joining.report("scout", "here", "")


def test_memory_that_is_silent_is_not_asked_for_each_proposal(station: Station, scout: Scout) -> None:
    station.memory.matches = (
        Recalled(id="x", cosine=0.9, domain="sorting", procedure="plain", outcome="success", tes=99.0, rehearsal=False),
    )
    assert scout.propose("a", objective="a").prediction == pytest.approx(2 / 3)
    station.memory.down = True
    assert scout.propose("b", objective="b").prediction == 0.5
    station.memory.down = False
    assert scout.propose("c", objective="c").prediction == 0.5, "it waits a little before it asks again"
    station.clock.advance(proposals.SILENT_SECONDS)
    assert scout.propose("d", objective="d").prediction == pytest.approx(2 / 3)


# a person's answer


def test_a_task_that_can_not_be_rehearsed_runs_once_a_person_said_yes(station: Station, scout: Scout) -> None:
    asked = scout.propose(domain="asking", params={"folder": "here"})
    assert joining.waits_for_person(asked) and not joining.ended(asked)
    with pytest.raises(InvalidInput, match="without a plan_digest"):
        station.cbo.desk.approve(asked.id, "00", "operator")
    second = station.cbo.desk.approve(asked.id, "", "operator")
    assert station.cbo.desk.approve(asked.id, "", "operator").id == second.id
    first = scout.joining.task("scout", asked.id)
    assert (first.approved_as, first.state) == (second.id, "proposed")
    assert joining.ended(first) and not joining.waits_for_person(first)
    manifest = scout.manifest(second)
    assert (manifest.approval, manifest.plan_digest, manifest.rehearsal_of) == ("operator", "", "")
    assert manifest.params == {"folder": "here"} and manifest.max_attempts == 1 and not manifest.rehearsal
    held = scout.hold(second.id)
    assert scout.joining.check("scout", held) == (True, "")
    assert scout.ack(held) == ("done", True)
    assert not station.cbo.bridge.store.tasks("tasks_inbox", 10), "an answered question leaves the inbox"
    with pytest.raises(Refused, match="approved"):
        station.cbo.desk.reject(asked.id, "", "operator")
    with pytest.raises(Refused):
        station.cbo.desk.cancel(asked.id, "", "operator")


def test_a_suggestion_is_not_approved_and_a_rehearsed_plan_needs_its_digest(station: Station, scout: Scout) -> None:
    at_level(station, Level.SUGGEST, "asking")
    with pytest.raises(Refused, match="raise asking to GUIDE"):
        station.cbo.desk.approve(scout.propose("a", "asking").id, "", "operator")
    task = scout.propose("b")
    scout.ack(scout.hold(), status="rehearsed", plan_json=json.dumps(PLAN), claims_json=json.dumps([DIGEST]))
    station.clock.advance(60)
    station.cbo.run_pulse()
    kept = scout.joining.task("scout", task.id)
    assert kept.state == "rehearsed" and joining.waits_for_person(kept) and not joining.ended(kept)
    assert station.probers["guardian"].asked == [task.id]
    with pytest.raises(InvalidInput):
        station.cbo.desk.approve(task.id, "", "operator")
    with pytest.raises(Drifted):
        station.cbo.desk.approve(task.id, "0" * 64, "operator")
    second = station.cbo.desk.approve(task.id, kept.plan_digest, "operator")
    assert scout.manifest(second).plan_digest == kept.plan_digest


def test_objectives_of_an_outside_domain_flow_to_its_agent(station: Station, scout: Scout) -> None:
    submit = station.cbo.desk.submit
    submit("sort everything", "sorting", {}, proposals.objectives.ONCE, "", "operator")
    repeating = proposals.objectives.Schedule(every_pulse=True)
    submit("ask me", "asking", {}, repeating, "", "operator")
    station.cbo.run_pulse()
    claim, task = scout.claim().claims[0]
    assert claim.manifest.rehearsal and task.objective == "sort everything"
    for _ in range(2):
        station.clock.advance(60)
        station.cbo.run_pulse()
    waiting = station.cbo.bridge.store.tasks("tasks_inbox", 10)
    assert [each.domain for each in waiting] == ["asking"], "one question waits, not one for each pulse"


# claims and orders


def test_a_claim_takes_only_what_the_token_is_for(station: Station) -> None:
    scout = Scout(station, domains=("sorting",))
    station.cbo.desk.submit("ask", "asking", {}, proposals.objectives.ONCE, "", "operator")
    at_level(station, Level.EXECUTE, "asking")
    station.cbo.run_pulse()
    assert not scout.claim().claims
    assert station.exchange.depth()["ready"] == 2, "it stays where it is, with all its attempts"


def test_undos_come_first_and_a_limit_is_kept(station: Station, scout: Scout) -> None:
    for n in range(3):
        scout.propose(f"k-{n}", objective=f"sort {n}")
    assert len(scout.claim(limit=2).claims) == 2
    assert len(scout.claim(limit=16).claims) == 1
    for wrong in (-1, 17):
        with pytest.raises(InvalidInput):
            scout.claim(limit=wrong)
    for session in ("", "S", "a.b", "x" * 41):
        with pytest.raises(InvalidInput):
            scout.claim(session=session)


def test_orders_come_in_their_order(station: Station, scout: Scout) -> None:
    scout.propose()
    held = scout.hold()
    assert scout.beat(held, cpu=50.0) == "GO_ON"
    assert scout.joining.samples[held.task_id].cpu_percent == 50.0
    scout.leases.throttle("sorting", 60, 0.5, reason="hot", by="operator")
    assert scout.beat(held) == "THROTTLE"
    scout.leases.throttle("scout", 60, 0.25, reason="hotter", by="operator")
    sample = Sample(cpu_percent=None, rss_bytes=None, progress="", at=station.clock.now())
    throttled = scout.joining.heartbeat("scout", held, sample)
    assert throttled.cpu_percent == 25.0 and throttled.until is not None and "hotter" in throttled.reason
    scout.leases.sleep("sorting", 60, reason="night", by="operator")
    assert scout.beat(held) == "SLEEP"
    station.cbo.desk.set_kill_switch(True, "look", "operator")
    assert scout.beat(held) == "STOP"
    station.cbo.desk.set_kill_switch(False, "", "operator")
    station.clock.advance(61)
    assert scout.beat(held) == "GO_ON"
    station.cbo.desk.cancel(held.task_id, "enough", "operator")
    assert scout.beat(held) == "STOP"
    assert scout.ack(held, status="cancelled") == ("cancelled", True)
    assert scout.beat(held) == "LOST" and held.task_id not in scout.joining.samples


@pytest.mark.parametrize("target", ["scout", "sorting"])
def test_asleep_it_gets_no_task_and_hears_why(station: Station, scout: Scout, target: str) -> None:
    at_level(station, Level.EXECUTE, "asking")
    scout.propose()
    other = scout.propose("k-2", "asking")
    scout.leases.sleep(target, 60, reason="night", by="operator")
    taken = scout.claim(limit=16)
    assert [task.id for _, task in taken.claims] == ([] if target == "scout" else [other.id])
    assert "night" in scout.claim().reason


def test_check_says_no_for_each_reason_there_is(station: Station, scout: Scout) -> None:
    at_level(station, Level.EXECUTE)
    scout.propose()
    held = scout.hold()
    check = scout.joining.check
    assert check("scout", held) == (True, "")
    scout.leases.sleep("sorting", 60, reason="night", by="operator")
    assert check("scout", held) == (False, "sorting sleeps: night")
    scout.leases.resume("sorting", by="operator")
    station.cbo.desk.set_kill_switch(True, "look", "operator")
    assert check("scout", held) == (False, "stopped by the kill switch: look")
    station.cbo.desk.set_kill_switch(False, "", "operator")
    station.cbo.desk.cancel(held.task_id, "enough", "operator")
    assert check("scout", held) == (False, "cancelled, or lost to another holder")
    at_level(station, Level.GUIDE)
    scout.propose("k-2", objective="try it")
    assert "rehearsal" in check("scout", scout.hold())[1]


def test_a_claim_of_another_session_or_epoch_is_not_ours(scout: Scout) -> None:
    scout.propose()
    held = scout.hold()
    for wrong in (Held(session="s2", task_id=held.task_id, epoch=1), Held(session="s1", task_id=held.task_id, epoch=2)):
        assert scout.beat(wrong) == "LOST"
        assert not scout.joining.check("scout", wrong)[0]
        with pytest.raises(LeaseLost):
            scout.ack(wrong, status="failed")
        with pytest.raises(LeaseLost):
            scout.joining.nack("scout", wrong, 0, "")
    assert scout.beat(held) == "GO_ON"


def test_what_belongs_to_another_agent_is_not_there(station: Station, scout: Scout) -> None:
    scout.propose()
    held = scout.hold()
    rover = Scout(station, "rover", ("roving", "sorting"))
    calls: list[Callable[[], object]] = [
        lambda: rover.joining.task("rover", held.task_id),
        lambda: rover.claim(held.task_id),
        lambda: rover.beat(held),
        lambda: rover.joining.check("rover", held),
        lambda: rover.ack(held),
        lambda: rover.joining.nack("rover", held, 0, ""),
        lambda: rover.joining.report("rover", "mine", held.task_id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_lease_that_ran_out_is_given_to_the_next_and_fences_the_first(station: Station, scout: Scout) -> None:
    scout.propose()
    held = scout.hold()
    for _ in range(2):
        station.cbo.reap()
        station.clock.advance(joining.LEASE_SECONDS)
    station.cbo.reap()
    station.clock.advance(2)
    station.cbo.reap()
    claim, _ = scout.claim(session="s2").claims[0]
    assert claim.epoch == 2
    assert scout.beat(held) == "LOST"
    with pytest.raises(LeaseLost):
        scout.ack(held, status="failed")


def test_claims_nobody_heard_of_go_back(scout: Scout) -> None:
    scout.propose()
    taken = scout.claim()
    scout.joining.give_back(taken)
    scout.joining.give_back(taken)
    assert scout.claim().claims[0][0].epoch == 2


# acks


@pytest.mark.parametrize(
    ("level", "wrong", "why"),
    [
        (Level.EXECUTE, {"status": "rehearsed"}, "no answer to this task"),
        (Level.EXECUTE, {"status": "expired"}, "no answer"),
        (Level.EXECUTE, {"status": "undone"}, "no answer"),
        (Level.EXECUTE, {"status": "perfect"}, "no answer"),
        (Level.GUIDE, {"status": "done"}, "no answer"),
        (Level.GUIDE, {"status": "rehearsed"}, "shows its plan"),
        (Level.GUIDE, {"status": "failed", "applied": True}, "applies nothing"),
        (Level.EXECUTE, {"claims_json": '[{"kind": "belief", "target": "me"}]'}, "no prober checks"),
        (Level.EXECUTE, {"claims_json": "{}"}, "JSON list"),
        (Level.EXECUTE, {"claims_json": json.dumps([DIGEST] * 201)}, "at most 200"),
        (Level.EXECUTE, {"effects_json": '["x"]'}, "objects"),
        (Level.EXECUTE, {"effects_json": "[" * 100_000}, "not JSON"),
        (Level.EXECUTE, {"effects_json": "nonsense"}, "not JSON"),
        (Level.EXECUTE, {"effects_json": json.dumps([{"step": "x" * 1_100_000}])}, "at most"),
        (Level.EXECUTE, {"plan_json": "[]"}, "JSON object"),
        (Level.EXECUTE, {"cost": {"cpu_seconds": float("nan")}}, "finite"),
        (Level.EXECUTE, {"detail": "half \ud800"}, "surrogate"),
    ],
)  # fmt: skip
def test_an_account_that_is_no_ack_is_refused_and_the_claim_stays(
    station: Station, scout: Scout, level: Level, wrong: dict[str, Any], why: str
) -> None:
    at_level(station, level)
    scout.propose()
    held = scout.hold()
    with pytest.raises(InvalidInput, match=why):
        scout.ack(held, **wrong)
    assert scout.beat(held) == "GO_ON"
    assert scout.ack(held, status="failed", detail="x" * 5000) == ("failed", True)


@given(said=st.floats(allow_nan=True) | st.none(), elapsed=st.floats(0, 500))
def test_the_times_of_an_ack_lie_between_claim_and_now(said: float | None, elapsed: float) -> None:
    from datetime import UTC, datetime, timedelta

    from chassis.exchange.manifest import Manifest, TaskId
    from chassis.exchange.port import Claim
    from services.cbo.answers import ack_of

    begin = datetime(2026, 1, 1, tzinfo=UTC)
    task = Manifest(
        station_id="st", task_id=TaskId("t"), owner="scout", issuer="cbo", domain="d", procedure="p", created_at=begin,
        expires_at=begin, ttl_seconds=1,
    )  # fmt: skip
    now = begin + timedelta(seconds=elapsed)
    made = ack_of(
        Claim(manifest=task, epoch=1, worker="scout.s"),
        Answer(status="done", duration_seconds=said),
        now=now,
        claimed_at=begin,
    )
    assert begin - timedelta(microseconds=1) <= made.started_at <= made.ended_at == now
    assert 0 <= made.duration_seconds <= elapsed + 1e-6


def test_an_effect_is_judged_by_the_guardian_and_not_by_who_did_it(station: Station, scout: Scout) -> None:
    at_level(station, Level.EXECUTE)
    task = scout.propose()
    held = scout.hold()
    station.clock.advance(5)
    scout.ack(held, claims_json=json.dumps([DIGEST]), files_changed=1, applied=True)
    station.probers["guardian"].verdict = "refuted"
    station.cbo.run_pulse()
    kept = station.cbo.bridge.store.task(task.id)
    assert station.probers["guardian"].asked == [task.id]
    assert kept.scored and kept.stability == 0.0


# undo


def done_task(station: Station, scout: Scout, domain: str) -> Task:
    at_level(station, Level.EXECUTE, domain)
    task = scout.propose(domain=domain)
    effects = [{"op": "create", "target": str(station.layout.root / "work" / "out" / "x")}]
    scout.ack(scout.hold(), claims_json=json.dumps([DIGEST]), effects_json=json.dumps(effects), applied=True)
    return station.cbo.bridge.store.task(task.id)


def test_an_agent_undoes_what_it_did_also_under_the_kill_switch(station: Station, scout: Scout) -> None:
    task = done_task(station, scout, "sorting")
    station.cbo.desk.set_kill_switch(True, "look", "operator")
    asked = station.cbo.desk.undo(task.id, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    assert not asked.done and "scout has not answered yet" in asked.detail
    held = scout.hold()
    assert held.task_id == asked.task_id and scout.manifest(station.cbo.bridge.store.task(held.task_id)).undo_of
    assert scout.beat(held) == "GO_ON" and scout.joining.check("scout", held) == (True, "")
    with pytest.raises(InvalidInput, match="undone, failed, cancelled"):
        scout.ack(held, status="done")
    assert scout.ack(held, status="undone", effects_json='[{"step": "removed x"}]') == ("undone", True)
    assert station.cbo.bridge.store.task(task.id).state == "undone"


def test_effects_in_the_stations_journal_are_undone_by_whom_the_domain_names(station: Station) -> None:
    scout = Scout(station, domains=("watched",))
    task = done_task(station, scout, "watched")
    asked = station.cbo.desk.undo(task.id, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    assert station.cbo.bridge.store.task(asked.task_id).owner == "governor"
    assert not scout.claim().claims
    assert scout.joining.task("scout", asked.task_id).owner == "governor", "its agent may watch it"
    station.agent()
    station.cbo.reap()
    assert station.cbo.bridge.store.task(task.id).state == "undone"


# knowing and telling


def test_recall_is_of_ones_own_domains_alone(station: Station, scout: Scout) -> None:
    station.memory.matches = tuple(
        Recalled(
            id=f"x-{domain}", cosine=cosine, domain=domain, procedure="p", outcome="success", tes=None, rehearsal=False
        )
        for domain, cosine in (("sorting", 0.9), ("asking", 0.95), ("diagnostics", 0.99))
    )
    recall = scout.joining.recall
    assert [each.domain for each in recall("scout", "sort", "", 0, 0.0)] == ["asking", "sorting"]
    assert [each.domain for each in recall("scout", "sort", "", 0, 0.92)] == ["asking"]
    with pytest.raises(PermissionDenied):
        recall("scout", "sort", "diagnostics", 0, 0.0)
    with pytest.raises(InvalidInput):
        recall("scout", "", "", 0, 0.0)


def test_a_report_goes_into_the_audit_log_and_onto_the_list(station: Station, scout: Scout) -> None:
    task = scout.propose()
    scout.joining.report("scout", "half done", task.id)
    assert station.cbo.agents.all()[0].report == "half done"
    line = station.audit("agent.reported")[0]
    assert (line["agent"], line["text"], line["task"]) == ("scout", "half done", task.id)
    for wrong in ("", "x" * 2001):
        with pytest.raises(InvalidInput):
            scout.joining.report("scout", wrong, "")


# requeue, restart


def test_a_dead_task_is_requeued_within_its_time_and_probed_anew(station: Station, scout: Scout) -> None:
    at_level(station, Level.EXECUTE, "asking")
    task = scout.propose(domain="asking")
    with pytest.raises(Refused, match="only a dead task"):
        station.cbo.desk.requeue(task.id, "operator")
    scout.joining.nack("scout", scout.hold(), 0, "can't")
    station.cbo.run_pulse()
    dead = station.cbo.bridge.store.task(task.id)
    assert dead.state == "dead" and dead.scored and dead.tes is not None
    assert station.cbo.desk.requeue(task.id, "operator").state == "ready"
    assert station.audit("task.requeued")[0]["tes"] == dead.tes
    scout.ack(scout.hold(), claims_json=json.dumps([DIGEST]))
    station.clock.advance(60)
    station.cbo.run_pulse()
    assert station.probers["guardian"].asked == [task.id]
    late = station.cbo.desk.approve(scout.propose("k-2", "asking", "too late").id, "", "operator")
    scout.joining.nack("scout", scout.hold(), 0, "can't")
    station.clock.advance(601)
    station.cbo.reap()
    with pytest.raises(Refused, match="submit its objective again"):
        station.cbo.desk.requeue(late.id, "operator")


def test_a_restart_in_the_middle_of_a_claim_loses_neither_claim_nor_task(station: Station) -> None:
    def restart() -> None:
        station.cbo.close()
        station.exchange = FilesExchange(  # type: ignore[assignment]  # the real one, new as in a new process
            station.layout.svf, station.clock, lambda manifest: bool(manifest.grant), station.kill_switch
        )
        station.open()

    restart()
    scout = Scout(station)
    first, second = scout.propose("a", objective="a"), scout.propose("b", objective="b")
    held = scout.hold(first.id)
    station.clock.advance(3)
    restart()
    assert scout.beat(held) == "GO_ON"
    assert scout.joining.task("scout", first.id).state == "claimed"
    station.clock.advance(3)
    assert scout.ack(held, status="no_work") == ("no_work", True)
    ack = station.exchange.get(first.id).ack
    assert ack is not None and ack.duration_seconds == 6.0, "the claim's time outlives the restart too"
    restart()
    assert scout.ack(held, status="failed") == ("no_work", False)
    assert scout.propose("b", objective="b").id == second.id
    assert [task.id for _, task in scout.claim(limit=16).claims] == [second.id]


# who may be ended


def proc(root: Path, **processes: tuple[int, int, bytes]) -> Path:
    """A small /proc: name → (pid, parent, command line); `self` is the CBO's own."""
    for name, (pid, parent, command) in processes.items():
        for folder in {str(pid), *(["self"] if name == "cbo" else [])}:
            (root / folder / "ns").mkdir(parents=True)
            (root / folder / "stat").write_text(f"{pid} (a) b) S {parent} " + "0 " * 17 + "77 0\n")
            (root / folder / "cmdline").write_bytes(command)
            (root / folder / "ns" / "pid").touch()
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text("boot\n")
    return root


def test_an_agent_aims_the_reaper_at_no_process_of_the_station(tmp_path: Path) -> None:
    here = proc(
        tmp_path,
        shell=(5, 1, b"sh\0"), supervisor=(10, 5, b"supervisord\0"), cbo=(11, 10, b"python\0-m\0services.cbo\0"),
        guardian=(12, 10, b"python\0-m\0services.guardian\0"), agent=(20, 5, b"bash\0"), child=(21, 20, b"work\0"),
    )  # fmt: skip
    namespace = (here / "self/ns/pid").stat().st_ino

    def named(pid: int, **other: Any) -> Holder | None:
        facts = {"pid": pid, "start_ticks": 77, "boot_id": "boot", "pid_namespace": namespace, **other}
        return accepted(Holder(**facts), proc=here)

    assert named(20) is not None and named(21) is not None
    for pid in (5, 10, 11, 12):
        with pytest.raises(Refused, match="station's own"):
            named(pid)
    for unseen in (
        {"boot_id": "another"}, {"pid_namespace": 1}, {"start_ticks": 78},
    ):  # fmt: skip
        assert named(20, **unseen) is None
    assert named(99) is None and named(0) is None and named(-1) is None


def test_every_refusal_is_one_of_the_stations_own_errors(scout: Scout) -> None:
    calls: list[Callable[[], object]] = [
        lambda: scout.claim("t-none"),
        lambda: scout.beat(Held(session="s1", task_id="../x", epoch=1)),
        lambda: scout.beat(Held(session="s1", task_id="", epoch=0)),
        lambda: scout.ack(Held(session="", task_id="x" * 500, epoch=-1)),
    ]
    for call in calls:
        with pytest.raises(CalyxError):
            call()


def test_a_crash_between_keeping_and_sending_a_proposal_loses_and_repeats_nothing(station: Station) -> None:
    class Gone(BaseException):
        """The process ended here."""

    def fault(point: str) -> None:
        if point == "submitted":
            raise Gone

    scout = Scout(station)
    station.cbo.close()
    station.open(fault)
    with pytest.raises(Gone):
        scout.propose()
    station.cbo.close()
    station.open()
    task = scout.propose()
    assert task.state == "ready" and task.dispatched_at is not None
    assert station.exchange.depth()["ready"] == 1 and len(station.audit("task.dispatched")) == 2
    assert [each.id for _, each in scout.claim(limit=16).claims] == [task.id]
