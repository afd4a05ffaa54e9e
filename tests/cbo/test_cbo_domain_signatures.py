"""Signed domains at the CBO by every form, number and age of signature: taken or refused with the reason, on record."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from domain_letters import BUILTIN, Office

from chassis import sshsig
from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.domain_book import PAYLOAD_TYPE, DomainBook, ending
from chassis.errors import CalyxError, Refused
from chassis.signing import blank, read_letter
from services.cbo.endings import endings
from services.cbo.wire import domain_to_wire


def packed(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class Ssh:
    """A person whose key is an OpenSSH one; signs as ssh-keygen does (tests/signing compares with the real one)."""

    def __init__(self, office: Office, name: str) -> None:
        self.private = Ed25519PrivateKey.generate()
        public = self.private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        self.public = office.layout.operator_keys / f"{name}.pub"
        self.public.write_bytes(public + f" {name}@example.org\n".encode())

    def sign(self, payload: bytes, namespace: str = "calyx-domain") -> str:
        signature = self.private.sign(sshsig.signed(payload, namespace, "sha512"))
        key = packed(b"ssh-ed25519") + packed(self.private.public_key().public_bytes_raw())
        blob = (
            b"SSHSIG\0\0\0\1" + packed(key) + packed(namespace.encode()) + packed(b"") + packed(b"sha512")
            + packed(packed(b"ssh-ed25519") + packed(signature))
        )  # fmt: skip
        text = base64.b64encode(blob).decode()
        lines = [text[n : n + 70] for n in range(0, len(text), 70)]
        return "\n".join(("-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    notes = tmp_path / "notes"
    notes.mkdir()
    made = Office(tmp_path / "station", notes.resolve())
    yield made
    made.station.cbo.close()


@pytest.fixture
def anna(office: Office) -> Ssh:
    return Ssh(office, "anna")


def enclosed(payload: bytes, *armored: str) -> str:
    return blank(payload, PAYLOAD_TYPE).with_ssh(armored).encoded().decode()


def by_dsse(office: Office, anna: Ssh, payload: bytes) -> str:
    return office.sealed(payload)


def by_ssh(office: Office, anna: Ssh, payload: bytes) -> str:
    return enclosed(payload, anna.sign(payload))


def by_both(office: Office, anna: Ssh, payload: bytes) -> str:
    return read_letter(office.sealed(payload).encode()).with_ssh([anna.sign(payload)]).encoded().decode()


FORMS = (by_dsse, by_ssh, by_both)
Form = Callable[[Office, Ssh, bytes], str]


def refused(office: Office, letter: str, why: str) -> None:
    lines = len(office.station.audit("domain.refused"))
    with pytest.raises(CalyxError) as caught:
        office.approve(letter)
    assert why in caught.value.message
    assert "\n" not in caught.value.message
    assert [each["why"] for each in office.station.audit("domain.refused")[lines:]] == [caught.value.message[:500]]


def all_lines(office: Office) -> list[Any]:
    return [json.loads(line) for line in office.layout.audit("cbo").read_text().splitlines()]


STALE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("a serial that was there", {"serial": 5, "title": "other"}, "serial 5 is not above 5, which was approved already"),
    ("an older serial", {"serial": 4}, "serial 4 is not above 5, which was approved already"),
    ("a chain that is broken", {"serial": 6, "previous": "0" * 64}, "it follows 000000000000, but the one before is"),
    ("a chain that is no digest", {"serial": 6, "previous": "x"}, "it follows x, but the one before is"),
    ("not valid yet", {"serial": 6, "not_before": 60}, "not valid before"),
    ("expired", {"serial": 6, "expires_at": -1}, "expired at"),
    ("expired this moment", {"serial": 6, "expires_at": 0}, "expired at"),
    ("too long", {"serial": 6, "expires_at": 90 * 86400 + 1}, "more than 90 days"),
)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize(("changes", "why"), [each[1:] for each in STALE], ids=[each[0] for each in STALE])
def test_an_edition_out_of_turn_or_time_is_refused_in_each_form(
    office: Office, anna: Ssh, form: Form, changes: dict[str, Any], why: str
) -> None:
    now = office.station.clock.now()
    office.approve(form(office, anna, canonical_json(office.mapping(serial=5))))
    for key in ("not_before", "expires_at"):
        if key in changes:
            changes = {**changes, key: iso(now + timedelta(seconds=changes[key]))}
    refused(office, form(office, anna, canonical_json(office.mapping(**changes))), why)
    assert office.book["notes"].serial == 5


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_form_is_admitted_runs_and_is_refused_once_revoked_or_changed(
    office: Office, anna: Ssh, form: Form
) -> None:
    letter = form(office, anna, canonical_json(office.mapping()))
    assert office.approve(letter).serial == 1
    assert office.task(office.ask()).state == "ready"
    office.revoke()
    refused(office, letter, "edition 1 was revoked")
    tampered = json.loads(form(office, anna, canonical_json(office.mapping(serial=2))))
    tampered["payload"] = base64.b64encode(canonical_json(office.mapping(serial=3))).decode()
    refused(office, json.dumps(tampered), "was changed since")
    refused(office, letter[: len(letter) // 2], "not JSON that can be trusted")
    refused(office, letter + " " * 65_536, "larger than 64 KiB")


def test_a_file_as_ssh_keygen_signs_it_ends_in_one_line_break_and_no_more(office: Office, anna: Ssh) -> None:
    plain = canonical_json(office.mapping())
    two = plain + b"\n\n"
    refused(office, enclosed(two, anna.sign(two)), "not canonical JSON")
    one = plain + b"\n"
    refused(office, enclosed(one, anna.sign(plain)), "does not fit")
    refused(office, enclosed(one, anna.sign(one, "file")), "is for 'file'")
    made = office.approve(enclosed(one, anna.sign(one)))
    assert made.signed_by.startswith("anna (")
    assert office.approve(enclosed(plain, anna.sign(plain))).digest == made.digest


def test_two_have_to_sign_where_the_station_asks_for_two(office: Office, anna: Ssh) -> None:
    payload = canonical_json(office.mapping())
    office.approve(office.sealed(payload))
    (office.layout.operator_keys / "threshold").write_text("2\n")
    assert "notes" not in office.book
    assert "it has 1 of the 2 signatures" in office.book.faults["notes.json"]
    refused(office, office.sealed(payload), "it has 1 of the 2 signatures that count here (alice (")
    refused(office, enclosed(payload, anna.sign(payload)), "it has 1 of the 2 signatures that count here (anna (")
    made = office.approve(by_both(office, anna, payload))
    assert [each.split(" ")[0] for each in made.signed_by.split(", ")] == ["alice", "anna"]
    assert office.book["notes"].digest == made.digest
    line = office.station.audit("domain.signed")[-1]
    assert (line["signed_by"], line["before"]) == (made.signed_by, made.signed_by.split(", ")[0])


def test_a_revoked_key_ends_what_only_it_signed_and_a_new_key_takes_it_up_again(office: Office, anna: Ssh) -> None:
    payload = canonical_json(office.mapping())
    office.approve(office.sealed(payload))
    task = office.ask()
    keys = office.layout.operator_keys
    (keys / "revoked").mkdir()
    (keys / "alice.pub").rename(keys / "revoked" / "alice.pub")
    office.pulse()
    assert "notes" not in office.book
    assert office.task(task).state in ("cancelled", "rejected")
    assert "whose key was revoked" in office.station.audit("domain.unverified")[-1]["why"]
    assert [each["key"] for each in office.station.audit("key.revoked")] == ["alice"]
    refused(office, office.sealed(payload), "it is signed by alice (")
    made = office.approve(enclosed(payload, anna.sign(payload)))
    assert made.signed_by.startswith("anna (")
    assert office.station.audit("domain.signed")[-1]["by"] == "operator"
    assert office.task(office.ask()).state == "ready"


def test_each_change_of_the_keys_is_on_record_once_also_after_a_restart(office: Office, anna: Ssh) -> None:
    def kinds() -> list[str]:
        return sorted(each["event"] for each in all_lines(office) if each["event"].startswith("key."))

    office.station.cbo.reap()
    office.station.cbo.reap()
    assert kinds() == ["key.added", "key.added"]
    office.station.cbo.close()
    office.station.open()
    office.station.cbo.reap()
    assert kinds() == ["key.added", "key.added"]
    anna.public.unlink()
    (office.layout.operator_keys / "threshold").write_text("2")
    office.station.cbo.reap()
    assert kinds() == ["key.added", "key.added", "key.removed", "key.threshold"]
    (office.layout.operator_keys / "threshold").write_text("none")
    office.station.cbo.reap()
    assert "key.broken" in kinds()
    assert "no key counts" in office.station.audit("domain.unverified")[-1]["why"]


def test_an_end_is_told_at_fourteen_and_three_days_and_when_it_comes_once_each(office: Office) -> None:
    now = office.station.clock.now()
    office.approve(expires_at=iso(now + timedelta(days=30)))

    def told() -> list[tuple[str, str]]:
        lines = all_lines(office)
        return [(each["event"], each["why"].split(";")[0]) for each in lines if each["event"].startswith("domain.exp")]

    def at(days: float) -> None:
        office.station.clock.advance((now + timedelta(days=days) - office.station.clock.now()).total_seconds())
        office.station.cbo.reap()
        office.station.cbo.reap()

    at(15.9)
    assert told() == []
    at(16)
    assert [each[0] for each in told()] == ["domain.expiring"]
    assert told()[0][1].startswith("notes ends in 14 days")
    office.station.cbo.close()
    office.station.open()
    at(20)
    assert len(told()) == 1
    at(27.5)
    assert told()[1][1].startswith("notes ends in 2 days")
    at(29.9)
    assert len(told()) == 2
    at(30)
    assert [each[0] for each in told()] == ["domain.expiring", "domain.expiring", "domain.expired"]
    at(40)
    assert len(told()) == 3


def test_an_end_stands_in_the_pulse_record_the_list_and_the_mood_until_it_is_renewed(office: Office) -> None:
    now = office.station.clock.now()
    first = office.approve(expires_at=iso(now + timedelta(days=2)))
    office.pulse()
    bridge = office.station.cbo.bridge
    record = json.loads(sorted(office.layout.pulses.rglob("bp-*.json"))[-1].read_text())
    (said,) = record["reflect"]["domains_ending"]
    assert (said["domain"], said["stage_days"]) == ("notes", 3)
    assert "`calyx domain renew notes` writes the next edition" in said["reason"]
    assert said["reason"] in sorted(office.layout.pulses.rglob("bp-*.md"))[-1].read_text()
    listed = next(each for each in office.station.cbo.desk.admissions.listed() if each.manifest.domain == "notes")
    assert domain_to_wire(listed, "/station").warning.startswith("notes ends in ")
    office.approve(serial=2, previous=first.digest, expires_at=iso(now + timedelta(days=40)))
    assert endings(bridge, bridge.clock.now()) == ()
    office.approve(serial=3, expires_at=iso(now + timedelta(days=2)))
    office.revoke()
    assert endings(bridge, bridge.clock.now()) == ()


@pytest.mark.parametrize(
    ("left", "stage", "words"),
    [
        (timedelta(days=14, seconds=1), None, ""),
        (timedelta(days=14), 14, "ends in 14 days"),
        (timedelta(days=3, seconds=1), 14, "ends in 3 days"),
        (timedelta(days=3), 3, "ends in 3 days"),
        (timedelta(days=1), 3, "ends in 1 day ("),
        (timedelta(hours=23), 3, "ends within a day"),
        (timedelta(), 0, "ended on"),
        (timedelta(days=-100), 0, "ended on"),
    ],
)
def test_how_long_is_left_is_said_to_the_second(office: Office, left: timedelta, stage: int | None, words: str) -> None:
    manifest = office.approve()
    assert manifest.expires_at is not None
    found = ending(manifest, manifest.expires_at - left)
    assert (None if found is None else found.stage) == stage
    assert words in ("" if found is None else found.reason)
    assert ending(BUILTIN["cleanup"], manifest.expires_at) is None


def test_a_signed_file_that_is_a_link_or_too_large_is_left_out_and_named(office: Office) -> None:
    office.approve()
    kept = office.layout.admitted / "notes.json"
    elsewhere = office.folder.parent / "notes.json"
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    assert "notes.json is a link" in office.book.faults["notes.json"]
    assert "notes" not in office.book
    kept.unlink()
    kept.write_bytes(elsewhere.read_bytes() + b" " * 65_536)
    assert "larger than" in office.book.faults["notes.json"]
    kept.write_bytes(elsewhere.read_bytes()[:-20])
    assert "not JSON" in office.book.faults["notes.json"]
    kept.write_bytes(elsewhere.read_bytes())
    assert "notes" in office.book


def test_a_book_reads_again_when_the_threshold_or_a_revocation_changes(office: Office) -> None:
    office.approve()
    book = DomainBook(office.layout, BUILTIN, office.station.clock)
    keys = office.layout.operator_keys
    assert "notes" in book
    (keys / "threshold").write_text("2")
    assert "notes" not in book
    (keys / "threshold").write_text("1")
    assert "notes" in book
    (keys / "revoked").mkdir()
    assert "notes" in book
    (keys / "revoked" / "x.pub").write_bytes((keys / "alice.pub").read_bytes())
    assert "notes" not in book
    (keys / "revoked" / "x.pub").unlink()
    assert "notes" in book


def test_an_edition_that_was_refused_leaves_the_one_before_as_it_was(office: Office, anna: Ssh) -> None:
    first = office.approve()
    payload = canonical_json(office.mapping(serial=2, previous="0" * 64))
    with pytest.raises(Refused):
        office.approve(enclosed(payload, anna.sign(payload)))
    assert office.book["notes"].digest == first.digest
    assert office.task(office.ask()).state == "ready"
