"""What a run changed, as the ack tells it: effects, claims that a prober can check, how many files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.errors import Refused
from chassis.journal.targets import refuse_secret

MAX_EFFECTS, MAX_CLAIMS = 1000, 100
"""What the ack lists; the journal has all of it."""
_NO_FILES = frozenset({"folder", "unlock", "left"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """`left` names what can't be undone."""

    files_changed: int
    effects: tuple[Mapping[str, Any], ...]
    claims: tuple[Mapping[str, Any], ...]
    left: tuple[str, ...]


def footprint(changes: Sequence[Mapping[str, Any]]) -> Footprint:
    """From the journal's changes. A folder's new time alone is no change."""
    real = [each for each in changes if each["op"] not in _NO_FILES]
    return Footprint(
        files_changed=len({each["target"] for each in real}),
        effects=tuple(_effect(each) for each in real[:MAX_EFFECTS]),
        claims=tuple(claim for each in real if (claim := _claim(each, real)))[:MAX_CLAIMS],
        left=tuple(str(each["target"]) for each in changes if each["op"] == "left"),
    )


def _effect(change: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the digests of what looks like a secret."""
    if _secret(change["target"]):
        return {key: value for key, value in change.items() if not key.endswith("_sha256")}
    return change


def _claim(change: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    op, target = change["op"], str(change["target"])
    if op in ("create", "replace", "rewrite") and change["after_sha256"] and not _secret(target):
        expect = {"sha256": change["after_sha256"], "size": str(change["size_bytes"])}
        return {"kind": "file_digest", "target": target, "expect": expect}
    replaced = any(each is not change and each["target"] == target for each in changes)
    if op == "remove" and not replaced and Path(target).parent.is_dir():
        return {"kind": "absent", "target": target, "expect": {}}
    return None


def _secret(target: str) -> bool:
    try:
        refuse_secret(Path(target))
    except Refused:
        return True
    return False
