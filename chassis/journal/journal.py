"""The journal of one station (being built)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chassis.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoReport:
    """`steps` is what was done, or what would be done on a dry run, in order."""

    done: bool
    detail: str
    steps: tuple[str, ...] = ()


class Journal:
    """Undo for every change that went through it."""

    def __init__(self, root: Path, clock: Clock, consent: Callable[[Path], None]) -> None:
        self._root, self._clock, self._consent = root, clock, consent

    def undo(self, task_id: str, dry_run: bool = False) -> UndoReport:
        raise NotImplementedError

    def can_undo(self, task_id: str) -> tuple[bool, str]:
        raise NotImplementedError

    def recover(self) -> list[str]:
        raise NotImplementedError
