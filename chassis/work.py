"""What an agent implements for a domain, and the only way it may change the world: `Effects`.

The worker (`chassis/worker.py`) claims, checks the grant, the kill switch and the fence, calls the work, and
acks. The work never writes outside `scratch` except through `Effects`, which journals first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chassis.canonical import Json, digest
from chassis.exchange.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One planned change: `op` on `target`, with what is there before and what will be there after.

    op: create, replace, remove, rotate, set_key, drop_key, put_row, drop_row. Digests are sha256 (hex) of content; None
    where there is no file, and for rows.
    """

    op: str
    target: str
    before_sha256: str | None
    after_sha256: str | None
    size_bytes: int

    def to_json(self) -> Json:
        return {
            "op": self.op,
            "target": self.target,
            "before_sha256": self.before_sha256,
            "after_sha256": self.after_sha256,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rehearsal found it would do. Empty `changes` = nothing to do (`no_work`).

    `claims` are the checks (`{"kind", "target", "expect"}`) that an independent prober can make now, on the
    scratch copies, to see whether the rehearsal is what it says.
    """

    changes: tuple[Change, ...]
    claims: tuple[Json, ...] = ()
    notes: str = ""

    def to_json(self) -> Json:
        return {"changes": [c.to_json() for c in self.changes], "notes": self.notes}

    @property
    def digest(self) -> str:
        """What a person approves: digest over the changes alone."""
        return digest([c.to_json() for c in self.changes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was done. `claims` are what a prober will find in the real world if it is true."""

    detail: str
    claims: tuple[Json, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    no_work: bool = False


class Effects(Protocol):
    """Journaled changes under declared paths, fenced by the claim's epoch.

    Each call first checks kill switch, claim and path consent (Refused, LeaseLost), then journals the
    pre-image (intent), then changes, then journals the commit. Secrets (.ssh, .gnupg, .env, key files) are
    refused as targets. Content is given as a finished file in scratch on the same file system, moved into place.
    """

    def create(self, target: Path, source: Path, *, mode: int = 0o644) -> None:
        """Put `source` at `target`, which must not exist (Drifted)."""
        ...

    def replace(self, target: Path, source: Path, *, expect_sha256: str | None = None) -> None:
        """Put `source` in the place of `target`; Drifted if its content is not `expect_sha256`."""
        ...

    def remove(self, target: Path, *, inverse: Json | None = None) -> None:
        """Remove `target`. Its inode goes to the journal, unless `inverse` says how its bytes can be made again.

        inverse: {"kind": "decompress", "codec": "gzip|zstd|xz", "source": <path>}; verified before the removal.
        """
        ...

    def rotate(self, target: Path, to: Path) -> None:
        """Rename an append-only file aside and put an empty one in its place, same mode and owner.

        A writer may go on appending to either; undo puts the old content before what was appended since.
        """
        ...

    def set_key(self, target: Path, key: Sequence[str], value: Any) -> None:
        """Let `key`, the names on the way to it, hold `value` in a .json or .toml file; the rest of its text stays.

        What it lies in must be there. Undo puts that key back and leaves what others changed in the file since. Refused
        for what is no such file, holds a key twice or has another name; InvalidInput for what the format can't hold.
        """
        ...

    def drop_key(self, target: Path, key: Sequence[str]) -> None:
        """Take a key that is there out of a .json or .toml file."""
        ...

    def put_row(self, db: Path, table: str, key: Mapping[str, object], values: Mapping[str, object]) -> None:
        """Set these columns of the row with that primary key in a SQLite file, or make the row.

        Undo puts that row back and no other. Refused for a table without a primary key, with a trigger, or whose rows
        take others along; Unavailable for a locked database. A task changes a database by rows or as a file, not both.
        """
        ...

    def drop_row(self, db: Path, table: str, key: Mapping[str, object]) -> None:
        """Delete the row with that primary key, which must be there."""
        ...


class Work(Protocol):
    """One domain's action, by one of several procedures. Blocking; called by one thread at a time."""

    @property
    def domain(self) -> str: ...

    @property
    def procedures(self) -> tuple[str, ...]: ...

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Try it on copies in `scratch` (empty, ours); touch nothing else. The same world gives the same plan."""
        ...

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        """Do it. Every change goes through `effects`."""
        ...

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        """Make a small realistic target under `folder` and return the params that point the work at it.

        The worker performs and undoes it there before the procedure may act: byte-identical, or it may not.
        """
        ...
