"""What waits for a person: one list for the command, the page and the notices, and an end to waiting."""

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from chassis.clock import iso, parse_iso
from chassis.domain_book import ending
from chassis.domains import Level
from chassis.errors import CalyxError
from services.cbo.bridge import Bridge
from services.cbo.tasks import OPEN, Task

Kind = Literal["approval", "proposal", "renewal", "regression", "quarantine", "incident", "kill_switch"]
MOST = 200
"""Tasks in the list; more than that nobody answers one by one."""
FRESH_SECONDS = 120.0
REVERSING = "reversing:"
"""Facts: for which tasks the station asked for the undo, why, and what refused it."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing. `key` stays the same while it is the same thing: a newer plan of an objective, made in each pulse, is
    no news. `since` None is unknown."""

    kind: Kind
    id: str
    key: str
    title: str
    domain: str = ""
    since: datetime | None = None
    until: datetime | None = None
    commands: tuple[str, ...] = ()
    task: Task | None = None


def answer_until(task: Task, within: timedelta) -> datetime:
    """A plan is shown when its rehearsal has ended, a proposal when it is made."""
    shown = task.ended_at if task.state == "rehearsed" and task.ended_at is not None else task.created_at
    return shown + within


def approvable(task: Task) -> bool:
    """Whether a yes is all that it needs: a rehearsed plan, or what its agent can't rehearse."""
    return task.state == "rehearsed" or task.level is Level.GUIDE


def of_task(task: Task, within: timedelta) -> Item:
    reject = f'calyx task reject {task.id} --why "…"'
    if approvable(task):
        commands: tuple[str, ...] = (f"calyx task show {task.id}", f"calyx task approve {task.id}", reject)
    else:
        commands = (reject, f'calyx ladder set {task.domain} GUIDE --why "…"')
    return Item(
        kind="approval" if approvable(task) else "proposal",
        id=task.id,
        key=f"objective:{task.objective_id}" if task.objective_id else f"task:{task.id}",
        title=task.objective,
        domain=task.domain,
        since=answer_until(task, timedelta()),
        until=answer_until(task, within),
        commands=commands,
        task=task,
    )


class Waiting:
    """Thread-safe. Nobody who reads the list waits for the guardian: its part is what it said when `look` asked."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._lock = threading.Lock()
        self._faults: tuple[Item, ...] = ()
        self._asked: float | None = None
        self._trouble = ""

    def items(self) -> tuple[tuple[Item, ...], tuple[str, ...]]:
        """All of it, newest first; and what could not be asked."""
        bridge = self._bridge
        within = bridge.options.answer_within
        tasks = [of_task(each, within) for each in bridge.store.tasks("tasks_inbox", MOST)]
        with self._lock:
            faults, trouble, asked = self._faults, self._trouble, self._asked
        if asked is None:
            trouble = "faults: the guardian has not been asked yet"
        elif not trouble and (age := bridge.clock.monotonic() - asked) > FRESH_SECONDS:
            trouble = f"faults: as the guardian said {age:.0f} s ago"
        found = (*tasks, *self._renewals(), *self._regressions(), *faults, *self._stopped())
        newest = sorted(found, key=lambda each: each.since or _LONG_AGO, reverse=True)
        return tuple(newest), (trouble,) if trouble else ()

    def look(self) -> None:
        """Ask the guardian; when it is silent, what it said last stays in the list, and that is said."""
        bridge = self._bridge
        try:
            health = bridge.peers.guardian.health(bridge.clock.now())
            opened = {each.target: each for each in bridge.peers.guardian.open_incidents()}
        except CalyxError as error:
            with self._lock:
                self._asked, self._trouble = bridge.clock.monotonic(), f"faults: the guardian: {error.message}"
            return
        found = []
        for each in health.services:
            if each.state == "quarantined":
                incident = opened.get(each.service)
                found.append(_quarantine(each.service, incident.id if incident else "", each.detail,
                                         incident.opened_at if incident else None))  # fmt: skip
        shut = {each.id for each in found}
        for incident in opened.values():
            if incident.grade == "critical" and incident.target not in shut:
                found.append(
                    Item(
                        kind="incident",
                        id=incident.id,
                        key=f"incident:{incident.id}",
                        title=f"critical: {incident.target}: {incident.symptom}",
                        since=incident.opened_at,
                        commands=(f"calyx incident show {incident.id}",),
                    )
                )
        with self._lock:
            self._faults, self._asked, self._trouble = tuple(found), bridge.clock.monotonic(), ""

    def expire(self) -> int:
        """End what nobody answered in time, and the older of two that ask for the same; returns how many."""
        bridge, now = self._bridge, self._bridge.clock.now()
        ended = 0
        for task, why in _over(bridge.store.tasks("tasks_unanswered"), now, bridge.options.answer_within):
            # A plan that was scored is expired; a proposal never began, and must not be scored as if it had.
            ended += bridge.store.answer_task(task, "expired" if task.scored else "rejected", why)
            bridge.audit.write("task.unanswered", task=task.id, domain=task.domain, why=why)
        if ended:
            bridge.store.run("objectives_finished")
            bridge.bell.ring()
        return ended

    def _renewals(self) -> Iterable[Item]:
        bridge = self._bridge
        for manifest in bridge.domains.values():
            end = ending(manifest, bridge.clock.now())
            if end is None or bridge.revoked(manifest.domain):
                continue
            yield Item(
                kind="renewal",
                id=end.domain,
                key=f"renewal:{end.domain}:{manifest.serial}:{end.stage}",
                title=end.reason.split(";")[0],
                domain=end.domain,
                since=end.expires_at - timedelta(days=14),
                until=end.expires_at,
                commands=(f"calyx domain renew {end.domain}",),
            )

    def _regressions(self) -> Iterable[Item]:
        """What was refuted or regressed, and the station could not undo."""
        bridge = self._bridge
        for name, kept in bridge.store.rows("facts_like", REVERSING):
            task, asked = bridge.store.find_task(name.removeprefix(REVERSING)), json.loads(kept)
            if task is None or task.state == "undone":
                continue
            undos = bridge.store.tasks("tasks_undoing", task.id)
            undo = next((each for each in reversed(undos) if each.params.get("dry_run") != "true"), None)
            if not asked["refused"] and (undo is None or undo.state in (*OPEN, "done")):
                continue  # under way
            since = parse_iso(asked["at"])
            reason = asked["refused"] or (undo.why if undo is not None else "") or "its agent could not"
            yield Item(
                kind="regression",
                id=task.id,
                key=f"regression:{task.id}",
                title=f"{task.objective}: {asked['why']}; not undone: {reason}",
                domain=task.domain,
                since=since,
                until=since + bridge.options.answer_within,
                commands=(f"calyx task show {task.id}", f"calyx undo {task.id} --dry-run"),
            )

    def _stopped(self) -> Iterable[Item]:
        bridge = self._bridge
        if bridge.kill_switch.engaged():
            since = bridge.store.fact("kill_switch_since") or ""
            yield Item(
                kind="kill_switch",
                id="manual_shutdown.flag",
                key=f"kill_switch:{since}",
                title=f"stopped: {bridge.kill_switch.why() or 'no reason given'}",
                since=parse_iso(since) if since else None,
                commands=("calyx resume",),
            )


def _quarantine(target: str, incident: str, detail: str, since: datetime | None) -> Item:
    show = (f"calyx incident show {incident}",) if incident else ()
    return Item(
        kind="quarantine",
        id=target,
        key=f"quarantine:{target}:{incident}",
        title=f"{target} is in quarantine{f': {detail}' if detail else ''}",
        since=since,
        commands=(*show, f"calyx quarantine release {target}"),
    )


def _over(waiting: Iterable[Task], now: datetime, within: timedelta) -> list[tuple[Task, str]]:
    """Which of these, oldest first, wait no longer, and why."""
    over, newest = list[tuple[Task, str]](), dict[str, Task]()
    for task in waiting:
        until = answer_until(task, within)
        if now >= until:
            over.append((task, f"nobody answered until {iso(until)}"))
        elif task.objective_id and (task.scored or task.state == "proposed"):
            if (older := newest.get(task.objective_id)) is not None:
                over.append((older, f"superseded by {task.id}"))
            newest[task.objective_id] = task
    return over
