"""An undo is undone only where whoever did it says that it kept what it changed."""

import pytest
from cbo_station import Station

from chassis.errors import Refused


@pytest.fixture
def undone(station: Station) -> tuple[Station, str]:
    """A station, and its task that did something."""
    station.pulse(8)
    return station, next(task.task_id for task in station.done if not task.rehearsal)


def ask(station: Station, task: str, *, dry_run: bool = False) -> str:
    asked = station.cbo.desk.undo(task, dry_run=dry_run, cascade=False, who="operator", wait_seconds=0)
    station.agent()
    station.cbo.reap()
    return asked.task_id


def test_an_undo_that_kept_what_it_changed_is_undone_by_its_own_task_and_audited(undone: tuple[Station, str]) -> None:
    station, task = undone
    station.answer.effects = ({"step": "put a back", "kept": True},)
    undo = ask(station, task)
    assert station.cbo.desk.undo_possible(station.cbo.bridge.store.task(undo))[0]
    said = station.cbo.desk.undo(task, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    assert f"calyx undo {undo}" in said.detail
    redo = ask(station, undo)
    assert station.done[-1].undo_of == undo and station.done[-1].task_id == redo
    assert station.cbo.bridge.store.task(undo).state == "undone"
    assert [each["task"] for each in station.audit("task.undo")] == [task, undo]


def test_an_undo_of_which_nothing_was_kept_is_not_undone(undone: tuple[Station, str]) -> None:
    station, task = undone
    undo = ask(station, task)
    with pytest.raises(Refused, match="was not kept"):
        ask(station, undo)


def test_a_dry_run_is_nothing_to_undo(undone: tuple[Station, str]) -> None:
    station, task = undone
    station.answer.effects = ({"step": "put a back", "kept": True},)
    dry = ask(station, task, dry_run=True)
    with pytest.raises(Refused, match="nothing was changed"):
        ask(station, dry)
