"""Domains of outside programs at the CBO: admitted, run, renewed, withdrawn, gone, without a restart."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cbo_station import FakeProber, Station
from domain_letters import BUILTIN, Office

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import NotFound, Refused
from chassis.probing import Check, run_checks
from services.cbo.ladder_log import rebuild
from services.cbo.policy import SHIPPED, pins_of
from services.cbo.ports import Probed
from services.cbo.servicer import ALLOW
from services.cbo.wire import domain_to_wire


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    notes = tmp_path / "notes"
    notes.mkdir()
    made = Office(tmp_path / "station", notes.resolve())
    yield made
    made.station.cbo.close()


@pytest.fixture
def admitted(office: Office) -> Office:
    office.approve()
    return office


@pytest.fixture
def at_execute(admitted: Office) -> Office:
    admitted.station.cbo.desk.set_level("notes", Level.EXECUTE, "tested", 0, "operator")
    return admitted


def test_built_in_manifests_keep_their_digests() -> None:
    assert pins_of(BUILTIN) == SHIPPED.read_bytes()


def test_an_admitted_domain_runs_without_a_restart_and_says_why_it_may(office: Office) -> None:
    with pytest.raises(NotFound):
        office.ask()
    manifest = office.approve()
    task = office.ask()
    assert (office.task(task).state, office.task(task).rehearsal, office.task(task).owner) == ("ready", True, "noter")
    until = iso(manifest.expires_at)
    signed = f"alice ({office.key.public_key.keyid[:12]})"
    assert office.gate(task, "policy") == (
        "pass", f"admitted: edition 1 of notes, signed by {signed}, approved, until {until}, owner noter; "
        'allowed by rule 2 "what a person signed and approved", line 11',
    )  # fmt: skip
    assert office.gate(task, "manifest") == ("pass", f"serial 1, signed by {signed}, expires {until}")
    assert office.station.cbo.bridge.ladder.rung("notes").standing.level is Level.GUIDE
    assert office.station.audit("domain.approved")[0]["digest"] == manifest.digest


def test_approving_the_same_edition_again_changes_nothing(admitted: Office) -> None:
    letter = admitted.letter()
    admitted.layout.admitted.joinpath("notes.json").unlink()
    admitted.approve(letter)
    assert len(admitted.station.audit("domain.approved")) == 1
    assert "notes" in admitted.book


def test_an_approval_outlasts_a_restart(admitted: Office) -> None:
    admitted.station.cbo.close()
    admitted.station.open()
    assert admitted.task(admitted.ask()).state == "ready"


def test_a_signed_file_that_nobody_approved_runs_nothing(office: Office) -> None:
    office.layout.admitted.mkdir(parents=True)
    (office.layout.admitted / "notes.json").write_text(office.letter())
    task = office.ask()
    assert office.task(task).state == "rejected"
    assert office.gate(task, "policy")[1].endswith("is not what a person approved")
    assert office.station.done == []


def test_an_older_signed_edition_put_back_runs_nothing(admitted: Office) -> None:
    first = admitted.letter()
    admitted.approve(serial=2)
    (admitted.layout.admitted / "notes.json").write_text(first)
    assert admitted.task(admitted.ask()).state == "rejected"


def test_what_does_not_verify_in_the_folder_is_left_out_audited_once_and_stops_nothing_else(
    admitted: Office, tmp_path: Path
) -> None:
    folder = admitted.layout.admitted
    good = admitted.letter(domain="other")
    (tmp_path / "good.json").write_text(good)
    (folder / "linked.json").symlink_to(tmp_path / "good.json")
    (folder / "large.json").write_bytes(b" " * 70_000)
    (folder / "torn.json").write_text(good[:100])
    (folder / "renamed.json").write_text(good)
    (folder / "folder.json").mkdir()
    (folder / "notes.yaml").write_text("not looked at")
    admitted.layout.operator_keys.joinpath("broken.pub").write_text("no key")
    for _ in range(3):
        admitted.station.cbo.reap()
    why = {line["file"]: line["why"] for line in admitted.station.audit("domain.unverified")}
    assert set(why) == {
        "linked.json", "large.json", "torn.json", "renamed.json", "folder.json", "keys/operators/broken.pub",
    }  # fmt: skip
    assert "is a link" in why["linked.json"]
    assert "larger than" in why["large.json"]
    assert "manifest of other" in why["renamed.json"]
    assert len(admitted.station.audit("domain.unverified")) == 6
    assert admitted.task(admitted.ask()).state == "ready"


def test_a_revoked_domain_stops_at_once_and_its_edition_never_comes_back(admitted: Office) -> None:
    out = admitted.ask()
    assert admitted.task(out).state == "ready"
    admitted.revoke()
    assert admitted.task(out).state == "cancelled"
    assert admitted.answer() == 0
    later = admitted.ask()
    assert admitted.gate(later, "manifest") == ("refuse", "revoked: by operator: too noisy")
    listed = {each.manifest.domain: each for each in admitted.station.cbo.desk.admissions.listed()}
    assert listed["notes"].blocked == "revoked by operator: too noisy"
    assert (admitted.layout.admitted / "notes.json").exists()
    with pytest.raises(Refused, match=r"edition 1 was revoked \(by operator: too noisy\); sign a new one"):
        admitted.approve()
    admitted.approve(serial=2)
    assert admitted.task(admitted.ask()).state == "ready"


def test_a_task_that_slipped_out_while_its_domain_was_revoked_is_ended_by_the_station(admitted: Office) -> None:
    out = admitted.ask()
    admitted.station.cbo.bridge.store.set_fact("revoked:notes", "by operator: while the CBO was down")
    for _ in range(3):
        admitted.station.cbo.reap()
    assert admitted.task(out).state == "cancelled"
    assert [line["task"] for line in admitted.station.audit("task.cancelled")] == [out]


def test_a_claimed_task_of_a_revoked_domain_fails_its_next_check(admitted: Office) -> None:
    admitted.ask()
    claim = admitted.station.exchange.claim("noter", "noter-1", 1)[0]
    assert admitted.station.exchange.check(claim)
    admitted.revoke()
    assert not admitted.station.exchange.check(claim)


def test_a_key_that_is_taken_away_ends_what_it_signed_and_the_station_goes_on(admitted: Office) -> None:
    out = admitted.ask()
    admitted.layout.operator_keys.joinpath("alice.pub").unlink()
    assert "notes" not in admitted.book
    admitted.pulse()
    admitted.station.cbo.reap()
    assert admitted.task(out).state == "cancelled"
    assert admitted.task(out).why == "there is no domain notes any more"
    assert "notes" not in [rung.domain for rung in admitted.station.cbo.bridge.ladder.rungs()]


def test_a_held_task_of_a_domain_that_is_gone_is_refused(admitted: Office) -> None:
    admitted.station.kill_switch.engage("pause", "operator", admitted.station.clock.now())
    held = admitted.ask()
    assert admitted.task(held).state == "held"
    admitted.layout.admitted.joinpath("notes.json").unlink()
    admitted.station.kill_switch.release()
    admitted.pulse()
    assert admitted.task(held).state == "rejected"
    assert admitted.gate(held, "manifest") == ("refuse", "there is no domain notes any more")


def test_a_level_that_was_lost_stays_lost_when_the_domain_comes_back(admitted: Office) -> None:
    admitted.station.cbo.desk.set_level("notes", Level.OBSERVE, "wrote too much", 0, "operator")
    admitted.revoke()
    admitted.approve(serial=2)
    assert admitted.station.cbo.bridge.ladder.standing("notes").level is Level.OBSERVE


def test_an_expired_domain_runs_nothing_and_what_is_out_ends(admitted: Office) -> None:
    out = admitted.ask()
    admitted.station.clock.advance(timedelta(days=30).total_seconds())
    admitted.station.cbo.bridge.store.run("objectives_finished")
    admitted.station.cbo.desk.admissions.notice()
    admitted.station.cbo.reap()
    assert admitted.task(out).state in ("cancelled", "expired")
    later = admitted.ask()
    assert admitted.gate(later, "policy")[0] == "refuse"
    assert "expired at" in admitted.gate(later, "policy")[1]


def test_the_first_effect_under_a_declared_folder_needs_an_approval_even_at_execute(at_execute: Office) -> None:
    office = at_execute
    first = office.ask()
    assert office.task(first).level is Level.GUIDE
    assert str(office.notes) in office.gate(first, "level")[1]
    office.answer()
    office.pulse()
    second = office.station.cbo.desk.approve(first, office.task(first).plan_digest, "operator").id
    office.answer()
    office.pulse()
    office.pulse()
    assert office.task(second).state == "done"
    assert [line["path"] for line in office.station.audit("consent.confirmed")] == [str(office.notes)]
    assert office.station.audit("policy.violation") == []
    assert office.task(office.ask()).level is Level.EXECUTE


def test_a_confirmed_folder_stays_so_in_the_next_edition_and_a_new_one_does_not(
    at_execute: Office, tmp_path: Path
) -> None:
    office = at_execute
    bridge = office.station.cbo.bridge
    bridge.consents.declared.confirm(bridge.consents.declared.of("notes"), bridge.clock.now())
    assert bridge.consents.unconfirmed("notes") == ()
    office.approve(serial=2)
    assert bridge.consents.unconfirmed("notes") == ()
    more = tmp_path / "more"
    more.mkdir()
    office.approve(serial=3, paths=[str(office.notes), str(more.resolve())])
    assert bridge.consents.unconfirmed("notes") == (str(more.resolve()),)
    office.revoke()
    office.approve(serial=4)
    assert bridge.consents.unconfirmed("notes") == (str(office.notes),)


def test_an_effect_outside_the_declared_folders_is_a_violation(at_execute: Office, tmp_path: Path) -> None:
    office = at_execute
    bridge = office.station.cbo.bridge
    bridge.consents.declared.confirm(bridge.consents.declared.of("notes"), bridge.clock.now())
    made = office.ask()
    office.notes = tmp_path / "elsewhere"
    office.answer()
    office.pulse()
    assert [line["task"] for line in office.station.audit("policy.violation")] == [made]


class Looker(FakeProber):
    """Looks for itself at what a manifest asks for, and believes the rest."""

    def __init__(self, folder: Path) -> None:
        super().__init__("guardian")
        self._folder = folder

    def probe(self, task_id: str, domain: str, doer: str, claims: Sequence[Json]) -> Probed:
        asked = [Check.from_claim(each) for each in claims if each["kind"] == "none_left"]
        if not asked:
            return super().probe(task_id, domain, doer, claims)
        report = run_checks(asked, roots=[self._folder])
        return Probed(verdict=report.verdict.value, prober=self.name, found=report.findings[0].found)


def test_a_person_writes_down_what_has_to_be_true_and_the_doers_word_is_not_enough(office: Office) -> None:
    station, notes = office.station, office.notes
    station.probers["guardian"] = Looker(notes)
    office.approve(
        checks=[{"kind": "none_left", "target": str(notes), "expect": {"pattern": "*.tmp"}}],
        windows=["+1m", "+6h"], metrics={"disk_percent": 2}, undo_on_regression=True, watch={"grows": ["*.log"]},
    )  # fmt: skip
    station.cbo.desk.set_level("notes", Level.EXECUTE, "tested", 0, "operator")
    bridge = station.cbo.bridge
    bridge.consents.declared.confirm(bridge.consents.declared.of("notes"), bridge.clock.now())
    ends = []
    for left in ("a.txt", "a.tmp"):
        (notes / left).touch()
        made = office.ask()
        office.answer()
        office.pulse()
        ends.append((office.task(made).state, office.task(made).stability))
        if left == "a.txt":
            assert {row["window"] for row in bridge.store.rows("verifications_of", made)} == {"+0", "+1m", "+6h"}
    assert ends == [("done", 1.0), ("done", 0.0)]
    assert bridge.ladder.standing("notes").level is Level.GUIDE, "its ack said done, and that was refuted"
    station.cbo.reap()
    (undo,) = bridge.store.tasks("tasks_undoing", made)
    assert undo.owner == "noter"
    office.answer()
    office.pulse()
    assert (bridge.store.task(undo.id).state, bridge.store.task(made).state) == ("done", "undone")
    office.pulse()
    station.cbo.reap()
    assert len(bridge.store.tasks("tasks_undoing", made)) == 1
    assert bridge.store.tasks("tasks_undoing", undo.id) == [], "an undo is not undone by itself"


def test_a_renewal_keeps_the_level_and_other_work_does_not(at_execute: Office) -> None:
    ladder = at_execute.station.cbo.bridge.ladder
    at_execute.approve(serial=2, previous=at_execute.book["notes"].digest, title="In other words")
    assert ladder.standing("notes").level is Level.EXECUTE
    at_execute.approve(serial=3, owner="somebody-else")
    assert ladder.standing("notes").level is Level.GUIDE
    at_execute.pulse()
    records = [json.loads(path.read_bytes()) for path in sorted(at_execute.layout.pulses.glob("*/bp-*.json"))]
    assert rebuild(records)["notes"] == ladder.standing("notes")


def test_a_task_planned_for_the_owner_before_is_not_given_to_the_new_one(admitted: Office) -> None:
    admitted.station.kill_switch.engage("pause", "operator", admitted.station.clock.now())
    held = admitted.ask()
    admitted.approve(serial=2, owner="somebody-else")
    admitted.station.kill_switch.release()
    admitted.pulse()
    assert admitted.task(held).state == "rejected"
    assert "is somebody-else's by now" in admitted.gate(held, "policy")[1]


def test_a_station_of_built_in_domains_alone_admits_none(tmp_path: Path, office: Office) -> None:
    plain = Station(tmp_path / "plain")
    (plain.layout.root / "keys").mkdir()
    office.layout.operator_keys.rename(plain.layout.operator_keys)
    with pytest.raises(Refused, match="built-in domains only"):
        plain.cbo.desk.admissions.approve(office.letter(), "operator")
    plain.cbo.close()


def test_the_list_names_signer_end_folders_and_what_stands_in_the_way(admitted: Office) -> None:
    admitted.revoke()
    listed = [domain_to_wire(each, "/station") for each in admitted.station.cbo.desk.admissions.listed()]
    by_name = {each.domain: each for each in listed}
    assert list(by_name) == sorted({*BUILTIN, "notes"})
    built_in, notes = by_name["log_rotation"], by_name["notes"]
    assert (built_in.source, built_in.blocked, list(built_in.paths)) == ("built-in", "", ["/station/logs"])
    assert not built_in.HasField("expires_at")
    assert (notes.source, notes.serial, list(notes.paths)) == (
        admitted.book["notes"].signed_by,
        1,
        [str(admitted.notes)],
    )
    assert notes.blocked == "revoked by operator: too noisy"


def test_only_the_operator_admits_and_withdraws() -> None:
    assert ALLOW["ApproveDomain"] == ALLOW["RevokeDomain"] == frozenset({"operator"})
    assert "agent" not in ALLOW["ListDomains"]
