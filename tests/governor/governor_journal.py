"""The real journal, for one work at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chassis.clock import Clock
from chassis.journal import Journal, Session, consent_within


class Undoable:
    def __init__(self, root: Path, clock: Clock, allowed: Sequence[Path]) -> None:
        self.journal = Journal(root, clock, consent_within(allowed))

    @contextmanager
    def effects(self, task_id: str) -> Iterator[Session]:
        with self.journal.session(task_id, 1, lambda: None) as session:
            yield session
            session.finish({})

    def undo(self, task_id: str) -> bool:
        return self.journal.undo(task_id).done
