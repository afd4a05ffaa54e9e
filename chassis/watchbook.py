"""A prober's book of listings: each task's watched folders before and after it, kept on disk over a restart.

<task>.base                      a listing kept whole, one file under the names of all tasks that rest on it
<task>.before  <task>.after      what differs from it; the first look counts, a repeat changes nothing
last-<roots>.base, .after        the look after the last task, until the next one begins
restless-<roots>.json            files that changed in between, while no task was running
"""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chassis.atomic import write_whole
from chassis.canonical import digest
from chassis.errors import CalyxError, Refused
from chassis.exchange.manifest import TASK_ID
from chassis.exchange.moves import lstats
from chassis.footprints import Compared, Terms, compare, real, restless
from chassis.layout import SERVICES
from chassis.listing import Listing, changed, packed, take, unpacked
from chassis.probing import Verdict

KEPT_BYTES = 256 * 2**20
KEPT_TASKS = 2000
PRUNE_EVERY = 64
IN_MIND = 32
"""Tasks whose listings need not be read again to be compared."""
REBASE = 200
"""With more differences than this a listing is kept whole again."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A task that began: what was there, and the listing that this is kept by."""

    before: Listing
    base: Listing


class WatchBook:
    """Thread-safe: one look at a time. `allowed` says under which folders this prober may look at all;
    `ended` is where the exchange keeps a task's ack, whose change time is when the task ended."""

    def __init__(
        self, folder: Path, allowed: Callable[[], Sequence[Path]], ended: Callable[[str], Path] | None = None
    ) -> None:
        self._folder, self._allowed, self._ended = folder, allowed, ended
        self._began = 0
        self._open: dict[str, _Open] | None = None
        self._bases: dict[tuple[str, ...], tuple[Path, Listing]] = {}
        self._newest: dict[tuple[str, ...], Listing] = {}
        self._last_of: dict[tuple[str, ...], Listing] = {}
        self._over: dict[str, tuple[Listing, Listing]] = {}
        self._lock = threading.RLock()

    def begin(self, tasks: Sequence[str], roots: Sequence[str], *, again: bool = False) -> str:
        """Look before these tasks begin; why it could not be done, or nothing. `again`: none has begun yet for sure,
        so an earlier look is replaced."""
        with self._lock:
            tasks = [each for each in tasks if TASK_ID.fullmatch(each)]
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            due = [each for each in tasks if again or not self._file(each, "before").exists()]
            if not due:
                return ""
            for each in due:
                self._forget(each)
            try:
                places = self._places(roots)
                quiet = not self._busy(places)
                listing = take(places, self._now(), known=self._newest.get(tuple(places)))
            except (CalyxError, OSError) as error:
                return str(error)
            if quiet:
                self._note_restless(listing)
            for each in due:
                self._keep(each, listing)
            self._newest[listing.roots] = listing
            self._began += 1
            if self._began % PRUNE_EVERY == 0:
                self._prune()
            return ""

    def end(self, task: str) -> str:
        """Look after it ended, once; why it could not be done, or nothing."""
        with self._lock:
            if not TASK_ID.fullmatch(task) or self._file(task, "after").exists():
                return ""
            try:
                begun = self._running().get(task) or self._begun(task)
                before = begun.before
                listing = take(before.roots, self._now(), before)
            except (CalyxError, OSError, ValueError) as error:
                return str(error)
            write_whole(self._file(task, "after"), packed(listing, begun.base), mode=0o600, durable=False)
            self._running().pop(task, None)
            self._newest[listing.roots] = listing
            self._over[task] = before, listing
            for old in list(self._over)[:-IN_MIND]:
                del self._over[old]
            if not self._busy(before.roots):
                self._last_of[before.roots] = listing
                for kind in ("after", "base"):
                    last = self._last(before.roots, kind)
                    last.unlink(missing_ok=True)
                    last.hardlink_to(self._file(task, kind))
            return ""

    def compare(self, task: str, doer: str, terms: Terms) -> Compared:
        """What the two looks say of the task. Whatever can't be said is inconclusive, never confirmed.

        Only of a service is it known as which user it works: it wrote its ack itself.
        """
        with self._lock:
            if not TASK_ID.fullmatch(task) or not self._file(task, "before").exists():
                return Compared(verdict=Verdict.INCONCLUSIVE, found="nobody looked at its folders before it began")
            if why := self.end(task):
                return Compared(verdict=Verdict.INCONCLUSIVE, found=f"its folders can't be looked at: {why}")
            try:
                before, after = self._over.get(task) or self._both(task)
            except (OSError, ValueError) as error:
                return Compared(verdict=Verdict.INCONCLUSIVE, found=f"what was listed can't be read: {error}")
            ended_ns, uid = self._end_of(task)
            told = replace(
                terms,
                others=frozenset(map(real, terms.others)),
                restless=self._restless(after.roots),
                ended_ns=ended_ns,
                doer_uid=uid if doer in SERVICES else None,
            )
            return compare(before, after, told)

    def _end_of(self, task: str) -> tuple[int | None, int | None]:
        """When the ack came by the kernel's clock, and whose it is."""
        if self._ended is None:
            return None, None
        try:
            found = self._ended(task).lstat()
        except OSError:
            return None, None
        return found.st_ctime_ns, found.st_uid

    def _places(self, roots: Sequence[str]) -> list[str]:
        places = sorted({str(Path(each).resolve()) for each in roots})
        allowed = [each.resolve() for each in self._allowed()]
        for each in places:
            if not any(Path(each).is_relative_to(root) for root in allowed):
                raise Refused(f"{each} is outside the folders that this prober looks at")
        return [each for each in places if not any(each != o and Path(each).is_relative_to(o) for o in places)]

    def _busy(self, places: Sequence[str]) -> bool:
        """Whether a task began in one of these folders and has not been looked at since."""
        return any(
            Path(a).is_relative_to(b) or Path(b).is_relative_to(a)
            for begun in self._running().values()
            for a in places
            for b in begun.before.roots
        )

    def _running(self) -> dict[str, _Open]:
        """Tasks that were looked at before and not after."""
        if self._open is None:
            self._open = {}
            for path in self._folder.glob("*.before"):
                if not path.with_suffix(".after").exists():
                    with contextlib.suppress(OSError, ValueError):
                        self._open[path.stem] = self._begun(path.stem)
        return self._open

    def _begun(self, task: str) -> _Open:
        base = unpacked(self._file(task, "base").read_bytes())
        return _Open(base=base, before=unpacked(self._file(task, "before").read_bytes(), base))

    def _both(self, task: str) -> tuple[Listing, Listing]:
        begun = self._begun(task)
        return begun.before, unpacked(self._file(task, "after").read_bytes(), begun.base)

    def _keep(self, task: str, listing: Listing) -> None:
        """By what differs from the listing that was kept whole last, or as a new one of that kind."""
        path, base = self._bases.get(listing.roots, (None, listing))
        if path is None or not path.exists() or len(changed(base, listing)) > REBASE:
            path, base = self._key("base", listing.roots, ".listing"), listing
            write_whole(path, packed(listing), mode=0o600, durable=False)
            self._bases[listing.roots] = path, base
        self._file(task, "base").hardlink_to(path)
        write_whole(self._file(task, "before"), packed(listing, base), mode=0o600, durable=False)
        self._running()[task] = _Open(before=listing, base=base)

    def _forget(self, task: str) -> None:
        for kind in ("before", "after", "base"):
            self._file(task, kind).unlink(missing_ok=True)
        self._running().pop(task, None)
        self._over.pop(task, None)

    def _note_restless(self, before: Listing) -> None:
        """From the look after the last task until this one nobody of the station changed anything here."""
        last, known = self._last(before.roots, "after"), self._restless(before.roots)
        try:
            kept = self._last_of.pop(before.roots, None)
            if kept is None or not last.exists():
                base = unpacked(self._last(before.roots, "base").read_bytes())
                kept = unpacked(last.read_bytes(), base)
        except (OSError, ValueError):
            return
        found = restless(kept, before)
        last.unlink()
        if not found <= known:
            still = sorted((found | known) & set(before.entries))[:REBASE]
            body = json.dumps({"files": still}).encode()
            write_whole(self._key("restless", before.roots, ".json"), body, mode=0o600, durable=False)

    def _restless(self, roots: Sequence[str]) -> set[str]:
        try:
            return set(json.loads(self._key("restless", roots, ".json").read_bytes())["files"])
        except (OSError, ValueError, KeyError):
            return set()

    def _now(self) -> int:
        """By the clock that stamps the files."""
        mark = self._folder / ".now"
        mark.write_bytes(b".")
        return mark.stat().st_ctime_ns

    def _file(self, task: str, kind: str) -> Path:
        return self._folder / f"{task}.{kind}"

    def _last(self, roots: Sequence[str], kind: str) -> Path:
        return self._key("last", roots, f".{kind}")

    def _key(self, name: str, roots: Sequence[str], suffix: str) -> Path:
        return self._folder / f"{name}-{digest(list(roots))[:16]}{suffix}"

    def _prune(self) -> None:
        """The oldest go first; a task whose look is gone is inconclusive."""
        kept = total = 0
        found = dict(lstats(self._folder))
        tasks = [
            (info.st_mtime_ns, name.removesuffix(".before")) for name, info in found.items() if name.endswith(".before")
        ]
        for _, task in sorted(tasks, reverse=True):
            files = (found.get(f"{task}.{kind}") for kind in ("before", "after", "base"))
            kept, total = kept + 1, total + sum(info.st_size for info in files if info is not None)
            if kept > KEPT_TASKS or total > KEPT_BYTES:
                self._forget(task)
