"""Grants: the CBO's Ed25519 signature over a manifest, so that nothing dropped into a folder is ever run.

Manifests signed together share one signature, over the root of a Merkle tree of them (`trees.py`): checking one
takes a tenth of a millisecond, and is then needed once for all of them.
"""

import base64
import binascii
import functools
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chassis.atomic import write_whole
from chassis.errors import BadSignature, Unavailable
from chassis.exchange import trees
from chassis.exchange.manifest import Manifest

REMEMBERED = 64
"""So many signed messages are remembered as such: roots of some hundred bytes, or whole manifests. A grant is looked at
again before each effect, and neither it nor the key changes in between."""


def generate_key(private_path: Path, public_path: Path) -> None:
    """Write a new key pair: PEM PKCS8 (0600) and PEM SubjectPublicKeyInfo (0644). Existing files are replaced."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    public_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(private_path, private, mode=0o600)
    write_whole(public_path, public, mode=0o644)


class Signer:
    """Holds the private key; only the CBO has one."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "Signer":
        """Raises BadSignature when the file is missing or is no Ed25519 key: nothing can be granted then."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadSignature(
                f"no grant key in {path.name} ({type(error).__name__}); no task can be granted until it is there"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadSignature(f"the grant key in {path.name} is not Ed25519; no task can be granted")
        return cls(key)

    def sign(self, manifest: Manifest) -> Manifest:
        """The same manifest with its grant: base64 of the signature over `signed_bytes`."""
        return manifest.with_grant(base64.b64encode(self._key.sign(manifest.signed_bytes())).decode())

    def sign_many(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Each with a grant of its own, valid for it alone; one signature for up to `trees.MAX_LEAVES` of them."""
        signed: list[Manifest] = []
        for at in range(0, len(manifests), trees.MAX_LEAVES):
            some = manifests[at : at + trees.MAX_LEAVES]
            if len(some) == 1:
                return [*signed, self.sign(some[0])]
            tree = trees.Tree([each.signed_bytes() for each in some])
            signature = self._key.sign(tree.head)
            signed += [each.with_grant(tree.proof(index, signature).text()) for index, each in enumerate(some)]
        return signed


class Verifier:
    """Checks grants. Without a readable key nobody can say what was granted: Unavailable, and nothing is done or set
    aside until it is there.

    The key file is read at first use, and again at each use while it is missing, so that a service may start
    before the station's keys exist. Safe to be used by many threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: Ed25519PublicKey | None = None
        self._check_once = functools.lru_cache(maxsize=REMEMBERED)(self._check)  # what it raises is not kept

    @classmethod
    def load(cls, path: Path) -> "Verifier":
        return cls(path)

    def valid(self, manifest: Manifest) -> bool:
        self._key = self._key or self._read()
        if not manifest.grant:
            return False
        try:
            if manifest.grant.startswith(trees.PREFIX):
                proof = trees.Proof.parse(manifest.grant)
                self._check_once(proof.signature, proof.head(manifest.signed_bytes()))
            else:
                self._check_once(base64.b64decode(manifest.grant, validate=True), manifest.signed_bytes())
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True

    __call__ = valid

    def _check(self, signature: bytes, message: bytes) -> None:
        """Raises InvalidSignature."""
        assert self._key is not None
        self._key.verify(signature, message)

    def _read(self) -> Ed25519PublicKey:
        try:
            key = serialization.load_pem_public_key(self._path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise Unavailable(
                f"the station's grant key {self._path.name} can't be read ({type(error).__name__}); no task is handed "
                "out until it is there: put it back from a backup"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise Unavailable(f"the station's grant key {self._path.name} is not Ed25519; no task is handed out")
        return key
