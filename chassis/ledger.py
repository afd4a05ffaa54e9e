"""All of a station's audit chains, held against what was signed and recorded of them elsewhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chassis.atomic import read_json, whole_lines
from chassis.audit import GENESIS, archive_of, verify
from chassis.checkpoints import Checkpoint, checkpoints
from chassis.errors import CalyxError
from chassis.identity import load_identity
from chassis.layout import Layout

WITNESSES = 500
"""So many of the newest pulse records are asked for the heads they saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """`unverifiable` lines came after the last head that a pulse record or checkpoint saw: cutting them off would
    not show. None when nothing saw a head of this chain."""

    service: str
    ok: bool
    lines: int
    head: str
    first_bad: int | None
    where: str
    reason: str
    unverifiable: int | None


def check_ledger(layout: Layout) -> tuple[list[Chain], list[Checkpoint]]:
    """Every chain and every checkpoint. Reads files only; nothing needs to run."""
    folder = layout.audit("x").parent
    try:
        station_id = load_identity(layout).station_id
    except CalyxError:  # then no checkpoint can be this station's
        station_id = ""
    signed = checkpoints(folder, layout.keys / "grant.pub", station_id)
    seen = [(each.name, each.heads) for each in signed if not each.fault] + _witnesses(layout)
    names = {path.stem for path in (*folder.glob("*.jsonl"), *folder.glob("*.d"))}
    names |= {service for _, heads in seen for service, head in heads.items() if head not in (GENESIS, "")}
    chains = [_chain(folder / f"{name}.jsonl", seen) for name in sorted(names)]
    for path in sorted(folder.glob("*.jsonl.broken-*")):
        lines = sum(1 for _ in whole_lines(path))
        reason = "kept aside when it was found broken"
        chains.append(
            Chain(
                service=path.name, ok=False, lines=lines, head="", first_bad=None, where="", reason=reason,
                unverifiable=None,
            )
        )  # fmt: skip
    return chains, signed


def _chain(path: Path, seen: Sequence[tuple[str, Mapping[str, str]]]) -> Chain:
    name = path.stem
    witnessed = [(who, head) for who, heads in seen if (head := heads.get(name, "")) not in (GENESIS, "")]
    found = verify(path, {head for _, head in witnessed})
    ok, reason = found.first_bad is None, found.reason
    if ok and not found.lines and witnessed and not archive_of(path).exists():
        ok, reason = False, "the chain is missing"
    elif ok:
        gone = next((who for who, head in witnessed if head not in found.marks), None)
        if gone is not None:
            ok, reason = False, f"the entry that {gone} recorded as its head is gone"
    last = max(found.marks.values(), default=None)
    return Chain(
        service=name,
        ok=ok,
        lines=found.lines,
        head=found.head,
        first_bad=found.first_bad,
        where=found.where,
        reason=reason,
        unverifiable=None if last is None else found.lines - last,
    )


def _witnesses(layout: Layout) -> list[tuple[str, Mapping[str, str]]]:
    """(pulse, audit heads) of the newest readable pulse records, oldest first."""
    found: list[tuple[str, Mapping[str, str]]] = []
    for path in sorted(layout.pulses.glob("*/bp-*.json"))[-WITNESSES:]:
        try:
            record = read_json(path)
            heads = {str(service): str(head) for service, head in record["audit_heads"].items()}
            found.append((str(record["id"]), heads))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            continue  # what is wrong with a pulse record is for `pulse replay` to say
    return found
