"""What no signature can admit, and which signatures count: each refusal with its reason in one line, on record."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from domain_letters import Office

from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.errors import BadSignature, CalyxError, Damaged, Duplicate, InvalidInput, Refused, Unavailable
from chassis.signing import Trusted, load_key, make_key, seal, trusted_keys, unseal

NOT_ALLOWED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"domain": "cleanup"}, "built-in domain"),
    ({"domain": "../notes"}, "its name must be"),
    ({"domain": "Notes"}, "its name must be"),
    ({"owner": "governor"}, "governor is part of the station"),
    ({"owner": "operator"}, "operator is part of the station"),
    ({"owner": "a/b"}, "no agent's name"),
    ({"prober": "noter", "owner": "other"}, "is no service"),
    ({"prober": "memory"}, "does not check the work of others"),
    ({"prober": "noter"}, "its own prober"),
    ({"undo_by": "guardian"}, "undo_by is the owner or governor"),
    ({"start_level": "EXECUTE"}, "GUIDE at most"),
    ({"start_level": "GUIDE", "max_level": "SUGGEST"}, "above its max_level"),
    ({"start_level": "HIGHEST"}, "HIGHEST"),
    ({"serial": 0}, "serial is 1 or more"),
    ({"serial": True}, "serial has the wrong type"),
    ({"serial": "1"}, "serial has the wrong type"),
    ({"paths": "/srv"}, "paths has the wrong type"),
    ({"paths": ["/"]}, "too wide"),
    ({"paths": ["/etc/cron.d"]}, "belongs to the system"),
    ({"paths": ["/srv/app/.ssh"]}, "holds secrets"),
    ({"paths": ["notes"]}, "not an absolute path"),
    ({"paths": ["/srv/../etc"]}, "not an absolute path"),
    ({"paths": ["/srv//app"]}, "not written plainly"),
    ({"paths": ["{station}/logs"]}, "not an absolute path"),
    ({"paths": [f"/srv/{n}" for n in range(40)]}, "more than 32 paths"),
    ({"effects": "none"}, "effects none"),
    ({"effects": "magic"}, "effects must be"),
    ({"rehearses": "no"}, "rehearses has the wrong type"),
    ({"ttl_seconds": -1}, "ttl_seconds"),
    ({"ttl_seconds": 1e7}, "ttl_seconds"),
    ({"max_attempts": 1000}, "max_attempts"),
    ({"budget": {"per_pulse": 0}}, "budget can't hold"),
    ({"budget": {"per_hour": 3}}, "budget can't hold"),
    ({"limits": {"fast_s": "now"}}, "limits can't hold"),
    ({"params": {"a": 1}}, "params map texts to texts"),
    ({"procedures": []}, "at least one procedure"),
    ({"procedures": ["rm -rf"]}, "a short word"),
    ({"schedule": "every_pulse"}, "unknown key 'schedule'"),
    ({"signed_by": "alice"}, "unknown key 'signed_by'"),
    ({"title": "a\nb"}, "title is not plain text"),
    ({"expires_at": None}, "needs an expires_at"),
    ({"expires_at": "soon"}, "soon"),
    ({"previous": "0" * 64}, "nothing was approved before"),
    ({"explore": False}, "unknown key 'explore'"),
    ({"windows": "+1m"}, "windows has the wrong type"),
    ({"windows": [60]}, "windows is a list of texts"),
    ({"windows": ["+1h"]}, "the windows need +1m"),
    ({"windows": ["+1m", "+31d"]}, "ends after 30 days"),
    ({"windows": ["+1m", *(f"+{n}h" for n in range(2, 40))]}, "more than 32"),
    ({"metrics": {"disk_percent": True}}, "metrics map names to numbers"),
    ({"metrics": {"luck": 1}}, "no metric 'luck'"),
    ({"metrics": {"disk_percent": -1}}, "positive number"),
    ({"undo_on_regression": "on"}, "undo_on_regression has the wrong type"),
    ({"undo_on_regression": True, "effects": "irreversible"}, "needs effects: reversible"),
    ({"watch": {"folders": []}}, "names no folder"),
    ({"watch": {"folders": ["/srv"]}}, "not under its paths"),
    ({"watch": {"folders": [7]}}, "watch.folders is a list of texts"),
    ({"watch": {"never": ["x"]}}, "watch takes folders and grows"),
    ({"watch": {"grows": ["logs/*.log"]}}, "takes names as *.log"),
    ({"checks": ["absent"]}, "a check is {kind, target, expect}"),
    ({"checks": [{"kind": "absent"}]}, "a check is {kind, target, expect}"),
    ({"checks": [{"kind": "sqlite", "target": "/srv/a", "expect": {"integrity": 1}}]}, "of texts"),
    ({"checks": [{"kind": "sqlite", "target": "/srv/a", "expect": "ok"}]}, "of texts"),
    ({"checks": [{"kind": "absent", "target": "/etc/passwd"}]}, "not under its paths"),
    ({"checks": [{"kind": "process", "target": "1", "expect": {"state": "running"}}]}, "there is no check 'process'"),
)
NOT_CHECKED = (
    ({"kind": "absent", "target": "{notes}/{file}"}, "not written out"),
    ({"kind": "absent", "target": "{notes}/../b"}, "not under its paths"),
    ({"kind": "absent", "target": "{notes}/a", "expect": {"size": "1"}}, "takes nothing"),
    ({"kind": "absent", "target": "{notes}"}, "not under its paths"),
    ({"kind": "json_fields", "target": "{notes}/a.json"}, "takes at least one field"),
    ({"kind": "json_fields", "target": "{notes}/a.json", "expect": {"who": "{name}"}}, "not written out"),
    ({"kind": "none_left", "target": "{notes}"}, "takes pattern"),
    ({"kind": "sqlite", "target": "{notes}/a.db", "expect": {"integrity": "ok", "rows": "1"}}, "takes integrity"),
)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    notes = tmp_path / "notes"
    notes.mkdir()
    made = Office(tmp_path / "station", notes.resolve())
    yield made
    made.station.cbo.close()


def refused(office: Office, letter: str, why: str, kind: type[CalyxError] = CalyxError) -> None:
    with pytest.raises(kind) as caught:
        office.approve(letter)
    assert why in caught.value.message
    assert "\n" not in caught.value.message
    assert office.station.audit("domain.refused")[-1]["why"] == caught.value.message[:500]
    assert not (office.layout.admitted / "notes.json").exists()
    assert "notes" not in office.book


@pytest.mark.parametrize(("changes", "why"), NOT_ALLOWED, ids=lambda value: str(value)[:40])
def test_what_nobody_outside_may_have_is_refused_whoever_signs(office: Office, changes: Any, why: str) -> None:
    refused(office, office.letter(**changes), why)


@pytest.mark.parametrize(("check", "why"), NOT_CHECKED, ids=lambda value: str(value)[:40])
def test_a_check_that_the_doer_could_bend_or_that_can_not_be_made_is_refused(
    office: Office, check: Any, why: str
) -> None:
    placed = {**check, "target": check["target"].replace("{notes}", str(office.notes))}
    refused(office, office.letter(checks=[placed]), why)


def test_the_station_itself_can_not_be_declared(office: Office) -> None:
    refused(office, office.letter(paths=[str(office.folder.resolve() / "svf")]), "overlaps the station", Refused)


def test_a_folder_that_is_a_link_or_holds_secrets_is_refused(office: Office) -> None:
    link = office.notes.parent / "link"
    link.symlink_to(office.notes)
    refused(office, office.letter(paths=[str(link)]), f"leads to {office.notes}", Refused)
    (office.notes / ".ssh").mkdir()
    refused(office, office.letter(), "contains .ssh", Refused)


@pytest.mark.parametrize(
    ("not_before", "expires", "why"),
    [
        (None, -1, "expired at"),
        (None, 0, "expired at"),
        (60, 3600, "not valid before"),
        (7200, 3600, "expires before it begins"),
        (None, 90 * 86400 + 1, "more than 90 days"),
    ],
)
def test_only_an_edition_of_now_and_for_a_while_is_admitted(
    office: Office, not_before: int | None, expires: int, why: str
) -> None:
    now = office.station.clock.now()
    begins = None if not_before is None else iso(now + timedelta(seconds=not_before))
    refused(office, office.letter(not_before=begins, expires_at=iso(now + timedelta(seconds=expires))), why, Refused)


def test_ninety_days_and_a_beginning_now_are_fine(office: Office) -> None:
    now = office.station.clock.now()
    assert office.approve(not_before=iso(now), expires_at=iso(now + timedelta(days=90))).serial == 1


def test_a_serial_only_grows_even_when_the_file_is_gone(office: Office) -> None:
    office.approve(serial=5)
    office.layout.admitted.joinpath("notes.json").unlink()
    office.station.cbo.close()
    office.station.open()
    for serial in (4, 5):
        refused(office, office.letter(serial=serial, title="another"), "is not above 5, which was approved", Refused)
    first = office.approve(serial=6)
    with pytest.raises(Refused, match="it follows 000000000000, but the one before is"):
        office.approve(serial=7, previous="0" * 64)
    assert office.approve(serial=7, previous=first.digest).serial == 7


def changed(office: Office, how: Callable[[dict[str, Any]], None]) -> str:
    envelope = json.loads(office.letter())
    how(envelope)
    return json.dumps(envelope)


def other_payload(envelope: dict[str, Any]) -> None:
    payload = base64.b64decode(envelope["payload"]).replace(b"tidy the notes", b"rule the world")
    envelope["payload"] = base64.b64encode(payload).decode()


BAD_ENVELOPES: tuple[tuple[Callable[[dict[str, Any]], Any], str, type[CalyxError]], ...] = (
    (lambda e: e["signatures"].clear(), "it is not signed", BadSignature),
    (other_payload, "was changed since", BadSignature),
    (lambda e: e.update(payloadType="application/vnd.in-toto+json"), "payload type is", BadSignature),
    (lambda e: e["signatures"][0].update(keyid="0" * 64), "nobody here knows (000000000000)", BadSignature),
    (lambda e: e["signatures"][0].update(sig=base64.b64encode(b"\0" * 64).decode()), "was changed since", BadSignature),
    (lambda e: e["signatures"][0].update(sig=""), "was changed since", BadSignature),
    (lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"][:-4]), "was changed since", BadSignature),
    (lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"] + "\n"), "plain base64", InvalidInput),
    (lambda e: e.update(payload=e["payload"].rstrip("=") + "!"), "plain base64", InvalidInput),
    (lambda e: e["signatures"].append(dict(e["signatures"][0])), "two signatures of one key", InvalidInput),
    (
        lambda e: e["signatures"].extend([{"keyid": str(n), "sig": "AA=="} for n in range(8)]),
        "more than 8",
        InvalidInput,
    ),
    (lambda e: e["signatures"][0].update(cert="x"), "not keyid and sig", InvalidInput),
    (lambda e: e.update(extra=1), "not a DSSE envelope", InvalidInput),
    (lambda e: e.pop("payload"), "not a DSSE envelope", InvalidInput),
    (lambda e: e.update(signatures="none"), "signatures a list", InvalidInput),
    (lambda e: e.update(payload=7), "plain base64", InvalidInput),
)


@pytest.mark.parametrize(("how", "why", "kind"), BAD_ENVELOPES, ids=[why for _, why, _ in BAD_ENVELOPES])
def test_an_envelope_that_was_not_made_so_is_refused(
    office: Office, how: Callable[[dict[str, Any]], None], why: str, kind: type[CalyxError]
) -> None:
    refused(office, changed(office, how), why, kind)


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        ("", "not JSON"),
        ("[]", "not a DSSE envelope"),
        ("[" * 60_000, "not JSON"),
        (" " * 70_000, "larger than 64 KiB"),
        ('{"payload": "e30=", "payload": "e30="}', "stands there twice"),
        ('{"payload": NaN}', "NaN is no number"),
        ("\ud800", "not text"),
        ('{"domain": "notes"}', "is not signed"),
    ],
    ids=["empty", "list", "deep", "oversized", "duplicate keys", "NaN", "half a pair", "a name alone"],
)
def test_what_is_no_envelope_is_refused(office: Office, letter: str, why: str) -> None:
    with pytest.raises(CalyxError) as caught:
        office.station.cbo.desk.admissions.approve(letter, "operator")
    assert why in caught.value.message
    assert len(office.station.audit("domain.refused")) == 1


def test_a_payload_with_duplicate_keys_or_another_spelling_is_refused(office: Office) -> None:
    plain = canonical_json(office.mapping())
    refused(office, office.sealed(plain[:-1] + b',"serial":9}'), "stands there twice", InvalidInput)
    refused(office, office.sealed(json.dumps(office.mapping()).encode()), "not canonical JSON", InvalidInput)
    refused(office, office.sealed(b"7"), "is a JSON object", InvalidInput)
    refused(office, office.sealed(plain.replace(b'"ttl_seconds":600', b'"ttl_seconds":1e999')), "", InvalidInput)


def test_a_payload_of_another_type_is_refused_though_the_key_is_known(office: Office) -> None:
    plain = canonical_json(office.mapping())
    refused(office, office.sealed(plain, kind="application/json"), "payload type is 'application/json'", BadSignature)


def test_a_key_counts_while_its_public_half_is_in_the_folder(office: Office) -> None:
    stranger = office.new_key("mallory", known=False)
    plain = canonical_json(office.mapping())
    refused(office, office.sealed(plain, key=stranger), "signed by a key nobody here knows", BadSignature)
    public = office.folder.parent / "mallory.pub"
    public.rename(office.layout.operator_keys / "mallory.pub")
    assert office.approve(office.sealed(plain, key=stranger)).signed_by.startswith("mallory (")


def test_signatures_of_strangers_beside_a_good_one_change_nothing_and_a_bad_one_of_ours_does(office: Office) -> None:
    payload = canonical_json(office.mapping())
    envelope, other = json.loads(office.letter()), office.new_key("bob")
    stranger = json.loads(office.sealed(payload, key=office.new_key("mallory", known=False)))
    envelope["signatures"].insert(0, stranger["signatures"][0])
    trusted = trusted_keys(office.layout.operator_keys)
    kind = envelope["payloadType"]
    assert unseal(json.dumps(envelope).encode(), kind, trusted).signers[0].name == "alice"
    envelope["signatures"].append({"keyid": other.public_key.keyid, "sig": base64.b64encode(b"x" * 64).decode()})
    with pytest.raises(BadSignature, match="bob"):
        unseal(json.dumps(envelope).encode(), kind, trusted)


def test_a_signature_with_a_scalar_beyond_the_order_is_refused(office: Office) -> None:
    envelope = json.loads(office.letter())
    raw = base64.b64decode(envelope["signatures"][0]["sig"])
    order = 2**252 + 27742317777372353535851937790883648493
    beyond = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    envelope["signatures"][0]["sig"] = base64.b64encode(beyond).decode()
    refused(office, json.dumps(envelope), "was changed since", BadSignature)


def test_a_private_key_is_ours_alone_and_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "operators" / "alice.key", tmp_path / "keys" / "alice.pub"
    made = make_key(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert load_key(private).public_key.keyid == made.keyid
    with pytest.raises(Duplicate):
        make_key(private, public)
    with pytest.raises(InvalidInput):
        make_key(tmp_path / "../x.y.key", public)
    private.chmod(0o644)
    with pytest.raises(Unavailable, match="can be read by others"):
        load_key(private)
    private.chmod(0o600)
    private.write_text("no key")
    with pytest.raises(Damaged):
        load_key(private)


def test_keys_that_are_links_or_of_another_kind_do_not_count(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    make_key(tmp_path / "a" / "alice.key", tmp_path / "alice.pub")
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "linked.pub").symlink_to(tmp_path / "alice.pub")
    pem = ec.generate_private_key(ec.SECP256R1()).public_key()
    (folder / "curve.pub").write_bytes(
        pem.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "large.pub").write_bytes(b"x" * 10_000)
    found = trusted_keys(folder)
    assert (found.keys, set(found.faults)) == ({}, {"linked.pub", "curve.pub", "large.pub"})
    assert trusted_keys(tmp_path / "none") == Trusted(keys={})
    signed = seal(b"{}", "t", load_key(tmp_path / "a" / "alice.key"))
    with pytest.raises(BadSignature, match="nobody here knows"):
        unseal(signed, "t", found)
