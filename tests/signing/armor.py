"""OpenSSH signatures and keys put together field by field, right or wrong."""

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMESPACE = "calyx-domain"
SSH_KEYGEN = shutil.which("ssh-keygen")
needs_ssh_keygen = pytest.mark.skipif(SSH_KEYGEN is None, reason="no ssh-keygen here (Debian: openssh-client)")


def packed(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(4, "big") + raw


def armored(blob: bytes, width: int = 70) -> str:
    text = base64.b64encode(blob).decode()
    lines = [text[n : n + width] for n in range(0, len(text), width)]
    return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""))


def blob(
    public: bytes,
    signature: bytes,
    *,
    namespace: str = NAMESPACE,
    hash_name: str = "sha512",
    magic: bytes = b"SSHSIG",
    version: int = 1,
    key_type: str = "ssh-ed25519",
    signature_type: str = "ssh-ed25519",
    reserved: bytes = b"",
) -> bytes:
    return (
        magic + version.to_bytes(4, "big") + packed(packed(key_type) + packed(public)) + packed(namespace)
        + packed(reserved) + packed(hash_name) + packed(packed(signature_type) + packed(signature))
    )  # fmt: skip


def public_line(public: bytes, key_type: str = "ssh-ed25519", comment: str = " alice@example.org") -> str:
    return f"{key_type} {base64.b64encode(packed(key_type) + packed(public)).decode()}{comment}\n"


def ssh_keygen(*arguments: str) -> None:
    """As a person types it; no agent of theirs is asked."""
    assert SSH_KEYGEN is not None
    env = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    subprocess.run([SSH_KEYGEN, *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL, env=env)


def new_key(folder: Path, name: str, kind: str = "ed25519") -> Path:
    """A key pair made by ssh-keygen; the private half's path."""
    folder.mkdir(parents=True, exist_ok=True)
    ssh_keygen("-q", "-t", kind, "-N", "", "-C", f"{name}@example.org", "-f", str(folder / name))
    return folder / name


def ssh_signed(key: Path, file: Path, *, namespace: str = NAMESPACE, options: tuple[str, ...] = ()) -> str:
    ssh_keygen("-Y", "sign", "-q", "-f", str(key), "-n", namespace, *options, str(file))
    made = file.with_name(file.name + ".sig")
    text = made.read_text()
    made.unlink()
    return text
