"""`calyx domain`: the kinds of work, and the folders outside the station that they may touch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chassis import consent
from chassis.clock import iso
from chassis.domains import DomainManifest, load_domains
from chassis.errors import Damaged, InvalidInput, NotFound, Unavailable
from chassis.layout import DEPLOY
from cli.output import JsonFlag, emit, note, say
from cli.reach import CALLER, Reach, reach_of
from cli.tables import facts, tell


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("list")(list_)
    group.command("allow-path")(allow_path)
    group.command("forbid-path")(forbid_path)
    app.add_typer(
        group,
        name="domain",
        help="The kinds of work (domains), who does them, and the folders they may change. Example: calyx domain list",
    )


def _domains() -> dict[str, DomainManifest]:
    return load_domains(DEPLOY / "domains")


def _reach(ctx: typer.Context) -> Reach:
    reach = reach_of(ctx)
    if not reach.layout.identity.exists():
        raise Unavailable(f"there is no station in {reach.layout.root}; `calyx up` makes one, --station picks another")
    return reach


def list_(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Every kind of work: owner, procedures, folders, levels. Example: calyx domain list --json"""
    layout = reach_of(ctx).layout
    try:
        allowed, fault = consent.read(layout), ""
    except Damaged as error:
        allowed, fault = (), error.message
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
        }
        for name, each in _domains().items()
    ]

    def words(value: dict[str, Any]) -> None:
        for each in value["domains"]:
            tell(f"{each['domain']}: {each['title']}")
            rows: list[tuple[str, Any]] = [
                ("done by", f"{each['owner']}, checked by {each['prober']}"),
                ("procedures", ", ".join(each["procedures"])),
                ("level", f"starts at {each['start_level']}, never above {each['max_level']}"),
                ("folders", each["paths"] or ["none"]),
            ]
            if each["allowed"]:
                rows.append(("allowed", [_allowed(path) for path in each["allowed"]]))
            facts(rows)

    emit({"domains": domains, "fault": fault}, json, words)
    if fault:
        note(f"calyx: {fault}")


def _allowed(path: dict[str, Any]) -> str:
    waits = "" if path["confirmed_at"] else "; its first effect needs your approval"
    return f"{path['path']} (by {path['by']}, {path['at'][:10]}{waits})"


def allow_path(
    ctx: typer.Context,
    domain: str,
    path: Annotated[str, typer.Argument(help="A folder outside the station, in full.")],
    json: JsonFlag = False,
) -> None:
    """Let a kind of work change files in a folder. Example: calyx domain allow-path log_rotation /var/log/app"""
    reach = _reach(ctx)
    known = _domains()
    if domain not in known:
        raise NotFound(f"there is no domain {domain!r}; `calyx domain list` shows them")
    if domain not in consent.TAKE_FOLDERS:
        raise InvalidInput(
            f"{domain} works in the station's own folder only; {', '.join(consent.TAKE_FOLDERS)} takes others"
        )
    new = consent.AllowedPath(
        domain=domain, path=consent.folder_of(path, reach.layout.root), by=CALLER, at=reach.clock.now()
    )
    before = consent.read(reach.layout)
    after = consent.update(reach.layout, lambda paths: consent.with_path(paths, new))
    kept = next(each for each in after if (each.domain, each.path) == (new.domain, new.path))
    emit({**kept.to_json(), "changed": kept not in before}, json, lambda _: _given(kept, kept in before))


def _given(kept: consent.AllowedPath, before: bool) -> None:
    since = f"allowed since {iso(kept.at)[:10]} already" if before else "allowed"
    waits = "" if kept.confirmed_at else "; the first effect under it waits for your approval (`calyx inbox`)"
    say(f"{kept.domain}: {kept.path} {since}{waits}")


def forbid_path(ctx: typer.Context, domain: str, path: str, json: JsonFlag = False) -> None:
    """Take a folder back; at once. Example: calyx domain forbid-path log_rotation /var/log/app"""
    reach = _reach(ctx)
    given = Path(path)
    names = {given, given.resolve()} if given.is_absolute() else {given}
    before = consent.read(reach.layout)
    gone = [each for each in before if each.domain == domain and each.path in names]
    if not gone:
        raise NotFound(f"{path} is not allowed for {domain}; `calyx domain list` shows what is")
    for each in gone:
        consent.update(reach.layout, lambda paths, each=each: consent.without_path(paths, domain, each.path))  # type: ignore[misc]  # default binds
    value = {"domain": domain, "path": str(gone[0].path), "changed": True}
    emit(value, json, lambda v: say(f"{v['domain']}: {v['path']} is no longer allowed; what was done can be undone"))
