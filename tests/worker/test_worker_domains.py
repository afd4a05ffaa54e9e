"""The station's side of an outside program's work: its files are looked at, and put back, by agents of the station."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "exchange"))
from exchange_world import VERIFIER, World

from chassis.agent import Agent, build_agent
from chassis.audit import Audit
from chassis.canonical import canonical_json, sha256_hex
from chassis.clock import iso
from chassis.domain_book import PAYLOAD_TYPE, DomainBook
from chassis.domains import load_domains
from chassis.errors import Refused
from chassis.exchange.manifest import TaskId
from chassis.journal import Journal, consent_within
from chassis.layout import DEPLOY, Layout
from chassis.probing import Check, Verdict, run_checks
from chassis.signing import load_key, make_key, seal
from chassis.worker import no_leases

BUILTIN = load_domains(DEPLOY / "domains")


class Yard(World):
    """A station whose governor answers undo tasks, and a folder outside that an admitted domain declares."""

    def __init__(self, root: Path) -> None:
        super().__init__("files", root / "station")
        self.layout = Layout(self.root)
        self.notes = (root / "notes").resolve()
        self.notes.mkdir()
        self.book = DomainBook(self.layout, BUILTIN, self.clock)
        make_key(root / "alice.key", self.layout.operator_keys / "alice.pub")
        self.key = root / "alice.key"
        self.admit()
        self.governor = self.agent()

    def agent(self) -> Agent:
        return build_agent(
            "governor",
            [],
            layout=self.layout,
            exchange=self.exchange,
            verifier=VERIFIER.valid,
            kill_switch=self.kill_switch,
            domains=BUILTIN.values(),
            clock=self.clock,
            audit=Audit(self.layout.audit("governor"), self.clock, "governor"),
            leases=no_leases,
            station_id="st-1",
            heartbeat_seconds=None,
        )

    def admit(self) -> None:
        raw = {
            "domain": "notes", "title": "Notes", "serial": 1, "owner": "noter", "prober": "guardian",
            "effects": "reversible", "procedures": ["run"], "probes": [], "paths": [str(self.notes)],
            "undo_by": "governor", "rehearses": False, "expires_at": iso(self.clock.now()).replace("2026", "2027"),
        }  # fmt: skip
        self.layout.admitted.mkdir(parents=True, exist_ok=True)
        sealed = seal(canonical_json(raw), PAYLOAD_TYPE, load_key(self.key))
        (self.layout.admitted / "notes.json").write_bytes(sealed)

    def run(self, task_id: str) -> Path:
        """What `calyx run` does: the change goes through the station's journal, under the domain's own folders."""
        journal = Journal(self.layout.journal, self.clock, consent_within([self.notes]))
        target, source = self.notes / "a.txt", self.root / "made"
        target.write_text("before")
        source.write_text("after")
        with journal.session(task_id, 1, lambda: None) as effects:
            effects.replace(target, source)
            effects.finish({"status": "done"})
        assert target.read_text() == "after"
        return target

    def probe(self, target: Path, text: str) -> Verdict:
        check = Check(kind="file_digest", target=str(target), expect={"sha256": sha256_hex(text.encode())})
        return run_checks([check], roots=[self.layout.root, *self.book.folders()]).verdict


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_the_governor_puts_back_what_an_outside_program_changed(yard: Yard) -> None:
    target = yard.run("t-1")
    yard.exchange.submit(yard.task("u-t-1", domain="notes", procedure="run", undo_of="t-1", level="EXECUTE"))
    yard.governor.step()
    ack = yard.exchange.get(TaskId("u-t-1")).ack
    assert ack is not None
    assert (ack.status, ack.applied) == ("undone", True)
    assert target.read_text() == "before"


def test_an_undo_needs_no_domain_that_is_still_admitted(yard: Yard) -> None:
    target = yard.run("t-1")
    (yard.layout.admitted / "notes.json").unlink()
    yard.exchange.submit(yard.task("u-t-1", domain="notes", procedure="run", undo_of="t-1", level="EXECUTE"))
    yard.governor.step()
    assert target.read_text() == "before"


def test_the_governor_itself_changes_nothing_under_an_outside_programs_folder(yard: Yard) -> None:
    own = yard.governor._journal
    source = yard.root / "made"
    source.write_text("x")
    with (
        pytest.raises(Refused, match="outside the folders"),
        own.session("t-2", 1, lambda: None) as effects,
    ):
        effects.create(yard.notes / "b.txt", source)
    assert not (yard.notes / "b.txt").exists()


def test_a_prober_looks_under_the_folders_of_admitted_domains_and_nowhere_else(yard: Yard, tmp_path: Path) -> None:
    inside, outside = yard.notes / "a.txt", tmp_path / "b.txt"
    inside.write_text("found")
    outside.write_text("found")
    assert yard.probe(inside, "found") is Verdict.CONFIRMED
    assert yard.probe(inside, "claimed") is Verdict.REFUTED
    assert yard.probe(outside, "found") is Verdict.INCONCLUSIVE
    (yard.layout.admitted / "notes.json").unlink()
    assert yard.probe(inside, "found") is Verdict.INCONCLUSIVE


def test_a_declared_folder_that_became_a_link_is_not_followed(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.txt").write_text("found")
    yard.notes.rmdir()
    yard.notes.symlink_to(tmp_path / "private")
    assert yard.book.folders() == []
    assert yard.probe(yard.notes / "a.txt", "found") is Verdict.INCONCLUSIVE


def test_the_book_sees_every_change_and_an_iterator_does_not(yard: Yard) -> None:
    names, pairs = iter(yard.book), yard.book.items()
    (yard.layout.admitted / "notes.json").unlink()
    assert "notes" in list(names)
    assert "notes" in dict(pairs)
    assert set(yard.book) == set(BUILTIN)
    yard.admit()
    assert [each.domain for each in yard.book.admitted()] == ["notes"]
    assert yard.book["notes"].signed_by.startswith("alice (")
    assert yard.book.folders("governor") == [yard.notes]
    assert yard.book.folders("noter") == []
    with (yard.layout.admitted / "notes.json").open("a") as file:
        file.write(" ")
    assert "notes" in yard.book
    (yard.layout.admitted / "notes.json").write_text("{}")
    assert (set(yard.book), list(yard.book.faults)) == (set(BUILTIN), ["notes.json"])
    yard.admit()
    assert yard.book.out_of_time("notes") == ""
    yard.clock.advance(400 * 86400)
    assert yard.book.out_of_time("notes").startswith("expired at")
