"""Envelopes and OpenSSH signatures as forms: what may differ, what may not, and how many have to sign."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from armor import (
    NAMESPACE,
    SSH_KEYGEN,
    armored,
    blob,
    needs_ssh_keygen,
    new_key,
    packed,
    public_line,
    ssh_signed,
)
from edwards import Signer

from chassis import sshsig
from chassis.errors import BadSignature, CalyxError
from chassis.operator_keys import load_key, make_key, trusted_keys
from chassis.signing import blank, public_key, read_letter, seal, unseal

TYPE = "application/vnd.calyx.domain+json"
PAYLOAD = b'{"domain":"notes"}'
ALICE = Signer(b"a" * 32)
WRITTEN = "not what `ssh-keygen -Y sign` writes"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The folder of the public keys: alice's made by us, anna's is an OpenSSH key."""
    folder = tmp_path / "operators"
    make_key(tmp_path / "private" / "alice.key", folder / "alice.pub")
    (folder / "anna.pub").write_text(public_line(ALICE.public))
    return folder


def ssh(payload: bytes = PAYLOAD, signer: Signer = ALICE, namespace: str = NAMESPACE, **fields: Any) -> str:
    signature = signer.sign(sshsig.signed(payload, namespace, fields.get("hash_name", "sha512")))
    return armored(blob(signer.public, signature, namespace=namespace, **fields))


def dsse(keys: Path, payload: bytes = PAYLOAD, kind: str = TYPE, name: str = "alice") -> dict[str, Any]:
    made: dict[str, Any] = json.loads(seal(payload, kind, load_key(keys.parent / "private" / f"{name}.key")))
    return made


def opened(raw: bytes | dict[str, Any], keys: Path) -> list[str]:
    """Whose signatures it counts with."""
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return [each.name for each in unseal(data, TYPE, trusted_keys(keys), namespace=NAMESPACE).signers]


def refused(raw: bytes | dict[str, Any], keys: Path, why: str) -> None:
    with pytest.raises(CalyxError) as caught:
        opened(raw, keys)
    assert why in caught.value.message
    assert "\n" not in caught.value.message


def enclosed(*armoreds: str, payload: bytes = PAYLOAD) -> bytes:
    return blank(payload, TYPE).with_ssh(armoreds).encoded()


# DSSE, as its protocol says


def test_the_pre_authentication_encoding_is_that_of_the_specification() -> None:
    envelope = blank(b"hello world", "http://example.com/HelloWorld").envelope
    assert envelope.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert blank(b"", "").envelope.pae() == b"DSSEv1 0  0 "
    assert blank("é".encode(), "é").envelope.pae() == "DSSEv1 2 é 2 é".encode()


def spelled_otherwise(e: dict[str, Any]) -> None:
    """The last character of base64 has bits that nobody reads."""
    sig = e["signatures"][0]["sig"]
    assert sig.endswith("==")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    e["signatures"][0]["sig"] = sig[:-3] + letters[letters.index(sig[-3]) ^ 1] + "=="


DSSE: tuple[tuple[str, Callable[[dict[str, Any]], Any], str], ...] = (
    ("as made", lambda e: None, ""),
    ("an unknown key beside a known one", lambda e: e["signatures"].append({"keyid": "f" * 64, "sig": "AAAA"}), ""),
    ("an unknown key before a known one", lambda e: e["signatures"].insert(0, {"keyid": "", "sig": ""}), ""),
    ("a payload type of another case", lambda e: e.update(payloadType=TYPE.upper()), "its payload type is"),
    ("no payload type", lambda e: e.update(payloadType=""), "its payload type is ''"),
    ("a payload type that is no text", lambda e: e.update(payloadType=None), "payloadType is text"),
    ("no signatures", lambda e: e.update(signatures=[]), "it is not signed"),
    ("null for signatures", lambda e: e.update(signatures=None), "signatures a list"),
    ("one signature, not in a list", lambda e: e.update(signatures=e["signatures"][0]), "signatures a list"),
    ("only an unknown key", lambda e: e["signatures"][0].update(keyid="f" * 64), "nobody here knows (ffffffffffff)"),
    ("no key id", lambda e: e["signatures"][0].pop("keyid"), "not keyid and sig"),
    ("an empty key id", lambda e: e["signatures"][0].update(keyid=""), "nobody here knows ()"),
    ("a key id of another case", lambda e: e["signatures"][0].update(keyid=e["signatures"][0]["keyid"].upper()),
     "nobody here knows"),
    ("a key id that is a number", lambda e: e["signatures"][0].update(keyid=1), "not keyid and sig"),
    ("one key twice", lambda e: e["signatures"].append(dict(e["signatures"][0])), "two signatures of one key"),
    ("a changed payload", lambda e: e.update(payload=base64.b64encode(b"{}").decode()), "was changed since"),
    ("no payload", lambda e: e.update(payload=""), "was changed since"),
    ("base64 for addresses", lambda e: e.update(payload=base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode()), "plain"),
    ("base64 without its end", lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"].rstrip("=")), "plain"),
    ("base64 with a line break", lambda e: e.update(payload=e["payload"][:4] + "\n" + e["payload"][4:]), "plain"),
    ("base64 with a space after it", lambda e: e.update(payload=e["payload"] + " "), "plain base64"),
    ("base64 of a second spelling", spelled_otherwise, "plain base64"),
    ("hex for base64", lambda e: e["signatures"][0].update(sig="ab" * 64), "was changed since"),
    ("a field more", lambda e: e.update(note="x"), "not a DSSE envelope"),
    ("a field more in a signature", lambda e: e["signatures"][0].update(cert=""), "not keyid and sig"),
    ("nine signatures", lambda e: e["signatures"].extend({"keyid": str(n), "sig": ""} for n in range(8)), "than 8"),
    ("an empty list of OpenSSH signatures", lambda e: e.update(sshsig=[]), ""),
    ("an OpenSSH signature that is no text", lambda e: e.update(sshsig=[7]), "not text"),
    ("an OpenSSH signature, not in a list", lambda e: e.update(sshsig="x"), "so is sshsig"),
    ("an OpenSSH signature that is none, beside a good one", lambda e: e.update(sshsig=["x"]), WRITTEN),
)  # fmt: skip


@pytest.mark.parametrize(("how", "why"), [each[1:] for each in DSSE], ids=[each[0] for each in DSSE])
def test_a_dsse_envelope(keys: Path, how: Callable[[dict[str, Any]], Any], why: str) -> None:
    envelope = dsse(keys)
    how(envelope)
    if why:
        refused(envelope, keys, why)
    else:
        assert opened(envelope, keys) == ["alice"]


def test_the_order_of_fields_is_free_and_a_field_twice_is_not(keys: Path) -> None:
    envelope = dsse(keys)
    assert opened(dict(reversed(envelope.items())), keys) == ["alice"]
    text = json.dumps(envelope)
    refused(text.replace('"payloadType"', '"payload": "", "payloadType"').encode(), keys, "a key stands there twice")
    refused(text[: len(text) // 2].encode(), keys, "not JSON that can be trusted")
    refused(text.encode() + b" " * 65_536, keys, "larger than 64 KiB")
    refused(b"\xff" + text.encode(), keys, "not JSON")


# OpenSSH signatures, field by field

GOOD = ssh()
RAW = base64.b64decode("".join(GOOD.split("\n")[1:-2]))
HARDWARE = "by a hardware key (sk-ssh-ed25519@openssh.com)"

SSH: tuple[tuple[str, str, str], ...] = (
    ("as made", GOOD, ""),
    ("hashed with sha256", ssh(hash_name="sha256"), ""),
    ("lines of 76", armored(RAW, 76), ""),
    ("without its last line break", GOOD.removesuffix("\n"), ""),
    ("for files", ssh(namespace="file"), "is for 'file'; sign with `ssh-keygen -Y sign -n calyx-domain`"),
    ("for git", ssh(namespace="git"), "is for 'git'"),
    ("for nothing", ssh(namespace=""), "is for ''"),
    ("for a namespace that begins so", ssh(namespace="calyx-domain2"), "is for 'calyx-domain2'"),
    ("for ours in capitals", ssh(namespace="Calyx-Domain"), "is for 'Calyx-Domain'"),
    ("for ours and a zero", ssh(namespace="calyx-domain\0"), "is for"),
    ("signed for files, said to be for ours", armored(
        blob(ALICE.public, ALICE.sign(sshsig.signed(PAYLOAD, "file", "sha512")))), "does not fit"),
    ("signed without the wrapping", armored(blob(ALICE.public, ALICE.sign(PAYLOAD))), "does not fit"),
    ("of another payload", ssh(b"{}"), "does not fit"),
    ("of the payload and a line break", ssh(PAYLOAD + b"\n"), "does not fit"),
    ("said to be hashed otherwise", armored(blob(
        ALICE.public, ALICE.sign(sshsig.signed(PAYLOAD, NAMESPACE, "sha256")))), "does not fit"),
    ("hashed with sha1", ssh(hash_name="sha1"), "hashes with 'sha1', not sha512 or sha256"),
    ("hashed with sha512-256", ssh(hash_name="sha512_256"), "hashes with"),
    ("a reserved field", ssh(reserved=b"x"), "a field that is reserved"),
    ("version 0", ssh(version=0), "not of version 1"),
    ("version 2", ssh(version=2), "not of version 1"),
    ("another magic", ssh(magic=b"SSHSIX"), "not of version 1"),
    ("a hardware key", ssh(key_type="sk-ssh-ed25519@openssh.com"), HARDWARE),
    ("a hardware ECDSA key", ssh(key_type="sk-ecdsa-sha2-nistp256@openssh.com"), "by a hardware key"),
    ("an RSA key", ssh(key_type="ssh-rsa"), "type 'ssh-rsa', not ssh-ed25519"),
    ("an ECDSA key", ssh(key_type="ecdsa-sha2-nistp256"), "type 'ecdsa-sha2-nistp256'"),
    ("a DSA key", ssh(key_type="ssh-dss"), "type 'ssh-dss'"),
    ("a certificate", ssh(key_type="ssh-ed25519-cert-v01@openssh.com"), "type 'ssh-ed25519-cert"),
    ("a signature of another type", ssh(signature_type="rsa-sha2-512"), "not an Ed25519 one"),
    ("a key of 31 bytes", armored(blob(ALICE.public[:31], bytes(64))), "not an Ed25519 one"),
    ("an empty signature", armored(blob(ALICE.public, b"")), "not an Ed25519 one"),
    ("something after it", armored(RAW + b"\0"), "more in it than belongs there"),
    ("something after the key", armored(RAW.replace(
        packed(packed("ssh-ed25519") + packed(ALICE.public)),
        packed(packed("ssh-ed25519") + packed(ALICE.public) + b"x"))), "more in it"),
    ("cut off", armored(RAW[:-1]), "ends too early"),
    ("cut in the key", armored(RAW[:20]), "ends too early"),
    ("a length beyond the end", armored(RAW[:10] + b"\xff\xff\xff\xff" + RAW[14:]), "ends too early"),
    ("nothing in it", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n", WRITTEN),
    ("no text at all", "", WRITTEN),
    ("no first line", GOOD.split("\n", 1)[1], WRITTEN),
    ("no last line", GOOD.rsplit("-----END", 1)[0], WRITTEN),
    ("something before it", "x\n" + GOOD, WRITTEN),
    ("something behind it", GOOD + "x\n", WRITTEN),
    ("two in one", GOOD + GOOD, WRITTEN),
    ("lines ended as on Windows", GOOD.replace("\n", "\r\n"), WRITTEN),
    ("an empty line in it", GOOD.replace("\n", "\n\n", 1), WRITTEN),
    ("damaged base64", GOOD.replace(GOOD[40], "!", 1), WRITTEN),
    ("base64 without its end", GOOD.replace("=\n", "\n"), "base64 is damaged"),
    ("too large", GOOD + " " * 5000, "larger than 4 KiB"),
    ("by a stranger", ssh(signer=Signer(b"m" * 32)), "nobody here knows"),
    ("PGP's", GOOD.replace("SSH SIGNATURE", "PGP SIGNATURE"), WRITTEN),
)  # fmt: skip


@pytest.mark.parametrize(("text", "why"), [each[1:] for each in SSH], ids=[each[0] for each in SSH])
def test_an_openssh_signature(keys: Path, text: str, why: str) -> None:
    if why:
        refused(enclosed(text), keys, why)
    else:
        assert opened(enclosed(text), keys) == ["anna"]


def test_an_openssh_signature_counts_only_where_it_is_asked_for(keys: Path) -> None:
    trusted = trusted_keys(keys)
    with pytest.raises(BadSignature, match="does not count here"):
        unseal(enclosed(GOOD), TYPE, trusted)
    with pytest.raises(BadSignature, match="does not count here"):
        unseal(json.dumps({**dsse(keys), "sshsig": [GOOD]}).encode(), TYPE, trusted)


def test_the_base64_of_that_signature_does_end_in_a_padding() -> None:
    assert "=\n" in GOOD, "the case `base64 without its end` would test nothing"


# As ssh-keygen makes them


@needs_ssh_keygen
@pytest.mark.parametrize("options", [(), ("-O", "hashalg=sha256"), ("-O", "hashalg=sha512")], ids=str)
def test_what_ssh_keygen_signs_is_verified_and_what_it_signs_for_another_purpose_is_not(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    private = new_key(tmp_path / "ssh", "alice")
    folder, file = tmp_path / "operators", tmp_path / "notes.json"
    folder.mkdir()
    (folder / "alice.pub").write_bytes(private.with_suffix(".pub").read_bytes())
    file.write_bytes(PAYLOAD + b"\n")
    made = ssh_signed(private, file, options=options)
    assert opened(enclosed(made, payload=file.read_bytes()), folder) == ["alice"]
    refused(enclosed(made), folder, "does not fit")
    refused(enclosed(ssh_signed(private, file, namespace="file"), payload=file.read_bytes()), folder, "is for 'file'")


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_of_another_kind_made_by_ssh_keygen_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    private, file = new_key(tmp_path / "ssh", "alice", kind), tmp_path / "notes.json"
    folder = tmp_path / "operators"
    folder.mkdir()
    (folder / "alice.pub").write_bytes(private.with_suffix(".pub").read_bytes())
    file.write_bytes(PAYLOAD)
    assert kind in trusted_keys(folder).faults["alice.pub"]
    refused(enclosed(ssh_signed(private, file)), folder, f"by a key of type '{'ssh-' * (kind == 'rsa')}{kind}")


@needs_ssh_keygen
def test_ssh_keygen_verifies_what_we_take_and_shows_the_same_fingerprint(tmp_path: Path) -> None:
    private, file = new_key(tmp_path / "ssh", "alice"), tmp_path / "notes.json"
    file.write_bytes(PAYLOAD)
    public = private.with_suffix(".pub")
    (tmp_path / "signers").write_text(f"alice {public.read_text()}")
    (tmp_path / "notes.sig").write_text(ssh_signed(private, file))
    with file.open("rb") as given:
        subprocess.run(
            [str(SSH_KEYGEN), "-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "alice", "-n", NAMESPACE, "-s",
             str(tmp_path / "notes.sig")], stdin=given, check=True, capture_output=True,
        )  # fmt: skip
    shown = subprocess.run([str(SSH_KEYGEN), "-l", "-f", str(public)], check=True, capture_output=True, text=True)
    assert public_key(public).ssh_fingerprint == shown.stdout.split()[1]


# How many have to sign


def test_two_of_n_counts_keys_not_signatures_nor_names(keys: Path) -> None:
    (keys / "threshold").write_text("2\n")
    (keys / "zoe.pub").write_text(public_line(ALICE.public, comment=" another name"))
    mixed = {**dsse(keys), "sshsig": [GOOD]}
    assert opened(mixed, keys) == ["alice", "anna"]
    refused(dsse(keys), keys, "it has 1 of the 2 signatures that count here (alice (")
    refused(enclosed(GOOD), keys, "it has 1 of the 2 signatures")
    refused(enclosed(GOOD, ssh(hash_name="sha256")), keys, "it has 1 of the 2 signatures that count here (anna")
    refused(enclosed(GOOD, ssh(signer=Signer(b"m" * 32))), keys, "it has 1 of the 2 signatures")


def test_one_key_in_both_forms_is_one_key(keys: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    (keys / "threshold").write_text("2")
    pem = (keys.parent / "private" / "alice.key").read_bytes()
    private = serialization.load_pem_private_key(pem, None)
    raw = private.private_bytes(  # type: ignore[union-attr]
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    (keys / "alice-ssh.pub").write_text(public_line(Signer(raw).public))
    assert trusted_keys(keys).faults == {"alice.pub": "the same key as alice-ssh.pub; it counts once"}
    refused({**dsse(keys), "sshsig": [ssh(signer=Signer(raw))]}, keys, "it has 1 of the 2 signatures")


@pytest.mark.parametrize("text", ["", "0", "9", "two", "2 ", "-1", "02", "2\n\n", "1" * 100])
def test_where_it_is_not_known_how_many_have_to_sign_nothing_counts(keys: Path, text: str) -> None:
    (keys / "threshold").write_text(text)
    refused(dsse(keys), keys, "keys/operators/threshold")


def test_a_threshold_that_is_a_link_or_a_folder_counts_for_nothing(keys: Path) -> None:
    (keys / "elsewhere").write_text("1")
    (keys / "threshold").symlink_to(keys / "elsewhere")
    refused(dsse(keys), keys, "keys/operators/threshold can't be read (threshold is a link): no key counts")
    (keys / "threshold").unlink()
    (keys / "threshold").mkdir()
    refused(dsse(keys), keys, "keys/operators/threshold can't be read")


# Keys that are revoked


def test_a_revoked_key_voids_what_only_it_signed(keys: Path) -> None:
    both = {**dsse(keys), "sshsig": [GOOD]}
    (keys / "revoked").mkdir()
    (keys / "revoked" / "alice-2026.pub").write_bytes((keys / "alice.pub").read_bytes())
    refused(dsse(keys), keys, "it is signed by alice-2026 (")
    assert opened(both, keys) == ["anna"]
    assert trusted_keys(keys).faults == {"alice.pub": "revoked"}
    (keys / "alice.pub").unlink()
    refused(dsse(keys), keys, "whose key was revoked; have it signed by one that counts")
    (keys / "threshold").write_text("2")
    refused(both, keys, "it has 1 of the 2 signatures that count here (anna (")


@pytest.mark.parametrize("how", ["text", "link", "large", "file"])
def test_where_it_is_not_known_which_keys_are_revoked_nothing_counts(keys: Path, how: str) -> None:
    revoked = keys / "revoked"
    if how == "file":
        revoked.write_text("alice")
    else:
        revoked.mkdir()
        bad = revoked / "bob.pub"
        if how == "link":
            bad.symlink_to(keys / "alice.pub")
        else:
            bad.write_text("not a key" if how == "text" else "x" * 10_000)
    refused(dsse(keys), keys, "which keys are revoked can't be known")


def test_a_letter_keeps_its_signatures_when_another_is_added(keys: Path) -> None:
    make_key(keys.parent / "private" / "bob.key", keys / "bob.pub")
    letter = read_letter(json.dumps({**dsse(keys), "sshsig": [GOOD]}).encode())
    again = letter.signed(load_key(keys.parent / "private" / "bob.key")).with_ssh([GOOD])
    assert opened(again.encoded(), keys) == ["alice", "bob", "anna"]
    assert read_letter(again.encoded()).armored == (GOOD,)
