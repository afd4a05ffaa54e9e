"""`calyx audit`: the hash-chained record of what was decided, read from the station folder itself."""

import json as jsonlib
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.atomic import whole_lines
from chassis.audit import segments
from chassis.errors import Unavailable
from chassis.layout import Layout
from chassis.ledger import check_ledger
from cli.output import JsonFlag, emit, say
from cli.reach import reach_of
from cli.tables import Column, table
from cli.times import local


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("verify")(verify)
    group.command("tail")(tail)
    app.add_typer(group, name="audit", help="The hash-chained record of what was decided. Example: calyx audit tail")


def verify(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Walk every chain; exit 1 if one does not hold. Example: calyx audit verify"""
    layout = _present(reach_of(ctx).layout)
    chains, signed = check_ledger(layout)
    ok = all(each.ok for each in chains) and not any(each.fault for each in signed)

    def words(v: dict[str, Any]) -> None:
        table(
            (
                Column("chain"),
                Column("holds", "state"),
                Column("lines", "number"),
                Column("not yet witnessed", "number", drop=2),
                Column("head", drop=1),
                Column("reason", "words"),
            ),
            [
                (
                    c["service"],
                    c["ok"],
                    c["lines"],
                    c["unverifiable"],
                    c["head"][:12],
                    f"{c['where']}: {c['reason']}" if c["where"] else c["reason"],
                )
                for c in v["chains"]
            ],
            "No audit lines yet: nothing was decided here.",
        )
        for each in v["checkpoints"]:
            if each["fault"]:
                say(f"checkpoint {each['name']}: {each['fault']}")
        if v["checkpoints"]:
            held = sum(not each["fault"] for each in v["checkpoints"])
            say(f"{held} of {len(v['checkpoints'])} signed daily checkpoints hold.")

    value = {
        "ok": ok,
        "chains": [asdict(each) for each in chains],
        "checkpoints": [{"name": each.name, "pulse": each.pulse, "fault": each.fault} for each in signed],
    }
    emit(value, json, words)  # fmt: skip
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
    folder = layout.audit("x").parent
    for name in sorted({path.stem for path in (*folder.glob("*.jsonl"), *folder.glob("*.d"))}):
        for line in _last_lines(folder / f"{name}.jsonl", last):
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


def _last_lines(path: Path, count: int) -> list[bytes]:
    """The last lines of a chain, as many of its files as it takes."""
    lines: list[bytes] = []
    for segment in reversed(segments(path)):
        lines = [*deque(whole_lines(segment), maxlen=count - len(lines)), *lines]
        if len(lines) >= count:
            break
    return lines


def _present(layout: Layout) -> Layout:
    if not layout.root.is_dir():
        raise Unavailable(f"there is no station folder {layout.root}; choose one with --station")
    return layout
