"""Who may speak for a person: operator keys (Ed25519), and DSSE envelopes signed by them.

A private key stays in `<secrets>/operators`, 0600; its public half in `<station>/keys/operators` is what makes a
signature count. Envelopes are made and checked by securesystemslib; what is read here is strict about everything
around that: no duplicate keys, no second spelling of the same bytes, no key that is not Ed25519.
"""

import base64
import binascii
import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # public, not re-exported

from chassis.atomic import write_whole
from chassis.canonical import canonical_json
from chassis.errors import BadSignature, Damaged, Duplicate, InvalidInput, NotFound, Unavailable

KEY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_BYTES = 64 * 1024
MAX_SIGNATURES = 8
_KEY_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """A public key that counts here. `fingerprint` is how people tell keys apart."""

    name: str
    key: SSlibKey

    @property
    def keyid(self) -> str:
        return self.key.keyid

    @property
    def fingerprint(self) -> str:
        return f"{self.name} ({self.keyid[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """The keys that count, by key id; `faults` says which files in the folder don't, and why."""

    keys: Mapping[str, OperatorKey]
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a trusted key has signed."""

    payload: bytes
    signer: OperatorKey


def make_key(private: Path, public: Path) -> OperatorKey:
    """A new key pair. Raises InvalidInput for the name, Duplicate when either file is there, Unavailable."""
    if not KEY_NAME.fullmatch(private.stem):
        raise InvalidInput(f"{private.stem!r} is no name for a key: use a-z, 0-9, - and _, at most 40")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise Duplicate(f"{path} is there already; nothing was changed, choose another --name")
    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        public.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(private, pem, mode=0o600)
        write_whole(
            public,
            made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        )
    except OSError as error:
        raise Unavailable(f"the key can't be written: {error.strerror} ({error.filename})") from error
    return OperatorKey(name=public.stem, key=SSlibKey.from_crypto(made.public_key()))


def load_key(path: Path) -> CryptoSigner:
    """A private key to sign with. Raises NotFound, Damaged, and Unavailable when others may read the file."""
    try:
        pem, mode = read_plain(path, _KEY_BYTES), path.stat().st_mode
    except FileNotFoundError as error:
        raise NotFound(f"there is no key {path}; `calyx domain keygen` makes one") from error
    except OSError as error:
        raise Unavailable(f"the key {path} can't be read: {error.strerror or error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise Unavailable(f"{path} can be read by others; chmod 600 it, and think of who has read it")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Damaged(f"{path} is not a private key; restore it, or make another with `calyx domain keygen`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Damaged(f"{path} is not an Ed25519 key; make one with `calyx domain keygen`")
    return CryptoSigner(key)


def public_key(path: Path) -> OperatorKey:
    """The Ed25519 key in a PEM file. Raises OSError, ValueError."""
    try:
        public = serialization.load_pem_public_key(read_plain(path, _KEY_BYTES))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError("it is not an Ed25519 key")
    return OperatorKey(name=path.name.removesuffix(".pub"), key=SSlibKey.from_crypto(public))


def trusted_keys(folder: Path) -> Trusted:
    """Every `*.pub` in the folder that is an Ed25519 key; no folder is no key."""
    keys: dict[str, OperatorKey] = {}
    faults: dict[str, str] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".pub"))
    except FileNotFoundError:
        return Trusted(keys={})
    except OSError as error:
        return Trusted(keys={}, faults={folder.name: f"can't be listed: {error.strerror}"})
    for name in names:
        try:
            key = public_key(folder / name)
            keys.setdefault(key.keyid, key)
        except (OSError, ValueError) as error:
            faults[name] = f"not a public key that counts: {getattr(error, 'strerror', None) or error}"
    return Trusted(keys=keys, faults=faults)


def seal(payload: bytes, payload_type: str, signer: CryptoSigner) -> bytes:
    """The payload in a DSSE envelope with one signature, as canonical JSON and a newline."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    return canonical_json(envelope.to_dict()) + b"\n"


def unseal(raw: bytes, payload_type: str, trusted: Trusted) -> Sealed:
    """What a trusted key has signed. Raises InvalidInput for what is no envelope, BadSignature for the rest.

    Signatures of unknown keys are passed over; one of a known key that does not verify refuses the whole.
    """
    value = strict_json(raw)
    envelope = _envelope(value)
    if envelope.payload_type != payload_type:
        raise BadSignature(f"its payload type is {envelope.payload_type[:80]!r}, not {payload_type!r}")
    if not envelope.signatures:
        raise BadSignature("it is not signed; `calyx domain sign FILE` does that")
    ours = [trusted.keys[keyid] for keyid in envelope.signatures if keyid in trusted.keys]
    if not ours:
        keyid = next(iter(envelope.signatures))
        raise BadSignature(
            f"it is signed by a key nobody here knows ({keyid[:12]}); its public half belongs into keys/operators"
        )
    for each in ours:
        try:
            each.key.verify_signature(envelope.signatures[each.keyid], envelope.pae())
        except (UnverifiedSignatureError, VerificationError) as error:
            raise BadSignature(f"the signature of {each.fingerprint} does not fit: it was changed since") from error
    return Sealed(payload=envelope.payload, signer=ours[0])


def _envelope(value: Any) -> Envelope:
    """Checked field by field first: the library takes more spellings than we sign."""
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise InvalidInput(
            "it is not a DSSE envelope: payload, payloadType and signatures; `calyx domain sign` makes one"
        )
    signatures = value["signatures"]
    if not isinstance(value["payloadType"], str) or not isinstance(signatures, list):
        raise InvalidInput("it is not a DSSE envelope: payloadType is text, signatures a list")
    if len(signatures) > MAX_SIGNATURES:
        raise InvalidInput(f"it has more than {MAX_SIGNATURES} signatures")
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
        return Envelope.from_dict(value)
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


def read_plain(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes, no link. Raises OSError; FileNotFoundError where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{path.name} is a link") from error
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path.name} is not a plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is larger than {limit} bytes")
    return data
