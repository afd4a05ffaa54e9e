"""What a rehearsal changed: the declared folders as they were against what the command left in its layers."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chassis.canonical import Json, canonical_json, digest
from chassis.errors import Refused
from chassis.journal.extents import prefix_digest
from chassis.journal.survey import Found, look, survey
from chassis.journal.targets import refuse_secret

Op = Literal["create", "edit", "remove", "dress"]
"""A rename is a removal and a creation. `dress`: only mode, owner, attributes, time."""
DRESS = ("mode", "uid", "gid", "attributes")
_OVERLAY = "user.overlay."
_SHOWN_BYTES, _CLAIMED = 500_000, 60
"""How much of a plan the ack lists; its digest is over all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path. `staged`: where its new content lies; `of`: the name that it is one file with."""

    op: Op
    path: str
    before: Found | None
    after: Found | None
    before_sha256: str | None = None
    after_sha256: str | None = None
    staged: Path | None = None
    of: str = ""

    @property
    def size_bytes(self) -> int:
        found = self.after or self.before
        return 0 if found is None else found.size

    def to_json(self) -> Json:
        shown: Json = {
            "op": self.op,
            "target": self.path,
            "kind": (self.after or self.before).kind,  # type: ignore[union-attr]  # one of them is there
            "before_sha256": self.before_sha256,
            "after_sha256": self.after_sha256,
            "size_bytes": self.size_bytes,
        }
        if self.after is not None:
            shown |= {name: getattr(self.after, name) for name in DRESS if getattr(self.after, name) != {}}
            shown |= {"to": self.after.to} if self.after.kind == "link" else {}
        return shown | ({"of": self.of} if self.of else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All changes by path, and the folders whose times they move."""

    changes: tuple[Change, ...]
    folders: Mapping[str, Found]

    @property
    def digest(self) -> str:
        """What a person approves."""
        return digest([each.to_json() for each in self.changes])

    def to_json(self) -> Json:
        """As much of it as an ack holds, and how much that leaves out."""
        shown, size = [], 0
        for each in self.changes:
            value = each.to_json()
            size += len(canonical_json(value))
            if size > _SHOWN_BYTES:
                break
            shown.append(value)
        left = len(self.changes) - len(shown)
        return {"changes": shown, "notes": self.notes, **({"left_out": left} if left else {})}

    @property
    def notes(self) -> str:
        """In one line."""
        counts = Counter(each.op for each in self.changes)
        words: Mapping[Op, str] = {
            "create": "created", "edit": "edited", "remove": "removed", "dress": "given another mode or time",
        }  # fmt: skip
        said = ", ".join(f"{counts[op]} {word}" for op, word in words.items() if counts[op])
        written = sum(each.size_bytes for each in self.changes if each.op in ("create", "edit"))
        return f"{said or 'nothing'}; {written:,} bytes to write" + (
            "; a rename shows as removed and created" if counts["create"] and counts["remove"] else ""
        )

    @property
    def claims(self) -> tuple[Json, ...]:
        """For the independent prober: what is staged is what the plan says, and nothing of it is there yet.

        A real file is named only where there is nothing else: looking at it leaves the time at which it was read.
        """
        found: list[Json] = []
        for each in self.changes:
            if each.after is not None and each.after_sha256 and each.staged is not None:
                found.append(_digest_claim(str(each.staged), each.after_sha256, each.after.size))
            if each.before is None:
                found.append({"kind": "absent", "target": each.path, "expect": {}})
        real = [each for each in self.changes if each.before is not None and each.before_sha256]
        if not found:
            found = [
                _digest_claim(e.path, e.before_sha256, e.before.size) for e in real if e.before and e.before_sha256
            ]
        return tuple(found[:_CLAIMED])


def _digest_claim(target: str, sha256: str, size: int) -> Json:
    return {"kind": "file_digest", "target": target, "expect": {"sha256": sha256, "size": str(size)}}


def merged(before: Mapping[str, Found], real: Path, upper: Path) -> tuple[dict[str, Found], dict[str, Path]]:
    """What an overlay of `upper` over `real` shows, without its mount; and where what it changed lies.

    A device 0:0 hides the name, a folder marked opaque all that was in it (kernel, filesystems/overlayfs.rst).
    """
    hidden, now, staged = set[str](), dict[str, Found](), dict[str, Path]()
    for found in survey([upper]):
        source = Path(found.path)
        path = str(real / source.relative_to(upper))
        if found.kind == "other" and _whiteout(source.lstat()):
            hidden.add(path)
            continue
        if found.attributes.get(f"{_OVERLAY}opaque") == b"y".hex() or found.kind != "folder":
            hidden.add(path)
        now[path], staged[path] = _plain(found, path), source
    left = {path: found for path, found in before.items() if path not in now and not _beneath(path, hidden, real)}
    return left | now, staged


def _whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _plain(found: Found, path: str) -> Found:
    kept = {name: value for name, value in found.attributes.items() if not name.startswith(_OVERLAY)}
    return replace(found, path=path, attributes=kept)


def _beneath(path: str, hidden: set[str], real: Path) -> bool:
    """Whether it or a folder around it is hidden."""
    if not hidden:
        return False
    each = Path(path)
    while each != real:
        if str(each) in hidden:
            return True
        each = each.parent
    return str(real) in hidden and str(real) != path


def copied(was: Mapping[str, Found], real: Path, upper: Path) -> tuple[dict[str, Found], dict[str, Path]]:
    """The same for a whole copy: `was` is how the copy looked, by its own paths, before the command ran."""
    now, staged = dict[str, Found](), dict[str, Path]()
    for found in survey([upper]):
        path = str(real / Path(found.path).relative_to(upper))
        now[path] = _plain(found, path)
        known = was.get(found.path)
        if known is None or known.same != found.same:
            staged[path] = Path(found.path)
    return now, staged


def compare(before: Mapping[str, Found], after: Mapping[str, Found], staged: Mapping[str, Path]) -> Plan:
    """The plan. Raises Refused for what may not or can't be applied: secrets, devices, names that are not text."""
    changes: list[Change] = []
    for path, was in before.items():
        now = after.get(path)
        if now is None or now.kind != was.kind:
            changes.append(
                Change(op="remove", path=path, before=was, after=None, before_sha256=_sha256(was, Path(path)))
            )
        elif path in staged and (change := _changed(was, now, staged[path])) is not None:
            changes.append(change)
    names: dict[int, str] = {}  # an inode of the layer → its first name
    for path in sorted(staged, key=lambda each: each not in before):
        now, known = after[path], before.get(path)
        first = names.setdefault(now.ino, path) if now.kind == "file" and now.links > 1 else path
        if known is not None and known.kind == now.kind:
            continue
        sha256 = _sha256(now, staged[path])
        changes.append(
            Change(
                op="create", path=path, before=None, after=now, after_sha256=sha256, staged=staged[path],
                of="" if first == path else first,
            )
        )  # fmt: skip
    changes.sort(key=lambda each: (each.path, each.op != "remove"))
    for each in changes:
        _allowed(each)
    touched = {str(Path(each.path).parent) for each in changes} | {each.path for each in changes}
    folders = {path: after[path] for path in touched if path in after and after[path].kind == "folder"}
    return Plan(changes=tuple(changes), folders=folders)


def _changed(was: Found, now: Found, staged: Path) -> Change | None:
    """A layer also has what was only opened, and folders above what was changed."""
    dressed = any(getattr(was, name) != getattr(now, name) for name in DRESS)
    if was.kind == "folder":
        return Change(op="dress", path=was.path, before=was, after=now) if dressed else None
    if was.kind == "link":
        same = was.to == now.to and (was.uid, was.gid) == (now.uid, now.gid)
        return None if same else Change(op="edit", path=was.path, before=was, after=now)
    old, new = _sha256(was, Path(was.path)), _sha256(now, staged)
    if old == new and not dressed and was.mtime_ns == now.mtime_ns:
        return None
    op: Op = "dress" if old == new else "edit"
    return Change(op=op, path=was.path, before=was, after=now, before_sha256=old, after_sha256=new, staged=staged)


def _sha256(found: Found, where: Path) -> str | None:
    if found.kind != "file":
        return None
    try:
        fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME)
    except PermissionError:  # somebody else's file: then it shows that it was read
        try:
            fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise Refused(f"{found.path} can't be read, so what becomes of it can't be planned") from error
    try:
        return prefix_digest(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _allowed(change: Change) -> None:
    found = change.after or change.before
    assert found is not None
    try:
        (found.path + found.to).encode()
    except UnicodeEncodeError as error:
        raise Refused("it made a name that is not UTF-8, which can't be journaled; nothing was applied") from error
    refuse_secret(Path(change.path) if found.kind != "folder" else Path(change.path) / "-")
    if found.kind == "other":
        raise Refused(f"{change.path} is no file, folder or link, so it can't be applied; nothing was")


def drift(plan: Plan) -> str:
    """How the real folders differ from those that were rehearsed on, as far as the plan touches them; empty if not."""
    removed = {each.path for each in plan.changes if each.op == "remove"}
    for each in plan.changes:
        now, was = look(Path(each.path)), each.before
        if was is None and now is not None and each.path not in removed:
            return f"{each.path} appeared since the rehearsal"
        if was is None:
            parent = look(Path(each.path).parent)
            if parent is not None and parent.kind != "folder" and str(Path(each.path).parent) not in removed:
                return f"{Path(each.path).parent} is no folder any more"
            continue
        if now is None or now.kind != was.kind:
            return f"{each.path} is gone or something else since the rehearsal"
        if was.kind != "folder" and now.same != was.same:
            return f"{each.path} was changed since the rehearsal began"
        if was.kind == "folder" and any(getattr(now, name) != getattr(was, name) for name in DRESS):
            return f"{each.path} got another mode or owner since the rehearsal"
        if was.kind == "folder" and each.op == "remove":
            new = [child.name for child in Path(each.path).iterdir() if str(child) not in removed]
            if new:
                return f"{each.path}/{new[0]} appeared since the rehearsal"
    return ""


def index(found: Iterable[Found]) -> dict[str, Found]:
    return {each.path: each for each in found}


def shown(plan: Plan, most: int = 12) -> Sequence[str]:
    """For a person: the counts, then the first names."""
    marks = {"create": "+", "edit": "~", "remove": "-", "dress": "·"}
    lines = [plan.notes]
    for each in plan.changes[:most]:
        found = each.after or each.before
        assert found is not None
        size = f" ({each.size_bytes:,} bytes)" if found.kind == "file" else f" ({found.kind})"
        lines.append(f"  {marks[each.op]} {''.join(c if c.isprintable() else '?' for c in each.path)}{size}")
    if len(plan.changes) > most:
        lines.append(f"  … and {len(plan.changes) - most:,} more; --json-summary has all of them")
    return lines
