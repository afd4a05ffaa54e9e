"""What an agent's functions give back: results, plans, and the claims by which somebody else can check them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calyx_agent.client import Json

Status = Literal["rehearsed", "done", "no_work", "failed", "cancelled", "undone"]
MAX_DETAIL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file that is to change (in a plan) or did (in a result). Digests are sha256; None: no file there."""

    op: Literal["create", "replace", "remove"]
    target: str
    before_sha256: str | None
    after_sha256: str | None
    size_bytes: int

    @classmethod
    def write(cls, path: Path, content: bytes) -> "Change":
        """`content` at `path`, in place of what lies there now."""
        before = sha256_of(path)
        return cls(
            op="create" if before is None else "replace",
            target=str(path.absolute()),
            before_sha256=before,
            after_sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )

    @classmethod
    def remove(cls, path: Path) -> "Change":
        """Nothing at `path` any more. Raises FileNotFoundError."""
        size = path.stat().st_size
        return cls(
            op="remove",
            target=str(path.absolute()),
            before_sha256=sha256_of(path),
            after_sha256=None,
            size_bytes=size,
        )

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def claim(self) -> Json:
        """What a prober finds once this has happened."""
        if self.after_sha256 is None:
            return {"kind": "absent", "target": self.target, "expect": {}}
        return {"kind": "file_digest", "target": self.target, "expect": {"sha256": self.after_sha256}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rehearsal found it would do; empty `changes`: nothing to do. A person approves exactly this.

    `claims` are checks that hold already, on copies the rehearsal made: they show that it is what it says.
    """

    changes: Sequence[Change] = ()
    claims: Sequence[Mapping[str, Any]] = ()
    notes: str = ""

    @property
    def digest(self) -> str:
        """sha256 over the changes' canonical JSON, as the station computes it."""
        return hashlib.sha256(canonical([each.to_json() for each in self.changes]).encode()).hexdigest()

    def to_json(self) -> Json:
        return {"changes": [each.to_json() for each in self.changes], "notes": self.notes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a task; `Task.done`, `no_work` and `failed` make one.

    `applied`: whether anything was changed; None lets the agent say what it knows (changes named, or a check passed).
    """

    status: Status
    detail: str = ""
    changes: Sequence[Change] = ()
    files_changed: int | None = None
    claims: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    applied: bool | None = None
    reverted: bool = False
    plan: Plan | None = None

    def to_ack(self, *, touched: bool) -> Json:
        """The ack's fields. `touched`: whether the station had allowed an effect before this result."""
        failed = self.status in ("failed", "cancelled")
        changed = len(self.changes) if self.files_changed is None else self.files_changed
        applied = (changed > 0 or (failed and touched)) if self.applied is None else self.applied
        ack: Json = {
            "status": self.status,
            "detail": self.detail[:MAX_DETAIL],
            "files_changed": changed,
            "effects_json": canonical([_effect(each, self.status) for each in self.changes]),
            "claims_json": canonical([*(dict(each) for each in self.claims), *(each.claim() for each in self.changes)]),
            "cost": dict(self.cost),
            "applied": applied,
            "reverted": self.reverted,
        }
        if self.plan is not None:
            ack |= {
                "plan_json": canonical(self.plan.to_json()),
                "plan_digest": self.plan.digest,
                "claims_json": canonical([dict(each) for each in self.plan.claims]),
            }
        return ack


def _effect(change: Change, status: Status) -> Json:
    """An undo's effects are its steps, in words, as the station's own undos have them."""
    if status == "undone":
        return {"step": f"{'put back' if change.after_sha256 else 'remove'} {change.target}"}
    return change.to_json()


def file_claim(path: Path) -> Json:
    """The claim that `path` holds what it holds now. Raises FileNotFoundError."""
    digest = sha256_of(path)
    if digest is None:
        raise FileNotFoundError(path)
    return {"kind": "file_digest", "target": str(path.absolute()), "expect": {"sha256": digest}}


def sha256_of(path: Path) -> str | None:
    """Of a file's content; None when there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
