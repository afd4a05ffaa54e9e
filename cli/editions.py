"""`calyx domain sign`, `approve`, `renew`: one edition of a domain from a file to the overseer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.clock import iso
from chassis.errors import CalyxError, InvalidInput
from cli import manifests
from cli.output import JsonFlag, emit, note, say
from cli.reach import Reach, reach_of

KeyOption = Annotated[str, typer.Option("--key", help="Name of the key that signs; usually there is only one.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Where to write it.")]
DaysOption = Annotated[int, typer.Option("--days", help=f"How long it lasts, at most {manifests.DAYS}.")]
SigOption = Annotated[
    list[Path] | None, typer.Option("--sig", help="What `ssh-keygen -Y sign -n calyx-domain` made; repeatable.")
]


def sent(reach: Reach, envelope: bytes) -> str:
    """Admitted by the overseer; the manifest's digest."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    text = envelope.decode(errors="replace")
    return str(reach.cbo().ApproveDomain(pb.ApproveDomainRequest(envelope_json=text)).manifest_digest)


def sign(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A manifest, JSON or YAML, or one that somebody signed already.")],
    days: DaysOption = manifests.DAYS,
    key: KeyOption = "",
    sig: SigOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="Don't sign: write it as ssh-keygen has to sign it.")] = False,
    out: OutOption = None,
    json: JsonFlag = False,
) -> None:
    """Sign a manifest, or add a signature to a signed one. Example: calyx domain sign notes.json"""
    from chassis.domain_book import PAYLOAD_TYPE
    from chassis.signing import blank, read_letter

    reach = reach_of(ctx)
    manifests.station_of(reach)
    raw = _read(file)
    if _is_letter(raw):
        letter, target = read_letter(raw), out or file
        spelled = letter.envelope.payload  # to the byte what was signed already
    else:
        letter = blank(raw if sig else _canonical(reach, raw, file, days), PAYLOAD_TYPE)
        target = out or file.with_suffix(".signed.json")
        spelled = letter.envelope.payload.removesuffix(b"\n") + b"\n"
    payload = letter.envelope.payload
    manifests.checked(payload, reach.layout)
    if plain:
        target = out or file.with_name(file.stem.removesuffix(".signed") + ".json")
        _write(target, spelled)
    else:
        signed = letter.with_ssh(_texts(sig)) if sig else letter.signed(manifests.signer(reach, key))
        _write(target, signed.encoded())
        _tell_missing(reach, signed.encoded())
    _tell(reach, payload, target, json, signed=not plain, approved=False)


def approve(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A signed manifest, or a manifest with FILE.sig beside it.")],
    sig: SigOption = None,
    json: JsonFlag = False,
) -> None:
    """Admit a signed manifest: the station takes it up at once. Example: calyx domain approve notes.signed.json"""
    reach = reach_of(ctx)
    digest = sent(reach, _enclosed(file, sig))
    emit(
        {"digest": digest, "approved": True}, json, lambda v: say(f"admitted: {v['digest'][:12]}; `calyx domain list`")
    )


def renew(
    ctx: typer.Context,
    domain: str,
    days: DaysOption = manifests.DAYS,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it.")] = False,
    approve: Annotated[bool, typer.Option("--approve", help="Sign it and have the station take it up.")] = False,
    key: KeyOption = "",
    out: OutOption = None,
    json: JsonFlag = False,
) -> None:
    """The next edition of a domain, as it is, with new dates. Example: calyx domain renew notes --approve"""
    reach = reach_of(ctx)
    manifests.station_of(reach)
    payload, fault = manifests.renewed(reach, domain, days)
    if fault:
        note(f"calyx: the present edition does not count ({fault}); read the new one before you sign it")
        if approve:
            raise InvalidInput(f"look at it first: calyx domain renew {domain}, then sign and approve the file")
    hand_out(reach, payload, domain, json, sign=sign, approve=approve, key=key, out=out)


def hand_out(
    reach: Reach, payload: bytes, name: str, json: bool, *, sign: bool, approve: bool, key: str, out: Path | None
) -> None:
    """Signed if that is wanted, written to a file, sent to the overseer, and told."""
    if approve:
        manifests.one_signature_is_enough(reach)
    if (sign or approve) and (made := manifests.first_key(reach, key)):
        note(f"calyx: a new key: {made}")
    data = manifests.sign(reach, payload, key) if sign or approve else payload + b"\n"
    if approve:
        sent(reach, data)
    file = out
    if file is None and not approve:
        file = Path(f"{name}.signed.json" if sign else f"{name}.json")
    if file is not None:
        _write(file, data)
    if sign and not approve:
        _tell_missing(reach, data)
    _tell(reach, payload, file, json, signed=sign or approve, approved=approve)


def _enclosed(file: Path, sig: Sequence[Path] | None) -> bytes:
    """What goes to the overseer: the file, or the file and its OpenSSH signatures in one."""
    from chassis.domain_book import PAYLOAD_TYPE
    from chassis.signing import blank, read_letter

    if file.suffix == ".sig":
        raise InvalidInput(f"name the manifest, not its signature: calyx domain approve {file.with_suffix('')}")
    raw, beside = _read(file), file.with_name(f"{file.name}.sig")
    signed = _is_letter(raw)
    if not sig and not signed and beside.is_file():
        sig = [beside]
    if not sig:
        return raw
    letter = read_letter(raw) if signed else blank(raw, PAYLOAD_TYPE)
    return letter.with_ssh(_texts(sig)).encoded()


def _is_letter(raw: bytes) -> bool:
    from chassis.signing import strict_json

    try:
        value = strict_json(raw)
    except InvalidInput:
        return False
    return isinstance(value, dict) and "payload" in value


def _canonical(reach: Reach, raw: bytes, file: Path, days: int) -> bytes:
    """A manifest as a person wrote it, spelled in the one way that is signed."""
    import yaml

    from chassis.canonical import canonical_json

    try:
        value = yaml.safe_load(raw)
        value = {**value, "expires_at": value.get("expires_at") or manifests.until(reach.clock.now(), days)}
        return canonical_json(value)
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{file} is not a manifest: {str(error).splitlines()[0]}; times in quotes") from error


def _texts(files: Sequence[Path]) -> list[str]:
    """Each checked as far as it can be without the keys."""
    from chassis import sshsig

    texts = [_read(each).decode(errors="replace") for each in files]
    for each, text in zip(files, texts, strict=True):
        try:
            sshsig.read(text)
        except InvalidInput as error:
            raise InvalidInput(f"{each}: {error.message}") from error
    return texts


def _tell_missing(reach: Reach, envelope: bytes) -> None:
    """A note where these signatures are not enough."""
    from chassis.domain_book import verify

    try:
        verify(envelope, manifests.trusted(reach), reach.layout, manifests.builtin())
    except CalyxError as error:
        note(f"calyx: not enough yet: {error.message}")


def _tell(reach: Reach, payload: bytes, file: Path | None, json: bool, *, signed: bool, approved: bool) -> None:
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
