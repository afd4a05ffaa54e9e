"""Removing a list of files: what its rehearsal shows, and what is claimed once they are gone."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from chassis.canonical import Json
from chassis.work import Change, Effects, Outcome, Plan
from services.governor.codecs import digest_prefix


def rehearse_removal(paths: Sequence[Path], scratch: Path) -> Plan:
    """Remove copies. The claims show that they are gone, and that what the plan names is there, untouched."""
    changes: list[Change] = []
    claims: list[Json] = []
    for number, path in enumerate(paths):
        size = path.lstat().st_size
        sha256 = digest_prefix(path, size)
        copy = scratch / f"{number:03d}-{path.name}"
        shutil.copyfile(path, copy)
        copy.unlink()
        changes.append(Change(op="remove", target=str(path), before_sha256=sha256, after_sha256=None, size_bytes=size))
        claims += [
            {"kind": "absent", "target": str(copy), "expect": {}},
            {"kind": "file_digest", "target": str(path), "expect": {"sha256": sha256, "size": str(size)}},
        ]
    return Plan(changes=tuple(changes), claims=tuple(claims))


def remove_all(paths: Sequence[Path], effects: Effects, cpu_seconds: Callable[[], float], what: str) -> Outcome:
    """Their inodes go to the journal: the space is free once its retention lets go of them. Costs are for each byte."""
    claims: list[Json] = []
    freed, started = 0, cpu_seconds()
    for path in paths:
        freed += path.lstat().st_size
        effects.remove(path)
        claims.append({"kind": "absent", "target": str(path), "expect": {}})
    if not claims:
        return Outcome(detail=f"no {what}", no_work=True)
    return Outcome(
        detail=f"{len(claims)} {what} removed, {freed} bytes",
        claims=tuple(claims),
        cost={
            "cpu_seconds": round(cpu_seconds() - started, 6),
            "bytes_in": float(freed),
            "bytes_saved": float(freed),
        },
    )
