"""Configuration against its known good generation: what differs is named, and put back by approval alone."""

from datetime import timedelta
from pathlib import Path

import pytest

from chassis.clock import VirtualClock, iso
from chassis.domains import Level, load_domains
from chassis.drill import drill, tree
from chassis.errors import Damaged, InvalidInput, NotFound, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, consent_within
from chassis.layout import DEPLOY, Layout
from chassis.probing import Check, Verdict, run_checks
from chassis.work import Outcome
from services.guardian.drift import ConfigDrift, Generations


class Yard:
    def __init__(self, root: Path) -> None:
        self.layout, self.clock, self.tasks = Layout(root / "station"), VirtualClock(), 0
        self.deploy = root / "deploy"
        for name in ("config/policy.yaml", "config/paths.json", "config/cbo.env", "keys/grant.pub"):
            self.put(name, f"{name} as it was")
        (self.deploy / "playbooks").mkdir(parents=True)
        (self.deploy / "playbooks" / "restart.yaml").write_text("restart")
        self.generations = Generations(self.layout, self.deploy)
        assert self.generations.found(iso(self.clock.now()))
        self.work = ConfigDrift(
            layout=self.layout, deploy=self.deploy, clock=self.clock, cpu_seconds=self.clock.monotonic
        )
        self.journal = Journal(
            self.layout.journal, self.clock, consent_within([self.layout.root / "config", self.generations.folder])
        )

    def put(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def task(self, procedure: str, **params: str) -> Manifest:
        self.tasks += 1
        return Manifest(
            station_id="st-1", task_id=TaskId(f"t-{self.tasks}"), owner="guardian", issuer="cbo",
            domain="config_drift", procedure=procedure, created_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(hours=1), ttl_seconds=600, params=params,
        )  # fmt: skip

    def scratch(self) -> Path:
        folder = self.layout.work("guardian") / f"s-{self.tasks}"
        folder.mkdir(parents=True)
        return folder

    def perform(self, procedure: str, **params: str) -> Outcome:
        given = self.task(procedure, **params)
        with self.journal.session(given.task_id, 1, lambda: None) as effects:
            outcome = self.work.perform(given, self.scratch(), effects)
            effects.finish({})
        return outcome


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def verdict(claims: tuple[dict[str, object], ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


@pytest.mark.parametrize("procedure", ConfigDrift.procedures)
def test_a_changed_policy_is_named_put_back_and_the_undo_brings_the_change_again(yard: Yard, procedure: str) -> None:
    assert yard.perform(procedure).no_work
    policy = yard.put("config/policy.yaml", "something else", 0o600)
    before = tree(yard.layout.root / "config")
    plan = yard.work.rehearse(yard.task(procedure), yard.scratch())
    assert [each.target for each in plan.changes] == [str(policy)]
    assert "config/policy.yaml was changed" in plan.notes and verdict(plan.claims) is Verdict.CONFIRMED
    outcome = yard.perform(procedure)
    assert policy.read_text() == "config/policy.yaml as it was" and verdict(outcome.claims) is Verdict.CONFIRMED
    assert (policy.stat().st_mode & 0o777 == 0o644) is (procedure == "strict")
    yard.journal.undo(f"t-{yard.tasks}")
    assert tree(yard.layout.root / "config") == before


def test_what_a_person_ordered_is_put_back_by_name_only_and_settings_keys_and_the_release_never(yard: Yard) -> None:
    paths = yard.put("config/paths.json", "more consents")
    for name in ("config/cbo.env", "keys/grant.pub"):
        yard.put(name, "other")
    (yard.deploy / "playbooks" / "restart.yaml").write_text("other")
    outcome = yard.perform("digest", files="config/cbo.env:keys/grant.pub:release/playbooks/restart.yaml")
    assert outcome.no_work
    for name in ("config/paths.json", "config/cbo.env", "keys/grant.pub", "release/playbooks/restart.yaml"):
        assert f"{name} was changed" in outcome.detail
    assert not yard.perform("digest", files="config/paths.json").no_work
    assert paths.read_text() == "config/paths.json as it was"


def test_a_person_accepts_what_is_there_and_goes_back_to_an_older_generation(yard: Yard) -> None:
    policy = yard.put("config/policy.yaml", "better rules")
    assert not yard.perform("times", accept="yes").no_work
    assert yard.generations.newest() == 2
    assert yard.perform("times").no_work and yard.perform("times", accept="yes").no_work
    assert not yard.perform("times", generation="1").no_work
    assert policy.read_text() == "config/policy.yaml as it was"


def test_a_file_that_is_gone_comes_back_and_a_new_one_is_only_named(yard: Yard) -> None:
    (yard.layout.root / "config" / "policy.yaml").unlink()
    stray = yard.put("config/stray.yaml", "who wrote this")
    outcome = yard.perform("strict")
    assert "config/policy.yaml is gone" in outcome.detail and "config/stray.yaml is new" in outcome.detail
    assert yard.layout.policy.is_file() and stray.is_file()


def test_a_generation_that_is_damaged_or_missing_puts_nothing_back(yard: Yard) -> None:
    yard.put("config/policy.yaml", "other")
    path = yard.generations.path(1)
    path.write_text(path.read_text().replace('"content":"', '"content":"AAAA', 1))
    for error, params in ((Damaged, {}), (NotFound, {"generation": "7"}), (InvalidInput, {"generation": "one"})):
        with pytest.raises(error):
            yard.work.rehearse(yard.task("times", **params), yard.scratch())
    assert yard.layout.policy.read_text() == "other"


def test_every_procedure_passes_its_drill_and_none_ever_acts_without_an_approval(yard: Yard) -> None:
    manifest = load_domains(DEPLOY / "domains")["config_drift"]
    assert manifest.max_level is Level.GUIDE and manifest.procedures == ConfigDrift.procedures
    for procedure in ConfigDrift.procedures:
        folder = yard.layout.work("guardian") / ".drill"
        assert (
            drill(yard.work, procedure, folder, yard.clock, agent="guardian", station_id="s", effectless=False) is None
        )
    with pytest.raises(Refused):
        yard.work.rehearse(yard.task("times", station=str(yard.deploy)), yard.scratch())
