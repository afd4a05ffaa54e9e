"""`calyx audit`: the hash-chained record of what was decided, read from the station folder itself."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.atomic import read_json, whole_lines
from chassis.audit import GENESIS
from chassis.audit import verify as verify_chain
from chassis.errors import Unavailable
from chassis.layout import Layout
from cli.output import JsonFlag, emit
from cli.reach import reach_of
from cli.tables import Column, table
from cli.times import local


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("verify")(verify)
    group.command("tail")(tail)
    app.add_typer(group, name="audit", help="The hash-chained record of what was decided. Example: calyx audit tail")


def last_heads(layout: Layout) -> tuple[str, dict[str, str]]:
    """Id and audit heads of the last readable pulse record; they show a chain that was cut short."""
    for path in sorted(layout.pulses.glob("*/bp-*.json"), reverse=True)[:5]:
        try:
            record = read_json(path)
            return str(record["id"]), {str(k): str(v) for k, v in record["audit_heads"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return "", {}


def check(layout: Layout) -> list[dict[str, Any]]:
    """Each chain: does it hold, and does it still contain the head that the last pulse recorded?"""
    pulse, heads = last_heads(layout)
    chains: list[dict[str, Any]] = []
    folder = layout.audit("x").parent
    for path in sorted(folder.glob("*.jsonl")):
        found = verify_chain(path)
        ok, reason = found.first_bad is None, found.reason
        recorded = heads.get(path.stem, GENESIS)
        if ok and recorded not in (GENESIS, "") and recorded not in _hashes(path):
            ok, reason = False, f"the entry that {pulse} recorded as its head is gone"
        chains.append(
            {
                "service": path.stem,
                "ok": ok,
                "lines": found.lines,
                "head": found.head,
                "first_bad": found.first_bad,
                "reason": reason,
            }
        )
    for path in sorted(folder.glob("*.jsonl.broken-*")):
        chains.append(
            {
                "service": path.name, "ok": False, "lines": sum(1 for _ in whole_lines(path)), "head": "",
                "first_bad": None, "reason": "kept aside when it was found broken",
            }
        )  # fmt: skip
    missing = set(heads) - {chain["service"] for chain in chains}
    chains += [
        {"service": name, "ok": False, "lines": 0, "head": "", "first_bad": None, "reason": "the chain is missing"}
        for name in sorted(missing)
        if heads[name] not in (GENESIS, "")
    ]
    return chains


def verify(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Walk every chain; exit 1 if one does not hold. Example: calyx audit verify"""
    layout = _present(reach_of(ctx).layout)
    chains = check(layout)
    ok = all(chain["ok"] for chain in chains)
    emit(
        {"ok": ok, "chains": chains},
        json,
        lambda v: table(
            (
                Column("chain"), Column("holds", "state"), Column("lines", "number"), Column("head", drop=1),
                Column("reason", "words"),
            ),
            [(c["service"], c["ok"], c["lines"], c["head"][:12], c["reason"]) for c in v["chains"]],
            "No audit lines yet: nothing was decided here.",
        ),
    )  # fmt: skip
    if not ok:
        raise Exit(1)


def tail(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("-n", "--last", min=1, max=10_000, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """The latest entries of all chains, oldest first. Example: calyx audit tail -n 50"""
    reach = reach_of(ctx)
    layout = _present(reach.layout)
    entries: list[dict[str, Any]] = []
    for path in sorted(layout.audit("x").parent.glob("*.jsonl")):
        for line in list(whole_lines(path))[-last:]:
            try:
                entries.append(jsonlib.loads(line))
            except ValueError:
                continue  # `audit verify` is what judges damage
    entries.sort(key=lambda entry: str(entry.get("at", "")))

    now = reach.clock.now()

    def words(v: dict[str, Any]) -> None:
        table(
            (Column("at"), Column("service"), Column("event"), Column("facts", "words")),
            [
                (local(str(e.get("at", "")), now), e.get("service"), e.get("event"), _facts(e))
                for e in v["entries"]
            ],
            "No audit lines yet: nothing was decided here.",
        )  # fmt: skip

    emit({"entries": entries[-last:]}, json, words)


def _facts(entry: dict[str, Any]) -> str:
    """What the event is about; what is empty is left out."""
    named = ((k, x) for k, x in entry.items() if k not in ("at", "service", "event", "prev", "hash") and x != "")
    return ", ".join(f"{k} {x if isinstance(x, str) else jsonlib.dumps(x)}" for k, x in named)


def _hashes(path: Path) -> set[str]:
    return {str(jsonlib.loads(line)["hash"]) for line in whole_lines(path)}


def _present(layout: Layout) -> Layout:
    if not layout.root.is_dir():
        raise Unavailable(f"there is no station folder {layout.root}; choose one with --station")
    return layout
