"""DSSE envelopes signed by operator keys, and OpenSSH signatures of what is in them.

Made and checked by securesystemslib; what is read here is strict about everything around that: no duplicate keys, no
second spelling of the same bytes, no key that is not Ed25519 or that anybody could sign with.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, not re-exported
    CryptoSigner,
    Signature,
    SSlibKey,
)

from chassis import sshsig
from chassis.canonical import canonical_json
from chassis.ed25519 import weakness
from chassis.errors import BadSignature, InvalidInput
from chassis.operator_keys import (
    MAX_SIGNATURES,
    OperatorKey,
    Trusted,
    load_key,
    make_key,
    public_key,
    read_plain,
    trusted_keys,
)

__all__ = [
    "MAX_BYTES", "Letter", "OperatorKey", "Sealed", "Trusted", "blank", "load_key", "make_key", "public_key",
    "read_letter", "read_plain", "seal", "strict_json", "trusted_keys", "unseal",
]  # fmt: skip

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What trusted keys have signed: as many as are required, or more, each named once."""

    payload: bytes
    signers: tuple[OperatorKey, ...]

    @property
    def signed_by(self) -> str:
        return ", ".join(each.fingerprint for each in self.signers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An envelope as it was read, nothing in it verified. `armored`: OpenSSH signatures of the payload."""

    envelope: Envelope
    armored: tuple[str, ...] = ()

    def signed(self, signer: CryptoSigner) -> "Letter":
        """With this key's signature too."""
        self.envelope.sign(signer)
        return self

    def with_ssh(self, armored: Sequence[str]) -> "Letter":
        """With these OpenSSH signatures too."""
        return replace(self, armored=tuple(dict.fromkeys((*self.armored, *armored))))

    def encoded(self) -> bytes:
        """Canonical JSON and a newline."""
        beside = {"sshsig": list(self.armored)} if self.armored else {}
        return canonical_json({**self.envelope.to_dict(), **beside}) + b"\n"


def seal(payload: bytes, payload_type: str, signer: CryptoSigner) -> bytes:
    """The payload in a DSSE envelope with one signature, as canonical JSON and a newline."""
    return blank(payload, payload_type).signed(signer).encoded()


def blank(payload: bytes, payload_type: str) -> Letter:
    """The payload in an envelope that nobody has signed yet."""
    return Letter(envelope=Envelope(payload, payload_type, {}))


def unseal(raw: bytes, payload_type: str, trusted: Trusted, *, namespace: str = "") -> Sealed:
    """What trusted keys have signed. Raises InvalidInput for what is no envelope, BadSignature for the rest.

    Signatures of unknown and revoked keys are passed over; one of a key that counts but does not verify refuses the
    whole. `namespace`: OpenSSH signatures count too if they were made for it; empty: there may be none.
    """
    letter = read_letter(raw)
    envelope = letter.envelope
    if envelope.payload_type != payload_type:
        raise BadSignature(f"its payload type is {envelope.payload_type[:80]!r}, not {payload_type!r}")
    offered = [(each, envelope.pae()) for each in envelope.signatures.values()]
    offered += [_by_ssh(armored, envelope.payload, namespace) for armored in letter.armored]
    if not offered:
        raise BadSignature("it is not signed; `calyx domain sign FILE` does that")
    if trusted.broken:
        raise BadSignature(trusted.broken)
    good: dict[str, OperatorKey] = {}
    for signature, message in offered:
        if signature.keyid in trusted.keys:
            good[signature.keyid] = key = trusted.keys[signature.keyid]
            _verify(key, signature, message)
    if why := _too_few(good, [signature.keyid for signature, _ in offered], trusted):
        raise BadSignature(why)
    return Sealed(payload=envelope.payload, signers=tuple(good.values()))


def _by_ssh(armored: str, payload: bytes, namespace: str) -> tuple[Signature, bytes]:
    """An OpenSSH signature as ours are, and what it signs. Raises InvalidInput, BadSignature."""
    found = sshsig.read(armored)
    if not namespace:
        raise BadSignature("it has an OpenSSH signature, which does not count here")
    if found.namespace != namespace:
        raise BadSignature(
            f"its OpenSSH signature is for {found.namespace[:40]!r}; sign with `ssh-keygen -Y sign -n {namespace}`"
        )
    keyid = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(found.public)).keyid
    return Signature(keyid, found.signature.hex()), sshsig.signed(payload, namespace, found.hash_name)


def _verify(key: OperatorKey, signature: Signature, message: bytes) -> None:
    """Raises BadSignature. RFC 8032 lets R be a point of low order; nobody who means well makes such a signature."""
    try:
        if weakness(bytes.fromhex(signature.signature)[:32]):
            raise UnverifiedSignatureError("its R is no point to trust")
        key.key.verify_signature(signature, message)
    except (UnverifiedSignatureError, VerificationError) as error:
        raise BadSignature(f"the signature of {key.fingerprint} does not fit: it was changed since") from error


def _too_few(good: Mapping[str, OperatorKey], offered: Sequence[str], trusted: Trusted) -> str:
    """Why these signatures are not enough; empty when they are."""
    if len(good) >= trusted.required:
        return ""
    gone = ", ".join(trusted.revoked[keyid].fingerprint for keyid in dict.fromkeys(offered) if keyid in trusted.revoked)
    if good:
        names = ", ".join(each.fingerprint for each in good.values())
        lost = f"; the key of {gone} was revoked" if gone else ""
        return (
            f"it has {len(good)} of the {trusted.required} signatures that count here ({names}){lost}; "
            "another operator adds one with `calyx domain sign FILE`"
        )
    if gone:
        return f"it is signed by {gone}, whose key was revoked; have it signed by one that counts"
    return f"it is signed by a key nobody here knows ({offered[0][:12]}); its public half belongs into keys/operators"


def read_letter(raw: bytes) -> Letter:
    """An envelope, checked field by field first: the library takes more spellings than we sign. Raises InvalidInput."""
    value = strict_json(raw)
    needed = {"payload", "payloadType", "signatures"}
    if not isinstance(value, dict) or not needed <= set(value) <= needed | {"sshsig"}:
        raise InvalidInput(
            "it is not a DSSE envelope: payload, payloadType and signatures; `calyx domain sign` makes one"
        )
    signatures, armored = value["signatures"], value.pop("sshsig", [])
    if not isinstance(value["payloadType"], str) or not isinstance(signatures, list) or not isinstance(armored, list):
        raise InvalidInput("it is not a DSSE envelope: payloadType is text, signatures a list, and so is sshsig")
    if len(signatures) + len(armored) > MAX_SIGNATURES:
        raise InvalidInput(f"it has more than {MAX_SIGNATURES} signatures")
    if not all(isinstance(each, str) for each in armored):
        raise InvalidInput("an OpenSSH signature in it is not text")
    for each in signatures:
        if not isinstance(each, dict) or set(each) != {"keyid", "sig"} or not isinstance(each["keyid"], str):
            raise InvalidInput("a signature in it is not keyid and sig")
    for text in (value["payload"], *(each["sig"] for each in signatures)):
        try:
            if not isinstance(text, str) or base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
                raise ValueError
        except (ValueError, binascii.Error) as error:
            raise InvalidInput("its payload or a signature is not plain base64") from error
    try:
        return Letter(envelope=Envelope.from_dict(value), armored=tuple(armored))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("it has two signatures of one key") from error


def strict_json(raw: bytes) -> Any:
    """JSON without duplicate keys, NaN or bytes beyond the limit. Raises InvalidInput."""
    if len(raw) > MAX_BYTES:
        raise InvalidInput(f"it is larger than {MAX_BYTES // 1024} KiB")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"it is not JSON that can be trusted: {str(error)[:120]}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
