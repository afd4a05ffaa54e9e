"""`calyx policy`: what may happen here, whether a draft is right, and what it would have made of the past."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.atomic import write_whole
from chassis.errors import InvalidInput, NotFound, Refused, Unavailable
from chassis.policy_yaml import SHIPPED, Parsed, parse
from cli.output import JsonFlag, at, emit, note, optional, say
from cli.reach import Reach, reach_of
from cli.tables import Column, bullet, facts, table, tell
from cli.times import local, parse_span

TRY_SECONDS = 120.0


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("show")(show)
    group.command("check")(check)
    group.command("try")(try_)
    group.command("init")(init)
    app.add_typer(
        group,
        name="policy",
        help="What may happen here: rules, read from top to bottom, the first that matches decides. "
        "Example: calyx policy show",
    )


def show(
    ctx: typer.Context,
    text: Annotated[bool, typer.Option("--text", help="The file as it is written, nothing else.")] = False,
    json: JsonFlag = False,
) -> None:
    """The rules that count now; exit 1 while nothing may act or a newer version was refused.
    Example: calyx policy show"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    found = reach.cbo().GetPolicy(pb.GetPolicyRequest())
    if text and not json:
        say(found.text.rstrip("\n"))
        return
    value = {
        "source": found.source,
        "digest": found.digest,
        "since": at(found, "since"),
        "fault": found.fault,
        "refused": found.refused,
        "rules": [
            {
                "number": rule.number, "line": rule.line, "name": rule.name, "allow": rule.allow,
                "used_pulse": optional(rule, "used_pulse"), "used_day": optional(rule, "used_day"),
            }
            for rule in found.rules
        ],
        "text": found.text,
    }  # fmt: skip
    emit(value, json, lambda v: _show(v, reach))
    if found.fault or found.refused:
        raise Exit(1)


def _show(value: dict[str, Any], reach: Reach) -> None:
    if value["fault"]:
        tell(f"Nothing may act: {value['fault']}")
        return
    since = local(value["since"], reach.clock.now())
    facts([("policy", value["source"]), ("since", since), ("sha256", value["digest"][:12])])
    table(
        (Column("rule", "number"), Column("says", "state"), Column("name", "words"), Column("line", "number"),
         Column("used in 24 h")),
        [
            (rule["number"], "allow" if rule["allow"] else "deny", rule["name"], rule["line"],
             "" if rule["used_day"] is None else rule["used_day"])
            for rule in value["rules"]
        ],
        "No rules: nothing may act.",
    )  # fmt: skip
    tell("Read from top to bottom, the first that matches decides; what no rule matches is denied.")
    if value["refused"]:
        tell(f"A newer version does not count: {value['refused']}")


def check(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A policy.yaml.")],
    json: JsonFlag = False,
) -> None:
    """Whether a policy is right, without a station; exit 1 and a line for each mistake if it is not.
    Example: calyx policy check draft.yaml"""
    parsed = _parsed(_read(file), reach_of(ctx))
    value = {
        "file": str(file),
        "ok": not parsed.faults,
        "rules": 0 if parsed.policy is None else len(parsed.policy.rules),
        "digest": "" if parsed.policy is None else parsed.policy.digest,
        "faults": [{"line": each.line, "column": each.column, "message": each.message} for each in parsed.faults],
    }

    def words(v: dict[str, Any]) -> None:
        for each in v["faults"]:
            say(f"{v['file']}:{each['line']}:{each['column']}: {each['message']}")
        if v["ok"]:
            say(f"{v['file']}: {v['rules']} rule{'' if v['rules'] == 1 else 's'}, no mistakes")

    emit(value, json, words)
    if parsed.faults:
        raise Exit(1)


def try_(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A draft (default: the policy that counts now).")] = None,
    last: Annotated[str, typer.Option("--last", help="How far back: 30d, 12h.")] = "30d",
    terms: Annotated[str, typer.Option("--terms", help="Other ladder terms: promote_run=3,demote_below=90.")] = "",
    json: JsonFlag = False,
) -> None:
    """What a draft would have changed, with how it ended; changes nothing.
    Example: calyx policy try draft.yaml --last 30d"""
    from calyx.cbo.v1 import cbo_pb2 as pb
    from google.protobuf.duration_pb2 import Duration

    reach = reach_of(ctx)
    raw = b"" if file is None else _read(file)
    if file is not None and (faults := _parsed(raw, reach).faults):
        raise InvalidInput(f"{file}:{faults[0].line}:{faults[0].column}: {faults[0].message}")
    request = pb.TryPolicyRequest(text=raw.decode(), last=Duration(seconds=int(parse_span(last))), terms=_terms(terms))
    note("replaying…")
    answer = reach.cbo().TryPolicy(request, timeout=TRY_SECONDS)
    value = {**jsonlib.loads(answer.result_json), "words": list(answer.words)}
    emit(value, json, lambda v: _tried(v, reach))


def _tried(value: dict[str, Any], reach: Reach) -> None:
    now = reach.clock.now()
    if value["since"]:
        say(f"From {local(value['since'], now)} to {local(value['until'], now)}:")
    for sentence in value["words"]:
        bullet(sentence)
    if value["changes"]:
        table(
            (Column("change"), Column("domain"), Column("tasks", "number"), Column("well", "number"),
             Column("badly", "number"), Column("other", "number"), Column("rule", "words")),
            [
                (each["change"], each["domain"], each["tasks"], each["ended"].get("well", 0),
                 each["ended"].get("badly", 0),
                 each["tasks"] - each["ended"].get("well", 0) - each["ended"].get("badly", 0),
                 each["rule"] or "no rule matched")
                for each in value["changes"]
            ],
            "",
        )  # fmt: skip
    if value["history_from"] and value["asked_since"] < value["history_from"]:
        tell(f"What the gates were asked is on record from {local(value['history_from'], now)} on.")


def init(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Write the shipped policy as this station's own, to change it; never over one that is there.
    Example: calyx policy init"""
    layout = reach_of(ctx).layout
    if not layout.root.is_dir():
        raise Unavailable(f"there is no station folder {layout.root}; choose one with --station")
    if layout.policy.exists() or layout.policy.is_symlink():
        raise Refused(f"{layout.policy} is there already; edit it, it counts as soon as it is saved")
    layout.policy.parent.mkdir(parents=True, exist_ok=True)
    write_whole(layout.policy, SHIPPED.read_bytes())
    emit(
        {"file": str(layout.policy)},
        json,
        lambda v: say(f"{v['file']} counts from now on; `calyx policy check` and `calyx policy try` look at drafts"),
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}") from error


def _parsed(raw: bytes, reach: Reach) -> Parsed:
    return parse(raw, str(reach.layout.root))


def _terms(text: str) -> dict[str, float]:
    made = {}
    for part in (each.strip() for each in text.split(",") if each.strip()):
        name, _, value = part.partition("=")
        try:
            made[name.strip()] = float(value)
        except ValueError as error:
            raise InvalidInput(f"{part!r} is no term; write promote_run=3,demote_below=90") from error
    return made
