"""Operator keys: Ed25519, PEM or OpenSSH, in files.

A private key stays in `<secrets>/operators`, 0600; its public half in `<station>/keys/operators` is what makes a
signature count, until it is taken away or put into `revoked` there. `threshold` there says how many have to sign.
"""

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # public, not re-exported

from chassis import sshsig
from chassis.atomic import write_whole
from chassis.ed25519 import weakness
from chassis.errors import Damaged, Duplicate, InvalidInput, NotFound, Unavailable

KEY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_SIGNATURES = 8
THRESHOLD, REVOKED = "threshold", "revoked"
"""In the folder of the public keys: how many have to sign (no file: one), and the keys that no longer may."""
_KEY_BYTES = 4096
_ENOUGH = re.compile(rb"[1-8]\n?")
_SAME = "the same key as "


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorKey:
    """A public key that counts here. `fingerprint` is how people tell keys apart."""

    name: str
    key: SSlibKey
    ssh_fingerprint: str = ""
    """As `ssh-keygen -l` shows it."""

    @property
    def keyid(self) -> str:
        return self.key.keyid

    @property
    def fingerprint(self) -> str:
        return f"{self.name} ({self.keyid[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """The keys that count, by key id, so that one key under two names is one; `faults` says which files in the folder
    don't, and why. `required` is how many of them have to sign; `broken` says why no signature counts at all."""

    keys: Mapping[str, OperatorKey]
    faults: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, OperatorKey] = field(default_factory=dict)
    required: int = 1
    broken: str = ""


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
    """The Ed25519 key in a PEM or OpenSSH file. Raises OSError, ValueError."""
    data = read_plain(path, _KEY_BYTES)
    try:
        if data.startswith(b"-----BEGIN"):
            public = serialization.load_pem_public_key(data)
        else:
            public = Ed25519PublicKey.from_public_bytes(sshsig.public_line(data))
    except (UnsupportedAlgorithm, InvalidInput) as error:
        raise ValueError(str(error)) from error
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError("it is not an Ed25519 key")
    if why := weakness(public.public_bytes_raw()):
        raise ValueError(why)
    return OperatorKey(
        name=path.name.removesuffix(".pub"),
        key=SSlibKey.from_crypto(public),
        ssh_fingerprint=sshsig.fingerprint(public.public_bytes_raw()),
    )


def trusted_keys(folder: Path) -> Trusted:
    """Every `*.pub` in the folder that is an Ed25519 key and not revoked; no folder is no key.

    Where it can't be known which keys are revoked, or how many have to sign, none counts.
    """
    try:
        keys, faults = _public_keys(folder)
    except OSError as error:
        return Trusted(keys={}, faults={folder.name: f"can't be listed: {error.strerror}"})
    try:
        revoked, unread = _public_keys(folder / REVOKED)
    except OSError as error:
        revoked, unread = {}, {"": f"can't be listed: {error.strerror}"}
    required, broken = _required(folder / THRESHOLD)
    for name, why in unread.items():
        if not why.startswith(_SAME):
            broken = f"which keys are revoked can't be known (keys/operators/{REVOKED}/{name}: {why}), so none counts"
    for keyid in keys.keys() & revoked.keys():
        faults[f"{keys.pop(keyid).name}.pub"] = "revoked"
    return Trusted(keys=keys, faults=faults, revoked=revoked, required=required, broken=broken)


def _public_keys(folder: Path) -> tuple[dict[str, OperatorKey], dict[str, str]]:
    """By key id, and why the other files are none. Raises OSError where the folder can't be listed."""
    keys: dict[str, OperatorKey] = {}
    faults: dict[str, str] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".pub"))
    except FileNotFoundError:
        return keys, faults
    for name in names:
        try:
            key = public_key(folder / name)
        except (OSError, ValueError) as error:
            faults[name] = f"not a public key that counts: {getattr(error, 'strerror', None) or error}"
            continue
        if keys.setdefault(key.keyid, key) is not key:
            faults[name] = f"{_SAME}{keys[key.keyid].name}.pub; it counts once"
    return keys, faults


def _required(path: Path) -> tuple[int, str]:
    """How many have to sign, and why that can't be known."""
    try:
        text = read_plain(path, 16)
    except FileNotFoundError:
        return 1, ""
    except OSError as error:
        return MAX_SIGNATURES, f"keys/operators/{THRESHOLD} can't be read ({error.strerror or error}): no key counts"
    if not _ENOUGH.fullmatch(text):
        return MAX_SIGNATURES, f"keys/operators/{THRESHOLD} is not a number from 1 to {MAX_SIGNATURES}: no key counts"
    return int(text), ""


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
