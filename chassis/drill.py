"""The drill: a procedure may act only after its undo has been seen to work, on a small target of its own."""

import contextlib
import hashlib
import inspect
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from chassis import journal
from chassis.atomic import read_json, write_json
from chassis.canonical import Json
from chassis.clock import Clock, iso
from chassis.domains import folder_state
from chassis.errors import CalyxError, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, consent_within
from chassis.journal.cells import ROWS
from chassis.journal.rows import held_by
from chassis.work import Work

Tree = Mapping[str, tuple[str, int, str]]


def drill(
    work: Work, procedure: str, folder: Path, clock: Clock, *, agent: str, station_id: str, effectless: bool
) -> str | None:
    """Perform and undo on a staged target; None when it passed, else why not. Raises nothing a work can cause.

    A drill without a single change proves nothing and fails, unless the domain declares no effects.
    """
    shutil.rmtree(folder, ignore_errors=True)
    world, scratch = folder / "world", folder / "scratch"
    try:
        for each in (world, scratch):
            each.mkdir(parents=True)
        task = _task(work, procedure, dict(work.stage_drill(world, procedure)), clock, agent, station_id)
        held, before = tree(world, by_rows=True), tree(world)
        journal = Journal(folder / "journal", clock, consent_within([world]))
        with journal.session(task.task_id, 1, lambda: None) as effects:
            work.perform(task, scratch, effects)
            effects.finish({})
        changes = journal.status(task.task_id).changes
        if not changes:
            return None if effectless else "the drill changed nothing, so it proves nothing about the undo"
        if tree(world) == before:
            return "the drill's changes did not show in the staged target"
        journal.undo(task.task_id)
        rows = any(each["op"] in ROWS for each in changes)
        return difference(held if rows else before, tree(world, by_rows=rows))
    except CalyxError as error:
        return f"the drill was refused: {error.message}"
    except Exception as error:
        return f"the drill failed: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _task(work: Work, procedure: str, params: dict[str, str], clock: Clock, agent: str, station_id: str) -> Manifest:
    return Manifest(
        station_id=station_id or "drill",
        task_id=TaskId(f"drill-{hashlib.sha256(f'{work.domain}/{procedure}'.encode()).hexdigest()[:16]}"),
        owner=agent,
        issuer=agent,
        domain=work.domain,
        procedure=procedure,
        created_at=clock.now(),
        expires_at=clock.now() + timedelta(hours=1),
        ttl_seconds=3600,
        params=params,
        level="EXECUTE",
    )


def tree(folder: Path, *, by_rows: bool = False) -> Tree:
    """Every path below: kind, mode, and content digest or link target.

    `by_rows`: a SQLite file by what it holds, since a row that was put back need not lie on the page where it lay.
    """
    found: dict[str, tuple[str, int, str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = ""
        if stat.S_ISREG(mode):
            content = (held_by(path) if by_rows else "") or hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            content = str(path.readlink())
        found[str(path.relative_to(folder))] = (stat.filemode(mode)[0], stat.S_IMODE(mode), content)
    return found


def difference(before: Tree, after: Tree) -> str | None:
    """None for the same tree, else the first path that the undo left different."""
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            return f"the undo did not restore {path}: {before.get(path)} became {after.get(path)}"
    return None


class Passed:
    """Results kept on disk under a code version, so that a restart on the same code need not repeat them."""

    def __init__(self, path: Path, code_version: str) -> None:
        self._path, self._version = path, code_version

    def known(self, domain: str, procedure: str) -> bool:
        """Only a passed drill is remembered; a failed one is tried again."""
        if not self._version:
            return False
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            return bool(read_json(self._path).get(f"{domain}/{procedure}") == self._version)
        return False

    def remember(self, domain: str, procedure: str) -> None:
        if not self._version:
            return
        kept: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            kept = dict(read_json(self._path))
        write_json(self._path, {**kept, f"{domain}/{procedure}": self._version})


class Sources:
    """What the code that acts and undoes looks like on disk: the folder of a work's module, and the journal's."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, str]] = {}

    def digest(self, work: Work, looked: dict[Path, str]) -> str:
        """Of all Python sources in both; a file is read again only when its times, size or inode differ. OSError.

        `looked` holds the folders of one look, so that works that share one have it listed once.
        """
        try:
            own = [Path(inspect.getfile(type(work))).parent]
        except TypeError:  # made without a file: there is nothing on disk that could change
            own = []
        folders = (*own, *map(Path, journal.__path__))
        for folder in folders:
            if folder not in looked:
                looked[folder] = self._folder(folder)
        return hashlib.sha256("".join(looked[folder] for folder in folders).encode()).hexdigest()

    def _folder(self, folder: Path) -> str:
        seen = folder_state(folder, ".py")
        known = self._known.get(str(folder))
        if known is None or known[0] != seen:
            sums = [f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}" for name, *_ in seen]
            known = self._known[str(folder)] = (seen, "\n".join(sums))
        return known[1]


class NotYet(Refused):
    """Manifest or code changed, and the undo has not been seen to work since: the task is given back, not failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """What a drill holds for, by digest. `fault`: why that can't be told; then it holds for nothing."""

    manifest: str = ""
    code: str = ""
    fault: str = ""

    def changed(self, since: "Edition") -> str:
        return self.fault or ("its manifest changed" if self.manifest != since.manifest else "its code changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One procedure's newest drill. `reason` None: passed. `before`: in an earlier edition it had passed."""

    edition: Edition
    reason: str | None
    at: str
    before: bool = False

    def to_json(self) -> Json:
        return {"failed": self.reason, "manifest": self.edition.manifest, "at": self.at}


class Drills:
    """What each procedure's drill has found, and for which edition; drilled anew when its manifest or code changed.

    `manifests` gives a domain's digest as of now; KeyError or CalyxError where there is none. Called by one thread.
    With `told` the results are written there, for whoever plans the tasks.
    """

    def __init__(
        self,
        works: Iterable[Work],
        folder: Path,
        clock: Clock,
        *,
        agent: str,
        station_id: str,
        effectless: frozenset[str],
        manifests: Callable[[str], str],
        code_version: str = "",
        told: Path | None = None,
        note: Callable[..., None] = lambda _event, **_facts: None,
    ) -> None:
        self._works = {work.domain: work for work in works}
        self._folder, self._clock, self._manifests = folder, clock, manifests
        self._how: Mapping[str, Any] = {"agent": agent, "station_id": station_id}
        self._effectless, self._code_version, self._told, self._note = effectless, code_version, told, note
        self._sources = Sources()
        self._results: dict[tuple[str, str], Result] = {}
        self._wrote: Json | None = None

    def run(self) -> dict[str, str | None]:
        """Drill what was never drilled, has failed or has changed; `<domain>/<procedure>` → None, or why it may not."""
        looked: dict[Path, str] = {}
        for work in self._works.values():
            self._work(work, self._edition(work, looked))
        self._tell()
        return {f"{domain}/{procedure}": each.reason for (domain, procedure), each in self._results.items()}

    def check(self, domain: str, procedure: str) -> None:
        """Right before it acts. Raises Refused, or NotYet while it may not act since it changed."""
        found = self._results.get((domain, procedure))
        if found is None:
            raise Refused(f"{domain}/{procedure} may not act: it has not been drilled yet")
        if (edition := self._edition(self._works[domain], {})) != found.edition:
            self._work(self._works[domain], edition)
            self._tell()
            found = self._results[domain, procedure]
        if found.reason is not None:
            refusal = NotYet if found.before else Refused
            raise refusal(f"{domain}/{procedure} may not act: {found.reason}")

    def _edition(self, work: Work, looked: dict[Path, str]) -> Edition:
        try:
            return Edition(manifest=self._manifests(work.domain), code=self._sources.digest(work, looked))
        except KeyError:
            return Edition(fault="its manifest is not there any more")
        except (CalyxError, OSError) as error:
            return Edition(fault=f"its manifest or code can't be read: {error}")

    def _work(self, work: Work, edition: Edition) -> None:
        for procedure in work.procedures:
            key = (work.domain, procedure)
            before = self._results.get(key)
            if before is None or before.reason is not None or before.edition != edition:
                self._results[key] = made = self._one(work, procedure, edition, before)
                self._audit(key, before, made)

    def _one(self, work: Work, procedure: str, edition: Edition, before: Result | None) -> Result:
        passed = Passed(
            self._folder.parent / "drills.json",
            self._code_version and f"{self._code_version} {edition.manifest} {edition.code}",
        )
        reason: str | None
        if edition.fault:
            reason = edition.fault
        elif before is None and passed.known(work.domain, procedure):
            reason = None
        else:
            reason = drill(
                work, procedure, self._folder, self._clock, effectless=work.domain in self._effectless, **self._how
            )
            if reason is None and before is None:  # later the code on disk may be another than what was loaded
                passed.remember(work.domain, procedure)
        return Result(
            edition=edition,
            reason=reason,
            at=iso(self._clock.now()),
            before=before is not None and (before.before or before.reason is None),
        )

    def _audit(self, key: tuple[str, str], before: Result | None, made: Result) -> None:
        facts = {"domain": key[0], "procedure": key[1]}
        if before is not None and before.edition != made.edition and made.reason is None:
            self._note("drill.repeated", **facts, why=made.edition.changed(before.edition))
        if made.reason is not None and (before is None or made.reason != before.reason):
            self._note("drill.failed", **facts, reason=made.reason)

    def _tell(self) -> None:
        found = {f"{domain}/{procedure}": each.to_json() for (domain, procedure), each in self._results.items()}
        if self._told is not None and found != self._wrote:
            write_json(self._told, found, durable=False)
            self._wrote = found
