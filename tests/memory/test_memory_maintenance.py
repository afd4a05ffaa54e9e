"""The index held against the store: what is off is found and derived anew, and a prober can read what was done."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from memory_fakes import START, experience

from chassis.clock import VirtualClock
from chassis.drill import drill, tree
from chassis.errors import InvalidInput, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, consent_within
from chassis.layout import Layout
from chassis.probing import Check, Verdict, run_checks
from chassis.work import Outcome
from services.memory.maintenance import AGENT, IndexMaintenance
from services.memory.memory import Memory

Make = Callable[..., Memory]


class Yard:
    def __init__(self, root: Path, memory: Memory) -> None:
        self.root, self.memory, self.clock, self.tasks = root, memory, VirtualClock(START), 0
        self.layout = Layout(root)
        self.work = IndexMaintenance.of(memory, self.layout, self.clock, self.clock.monotonic, "st-1")
        self.journal = Journal(self.layout.journal, self.clock, consent_within([self.layout.memory / "maintenance"]))
        for number, words in enumerate(("rotate the logs", "clean the disk", "write a report")):
            memory.record(experience(number, objective=words))

    def task(self, procedure: str, **params: str) -> Manifest:
        self.tasks += 1
        return Manifest(
            station_id="st-1", task_id=TaskId(f"t-{self.tasks}"), owner=AGENT, issuer="cbo",
            domain="index_maintenance", procedure=procedure, created_at=START,
            expires_at=START + timedelta(hours=1), ttl_seconds=600, params=params,
        )  # fmt: skip

    def scratch(self) -> Path:
        folder = self.layout.work(AGENT) / f"s{len(list(self.layout.work(AGENT).glob('*')))}"
        folder.mkdir(parents=True)
        return folder

    def perform(self, procedure: str) -> Outcome:
        given = self.task(procedure)
        with self.journal.session(given.task_id, 1, lambda: None) as effects:
            outcome = self.work.perform(given, self.scratch(), effects)
            effects.finish({})
        return outcome


@pytest.fixture
def yard(tmp_path: Path, make_memory: Make) -> Yard:
    return Yard(tmp_path, make_memory())


def verdict(claims: tuple[dict[str, object], ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


@pytest.mark.parametrize("procedure", IndexMaintenance.procedures)
def test_a_run_is_recorded_probed_and_undone_and_the_next_finds_nothing_to_do(yard: Yard, procedure: str) -> None:
    plan = yard.work.rehearse(yard.task(procedure), yard.scratch())
    assert (len(plan.changes), verdict(plan.claims)) == (1, Verdict.CONFIRMED)
    assert yard.work.rehearse(yard.task(procedure), yard.scratch()).digest == plan.digest
    before = tree(yard.layout.memory)
    outcome = yard.perform(procedure)
    assert verdict(outcome.claims) is Verdict.CONFIRMED
    assert yard.perform(procedure).no_work
    yard.memory.record(experience(9, objective="something new"))
    assert not yard.perform(procedure).no_work
    for number in (5, 3):
        yard.journal.undo(f"t-{number}")
    assert set(tree(yard.layout.memory)) == set(before)


@pytest.mark.parametrize("procedure", IndexMaintenance.procedures)
def test_an_entry_too_many_is_found_and_the_index_derived_anew(yard: Yard, procedure: str) -> None:
    index = yard.memory.shelf.index
    index.add([999], np.ones((1, 64), dtype=np.float32))
    assert not yard.perform(procedure).no_work
    assert 999 not in yard.memory.shelf.index


def test_a_vector_that_differs_is_found_where_vectors_are_compared(yard: Yard) -> None:
    yard.perform("vectors")
    shelf, (key, *others) = yard.memory.shelf, sorted(yard.memory.shelf.index.keys())
    true = shelf.index.vectors([key])[key]
    kept = np.frombuffer(b"".join(shelf.index.vectors(others)[each] for each in others), dtype="<f4")
    wrong = np.ones((1, 64), dtype=np.float32)
    shelf.index.rebuild([([key], wrong), (others, kept.reshape(len(others), 64))])
    assert yard.perform("keys").no_work, "it looks at which there are, not at what they hold"
    assert not yard.perform("vectors").no_work
    assert shelf.index.vectors([key])[key] == true


def test_every_procedure_passes_its_drill_and_an_unknown_one_or_another_folder_is_refused(yard: Yard) -> None:
    for procedure in IndexMaintenance.procedures:
        folder = yard.layout.work(AGENT) / ".drill"
        assert drill(yard.work, procedure, folder, yard.clock, agent=AGENT, station_id="s", effectless=False) is None
    with pytest.raises(InvalidInput):
        yard.work.rehearse(yard.task("all"), yard.scratch())
    with pytest.raises(Refused):
        yard.work.rehearse(yard.task("keys", folder=str(yard.root)), yard.scratch())
