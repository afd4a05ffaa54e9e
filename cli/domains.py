"""`calyx domain`: the kinds of work, who may do them (signed by a person), and the folders that they may touch."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer

from chassis import consent
from chassis.clock import iso
from chassis.domains import DomainManifest
from chassis.errors import CalyxError, Damaged, InvalidInput, NotFound
from cli import editions, folders, manifests, operator_keys
from cli.editions import DaysOption, KeyOption, OutOption
from cli.output import JsonFlag, emit, note, say
from cli.reach import Reach, reach_of
from cli.tables import facts, tell
from cli.times import parse_span


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("new")(new)
    group.command("sign")(editions.sign)
    group.command("approve")(editions.approve)
    group.command("renew")(editions.renew)
    group.command("revoke")(revoke)
    operator_keys.register(group)
    group.command("allow-path")(folders.allow_path)
    group.command("forbid-path")(folders.forbid_path)
    app.add_typer(
        group,
        name="domain",
        help="The kinds of work (domains), who does them, and the folders they may change. Example: calyx domain list",
    )


def create(
    reach: Reach,
    name: str,
    *,
    owner: str,
    paths: Sequence[str],
    effects: str,
    undo_by: str,
    rehearses: bool,
    ttl: timedelta,
) -> str:
    """Write, sign and have approved a domain for an outside program, with a new key where there is none.

    Returns its digest. `effects` empty: reversible where it has paths, else none; `undo_by` empty: its owner.
    Raises InvalidInput, Refused, Unavailable as the commands do.
    """
    manifests.station_of(reach)
    draft = manifests.Draft(
        name=name, owner=owner, paths=tuple(paths), effects=effects, undo_by=undo_by or owner, rehearses=rehearses,
        ttl=ttl,
    )  # fmt: skip
    payload = draft.manifest(reach)
    manifests.one_signature_is_enough(reach)
    manifests.first_key(reach)
    return editions.sent(reach, manifests.sign(reach, payload))


def list_(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Every kind of work: owner, procedures, folders, levels. Example: calyx domain list --json"""
    value = _listed(reach_of(ctx))

    def words(value: dict[str, Any]) -> None:
        for each in value["domains"]:
            _words(each)

    emit(value, json, words)
    if value["fault"]:
        note(f"calyx: {value['fault']}")


def show(ctx: typer.Context, domain: str, json: JsonFlag = False) -> None:
    """One kind of work, and whether it may run. Example: calyx domain show notes --json"""
    value = _listed(reach_of(ctx))
    found = next((each for each in value["domains"] if each["domain"] == domain), None)
    if found is None:
        left_out = next((each for each in value["left_out"] if each["file"] == f"{domain}.json"), None)
        if left_out is not None:
            raise Damaged(f"{domain} does not count: {left_out['why']}")
        raise NotFound(f"there is no domain {domain!r}; `calyx domain list` shows them")
    emit(found, json, _words)


def _listed(reach: Reach) -> dict[str, Any]:
    """From the files, which can be read while the station is down; whether each may run is the overseer's to say."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    layout, faults = reach.layout, []
    allowed: tuple[consent.AllowedPath, ...] = ()
    try:
        allowed = consent.read(layout)
    except Damaged as error:
        faults.append(error.message)
    book = manifests.book(reach)
    known, left_out = book.now(), [{"file": name, "why": why} for name, why in book.faults.items()]
    blocked: dict[str, str] = {}
    if any(each.signed_by for each in known.values()):
        try:
            blocked = {each.domain: each.blocked for each in reach.cbo().ListDomains(pb.ListDomainsRequest()).domains}
        except CalyxError as error:
            faults.append(f"whether outside programs may run now can't be said: {error.message}")
    faults += [f"{each['file']} is left out: {each['why']}" for each in left_out]
    domains = [
        {
            "domain": name,
            "title": each.title,
            "owner": each.owner,
            "prober": each.prober,
            "procedures": list(each.procedures),
            "effects": each.effects,
            "start_level": each.start_level.name,
            "max_level": each.max_level.name,
            "paths": [path.replace("{station}", str(layout.root)) for path in each.paths],
            "allowed": [path.to_json() for path in allowed if path.domain == name],
            "serial": each.serial,
            "digest": each.digest,
            "source": each.signed_by or "built-in",
            "expires_at": None if each.expires_at is None else iso(each.expires_at),
            "undo_by": each.undo_by,
            "rehearses": each.rehearses,
            "checks": [dict(check) for check in each.checks],
            "windows": None if each.windows is None else list(each.windows),
            "metrics": dict(each.metrics),
            "undo_on_regression": each.undo_on_regression,
            "blocked": blocked.get(name) if each.signed_by else "",
            "warning": _warning(each, blocked.get(name) or "", reach),
        }
        for name, each in known.items()
    ]
    return {"domains": domains, "left_out": left_out, "fault": "; ".join(faults)}


def _warning(manifest: DomainManifest, blocked: str, reach: Reach) -> str:
    """That it ends soon; nothing of one that was revoked."""
    from chassis.domain_book import ending

    found = ending(manifest, reach.clock.now())
    return "" if found is None or blocked.startswith("revoked") else found.reason


def _words(each: dict[str, Any]) -> None:
    tell(f"{each['domain']}: {each['title']}")
    rows: list[tuple[str, Any]] = [
        ("done by", f"{each['owner']}, checked by {each['prober']}"),
        ("procedures", ", ".join(each["procedures"])),
        ("level", f"starts at {each['start_level']}, never above {each['max_level']}"),
        ("folders", each["paths"] or ["none"]),
    ]
    if each["checks"]:
        rows.append(("afterwards", [_check(check) for check in each["checks"]]))
    if each["windows"]:
        rows.append(("looked at", ", ".join(("at once", *each["windows"]))))
    if each["metrics"]:
        rows.append(("compared", ", ".join(_bound(*metric) for metric in each["metrics"].items())))
    if each["undo_on_regression"]:
        rows.append(("refuted", "is undone by the station"))
    if each["allowed"]:
        rows.append(("allowed", [_allowed(path) for path in each["allowed"]]))
    if each["expires_at"]:
        rows.append(("signed", f"by {each['source']}, edition {each['serial']}, until {each['expires_at'][:10]}"))
        state = "unknown, the overseer can't be asked" if each["blocked"] is None else each["blocked"] or "yes"
        rows.append(("may run", state))
    if each["warning"]:
        rows.append(("note", each["warning"]))
    facts(rows)


def _check(check: dict[str, Any]) -> str:
    wanted = ", ".join(f"{key} {value}" for key, value in check["expect"].items())
    return f"{check['kind']} {check['target']}{f': {wanted}' if wanted else ''}"


def _bound(metric: str, points: float | None) -> str:
    return metric if points is None else f"{metric} at most +{points:g}"


def _allowed(path: dict[str, Any]) -> str:
    waits = "" if path["confirmed_at"] else "; its first effect needs your approval"
    return f"{path['path']} (by {path['by']}, {path['at'][:10]}{waits})"


def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call the kind of work.")],
    owner: Annotated[str, typer.Option(help="The agent that does it; asked for at a terminal.")] = "",
    path: Annotated[list[str] | None, typer.Option("--path", help="A folder it may change; repeatable.")] = None,
    effects: Annotated[str, typer.Option(help="none, reversible or irreversible; by its folders if left out.")] = "",
    procedure: Annotated[list[str] | None, typer.Option("--procedure", help="A way to do it; repeatable.")] = None,
    title: Annotated[str, typer.Option(help="In words.")] = "",
    ttl: Annotated[str, typer.Option("--ttl", help="How long one task may take.")] = "10m",
    rehearses: Annotated[
        bool, typer.Option("--rehearse/--no-rehearse", help="Whether its agent can rehearse; if not, you are asked.")
    ] = True,
    undo_by: Annotated[str, typer.Option("--undo-by", help="Its owner, or governor for `calyx run`.")] = "",
    probe: Annotated[list[str] | None, typer.Option("--probe", help="What each result must prove.")] = None,
    attempts: Annotated[int, typer.Option(help="How often a task may be tried.")] = 1,
    files: Annotated[int, typer.Option(help="How many files a task usually changes.")] = manifests.USUAL_FILES,
    max_level: Annotated[str, typer.Option("--max-level", help="Never above this level.")] = "EXECUTE",
    days: DaysOption = manifests.DAYS,
    serial: Annotated[int, typer.Option(help="Edition; left out: one more than the last.")] = 0,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it.")] = False,
    approve: Annotated[bool, typer.Option("--approve", help="Sign it and have the station take it up.")] = False,
    key: KeyOption = "",
    out: OutOption = None,
    json: JsonFlag = False,
) -> None:
    """Describe an outside program's work. Example: calyx domain new notes --owner noter --path ~/notes --approve"""
    reach = reach_of(ctx)
    manifests.station_of(reach)
    paths = path or []
    if not owner:
        if json or not sys.stdin.isatty():
            raise InvalidInput("say who does it with --owner: the name of the agent, as in `calyx agent invite NAME`")
        owner, paths, title = _asked(name, paths, title)
        alone = not sign and manifests.trusted(reach).required == 1
        approve = approve or (alone and typer.confirm("Sign it, and let the station take it up now?", default=True))
    payload = manifests.Draft(
        name=name, owner=owner, title=title, paths=paths, effects=effects, procedures=procedure or [],
        probes=probe or [], undo_by=undo_by, rehearses=rehearses, ttl=timedelta(seconds=parse_span(ttl)),
        max_level=max_level, attempts=attempts, files=files, days=days, serial=serial,
    ).manifest(reach)  # fmt: skip
    editions.hand_out(reach, payload, name, json, sign=sign, approve=approve, key=key, out=out)


def _asked(name: str, paths: list[str], title: str) -> tuple[str, list[str], str]:
    """The short dialogue: owner, title, folders."""
    owner = typer.prompt("Which agent does it?", default=name)
    title = title or typer.prompt("What is it, in words?", default=f"{name}, done by {owner}")
    while not paths or typer.confirm("Another folder?", default=False):
        given = typer.prompt("Which folder may it change? (empty: none)", default="", show_default=False)
        if not given:
            break
        paths = [*paths, given]
    return owner, paths, title


def revoke(
    ctx: typer.Context,
    domain: str,
    why: Annotated[str, typer.Option("--why", help="The reason; it goes on record.")],
    json: JsonFlag = False,
) -> None:
    """Take a domain's right to run, at once. Example: calyx domain revoke notes --why "wrote too much" """
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.cbo().RevokeDomain(pb.RevokeDomainRequest(domain=domain, why=why))
    emit(
        {"domain": answer.domain, "revoked": True, "why": why},
        json,
        lambda v: say(f"{v['domain']} runs nothing any more; what it did can be undone"),
    )
