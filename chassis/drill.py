"""The drill: a procedure may act only after its undo has been seen to work, on a small target of its own."""

import contextlib
import hashlib
import shutil
import stat
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from chassis.atomic import read_json, write_json
from chassis.clock import Clock
from chassis.errors import CalyxError
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, consent_within
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
        before = tree(world)
        journal = Journal(folder / "journal", clock, consent_within([world]))
        with journal.session(task.task_id, 1, lambda: None) as effects:
            work.perform(task, scratch, effects)
            effects.finish({})
        if not journal.status(task.task_id).changes:
            return None if effectless else "the drill changed nothing, so it proves nothing about the undo"
        if tree(world) == before:
            return "the drill's changes did not show in the staged target"
        journal.undo(task.task_id)
        return difference(before, tree(world))
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


def tree(folder: Path) -> Tree:
    """Every path below: kind, mode, and content digest or link target."""
    found: dict[str, tuple[str, int, str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = ""
        if stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
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
