"""The reaper's turn over the folder: what nobody moved in time is moved, answered or set aside."""

import threading
from datetime import datetime

import structlog

from chassis.clock import Clock
from chassis.exchange import pauses, rules
from chassis.exchange.custody import Custody
from chassis.exchange.folder import Folder, Place, Ungranted
from chassis.exchange.holders import end, read_holder
from chassis.exchange.manifest import AckStatus, Manifest, TaskId
from chassis.exchange.moves import Unfit, folder_of, name_of, names, read_regular, remove, there
from chassis.exchange.port import Swept, TaskState
from chassis.killswitch import KillSwitch

log = structlog.get_logger(__name__)


UNHELD: tuple[TaskState, ...] = ("held", "waiting", "ready")
FRESH_A_SWEEP = 5000
"""So many tasks not seen before are read in one sweep, that a flood of them does not keep it from the leases."""


class Reaper:
    """One per station, in the CBO. A second one would do no harm, only double work."""

    def __init__(
        self, folder: Folder, custody: Custody, clock: Clock, kill_switch: KillSwitch, lease_seconds: float
    ) -> None:
        self._folder, self._custody, self._clock, self._kill_switch = folder, custody, clock, kill_switch
        self._leases = rules.Leases(lease_seconds)
        self._known: dict[tuple[str, str], Manifest] = {}
        self._open: dict[TaskId, set[str]] = {}
        """Dependencies without an ack, and the names of the files that wait for each."""
        self._seen_open: set[TaskId] = set()
        self._lock = threading.Lock()

    def sweep(self) -> Swept:
        with self._lock:
            now, swept = self._clock.now(), rules.Sweeping()
            stood, engaged = pauses.read(self._folder.root), self._kill_switch.engaged()
            if stood.observe(engaged, now):
                pauses.write(self._folder.root, stood)
            for worker in self._folder.holders():
                self._custody.finish_acks(worker)
            self._custody.sweep_dependencies()
            self._settle_all(now, engaged, swept)
            self._reap_claims(swept)
            self._tidy()
            return swept.swept()

    def _settle_all(self, now: datetime, engaged: bool, swept: rules.Sweeping) -> None:
        """Every task that nobody holds, but only those are looked into that time or an ack may have moved."""
        known: dict[tuple[str, str], Manifest] = {}
        again = {name for dep in list(self._open) if self._folder.ended(dep) for name in self._open.pop(dep)}
        fresh = 0
        self._seen_open = set(self._open)
        for state in UNHELD:
            for folder in self._folder.folders(state):
                for name in names(folder):
                    manifest = self._known.get((folder, name))
                    quiet = state != "waiting" or (name.endswith(".waiting") and name not in again)
                    if manifest is not None and quiet and (engaged or now < manifest.expires_at):
                        known[folder, name] = manifest
                        continue
                    fresh += manifest is None
                    if manifest is None and fresh > FRESH_A_SWEEP:
                        continue
                    place = self._folder.parse(state, f"{folder}/{name}")
                    manifest = manifest or self._read(place, f"{folder}/{name}", swept)
                    if place is None or manifest is None:
                        continue
                    moved = self._settle(place, manifest, now, swept)
                    for ended in self._custody.lately_ended():
                        again |= self._open.pop(ended, set())
                        self._seen_open.discard(ended)
                    if not moved:
                        known[folder, name] = manifest
                        self._wait_for(name, manifest)
        self._known = known

    def _wait_for(self, name: str, manifest: Manifest) -> None:
        if name.endswith(".waiting"):
            for dependency in manifest.dependencies:
                if self._ended(dependency) is None:
                    self._open.setdefault(dependency, set()).add(name)

    def _ended(self, task_id: TaskId) -> AckStatus | None:
        """Looked up once a sweep: what ends meanwhile lets its dependants go on by itself."""
        if task_id in self._seen_open:
            return None
        status = self._folder.ended(task_id)
        if status is None:
            self._seen_open.add(task_id)
        return status

    def _read(self, place: Place | None, path: str, swept: rules.Sweeping) -> Manifest | None:
        """The task's manifest, read once for as long as its file stays where it is."""
        if place is None:
            swept.quarantined.append(self._folder.set_aside(path, "its name is no task's"))
            return None
        try:
            pool = name_of(folder_of(folder_of(path))) if place.state == "ready" else None
            manifest = self._folder.genuine(place, pool)
        except FileNotFoundError:
            return None
        except Ungranted as unfit:
            self._folder.bury(place, str(unfit))
            swept.quarantined.append(place.task_id)
            return None
        except Unfit as unfit:
            swept.quarantined.append(self._folder.set_aside(path, str(unfit)))
            return None
        return manifest

    def _settle(self, place: Place, manifest: Manifest, now: datetime, swept: rules.Sweeping) -> bool:
        """Expire it, or let it go on if what it waited for is there; True if it moved."""
        if self._custody.expired(manifest):
            if self._custody.answer(place, manifest, "expired", "its time ran out before anyone took it"):
                swept.expired.append(place.task_id)
            return True
        if place.state != "waiting":
            return False
        not_before = self._folder.not_before(place) if place.later else None
        if not_before is not None and now < not_before:
            return False
        if self._custody.put(place, manifest, ended=self._ended):
            swept.released.append(place.task_id)
            return True
        return False

    def _reap_claims(self, swept: rules.Sweeping) -> None:
        live: list[tuple[str, int]] = []
        for path in self._folder.each("claimed"):
            place = self._folder.parse("claimed", path)
            if place is None:
                swept.quarantined.append(self._folder.set_aside(path, "its name is no task's"))
                continue
            live.append((place.task_id, place.epoch))
            if self._leases.stale(place.task_id, place.epoch, _beats(place), self._clock.monotonic()):
                self._reap(place, swept)
        self._leases.keep_only(live)

    def _reap(self, place: Place, swept: rules.Sweeping) -> None:
        if place.folder == rules.EXCHANGE:  # answering it was cut short; nobody worked on it
            manifest = self._custody.genuine(place)
            if manifest is not None and self._custody.put(place, manifest):
                swept.requeued.append(place.task_id)
            return
        holder = read_holder(place.beside("holder"))
        holder = holder or read_holder(f"{self._folder.at}/workers/{place.folder}.lock")
        if holder is not None and not end(holder):
            log.warning("a stalled holder was killed and is still there", task=place.task_id, pid=holder.pid)
            return  # not to another hand while this one may still move
        back = self._custody.send_back(place, "its holder's heartbeat stopped")
        if back is not None:
            (swept.dead if back.to == "dead" else swept.requeued).append(place.task_id)

    def _tidy(self) -> None:
        """Marks of finished tasks, what lay beside a claim that is no more, empty ready folders."""
        for name in names(f"{self._folder.at}/cancel"):
            if there(self._folder.ack(name)):
                remove(self._folder.cancel(name))
        for folder in self._folder.folders("claimed"):
            for name in names(folder):
                if name.endswith((".hb", ".holder")) and not there(f"{folder}/{name.rpartition('.')[0]}.claimed"):
                    remove(f"{folder}/{name}")
        for pool in names(self._folder.root / "ready"):
            for priority in self._folder.priorities(pool):
                try:
                    (self._folder.root / "ready" / pool / priority).rmdir()
                except OSError:
                    continue  # not empty


def _beats(claimed: Place) -> int:
    """The heartbeat counter; 0 before the first beat, -1 for what is no counter."""
    try:
        said = read_regular(claimed.beside("hb"), 64)
    except FileNotFoundError:
        return 0
    except Unfit:
        return -1
    return int(said) if said.isdigit() else -1
