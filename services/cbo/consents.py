"""Folders outside the station as the CBO sees them: what was given and withdrawn, and what still needs an approval."""

import json
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from chassis.audit import Audit
from chassis.canonical import Json
from chassis.clock import Clock, iso, parse_iso
from chassis.consent import ConsentFile, confirmed, update
from chassis.errors import CalyxError
from chassis.layout import Layout
from services.cbo.store import Store
from services.cbo.tasks import Task, targets_of

log = structlog.get_logger(__name__)

KEPT = timedelta(days=7)
"""How long a withdrawn consent is remembered, so that what was done under it is no violation afterwards."""


class Consents:
    """The consent file against what was last seen of it. Thread-safe."""

    def __init__(self, layout: Layout, store: Store, audit: Audit, clock: Clock) -> None:
        self._layout, self._store, self._audit, self._clock = layout, store, audit, clock
        self._file, self._lock = ConsentFile(layout), threading.Lock()
        self._known: list[Json] = json.loads(store.fact("consents") or "[]")
        self._fault = ""

    def unconfirmed(self, domain: str) -> tuple[str, ...]:
        """Folders whose first effect needs an approval."""
        return tuple(str(each.path) for each in self._file.all() if each.domain == domain and not each.confirmed_at)

    def inside(self, task: Task) -> tuple[str, ...]:
        """Folders that were allowed to the task's domain when it was sent out."""
        with self._lock:
            return tuple(
                str(each["path"])
                for each in self._known
                if each["domain"] == task.domain and task.dispatched_at is not None and _held(each, task.dispatched_at)
            )

    def notice(self) -> None:
        """What a person gave or withdrew goes into the audit log as soon as it is seen."""
        with self._lock:
            now = self._clock.now()
            paths = self._file.all()
            if self._file.fault:
                if self._fault != self._file.fault:
                    self._audit.write("consent.unreadable", why=self._file.fault)
                self._fault = self._file.fault
                return
            self._fault = ""
            there = {(each.domain, str(each.path), iso(each.at)): each for each in paths}
            standing = {_key(each) for each in self._known if not each["until"]}
            if set(there) == standing:
                return
            for key in sorted(set(there) - standing):
                domain, path, at = key
                self._audit.write("consent.given", domain=domain, path=path, by=there[key].by, given_at=at)
                self._known.append({"domain": domain, "path": path, "by": there[key].by, "at": at, "until": ""})
            for each in self._known:
                if not each["until"] and _key(each) not in there:
                    self._audit.write(
                        "consent.withdrawn", domain=each["domain"], path=each["path"], by="the consent file",
                        given_by=each["by"],
                    )  # fmt: skip
                    each["until"] = iso(now)
            self._known = [each for each in self._known if not each["until"] or now - parse_iso(each["until"]) < KEPT]
            self._store.set_fact("consents", json.dumps(self._known))

    def confirm(self, ended: Sequence[Task]) -> None:
        """An approved effect under a folder, after it was allowed: from now on the level alone decides."""
        waiting = [each for each in self._file.all() if not each.confirmed_at]
        for task in ended if waiting else ():
            if task.state != "done" or not task.approval or not task.has_effects:
                continue
            targets = targets_of(task.ack or {})
            these = [
                each for each in waiting
                if each.domain == task.domain and each.at <= task.created_at and any(map(each.covers, targets))
            ]  # fmt: skip
            if not these:
                continue
            now = self._clock.now()
            try:
                update(self._layout, lambda paths, these=these, now=now: confirmed(paths, these, now))  # type: ignore[misc]  # default binds
            except (OSError, CalyxError) as error:
                log.error("consent stays unconfirmed: the next effect needs an approval again", why=str(error))
                return
            for each in these:
                self._audit.write(
                    "consent.confirmed", domain=each.domain, path=str(each.path), task=task.id, by=task.approval
                )
            waiting = [each for each in waiting if each not in these]


def _key(known: Json) -> tuple[str, str, str]:
    return str(known["domain"]), str(known["path"]), str(known["at"])


def _held(known: Json, when: datetime) -> bool:
    return not known["until"] or when <= parse_iso(str(known["until"]))
