"""A procedure that changed under a running agent: drilled anew before it acts again, and given back until it passes."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))
from exchange_world import VERIFIER, World

from chassis.agent import DRILL_AGAIN_SECONDS, Agent, build_agent
from chassis.audit import Audit
from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.domain_book import PAYLOAD_TYPE, DomainBook
from chassis.domains import DomainManifest, LiveDomains, load_domains
from chassis.errors import InvalidInput
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.layout import DEPLOY, Layout
from chassis.signing import load_key, make_key, seal
from chassis.work import Effects, Outcome, Plan, Work
from chassis.worker import GIVEN_BACK_SECONDS, no_leases
from services.cbo.drills import Drills

AGENT, DOMAIN, PROCEDURE = "noter", "notes", "turn"


class Turning:
    """Turns the text of one file round. `spoils`: it also writes where the journal does not see it."""

    domain = DOMAIN
    procedures = (PROCEDURE,)

    def __init__(self) -> None:
        self.drills = 0
        self.spoils = False

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        return Plan(changes=())

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        target = Path(task.params["file"])
        self.drills += "drill" in task.task_id
        (scratch / "made").write_text(target.read_text()[::-1])
        effects.replace(target, scratch / "made")
        if self.spoils:
            target.write_text("behind the journal's back")
        return Outcome(detail="turned")

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / "a.txt").write_text("drill")
        return {"file": str(folder / "a.txt")}


class Yard(World):
    """A station with one admitted domain, and the real worker of its agent on the virtual clock."""

    def __init__(self, root: Path, work: Any = None) -> None:
        super().__init__("files", root / "station")
        self.layout, self.work = Layout(self.root), work or Turning()
        self.notes = (root / "notes").resolve()
        self.notes.mkdir()
        self.file = self.notes / "a.txt"
        self.file.write_text("abc")
        make_key(root / "alice.key", self.layout.operator_keys / "alice.pub")
        self.key = root / "alice.key"
        self.book = DomainBook(self.layout, load_domains(DEPLOY / "domains"), self.clock)
        self.admit(1)
        self.agent = self.started([self.work], self.book)
        self.said = Drills(self.layout, self.book)

    def started(self, works: list[Work], domains: Mapping[str, DomainManifest]) -> Agent:
        return build_agent(
            AGENT,
            works,
            layout=self.layout,
            exchange=self.exchange,
            verifier=VERIFIER.valid,
            kill_switch=self.kill_switch,
            domains=domains,
            clock=self.clock,
            audit=Audit(self.layout.audit(AGENT), self.clock, AGENT),
            leases=no_leases,
            station_id="st-1",
            heartbeat_seconds=None,
        )

    def admit(self, serial: int) -> None:
        """One edition, as it lies there at once when a person has approved it."""
        raw = {
            "domain": DOMAIN, "title": "Notes", "serial": serial, "owner": AGENT, "prober": "guardian",
            "effects": "reversible", "procedures": [PROCEDURE], "probes": ["absent"], "paths": [str(self.notes)],
            "expires_at": iso(self.clock.now()).replace("2026", "2027"),
        }  # fmt: skip
        self.layout.admitted.mkdir(parents=True, exist_ok=True)
        sealed = seal(canonical_json(raw), PAYLOAD_TYPE, load_key(self.key))
        (self.layout.admitted / f"{DOMAIN}.json").write_bytes(sealed)

    def submit(self, task_id: str, **fields: Any) -> None:
        values = {"owner": AGENT, "domain": DOMAIN, "procedure": PROCEDURE, "level": "EXECUTE", **fields}
        self.exchange.submit(self.task(task_id, params={"file": str(self.file)}, **values))

    def ack(self, task_id: str) -> Ack | None:
        return self.exchange.get(TaskId(task_id)).ack

    def done(self, task_id: str) -> bool:
        found = self.ack(task_id)
        return found is not None and found.status == "done"

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.exchange.sweep()
        self.agent.step()

    def audited(self, event: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.layout.audit(AGENT).read_text().splitlines())
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    yard = Yard(tmp_path)
    yard.agent.step()
    assert yard.work.drills == 1
    return yard


def test_a_new_edition_of_the_manifest_is_drilled_before_the_next_task_acts(yard: Yard) -> None:
    yard.admit(2)
    assert not yard.said(AGENT, DOMAIN, PROCEDURE)
    assert "another edition of notes" in yard.said.barred(AGENT, DOMAIN, PROCEDURE)
    yard.submit("t-1")
    yard.agent.step()
    assert yard.work.drills == 2 and yard.done("t-1") and yard.file.read_text() == "cba"
    assert [each["why"] for each in yard.audited("drill.repeated")] == ["its manifest changed"]
    assert yard.said(AGENT, DOMAIN, PROCEDURE) and not yard.said.barred(AGENT, DOMAIN, PROCEDURE)
    yard.submit("t-2")
    yard.agent.step()
    assert yard.work.drills == 2 and yard.done("t-2"), "the same edition is not drilled twice"


def test_without_any_task_a_new_edition_is_drilled_within_a_minute(yard: Yard) -> None:
    yard.admit(2)
    yard.later(DRILL_AGAIN_SECONDS)
    assert yard.work.drills == 2 and yard.said(AGENT, DOMAIN, PROCEDURE)


def test_while_the_new_drill_fails_the_task_is_given_back_and_done_once_it_passes(yard: Yard) -> None:
    yard.admit(2)
    yard.work.spoils = True
    yard.submit("t-1")
    yard.agent.step()
    view = yard.exchange.get(TaskId("t-1"))
    assert (view.state, view.ack, view.epoch) == ("waiting", None, 2), "given back: neither failed nor lost"
    assert yard.file.read_text() == "abc"
    (failed,) = yard.audited("drill.failed")
    assert "a.txt" in failed["reason"]
    assert "did not pass its drill" in yard.said.barred(AGENT, DOMAIN, PROCEDURE)
    yard.work.spoils = False
    yard.later(GIVEN_BACK_SECONDS)
    assert yard.done("t-1") and yard.file.read_text() == "cba"
    assert yard.said(AGENT, DOMAIN, PROCEDURE)


def test_rehearsals_and_undos_wait_for_no_drill(yard: Yard) -> None:
    yard.submit("t-1")
    yard.agent.step()
    yard.admit(2)
    yard.work.spoils = True
    yard.submit("r-1", rehearsal=True, level="GUIDE")
    yard.submit("u-1", undo_of="t-1")
    yard.agent.step()
    rehearsed, undone = yard.ack("r-1"), yard.ack("u-1")
    assert rehearsed is not None and rehearsed.status == "no_work"
    assert undone is not None and undone.status == "undone" and yard.file.read_text() == "abc"


def test_a_domain_that_was_withdrawn_holds_no_drill(yard: Yard) -> None:
    (yard.layout.admitted / f"{DOMAIN}.json").unlink()
    yard.submit("t-1")
    yard.agent.step()
    assert yard.ack("t-1") is None and yard.file.read_text() == "abc"
    assert yard.said.barred(AGENT, DOMAIN, PROCEDURE)
    yard.admit(2)
    yard.later(GIVEN_BACK_SECONDS)
    assert yard.done("t-1")


def test_changed_code_is_drilled_anew_and_touched_code_is_not(tmp_path: Path) -> None:
    source = tmp_path / "code" / "turning.py"
    source.parent.mkdir()
    shutil.copy(__file__, source)
    spec = importlib.util.spec_from_file_location("turning_elsewhere", source)
    assert spec is not None and spec.loader is not None
    module = sys.modules["turning_elsewhere"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yard = Yard(tmp_path, module.Turning())
    yard.agent.step()
    os.utime(source, (1, 1))
    yard.submit("t-1")
    yard.agent.step()
    assert yard.done("t-1") and yard.work.drills == 1
    with source.open("a") as file:
        file.write("# another release\n")
    yard.submit("t-2")
    yard.agent.step()
    assert yard.done("t-2") and yard.work.drills == 2
    assert [each["why"] for each in yard.audited("drill.repeated")] == ["its code changed"]
    del sys.modules["turning_elsewhere"]


def test_a_built_in_manifest_is_read_again_when_its_file_changes_and_a_broken_one_holds_no_drill(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "domains"
    folder.mkdir()
    raw: dict[str, Any] = {
        "domain": DOMAIN, "title": "Notes", "serial": 1, "owner": AGENT, "prober": "guardian", "effects": "reversible",
        "procedures": [PROCEDURE], "probes": ["absent"], "paths": [str((tmp_path / "notes").resolve())],
    }  # fmt: skip
    (folder / "notes.yaml").write_text(yaml.safe_dump(raw))
    live = LiveDomains(folder)
    yard = Yard(tmp_path)
    agent = yard.agent = yard.started([yard.work], live)
    agent.step()
    (folder / "notes.yaml").write_text("domain: [half a manif")
    with pytest.raises(InvalidInput, match=r"notes.yaml: can't be parsed"):
        live[DOMAIN]
    yard.submit("t-1")
    agent.step()
    assert yard.ack("t-1") is None
    (folder / "notes.yaml").write_text(yaml.safe_dump({**raw, "serial": 2}))
    assert live[DOMAIN].serial == 2
    yard.later(GIVEN_BACK_SECONDS)
    assert yard.done("t-1") and yard.work.drills == 2
