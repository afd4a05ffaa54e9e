"""`calyx domain keys` and what changes them: whose signature counts, how many have to sign, what hangs on each key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chassis.errors import CalyxError, Duplicate, InvalidInput, NotFound, Refused, Unavailable
from cli import manifests
from cli.output import JsonFlag, emit, note, say
from cli.reach import Reach, reach_of
from cli.tables import Column, table

if TYPE_CHECKING:
    from chassis.operator_keys import OperatorKey, Trusted


def register(group: typer.Typer) -> None:
    """Into `calyx domain`."""
    group.command("keygen")(keygen)
    group.command("keys")(keys)
    group.command("trust-key")(trust_key)
    group.command("revoke-key")(revoke_key)
    group.command("require")(require)


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


def keys(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Whose signature counts, and which domains hang on each key. Example: calyx domain keys"""
    reach = reach_of(ctx)
    manifests.station_of(reach)
    trusted, signed = manifests.trusted(reach), _signed(reach)
    rows = [_row(each, "counts", signed, trusted) for each in trusted.keys.values()]
    rows += [_row(each, "revoked", signed, trusted) for each in trusted.revoked.values()]
    left_out = [{"file": name, "why": why} for name, why in sorted(trusted.faults.items()) if why != "revoked"]
    value = {"required": trusted.required, "broken": trusted.broken, "keys": rows, "left_out": left_out}

    def words(v: dict[str, Any]) -> None:
        columns = (Column("name"), Column("key"), Column("as OpenSSH shows it", drop=2), Column("state", "state"),
                   Column("alone signs", "words", drop=1))  # fmt: skip
        shown = [
            (
                each["name"],
                each["keyid"][:12],
                each["fingerprint"],
                each["state"],
                ", ".join(each["alone"]) or "none",
            )
            for each in v["keys"]
        ]
        table(columns, shown, "no key yet; `calyx domain keygen` makes one, `calyx domain trust-key FILE` takes one")
        if v["required"] > 1:
            say(f"{v['required']} of them have to sign each domain")

    emit(value, json, words)
    for each in left_out:
        note(f"calyx: {each['file']} does not count: {each['why']}")
    if trusted.broken:
        note(f"calyx: {trusted.broken}")


def trust_key(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A public key, OpenSSH or PEM, Ed25519.")],
    name: Annotated[str, typer.Option("--name", help="What to call it; left out: as the file is called.")] = "",
    json: JsonFlag = False,
) -> None:
    """Let a public key sign domains here. Example: calyx domain trust-key ~/.ssh/id_ed25519.pub --name alice"""
    from chassis.atomic import write_whole
    from chassis.operator_keys import KEY_NAME, public_key

    reach = reach_of(ctx)
    manifests.station_of(reach)
    name = name or file.name.removesuffix(".pub")
    if not KEY_NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name for a key: use a-z, 0-9, - and _, at most 40, with --name")
    try:
        key = public_key(file)
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} can't be trusted: {getattr(error, 'strerror', None) or error}") from error
    trusted, target = manifests.trusted(reach), reach.layout.operator_keys / f"{name}.pub"
    if key.keyid in trusted.revoked:
        raise Refused(f"{file} is {trusted.revoked[key.keyid].fingerprint}, which was revoked; make another key")
    if key.keyid in trusted.keys:
        raise Duplicate(f"{file} counts already, as {trusted.keys[key.keyid].fingerprint}")
    if target.exists() or target.is_symlink():
        raise Duplicate(f"{target} is there already; nothing was changed, choose another --name")
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(target, data)
    except OSError as error:
        raise Unavailable(f"{target} can't be written: {error.strerror}") from error
    made = {"name": name, "keyid": key.keyid, "fingerprint": key.ssh_fingerprint, "public": str(target)}
    emit(made, json, lambda v: say(f"{v['name']} ({v['keyid'][:12]}, {v['fingerprint']}) may sign domains from now on"))


def revoke_key(ctx: typer.Context, name: str, json: JsonFlag = False) -> None:
    """A key signs nothing from now on, and never again. Example: calyx domain revoke-key alice"""
    from chassis.atomic import write_whole
    from chassis.operator_keys import REVOKED

    reach = reach_of(ctx)
    manifests.station_of(reach)
    trusted, signed = manifests.trusted(reach), _signed(reach)
    key = next((each for each in trusted.keys.values() if each.name == name), None)
    if key is None:
        raise NotFound(f"no key {name!r} counts here; `calyx domain keys` shows them")
    ends = _row(key, "revoked", signed, trusted)["alone"]
    public = reach.layout.operator_keys / f"{name}.pub"
    kept = public.parent / REVOKED / f"{name}-{key.keyid[:12]}.pub"
    try:
        kept.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(kept, public.read_bytes())  # first of all: where it lies in both places it is revoked
        public.unlink()
    except OSError as error:
        raise Unavailable(f"{name} can't be revoked: {error.strerror} ({error.filename})") from error
    emit(
        {"name": name, "keyid": key.keyid, "ended": ends, "kept": str(kept)},
        json,
        lambda v: say(f"{v['name']} signs nothing any more" + _ended(v["ended"])),
    )


def require(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(min=1, max=8, help="How many different keys.")],
    json: JsonFlag = False,
) -> None:
    """How many keys have to sign each domain, also those that are there. Example: calyx domain require 2"""
    from chassis.atomic import write_whole
    from chassis.operator_keys import THRESHOLD

    reach = reach_of(ctx)
    manifests.station_of(reach)
    trusted = manifests.trusted(reach)
    if number > max(1, len(trusted.keys)):
        raise Refused(f"only {len(trusted.keys)} keys count here; add others first (calyx domain trust-key FILE)")
    ends = sorted(domain for domain, signers in _signed(reach).items() if len(signers & trusted.keys.keys()) < number)
    file = reach.layout.operator_keys / THRESHOLD
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(file, f"{number}\n".encode())
    except OSError as error:
        raise Unavailable(f"{file} can't be written: {error.strerror}") from error
    emit(
        {"required": number, "ended": ends},
        json,
        lambda v: say(f"{v['required']} of {len(trusted.keys)} keys have to sign from now on" + _ended(v["ended"])),
    )


def _ended(domains: list[str]) -> str:
    return f"; without enough signatures now: {', '.join(domains)} (calyx domain sign, then approve)" if domains else ""


def _row(key: "OperatorKey", state: str, signed: dict[str, set[str]], trusted: "Trusted") -> dict[str, Any]:
    """`alone`: the domains that would not have enough signatures without this key, or have not."""
    by = sorted(domain for domain, signers in signed.items() if key.keyid in signers)
    return {
        "name": key.name,
        "keyid": key.keyid,
        "fingerprint": key.ssh_fingerprint,
        "state": state,
        "signs": by,
        "alone": [name for name in by if len(signed[name] & trusted.keys.keys() - {key.keyid}) < trusted.required],
    }


def _signed(reach: Reach) -> dict[str, set[str]]:
    """Which keys signed each admitted domain, counting or revoked, as far as the signatures fit."""
    from chassis.domain_book import NAMESPACE, PAYLOAD_TYPE
    from chassis.operator_keys import Trusted
    from chassis.signing import MAX_BYTES, read_plain, unseal

    trusted = manifests.trusted(reach)
    known = Trusted(keys={**trusted.revoked, **trusted.keys})
    found: dict[str, set[str]] = {}
    for path in sorted(reach.layout.admitted.glob("*.json")):
        try:
            sealed = unseal(read_plain(path, MAX_BYTES), PAYLOAD_TYPE, known, namespace=NAMESPACE)
            found[path.stem] = {each.keyid for each in sealed.signers}
        except (CalyxError, OSError):
            continue  # `calyx domain list` says why
    return found
