"""`calyx domain allow-path` and `forbid-path`: folders outside the station, for built-in domains that take them."""

from pathlib import Path
from typing import Annotated

import typer

from chassis import consent
from chassis.clock import iso
from chassis.errors import InvalidInput, NotFound
from cli import manifests
from cli.output import JsonFlag, emit, say
from cli.reach import CALLER, reach_of


def allow_path(
    ctx: typer.Context,
    domain: str,
    path: Annotated[str, typer.Argument(help="A folder outside the station, in full.")],
    json: JsonFlag = False,
) -> None:
    """Let a kind of work change files in a folder. Example: calyx domain allow-path log_rotation /var/log/app"""
    reach = reach_of(ctx)
    manifests.station_of(reach)
    if domain not in manifests.book(reach):
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
    reach = reach_of(ctx)
    manifests.station_of(reach)
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
