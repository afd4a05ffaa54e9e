"""What changed in watched folders while a task ran, held against what its ack declares: pure.

A change that nobody declared counts against the doer, unless it can be told to be somebody else's:
  - another journaled task declares it;
  - it was made after the task had ended (the kernel's change time, which no program can set back);
  - the file belongs to another user, who alone may write it;
  - the file merely grew, and its name is among those to which others append (`grows` in the manifest);
  - somebody changed that file too since the last task, while none was running.
A single write by the same user between the dispatch and the ack can't be told from the doer's own, and counts.
"""

import fnmatch
import os.path
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.listing import Entry, Listing, changed
from chassis.probing import Verdict

TICK_NS = 20_000_000
"""File times tick in steps of up to 10 ms."""
SHOWN = 3
COPIES = re.compile(r".*/\.calyx-rehearsal(/[a-z0-9][a-z0-9._-]*-[0-9]+)?")
"""Where a program leaves what it rehearsed for the prober to see, by task (docs/runbooks/join-as-an-agent.md)."""
STAYS = frozenset(
    {"create", "replace", "rewrite", "rotate", "mkdir", "dress", "set_key", "drop_key", "put_row", "drop_row"}
)
ROWS = frozenset({"put_row", "drop_row"})
BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database: declared with its rows, and a change there is a change of it."""
GOES = frozenset({"remove", "rmdir"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """`undeclared`: changed, and nobody said so. `missing`: said to be changed, and it was not. `others`: changes that
    are somebody else's, each with the reason."""

    verdict: Verdict
    found: str
    undeclared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the doer and the others said. `effects` are the ack's, in order; `others` paths that other tasks changed;
    `restless` files that changed while no task ran; `must_change`: done means that something here is different."""

    effects: Sequence[Mapping[str, Any]] = ()
    others: Collection[str] = ()
    grows: Sequence[str] = ()
    restless: Collection[str] = ()
    ended_ns: int | None = None
    doer_uid: int | None = None
    must_change: bool = False


def compare(before: Listing, after: Listing, terms: Terms) -> Compared:
    """Judge one task's footprint in the folders that both listings show."""
    promised = _promised(terms.effects)
    rowed = {path for path, promise in promised.items() if promise.op in ROWS}
    declared = {*promised, *(path + more for path in rowed for more in BESIDE)}
    undeclared, others = [], []
    for path in changed(before, after):
        was, now = before.entries.get(path), after.entries.get(path)
        if _same(was, now) or path in declared or _holds(path, was, now, declared) or COPIES.fullmatch(path):
            continue
        reason = _somebody_else(path, was, now, after, terms)
        if reason:
            others.append(f"{path} {reason}")
        else:
            undeclared.append(f"{path} {_how(was, now)}")
    missing = [
        f"{path} {why}"
        for path, promise in promised.items()
        if _under(path, after.roots) and path not in terms.others
        if not (path in rowed and path in after.entries and _changed_beside(path, before, after))
        if (why := _broken(promise, before.entries.get(path), after.entries.get(path), path, terms))
    ]
    if terms.must_change and not promised and not undeclared:
        missing.append("the task is said to be done, and nothing was changed")
    bad = [*(f"not declared: {each}" for each in undeclared), *(f"declared: {each}" for each in missing)]
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        verdict, found = Verdict.REFUTED, "; ".join(bad[:SHOWN]) + more
    else:
        also = f"; {len(others)} by others ({others[0]})" if others else ""
        verdict, found = Verdict.CONFIRMED, f"nothing was changed beside the {len(promised)} declared{also}"
    return Compared(
        verdict=verdict, found=found, undeclared=tuple(undeclared), missing=tuple(missing), others=tuple(others)
    )


def restless(last: Listing, before: Listing) -> set[str]:
    """Files that changed between the end of one task and the beginning of the next."""
    return {
        path
        for path in changed(last, before)
        if path in last.entries
        and path in before.entries
        and before.entries[path].kind == "file"
        and not _same(last.entries[path], before.entries[path])
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promise:
    """The last thing that a task says it did to a path; `only` if it is also the only one."""

    op: str
    sha256: str = ""
    only: bool = True


def _promised(effects: Sequence[Mapping[str, Any]]) -> dict[str, _Promise]:
    found: dict[str, _Promise] = {}
    for each in effects:
        op, sha256 = str(each.get("op", "")), str(each.get("after_sha256") or "")
        for key in ("target", "to"):
            if each.get(key):
                path = real(str(each[key]))
                found[path] = _Promise(op=op, sha256=sha256 if key == "target" else "", only=path not in found)
    return found


def real(path: str) -> str:
    """As a listing names it: the folder's links resolved, not that of the thing itself."""
    folder, name = os.path.split(os.path.normpath(path))
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - text, as it came over the wire


def _under(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _changed_beside(path: str, before: Listing, after: Listing) -> bool:
    """A row that was written while another program had the database open may still lie beside it."""
    return any(not _same(before.entries.get(path + more), after.entries.get(path + more)) for more in BESIDE)


def _same(was: Entry | None, now: Entry | None) -> bool:
    if was is None or now is None:
        return was is now
    return was.face == now.face


def _holds(path: str, was: Entry | None, now: Entry | None, declared: Collection[str]) -> bool:
    """A folder that had to come or go with what was declared in it."""
    there = now or was
    if there is None or there.kind != "folder" or (was is not None and now is not None):
        return False
    return any(each.startswith(path + "/") for each in declared)


def _how(was: Entry | None, now: Entry | None) -> str:
    if was is None or now is None:
        return "was made" if was is None else "was removed"
    return "was appended to" if now.grew else "was changed"


def _somebody_else(path: str, was: Entry | None, now: Entry | None, after: Listing, terms: Terms) -> str:
    """Why a change is not the doer's; empty when nothing says so."""
    if path in terms.others or any(path.endswith(more) and path.removesuffix(more) in terms.others for more in BESIDE):
        return "was changed by another task"
    if terms.ended_ns is not None and now is not None and now.ctime_ns > terms.ended_ns + TICK_NS:
        return "was changed after the task had ended"
    if now is not None and terms.doer_uid not in (None, 0, now.uid):
        theirs = was is None or was.uid == now.uid
        if theirs and (now.kind == "link" or not now.mode & 0o022):
            return f"belongs to user {now.uid}"
    if now is not None and was is not None and now.kind == "file":
        name = path.rpartition("/")[2]
        if now.grew and any(fnmatch.fnmatchcase(name, each) for each in terms.grows):
            return "was appended to"
        if path in terms.restless:
            return "was being changed before, while no task ran"
    return ""


def _broken(promise: _Promise, was: Entry | None, now: Entry | None, path: str, terms: Terms) -> str:
    """Why what was said of a path is not so; empty when it is, or when nothing can be said."""
    if promise.op in GOES:
        if now is not None:
            late = terms.ended_ns is not None and now.ctime_ns > terms.ended_ns + TICK_NS
            return "" if late else "is still there"
        return "was not there before either" if was is None and promise.only else ""
    if promise.op not in STAYS:
        return ""
    if now is None:
        return "is not there"
    if was is not None and (was.ino, was.ctime_ns, was.face) == (now.ino, now.ctime_ns, now.face):
        return "is as it was before"
    if promise.sha256 and now.whole and now.digest and now.digest != promise.sha256:
        late = terms.ended_ns is not None and now.ctime_ns > terms.ended_ns + TICK_NS
        name = path.rpartition("/")[2]
        return "" if late or any(fnmatch.fnmatchcase(name, each) for each in terms.grows) else "has another content"
    return ""
