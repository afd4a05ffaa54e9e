"""`calyx domain`: the kinds of work, who may do them (signed by a person), and the folders that they may touch."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from chassis import consent
from chassis.clock import iso
from chassis.errors import CalyxError, Damaged, InvalidInput, NotFound
from cli import folders, manifests
from cli.output import JsonFlag, emit, note, say
from cli.reach import Reach, reach_of
from cli.tables import facts, tell
from cli.times import parse_span

KeyOption = Annotated[str, typer.Option("--key", help="Name of the key that signs; usually there is only one.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Where to write it.")]
DaysOption = Annotated[int, typer.Option("--days", help=f"How long it lasts, at most {manifests.DAYS}.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("new")(new)
    group.command("keygen")(keygen)
    group.command("sign")(sign)
    group.command("approve")(approve)
    group.command("revoke")(revoke)
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
    if not manifests.key_name(reach):
        manifests.make_key(reach, manifests.USUAL_KEY)
    return _approve(reach, manifests.sign(reach, payload))


def _approve(reach: Reach, envelope: bytes) -> str:
    from calyx.cbo.v1 import cbo_pb2 as pb

    text = envelope.decode(errors="replace")
    return str(reach.cbo().ApproveDomain(pb.ApproveDomainRequest(envelope_json=text)).manifest_digest)


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
            "blocked": blocked.get(name) if each.signed_by else "",
        }
        for name, each in known.items()
    ]
    return {"domains": domains, "left_out": left_out, "fault": "; ".join(faults)}


def _words(each: dict[str, Any]) -> None:
    tell(f"{each['domain']}: {each['title']}")
    rows: list[tuple[str, Any]] = [
        ("done by", f"{each['owner']}, checked by {each['prober']}"),
        ("procedures", ", ".join(each["procedures"])),
        ("level", f"starts at {each['start_level']}, never above {each['max_level']}"),
        ("folders", each["paths"] or ["none"]),
    ]
    if each["allowed"]:
        rows.append(("allowed", [_allowed(path) for path in each["allowed"]]))
    if each["expires_at"]:
        rows.append(("signed", f"by {each['source']}, edition {each['serial']}, until {each['expires_at'][:10]}"))
        state = "unknown, the overseer can't be asked" if each["blocked"] is None else each["blocked"] or "yes"
        rows.append(("may run", state))
    facts(rows)


def _allowed(path: dict[str, Any]) -> str:
    waits = "" if path["confirmed_at"] else "; its first effect needs your approval"
    return f"{path['path']} (by {path['by']}, {path['at'][:10]}{waits})"


def keygen(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="What to call it.")] = manifests.USUAL_KEY,
    json: JsonFlag = False,
) -> None:
    """A key to sign domains with. Example: calyx domain keygen --name alice"""
    reach = reach_of(ctx)
    manifests.station_of(reach)
    made = manifests.make_key(reach, name)
    emit(made, json, lambda v: say(f"{v['name']} ({v['keyid'][:12]}): keep {v['private']} to yourself"))


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
        approve = approve or (not sign and typer.confirm("Sign it, and let the station take it up now?", default=True))
    payload = manifests.Draft(
        name=name, owner=owner, title=title, paths=paths, effects=effects, procedures=procedure or [],
        probes=probe or [], undo_by=undo_by, rehearses=rehearses, ttl=timedelta(seconds=parse_span(ttl)),
        max_level=max_level, attempts=attempts, files=files, days=days, serial=serial,
    ).manifest(reach)  # fmt: skip
    if (sign or approve) and not manifests.key_name(reach, key):
        note(f"calyx: a new key: {manifests.make_key(reach, manifests.USUAL_KEY)['private']}")
    made = manifests.sign(reach, payload, key) if sign or approve else payload + b"\n"
    if approve:
        _approve(reach, made)
    file = out
    if file is None and not approve:
        file = Path(f"{name}.signed.json" if sign else f"{name}.json")
    if file is not None:
        _write(file, made)
    _tell_made(reach, payload, file, json, signed=sign or approve, approved=approve)


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


def sign(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A manifest, JSON or YAML.")],
    days: DaysOption = manifests.DAYS,
    key: KeyOption = "",
    out: OutOption = None,
    json: JsonFlag = False,
) -> None:
    """Sign a manifest with your key. Example: calyx domain sign notes.json"""
    import yaml

    from chassis.canonical import canonical_json

    reach = reach_of(ctx)
    manifests.station_of(reach)
    try:
        value = yaml.safe_load(_read(file))
        value = {**value, "expires_at": value.get("expires_at") or manifests.until(reach.clock.now(), days)}
        payload = canonical_json(value)
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{file} is not a manifest: {str(error).splitlines()[0]}; times in quotes") from error
    manifests.checked(payload, reach.layout)
    made = manifests.sign(reach, payload, key)
    target = out or file.with_suffix(".signed.json")
    _write(target, made)
    _tell_made(reach, payload, target, json, signed=True, approved=False)


def approve(ctx: typer.Context, file: Path, json: JsonFlag = False) -> None:
    """Admit a signed manifest: the station takes it up at once. Example: calyx domain approve notes.signed.json"""
    reach = reach_of(ctx)
    digest = _approve(reach, _read(file))
    emit(
        {"digest": digest, "approved": True}, json, lambda v: say(f"admitted: {v['digest'][:12]}; `calyx domain list`")
    )


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


def _tell_made(reach: Reach, payload: bytes, file: Path | None, json: bool, *, signed: bool, approved: bool) -> None:
    manifest = manifests.checked(payload, reach.layout)
    value = {
        "domain": manifest.domain,
        "digest": manifest.digest,
        "serial": manifest.serial,
        "owner": manifest.owner,
        "paths": list(manifest.paths),
        "expires_at": None if manifest.expires_at is None else iso(manifest.expires_at),
        "file": None if file is None else str(file),
        "signed": signed,
        "approved": approved,
    }

    def words(v: dict[str, Any]) -> None:
        folders = ", ".join(v["paths"]) or "no folder"
        say(f"{v['domain']}, edition {v['serial']}: {v['owner']} may change {folders}, until {v['expires_at'][:10]}")
        if v["approved"]:
            say(f"admitted; it starts at {manifest.start_level.name}. A token for {v['owner']}: calyx agent invite")
        else:
            step = "approve" if v["signed"] else "sign"
            say(f"written to {v['file']}; next: calyx domain {step} {v['file']}")

    emit(value, json, words)


def _read(file: Path) -> bytes:
    from chassis.signing import MAX_BYTES, read_plain

    try:
        return read_plain(file, MAX_BYTES)
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror or error}") from error


def _write(file: Path, data: bytes) -> None:
    from chassis.atomic import write_whole

    try:
        write_whole(file.absolute(), data)
    except OSError as error:
        raise InvalidInput(f"{file} can't be written: {error.strerror}") from error
