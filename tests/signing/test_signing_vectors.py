"""Ed25519 through our own verification, as DSSE and as OpenSSH signature: what is accepted, and why the rest is not."""

import base64
import json
from collections import Counter
from pathlib import Path

import pytest
from armor import NAMESPACE, armored, blob, public_line
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from edwards import ZERO, P, Signer, encoded, low_order, times
from vectors import FITS_NOT, TOO_SHORT, Vector, vectors

from chassis import sshsig
from chassis.ed25519 import weakness
from chassis.errors import CalyxError
from chassis.operator_keys import Trusted, public_key, trusted_keys
from chassis.signing import blank, unseal

TYPE = "application/vnd.calyx.domain+json"
ALL = tuple(vectors())
KINDS = {
    "valid", "altered message", "altered R", "altered S", "S not reduced", "special S", "special R and S", "truncated",
    "appended", "low-order R", "non-canonical R", "wrong public key", "low-order key", "non-canonical key",
    "key off the curve",
}  # fmt: skip


def as_dsse(vector: Vector, folder: Path) -> bytes:
    """The vector's key into the folder, as PEM; its signature in an envelope."""
    envelope = blank(vector.payload, TYPE).envelope
    public, signature = vector.make(envelope.pae())
    pem = Ed25519PublicKey.from_public_bytes(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "alice.pub").write_bytes(pem)
    keyid = next(iter(trusted_keys(folder).keys), "0" * 64)
    sig = {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
    return json.dumps({**envelope.to_dict(), "signatures": [sig]}).encode()


def as_ssh(vector: Vector, folder: Path) -> bytes:
    public, signature = vector.make(sshsig.signed(vector.payload, NAMESPACE, "sha512"))
    (folder / "alice.pub").write_text(public_line(public))
    return blank(vector.payload, TYPE).with_ssh([armored(blob(public, signature))]).encoded()


@pytest.mark.parametrize("form", [as_dsse, as_ssh], ids=["dsse", "ssh"])
@pytest.mark.parametrize("vector", ALL, ids=str)
def test_a_signature_counts_only_as_it_should(vector: Vector, form: object, tmp_path: Path) -> None:
    raw = form(vector, tmp_path)  # type: ignore[operator]  # one of the two above
    trusted = trusted_keys(tmp_path)
    assert vector.fault in trusted.faults.get("alice.pub", "")
    assert bool(vector.fault) == ("alice.pub" in trusted.faults)
    if not vector.why:
        assert unseal(raw, TYPE, trusted, namespace=NAMESPACE).payload == vector.payload
        return
    with pytest.raises(CalyxError) as caught:
        unseal(raw, TYPE, trusted, namespace=NAMESPACE)
    assert (TOO_SHORT if vector.length and form is as_ssh else vector.why) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("vector", ALL, ids=str)
def test_what_the_library_alone_says_is_known(vector: Vector) -> None:
    public, signature = vector.make(b"the message")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, b"the message")
        accepted = True
    except InvalidSignature:
        accepted = False
    assert accepted == vector.library


def test_there_are_vectors_of_every_kind() -> None:
    counted = Counter(vector.kind for vector in ALL)
    assert set(counted) == KINDS
    assert len({str(vector) for vector in ALL}) == len(ALL) >= 80
    assert any(not vector.why for vector in ALL)
    assert sum(vector.library and bool(vector.why) for vector in ALL) == 15


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
         "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595b"
         "be24655141438e7a100b"),
        ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
         "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb430"
         "2aeeb00d291612bb0c00"),
    ],
    ids=["test 1", "test 2"],
)  # fmt: skip
def test_our_own_arithmetic_gives_the_known_answers_of_rfc_8032(
    seed: str, public: str, message: str, signature: str
) -> None:
    signer = Signer(bytes.fromhex(seed))
    library = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    assert library.sign(bytes.fromhex(message)).hex() == signature
    assert (signer.public.hex(), signer.sign(bytes.fromhex(message)).hex()) == (public, signature)


def test_the_points_of_low_order_are_all_known_and_no_other_is_called_so() -> None:
    points = low_order()
    assert len(set(points)) == 8
    assert all(times(8, point) == ZERO for point in points)
    assert {"low order" in weakness(encoded(point)) for point in points} == {True}
    assert weakness(b"\x02" * 31) == "it has 31 bytes, not 32"
    assert weakness((P - 1).to_bytes(32, "little")).endswith("sign")
    for n in range(50):
        assert weakness(Signer(bytes([n]) * 32).public) == ""


def test_a_key_of_another_kind_never_counts_and_it_is_said_why(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519

    pem, ssh = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
    spki, line = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.OpenSSH
    curve, large = ec.generate_private_key(ec.SECP256R1()).public_key(), rsa.generate_private_key(65537, 2048)
    good = Signer(b"g" * 32).public
    files: dict[str, tuple[bytes | str, str]] = {
        "p256": (curve.public_bytes(pem, spki), "not an Ed25519 key"),
        "ed448": (ed448.Ed448PrivateKey.generate().public_key().public_bytes(pem, spki), "not an Ed25519 key"),
        "x25519": (x25519.X25519PrivateKey.generate().public_key().public_bytes(pem, spki), "not an Ed25519 key"),
        "rsa": (large.public_key().public_bytes(pem, spki), "not an Ed25519 key"),
        "ssh-rsa": (large.public_key().public_bytes(ssh, line), "type 'ssh-rsa', not ssh-ed25519"),
        "ecdsa": (curve.public_bytes(ssh, line), "type 'ecdsa-sha2-nistp256'"),
        "sk": (public_line(good, "sk-ssh-ed25519@openssh.com"), "by a hardware key (sk-ssh-ed25519@openssh.com)"),
        "cert": (public_line(good, "ssh-ed25519-cert-v01@openssh.com"), "type 'ssh-ed25519-cert-v01@openssh.com'"),
        "two": (public_line(good) * 2, "one line"),
        "options": ('namespaces="file" ' + public_line(good), "type 'namespaces"),
        "principal": ("alice@example.org " + public_line(good), "type 'alice@example.org'"),
        "short": (public_line(good[:31]), "no ssh-ed25519 key"),
        "other inside": (f"ssh-ed25519 {public_line(good, 'ssh-rsa').split()[1]}\n", "no ssh-ed25519 key"),
        "base64": ("ssh-ed25519 AAAA!\n", "base64 is damaged"),
        "cut": ("ssh-ed25519 AAAA\n", "ends too early"),
        "empty": (b"", "neither a PEM public key nor"),
    }  # fmt: skip
    for name, (data, _) in files.items():
        (tmp_path / f"{name}.pub").write_bytes(data.encode() if isinstance(data, str) else data)
    found = trusted_keys(tmp_path)
    assert found.keys == {}
    assert {name: why in found.faults[f"{name}.pub"] for name, (_, why) in files.items()} == dict.fromkeys(files, True)


def test_one_key_is_one_key_however_its_file_is_written_and_named(tmp_path: Path) -> None:
    signer = Signer(b"g" * 32)
    (tmp_path / "one.pub").write_text(public_line(signer.public, comment=""))
    pem = Ed25519PublicKey.from_public_bytes(signer.public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "two.pub").write_bytes(pem)
    found = trusted_keys(tmp_path)
    assert [key.name for key in found.keys.values()] == ["one"]
    assert found.faults == {"two.pub": "the same key as one.pub; it counts once"}
    assert public_key(tmp_path / "one.pub").keyid == public_key(tmp_path / "two.pub").keyid


def test_a_signature_that_does_not_fit_refuses_the_whole_beside_one_that_does(tmp_path: Path) -> None:
    alice, bob = Signer(b"a" * 32), Signer(b"b" * 32)
    for name, signer in (("alice", alice), ("bob", bob)):
        (tmp_path / f"{name}.pub").write_text(public_line(signer.public))
    message = sshsig.signed(b"{}", NAMESPACE, "sha512")
    good, bad = (armored(blob(signer.public, alice.sign(message))) for signer in (alice, bob))
    trusted: Trusted = trusted_keys(tmp_path)
    with pytest.raises(CalyxError, match=FITS_NOT):
        unseal(blank(b"{}", TYPE).with_ssh([good, bad]).encoded(), TYPE, trusted, namespace=NAMESPACE)
