"""What changes in a domain's watched folders beside what the doer declares: who is asked to look, when, and what for.

The prober looks before a task is published and again as soon as its ack is seen; the critique asks it to compare.
"""

from collections.abc import Iterable, Sequence

import structlog

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import DomainManifest
from chassis.errors import CalyxError
from services.cbo.bridge import Bridge
from services.cbo.judging import Heard
from services.cbo.ports import Moment, Probed, Told
from services.cbo.tasks import Task, targets_of

log = structlog.get_logger(__name__)


def folders_of(bridge: Bridge, manifest: DomainManifest) -> tuple[str, ...]:
    """Where this domain's tasks may change something, unless its manifest names other folders; none is not watched."""
    if manifest.effects == "none":
        return ()
    named = manifest.watched.folders
    declared = manifest.paths if named is None else named
    allowed = bridge.consents.folders(manifest.domain) if named is None else ()
    placed = (each.replace("{station}", str(bridge.layout.root)) for each in (*declared, *allowed))
    return tuple(dict.fromkeys(placed))


def watched(bridge: Bridge, task: Task) -> tuple[str, ...]:
    manifest = bridge.domains.get(task.domain)
    return () if manifest is None or task.undo_of else folders_of(bridge, manifest)


def begin(bridge: Bridge, tasks: Sequence[Task]) -> None:
    """Before these are published. Whom nobody looked after will be inconclusive, not blocked."""
    for task in tasks:
        if not watched(bridge, task):
            continue
        new = bridge.exchange.get(task.id).state == "unknown"
        _look(bridge, [task], "anew" if new else "before")


def end(bridge: Bridge, tasks: Sequence[Task]) -> None:
    """As soon as they are seen to have ended: the sooner, the less of what others do falls in between."""
    _look(bridge, tasks, "after")


def _look(bridge: Bridge, tasks: Iterable[Task], moment: Moment) -> None:
    for task in tasks:
        roots = watched(bridge, task)
        manifest = bridge.domains.get(task.domain)
        prober = None if manifest is None else bridge.peers.probers.get(manifest.prober)
        if not roots or prober is None:
            continue
        try:
            failed = prober.watch([task.id], task.owner, roots, moment)
        except CalyxError as error:
            failed = error.message
        if failed:
            log.warning("nobody looked at a task's folders", task=task.id, moment=moment, why=failed)


def compared(bridge: Bridge, manifest: DomainManifest, task: Task) -> Heard:
    """What the prober's two looks say of an ended task. Raises a CalyxError where it can't be asked."""
    ack = task.ack or {}
    assert task.dispatched_at is not None
    declared: tuple[Json, ...] = () if task.rehearsal else tuple(ack.get("effects", ()))
    others = [row[0] for row in bridge.store.rows("targets_meanwhile", iso(task.dispatched_at), task.id)]
    told = Told(
        declared=declared,
        others=tuple(others),
        grows=manifest.watched.grows,
        must_change=ack.get("status") == "done" and manifest.effects == "reversible",
    )
    made = bridge.peers.probers[manifest.prober].compare(task.id, task.owner, told)
    if made.undeclared and (other := _neighbour(bridge, task)):
        return f"{other} works in the same folders and has not ended; it may be its doing"
    if made.undeclared:
        bridge.audit.write(
            "effects.undeclared", task=task.id, domain=task.domain, agent=task.owner, found=list(made.undeclared[:10])
        )
    missing = _left_out(bridge, task)
    if missing and made.probed.verdict != "refuted":
        found = f"{len(missing)} planned and approved changes are not declared as done: {missing[0]}"
        return Probed(verdict="refuted", prober=made.probed.prober, found=found)
    return made.probed


def _neighbour(bridge: Bridge, task: Task) -> str:
    """Another task that is under way in the same folders, and will yet say what it changed."""
    mine = watched(bridge, task)
    for other in bridge.store.tasks("tasks_open"):
        if other.id == task.id or other.rehearsal or other.dispatched_at is None:
            continue
        if any(_overlap(a, b) for a in mine for b in watched(bridge, other)):
            return other.id
    return ""


def _overlap(one: str, other: str) -> bool:
    one, other = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _left_out(bridge: Bridge, task: Task) -> list[str]:
    """Of an approved plan, what its ack says nothing of."""
    rehearsed = bridge.store.find_task(task.rehearsal_of) if task.approval and task.rehearsal_of else None
    plan = {} if rehearsed is None else (rehearsed.ack or {}).get("plan") or {}
    done = set(targets_of(task.ack or {}))
    return [str(each["target"]) for each in plan.get("changes", ()) if each["target"] not in done]


def joined(*heard: Heard) -> Heard:
    """One answer of several looks: one that did not answer is waited for; else the worst counts."""
    silent = next((each for each in heard if isinstance(each, str)), None)
    if silent is not None:
        return silent
    probed = [each for each in heard if isinstance(each, Probed)]
    for verdict in ("refuted", "inconclusive"):
        found = [each for each in probed if each.verdict == verdict]
        if found:
            return Probed(
                verdict=found[0].verdict, prober=found[0].prober, found="; ".join(e.found for e in found)[:500]
            )
    return Probed(
        verdict="confirmed", prober=probed[0].prober, found="; ".join(e.found for e in probed if e.found)[:500]
    )


def checks_of(bridge: Bridge, manifest: DomainManifest, task: Task) -> list[Json]:
    """What the manifest says is true after each task that does its work, with `{station}` and, in a built-in one, the
    task's own parameters filled in. After an undo something else is."""
    found = []
    for each in manifest.checks if not task.rehearsal and not task.undo_of else ():
        names = {"station": str(bridge.layout.root), **task.params}
        found.append(
            {
                "kind": each["kind"],
                "target": _filled(each["target"], names),
                "expect": {key: _filled(value, names) for key, value in each["expect"].items()},
            }
        )
    return found


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text
