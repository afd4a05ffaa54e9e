"""`calyx domain` for outside programs: written, signed, sent to be approved, shown and withdrawn."""

import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from calyx.cbo.v1 import cbo_pb2 as pb
from cli_harness import Console

from chassis.clock import VirtualClock
from chassis.domain_book import DomainBook, verify
from chassis.domains import DomainManifest, load_domains
from chassis.errors import Refused
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.layout import DEPLOY, Layout
from chassis.signing import trusted_keys
from cli import domains

HERE = Path(__file__).parents[2]
BUILTIN = load_domains(DEPLOY / "domains")


@pytest.fixture
def layout(calyx: Console) -> Layout:
    found_station(calyx.reach.layout, VirtualClock(), CountedIds())
    return calyx.reach.layout


@pytest.fixture
def notes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("notes").resolve()
    monkeypatch.chdir(folder)
    return folder


def verified(envelope: bytes, layout: Layout) -> DomainManifest:
    return verify(envelope, trusted_keys(layout.operator_keys), layout, BUILTIN)


def asked(calyx: Console) -> bytes:
    envelope: str = calyx.script.request("ApproveDomain").envelope_json
    return envelope.encode()


def admit(layout: Layout, envelope: bytes) -> None:
    """What the overseer does with it."""
    layout.admitted.mkdir(parents=True, exist_ok=True)
    domain = verified(envelope, layout).domain
    (layout.admitted / f"{domain}.json").write_bytes(envelope)


def test_one_command_writes_signs_and_asks_for_approval_with_a_new_key(
    calyx: Console, layout: Layout, notes: Path
) -> None:
    calyx.answers(ApproveDomain=pb.ApproveDomainResponse(domain="notes", manifest_digest="d"))
    made = calyx.json("domain", "new", "notes", "--owner", "noter", "--path", ".", "--approve")
    manifest = verified(asked(calyx), layout)
    assert (made["digest"], made["approved"], made["file"]) == (manifest.digest, True, None)
    assert (manifest.owner, manifest.paths, manifest.effects) == ("noter", (str(notes),), "reversible")
    assert (manifest.serial, manifest.max_attempts, manifest.undo_by) == (1, 1, "noter")
    assert manifest.expires_at == calyx.reach.clock.now() + timedelta(days=90)
    assert manifest.signed_by.startswith("operator (")
    key = layout.secrets / "operators" / "operator.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(notes.iterdir()) == []


def test_the_steps_one_by_one(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.run("domain", "new", "notes", "--owner", "noter", "--procedure", "a", "--procedure", "b", "--no-rehearse")
    draft = json.loads((notes / "notes.json").read_text())
    assert (draft["procedures"], draft["rehearses"], draft["undo_by"], draft["effects"]) == (
        ["a", "b"], False, "governor", "none",
    )  # fmt: skip
    assert "keygen" in calyx.run("domain", "sign", "notes.json", status=2)[1]
    made = calyx.json("domain", "keygen", "--name", "alice")
    assert Path(made["public"]) == layout.operator_keys / "alice.pub"
    assert "there already" in calyx.run("domain", "keygen", "--name", "alice", status=1)[1]
    calyx.run("domain", "sign", "notes.json")
    calyx.answers(ApproveDomain=pb.ApproveDomainResponse(domain="notes", manifest_digest="d" * 64))
    assert calyx.json("domain", "approve", "notes.signed.json")["digest"] == "d" * 64
    assert verified(asked(calyx), layout).signed_by.startswith("alice (")


def test_a_manifest_written_by_hand_in_yaml_is_signed_too(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.run("domain", "keygen")
    (notes / "mine.yaml").write_text(
        "domain: mine\ntitle: Mine\nserial: 3\nowner: noter\nprober: guardian\neffects: none\n"
        "procedures: [run]\nprobes: [process]\n"
    )
    made = calyx.json("domain", "sign", "mine.yaml", "--days", "7")
    manifest = verified((notes / "mine.signed.json").read_bytes(), layout)
    assert (made["serial"], manifest.expires_at) == (3, calyx.reach.clock.now() + timedelta(days=7))


def test_the_next_edition_follows_the_last_one(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.answers(ApproveDomain=pb.ApproveDomainResponse(), ListDomains=pb.ListDomainsResponse())
    calyx.run("domain", "new", "notes", "--owner", "noter", "--approve")
    first = asked(calyx)
    admit(layout, first)
    calyx.run("domain", "new", "notes", "--owner", "noter", "--approve")
    second = verified(asked(calyx), layout)
    assert (second.serial, second.previous) == (2, verified(first, layout).digest)


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("notes",), 2, "--owner"),
        (("notes", "--owner", "governor"), 1, "part of the station"),
        (("cleanup", "--owner", "noter"), 1, "built-in domain"),
        (("Notes", "--owner", "noter"), 1, "its name must be"),
        (("notes", "--owner", "noter", "--path", "/etc"), 1, "belongs to the system"),
        (("notes", "--owner", "noter", "--path", "nowhere"), 2, "no folder"),
        (("notes", "--owner", "noter", "--max-level", "GOD"), 2, "--max-level"),
        (("notes", "--owner", "noter", "--days", "91"), 2, "--days"),
        (("notes", "--owner", "noter", "--effects", "magic"), 2, "effects must be"),
        (("notes", "--owner", "noter", "--undo-by", "memory"), 1, "undo_by"),
        (("notes", "--owner", "noter", "--key", "nobody", "--sign"), 2, "no key"),
    ],
)
def test_what_can_not_be_declared_is_said_before_anything_is_written(
    calyx: Console, layout: Layout, notes: Path, arguments: tuple[str, ...], status: int, why: str
) -> None:
    assert why in calyx.run("domain", "new", *arguments, status=status)[1]
    assert list(notes.iterdir()) == []


def test_with_several_keys_one_has_to_be_named_and_it_must_count_here(
    calyx: Console, layout: Layout, notes: Path
) -> None:
    calyx.run("domain", "keygen", "--name", "alice")
    calyx.run("domain", "keygen", "--name", "bob")
    new = ("domain", "new", "notes", "--owner", "noter", "--sign")
    assert "alice, bob" in calyx.run(*new, status=2)[1]
    calyx.run(*new, "--key", "bob")
    (layout.operator_keys / "alice.pub").unlink()
    assert "public half of alice" in calyx.run(*new, "--key", "alice", status=2)[1]


def test_list_and_show_say_who_signed_and_whether_it_may_run(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.run("domain", "new", "notes", "--owner", "noter", "--path", ".", "--sign")
    admit(layout, (notes / "notes.signed.json").read_bytes())
    (layout.admitted / "other.json").write_text("{}")
    revoked = pb.Domain(domain="notes", blocked="revoked by operator: noisy")
    calyx.answers(ListDomains=pb.ListDomainsResponse(domains=[revoked]))
    shown = calyx.json("domain", "show", "notes")
    assert (shown["blocked"], shown["serial"], shown["undo_by"]) == ("revoked by operator: noisy", 1, "noter")
    assert shown["source"].startswith("operator (")
    out, err = calyx.run("domain", "list")
    assert "revoked by operator: noisy" in out
    assert "other.json is left out" in err
    assert "not a DSSE envelope" in calyx.run("domain", "show", "other", status=1)[1]
    assert calyx.json("domain", "show", "cleanup")["blocked"] == ""
    calyx.run("domain", "show", "nothing", status=2)
    calyx.up.clear()
    assert calyx.json("domain", "show", "notes")["blocked"] is None
    assert "unknown" in calyx.run("domain", "show", "notes")[0]


def test_a_refusal_by_the_overseer_is_said_in_one_line(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.answers(ApproveDomain=Refused("notes: serial 1 is not above 1, which was approved already"))
    _, err = calyx.run("domain", "new", "notes", "--owner", "noter", "--approve", status=1)
    assert err.splitlines()[-1] == "calyx: notes: serial 1 is not above 1, which was approved already"


def test_revoking_needs_a_reason_and_passes_it_on(calyx: Console, layout: Layout) -> None:
    calyx.answers(RevokeDomain=pb.RevokeDomainResponse(domain="notes"))
    calyx.run("domain", "revoke", "notes", status=2)
    assert calyx.json("domain", "revoke", "notes", "--why", "noisy")["revoked"] is True
    assert calyx.script.request("RevokeDomain").why == "noisy"


def test_create_does_all_of_it_for_calyx_run(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.answers(ApproveDomain=pb.ApproveDomainResponse(domain="jobs", manifest_digest="made"))
    digest = domains.create(
        calyx.reach, "jobs", owner="jobs", paths=[str(notes)], effects="reversible", undo_by="governor",
        rehearses=False, ttl=timedelta(hours=1),
    )  # fmt: skip
    manifest = verified(asked(calyx), layout)
    assert digest == "made"
    assert (manifest.ttl_seconds, manifest.max_attempts, manifest.probes, manifest.undo_by, manifest.rehearses) == (
        3600.0, 1, (), "governor", False,
    )  # fmt: skip
    assert DomainBook(layout, BUILTIN, calyx.reach.clock).faults == {}


def test_at_a_terminal_what_is_missing_is_asked_for(layout: Layout, notes: Path) -> None:
    person, stdin = pty.openpty()
    try:
        os.write(person, f"noter\nTidy the notes\n{notes}\nn\nn\n".encode())
        command = [sys.executable, "-m", "cli.main", "--station", str(layout.root), "domain", "new", "notes"]
        env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE}/protos/gen"}
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False, env=env)
    finally:
        os.close(person)
        os.close(stdin)
    assert done.returncode == 0, done.stderr
    draft = json.loads((notes / "notes.json").read_text())
    assert (draft["owner"], draft["title"], draft["paths"]) == ("noter", "Tidy the notes", [str(notes)])


def test_what_a_person_wrote_down_is_signed_and_shown(calyx: Console, layout: Layout, notes: Path) -> None:
    calyx.run("domain", "keygen", "--name", "alice")
    calyx.run("domain", "new", "notes", "--owner", "noter", "--path", ".")
    raw = json.loads((notes / "notes.json").read_text())
    raw["checks"] = [{"kind": "none_left", "target": "/etc", "expect": {"pattern": "*.tmp"}}]
    (notes / "notes.json").write_text(json.dumps(raw))
    assert "not under its paths" in calyx.run("domain", "sign", "notes.json", status=1)[1]
    raw["checks"][0]["target"] = str(notes)
    more = {"windows": ["+1m", "+6h"], "metrics": {"disk_percent": 2, "ram_percent": None}, "undo_on_regression": True}
    (notes / "notes.json").write_text(json.dumps(raw | more))
    calyx.run("domain", "sign", "notes.json")
    admit(layout, (notes / "notes.signed.json").read_bytes())
    calyx.answers(ListDomains=pb.ListDomainsResponse(domains=[pb.Domain(domain="notes")]))
    shown = calyx.json("domain", "show", "notes")
    assert (shown["checks"], shown["windows"]) == (raw["checks"], ["+1m", "+6h"])
    out = calyx.run("domain", "show", "notes")[0]
    for said in ("pattern *.tmp", "at once, +1m, +6h", "disk_percent at most +2, ram_percent", "undone by the station"):
        assert said in " ".join(out.split())
