"""Hash-chained JSONL: one file and one writer per service, so that a changed past shows."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.atomic import append_line, whole_lines
from chassis.canonical import canonical_json, sha256_hex
from chassis.clock import Clock, iso

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCheck:
    """`first_bad` is the 1-based line that breaks the chain, None when all hold."""

    lines: int
    head: str
    first_bad: int | None
    reason: str


def _line(prev: str, body: dict[str, Any]) -> tuple[str, bytes]:
    head = sha256_hex(prev.encode() + canonical_json(body))
    return head, canonical_json({**body, "prev": prev, "hash": head})


def verify(path: Path) -> ChainCheck:
    """Walk the chain; a missing file is an empty chain."""
    head, count = GENESIS, 0
    for raw in whole_lines(path):
        count += 1
        try:
            entry = json.loads(raw)
            prev, said = entry.pop("prev"), entry.pop("hash")
            computed, line = _line(prev, entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            return ChainCheck(lines=count, head=head, first_bad=count, reason="not an audit line")
        if prev != head:
            return ChainCheck(lines=count, head=head, first_bad=count, reason="does not follow the line before it")
        if computed != said or line != raw:
            return ChainCheck(lines=count, head=head, first_bad=count, reason="content does not match its hash")
        head = said
    return ChainCheck(lines=count, head=head, first_bad=None, reason="chain holds")


class Audit:
    """The one writer of a service's chain.

    Opening a chain that is broken keeps the broken file as `<name>.broken-<head>` and starts a new one whose
    first line says so: the station goes on, and the break stays visible.
    """

    def __init__(self, path: Path, clock: Clock, service: str) -> None:
        self._path, self._clock, self._service = path, clock, service
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        check = verify(path)
        self._head = check.head
        if check.first_bad is not None:
            kept = path.with_name(f"{path.name}.broken-{check.head[:12]}")
            again = 1
            while kept.exists():  # broken at the same place once before
                again += 1
                kept = path.with_name(f"{path.name}.broken-{check.head[:12]}-{again}")
            path.rename(kept)
            self._head = GENESIS
            self.write("audit.broken", kept=kept.name, line=check.first_bad, reason=check.reason)

    @property
    def head(self) -> str:
        return self._head

    def write(self, event: str, **facts: Any) -> str:
        """Append one event durably and return the new head. Facts must be JSON and hold no secret."""
        with self._lock:
            body = {"at": iso(self._clock.now()), "service": self._service, "event": event, **facts}
            head, line = _line(self._head, body)
            append_line(self._path, line, mode=0o640)
            self._head = head
            return head
