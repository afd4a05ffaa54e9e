"""Folders outside the station as the CBO sees them: what was given and withdrawn, and what still needs an approval.

They come from the consent file, and from the manifests of outside programs' domains, whose signature names them.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from chassis.audit import Audit
from chassis.canonical import Json
from chassis.clock import Clock, iso, parse_iso
from chassis.consent import AllowedPath, ConsentFile, confirmed, update
from chassis.domains import DomainManifest
from chassis.errors import CalyxError
from chassis.layout import Layout
from services.cbo.store import Store
from services.cbo.tasks import Task, targets_of

log = structlog.get_logger(__name__)

KEPT = timedelta(days=7)
"""How long a withdrawn consent is remembered, so that what was done under it is no violation afterwards."""


class Declared:
    """The folders that admitted domains declare, with whether their first effect has happened. Kept as facts."""

    def __init__(self, store: Store, domains: Mapping[str, DomainManifest]) -> None:
        self._store, self._domains = store, domains

    def of(self, domain: str) -> tuple[AllowedPath, ...]:
        """As written. None of an edition that nobody approved: that one may not run at all."""
        manifest = self._domains.get(domain)
        if manifest is None or not manifest.signed_by:
            return ()
        return tuple(each for each in self._kept(domain) if str(each.path) in manifest.paths)

    def all(self) -> tuple[AllowedPath, ...]:
        signed = [name for name, each in self._domains.items() if each.signed_by]
        return tuple(path for name in signed for path in self.of(name))

    def approve(self, manifest: DomainManifest, by: str, at: datetime) -> None:
        """An edition was approved: folders that were in the one before stay as they are."""
        before = {str(each.path): each for each in self._kept(manifest.domain)}
        fresh = {
            path: AllowedPath(domain=manifest.domain, path=Path(path), by=by, at=at) for path in manifest.paths
        }  # fmt: skip
        self._keep(manifest.domain, [before.get(path, new) for path, new in fresh.items()])

    def withdraw(self, domain: str) -> None:
        self._store.run("fact_drop", f"paths:{domain}")

    def confirm(self, these: Sequence[AllowedPath], at: datetime) -> None:
        for domain in {each.domain for each in these}:
            self._keep(domain, confirmed(self._kept(domain), these, at))

    def _kept(self, domain: str) -> tuple[AllowedPath, ...]:
        return tuple(map(AllowedPath.from_json, json.loads(self._store.fact(f"paths:{domain}") or "[]")))

    def _keep(self, domain: str, paths: Sequence[AllowedPath]) -> None:
        self._store.set_fact(f"paths:{domain}", json.dumps([each.to_json() for each in paths]))


class Consents:
    """The consent file and the declared folders against what was last seen of them. Thread-safe."""

    def __init__(
        self,
        layout: Layout,
        store: Store,
        audit: Audit,
        clock: Clock,
        domains: Mapping[str, DomainManifest] | None = None,
    ) -> None:
        self._layout, self._store, self._audit, self._clock = layout, store, audit, clock
        self._file, self._lock = ConsentFile(layout), threading.Lock()
        self.declared = Declared(store, {} if domains is None else domains)
        self._known: list[Json] = json.loads(store.fact("consents") or "[]")
        self._fault = ""

    def unconfirmed(self, domain: str) -> tuple[str, ...]:
        """Folders whose first effect needs an approval."""
        allowed = (*(each for each in self._file.all() if each.domain == domain), *self.declared.of(domain))
        return tuple(str(each.path) for each in allowed if not each.confirmed_at)

    def folders(self, domain: str) -> tuple[str, ...]:
        """All that are allowed to the domain now."""
        allowed = (*(each for each in self._file.all() if each.domain == domain), *self.declared.of(domain))
        return tuple(str(each.path) for each in allowed)

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
            paths = (*paths, *self.declared.all())
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
                        "consent.withdrawn", domain=each["domain"], path=each["path"],
                        by="the consent file or the manifest", given_by=each["by"],
                    )  # fmt: skip
                    each["until"] = iso(now)
            self._known = [each for each in self._known if not each["until"] or now - parse_iso(each["until"]) < KEPT]
            self._store.set_fact("consents", json.dumps(self._known))

    def confirm(self, ended: Sequence[Task]) -> None:
        """An approved effect under a folder, after it was allowed: from now on the level alone decides."""
        in_file, declared = self._file.all(), self.declared.all()
        waiting = [each for each in (*in_file, *declared) if not each.confirmed_at]
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
                if any(each in in_file for each in these):
                    update(self._layout, lambda paths, these=these, now=now: confirmed(paths, these, now))  # type: ignore[misc]  # default binds
                self.declared.confirm([each for each in these if each in declared], now)
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
