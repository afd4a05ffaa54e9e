"""What was refuted or regressed is undone by the station itself, where its manifest says so (`undo_on_regression`).

The wish is kept in the commit that holds the regression, and carried out after it, so that neither is ever lost.
"""

import json

import structlog

from chassis.clock import iso, parse_iso
from chassis.errors import CalyxError, NotFound, Refused
from services.cbo.bridge import Bridge
from services.cbo.desk import STATION, Desk
from services.cbo.tasks import Task
from services.cbo.waiting import REVERSING

log = structlog.get_logger(__name__)


def reverse(bridge: Bridge, task: Task, why: str) -> None:
    """Inside the transaction that keeps the regression. An undo is not undone by itself."""
    manifest = bridge.domains.get(task.domain)
    if manifest is not None and manifest.undo_on_regression and not task.undo_of:
        bridge.store.set_fact(f"reverse:{task.id}", why)


class Reversals:
    """Asks for the undos that are due. What can't be undone (drift, tasks that stand on it) is left to a person, who
    finds it in the inbox for as long as an answer may take."""

    def __init__(self, bridge: Bridge, desk: Desk) -> None:
        self._bridge, self._desk = bridge, desk

    def notice(self) -> None:
        store = self._bridge.store
        for name, why in store.rows("facts_like", "reverse:"):
            task_id, refused = name.removeprefix("reverse:"), ""
            try:
                self._desk.undo(task_id, dry_run=False, cascade=False, who=STATION, wait_seconds=0.0)
            except (Refused, NotFound) as error:
                refused = error.message
                self._bridge.audit.write("undo.refused", task=task_id, by=STATION, because=why, why=refused)
            except CalyxError as error:
                log.warning("a regression is not undone yet, tried again", task=task_id, why=error.message)
                continue
            asked = {"why": why, "refused": refused, "at": iso(self._bridge.clock.now())}
            with store.transaction():
                store.set_fact(f"{REVERSING}{task_id}", json.dumps(asked))
                store.run("fact_drop", name)
        for name, kept in store.rows("facts_like", REVERSING):
            task = store.find_task(name.removeprefix(REVERSING))
            over = parse_iso(json.loads(kept)["at"]) + self._bridge.options.answer_within
            if task is None or task.state == "undone" or self._bridge.clock.now() >= over:
                store.run("fact_drop", name)
