"""First start of a station: who it is, who may call whom, and the key that signs tasks."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from chassis.atomic import fsync_dir, read_json, write_whole
from chassis.canonical import canonical_json, sha256_hex
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import Damaged, NotFound, Unavailable
from chassis.ids import Ids
from chassis.layout import SERVICES, Layout

if TYPE_CHECKING:  # loaded where keys are made: a command that only reads a token starts without it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CALLERS = (*SERVICES, "operator")
"""Everybody with a token: the six services, and the person at the command line."""

MIN_TOKEN_CHARS = 32
"""A shorter token is a damaged file (ours have 43): it must not become one that can be guessed."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`station.json`."""

    station_id: str
    created_at: datetime


def found_station(layout: Layout, clock: Clock, ids: Ids, secrets_dir: Path | None = None) -> Identity:
    """Make what is missing of station.json, tokens, grant key and callers.json; keep what is there.

    Idempotent, and safe for two processes at once: each file is linked into place, and whoever comes second
    uses the first one's. Raises Unavailable when the folder can't be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    vault = secrets_dir if secrets_dir is not None else layout.secrets
    try:
        for folder in (layout.root, vault):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.keys.mkdir(mode=0o755, exist_ok=True)
        station = {"schema": "calyx.station/1", "station_id": ids.new("st"), "created_at": iso(clock.now())}
        _first(layout.identity, canonical_json(station) + b"\n", mode=0o644)
        _first(vault / "grant.key", _private_pem(Ed25519PrivateKey.generate()), mode=0o600)
        key = _grant_key(vault / "grant.key")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _same(layout.keys / "grant.pub", public, mode=0o644)
        # What the memory signs its days with; see services/memory/roots.py.
        _first(vault / "memory.key", _private_pem(Ed25519PrivateKey.generate()), mode=0o600)
        signs = _grant_key(vault / "memory.key").public_key()
        public = signs.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        _first(layout.keys / "memory.pub", public, mode=0o644)
        for caller in CALLERS:
            _first(vault / f"{caller}.token", secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
        hashes = {caller: sha256_hex(load_token(vault, caller).encode()) for caller in CALLERS}
        _same(
            vault / "callers.json",
            canonical_json({"schema": "calyx.callers/1", "callers": hashes}) + b"\n",
            mode=0o600,
        )
    except OSError as error:
        raise Unavailable(
            f"can't write the station folder {layout.root}: {error.strerror}; choose another with --station"
        ) from error
    return load_identity(layout)


def load_identity(layout: Layout) -> Identity:
    """Raises NotFound where no station was founded, Damaged for a station.json that isn't one."""
    try:
        value = read_json(layout.identity)
        return Identity(station_id=str(value["station_id"]), created_at=parse_iso(value["created_at"]))
    except FileNotFoundError as error:
        raise NotFound(f"there is no station in {layout.root}; `calyx up` makes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{layout.identity} is not a station.json; restore it from a backup") from error


def load_token(secrets_dir: Path, caller: str) -> str:
    """The caller's bearer token. Raises NotFound, Damaged, or Unavailable when it is not ours to read."""
    path = secrets_dir / f"{caller}.token"
    try:
        token = path.read_bytes().decode("ascii").strip()
    except FileNotFoundError as error:
        raise NotFound(f"there is no token for {caller} in {secrets_dir}; `calyx up` makes one") from error
    except OSError as error:
        raise Unavailable(f"can't read the token {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} holds no token; remove it, and `calyx up` makes a new one") from error
    if len(token) < MIN_TOKEN_CHARS:
        raise Damaged(f"{path} holds no whole token; remove it, and `calyx up` makes a new one")
    return token


def load_callers(secrets_dir: Path) -> Mapping[str, str]:
    """Caller → sha256 (hex) of its token. Raises NotFound, Damaged."""
    path = secrets_dir / "callers.json"
    try:
        callers = {str(name): str(digest) for name, digest in json.loads(path.read_bytes())["callers"].items()}
        if not all(_DIGEST.fullmatch(digest) for digest in callers.values()):
            raise ValueError("a digest is 64 hex digits")
        return callers
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}; found the station first (`calyx up`)") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path} is not a list of callers; remove it and start the station again") from error


def _grant_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Damaged(f"{path} is not a grant key; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Damaged(f"{path} is not an Ed25519 key; restore it from a backup")
    return key


def _private_pem(key: "Ed25519PrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _first(path: Path, data: bytes, *, mode: int) -> None:
    """Put `data` at `path` unless something is there; the file appears whole or not at all."""
    if path.exists():
        return
    mine = path.with_name(f".{path.name}.{secrets.token_hex(6)}.first")
    try:
        write_whole(mine, data, mode=mode)
        os.link(mine, path)
    except FileExistsError:
        return  # another process was first; its file counts
    finally:
        mine.unlink(missing_ok=True)
    fsync_dir(path.parent)


def _same(path: Path, data: bytes, *, mode: int) -> None:
    """Derived files are written again only if they differ."""
    if not path.exists() or path.read_bytes() != data:
        write_whole(path, data, mode=mode)
