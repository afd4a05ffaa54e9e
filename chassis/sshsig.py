"""OpenSSH signatures of files, as `ssh-keygen -Y sign` writes them, and OpenSSH public keys; Ed25519 only.

The format is OpenSSH's PROTOCOL.sshsig, version 1. Read more strictly than it asks for: nothing reserved, nothing left
over, no second spelling of a number or of base64. Nothing is verified here.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from chassis.errors import InvalidInput

KEY_TYPE = "ssh-ed25519"
HASHES = ("sha512", "sha256")
MAX_ARMORED = 4096
_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = re.compile(r"[A-Za-z0-9+/]{1,76}={0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSignature:
    """`public` is the 32 bytes of the key that it claims; `signature` is 64 bytes over `signed(…)`."""

    public: bytes
    namespace: str
    hash_name: str
    signature: bytes


def read(armored: str) -> SshSignature:
    """Raises InvalidInput with what is wrong with it."""
    if len(armored) > MAX_ARMORED:
        raise InvalidInput(f"its OpenSSH signature is larger than {MAX_ARMORED // 1024} KiB")
    lines = armored.removesuffix("\n").split("\n")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END or not all(map(_LINE.fullmatch, lines[1:-1])):
        raise InvalidInput("its OpenSSH signature is not what `ssh-keygen -Y sign` writes")
    fields = _Fields(_base64("".join(lines[1:-1])))
    if fields.take(len(_MAGIC)) != _MAGIC or fields.number() != 1:
        raise InvalidInput("its OpenSSH signature is not of version 1")
    key = _Fields(fields.string())
    _ed25519(key.text(), "it was made")
    public = key.string()
    namespace, reserved, hash_name = fields.text(), fields.string(), fields.text()
    inner = _Fields(fields.string())
    kind, signature = inner.text(), inner.string()
    if reserved:
        raise InvalidInput("its OpenSSH signature uses a field that is reserved")
    if hash_name not in HASHES:
        raise InvalidInput(f"its OpenSSH signature hashes with {hash_name[:20]!r}, not {' or '.join(HASHES)}")
    if kind != KEY_TYPE or len(public) != 32 or len(signature) != 64:
        raise InvalidInput("its OpenSSH signature is not an Ed25519 one: 64 bytes by a key of 32")
    if not fields.ended or not key.ended or not inner.ended:
        raise InvalidInput("its OpenSSH signature has more in it than belongs there")
    return SshSignature(public=public, namespace=namespace, hash_name=hash_name, signature=signature)


def signed(message: bytes, namespace: str, hash_name: str) -> bytes:
    """What the key signs for a message (PROTOCOL.sshsig, section 3)."""
    hashed = hashlib.new(hash_name, message).digest()
    return _MAGIC + b"".join(map(_packed, (namespace.encode(), b"", hash_name.encode(), hashed)))


def public_line(text: bytes) -> bytes:
    """The 32 bytes of an Ed25519 key in an OpenSSH `.pub` file, one line. Raises InvalidInput."""
    lines = text.decode("ascii", "replace").splitlines()
    words = lines[0].split() if len(lines) == 1 else []
    if len(words) < 2:
        raise InvalidInput("it is neither a PEM public key nor one line of an OpenSSH .pub file")
    _ed25519(words[0], "it is")
    fields = _Fields(_base64(words[1]))
    kind, public = fields.text(), fields.string()
    if kind != KEY_TYPE or len(public) != 32 or not fields.ended:
        raise InvalidInput(f"what is in it is no {KEY_TYPE} key")
    return public


def fingerprint(public: bytes) -> str:
    """As `ssh-keygen -l` shows the key."""
    blob = _packed(KEY_TYPE.encode()) + _packed(public)
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _ed25519(kind: str, how: str) -> None:
    if kind.startswith("sk-"):
        raise InvalidInput(
            f"{how} by a hardware key ({kind[:40]}), which signs more than the file; use a plain {KEY_TYPE} key"
        )
    if kind != KEY_TYPE:
        raise InvalidInput(f"{how} by a key of type {kind[:40]!r}, not {KEY_TYPE}: `ssh-keygen -t ed25519` makes one")


def _base64(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInput("its base64 is damaged") from error
    if base64.b64encode(value).decode() != text:
        raise InvalidInput("its base64 is damaged")
    return value


def _packed(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _Fields:
    """The SSH wire format, read from the front. Every read raises InvalidInput where the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def ended(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise InvalidInput("its OpenSSH key or signature ends too early")
        self._at += size
        return found

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.string().decode("ascii", "replace")
