"""`calyx domain` with several keys, OpenSSH and revoked ones, and editions that end; see docs/runbooks/domains.md."""

import json
import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from calyx.cbo.v1 import cbo_pb2 as pb
from calyx.inbox.v1 import inbox_pb2
from cli_harness import Console

from chassis.clock import VirtualClock
from chassis.domain_book import DomainBook, verify
from chassis.domains import DomainManifest, load_domains
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.layout import DEPLOY, Layout
from chassis.operator_keys import trusted_keys

BUILTIN = load_domains(DEPLOY / "domains")
SSH_KEYGEN = shutil.which("ssh-keygen")
needs_ssh_keygen = pytest.mark.skipif(SSH_KEYGEN is None, reason="no ssh-keygen here (Debian: openssh-client)")
RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbooks" / "domains.md").read_text()


@pytest.fixture
def layout(calyx: Console) -> Layout:
    found_station(calyx.reach.layout, VirtualClock(), CountedIds())
    calyx.answers(ApproveDomain=pb.ApproveDomainResponse(domain="notes", manifest_digest="d" * 64))
    return calyx.reach.layout


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("notes").resolve()
    monkeypatch.chdir(folder)
    return folder


def ssh_keygen(*arguments: str) -> None:
    """As typed; the words of it stand in the runbook."""
    said = " ".join(("ssh-keygen", *(each for each in arguments if each not in ("-q", "-N", ""))))
    assert said in RUNBOOK, said
    assert SSH_KEYGEN is not None
    env = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    subprocess.run([SSH_KEYGEN, *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL, env=env)


def verified(calyx: Console, layout: Layout) -> DomainManifest:
    """What was sent to be approved, as the overseer verifies it."""
    envelope = calyx.script.request("ApproveDomain").envelope_json.encode()
    return verify(envelope, trusted_keys(layout.operator_keys), layout, BUILTIN)


def admit(calyx: Console, layout: Layout) -> None:
    """What was sent last is admitted."""
    layout.admitted.mkdir(parents=True, exist_ok=True)
    name = verified(calyx, layout).domain
    (layout.admitted / f"{name}.json").write_text(calyx.script.request("ApproveDomain").envelope_json)


@needs_ssh_keygen
def test_a_key_of_openssh_signs_approves_and_renews_a_domain_as_the_runbook_says(
    calyx: Console, layout: Layout, here: Path
) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", "alice")
    shown = calyx.json("domain", "trust-key", "alice.pub")
    assert shown["fingerprint"].startswith("SHA256:")
    calyx.run("domain", "new", "notes", "--owner", "noter", "--path", ".")
    ssh_keygen("-Y", "sign", "-f", "alice", "-n", "calyx-domain", "notes.json")
    assert calyx.json("domain", "approve", "notes.json")["approved"]
    first = verified(calyx, layout)
    assert (first.signed_by[:7], first.serial) == ("alice (", 1)
    admit(calyx, layout)
    (here / "notes.json.sig").unlink()
    calyx.run("domain", "renew", "notes")
    ssh_keygen("-Y", "sign", "-f", "alice", "-n", "calyx-domain", "notes.json")
    calyx.run("domain", "approve", "notes.json")
    second = verified(calyx, layout)
    assert (second.serial, second.previous, second.paths) == (2, first.digest, first.paths)
    assert "name the manifest" in calyx.run("domain", "approve", "notes.json.sig", status=2)[1]


@needs_ssh_keygen
def test_two_sign_one_with_openssh_and_a_file_goes_from_hand_to_hand(
    calyx: Console, layout: Layout, here: Path
) -> None:
    calyx.run("domain", "keygen", "--name", "bob")
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", "alice")
    assert "only 1 keys" in calyx.run("domain", "require", "2", status=1)[1]
    calyx.run("domain", "trust-key", "alice.pub")
    calyx.run("domain", "require", "2")
    assert "2 have to sign here" in calyx.run("domain", "new", "notes", "--owner", "noter", "--approve", status=1)[1]
    calyx.run("domain", "new", "notes", "--owner", "noter")
    ssh_keygen("-Y", "sign", "-f", "alice", "-n", "calyx-domain", "notes.json")
    _, err = calyx.run("domain", "sign", "notes.json", "--sig", "notes.json.sig")
    assert "it has 1 of the 2 signatures that count here (alice (" in err
    assert calyx.run("domain", "sign", "notes.signed.json", "--key", "bob")[1] == ""
    calyx.run("domain", "approve", "notes.signed.json")
    assert [each.split(" ")[0] for each in verified(calyx, layout).signed_by.split(", ")] == ["bob", "alice"]
    admit(calyx, layout)
    listed = calyx.json("domain", "keys")
    assert [(each["name"], each["state"], each["alone"]) for each in listed["keys"]] == [
        ("alice", "counts", ["notes"]), ("bob", "counts", ["notes"]),
    ]  # fmt: skip
    calyx.run("domain", "require", "1")
    assert [each["alone"] for each in calyx.json("domain", "keys")["keys"]] == [[], []]


@needs_ssh_keygen
def test_a_signature_of_openssh_is_added_to_a_file_that_was_signed_before(
    calyx: Console, layout: Layout, here: Path
) -> None:
    calyx.run("domain", "keygen", "--name", "bob")
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", "alice")
    calyx.run("domain", "trust-key", "alice.pub")
    calyx.run("domain", "require", "2")
    _, err = calyx.run("domain", "new", "notes", "--owner", "noter", "--sign", "--key", "bob")
    assert "it has 1 of the 2 signatures" in err
    signed = (here / "notes.signed.json").read_bytes()
    calyx.run("domain", "sign", "notes.signed.json", "--plain")
    assert (here / "notes.signed.json").read_bytes() == signed
    ssh_keygen("-Y", "sign", "-f", "alice", "-n", "calyx-domain", "notes.json")
    assert calyx.run("domain", "sign", "notes.signed.json", "--sig", "notes.json.sig")[1] == ""
    calyx.run("domain", "approve", "notes.signed.json")
    assert [each.split(" ")[0] for each in verified(calyx, layout).signed_by.split(", ")] == ["bob", "alice"]


@needs_ssh_keygen
def test_a_manifest_written_by_hand_is_spelled_plainly_before_ssh_keygen_signs_it(
    calyx: Console, layout: Layout, here: Path
) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", "alice")
    calyx.run("domain", "trust-key", "alice.pub")
    (here / "mine.yaml").write_text(
        "domain: mine\ntitle: Mine\nserial: 1\nowner: noter\nprober: guardian\neffects: none\n"
        "procedures: [run]\nprobes: [process]\n"
    )
    calyx.run("domain", "sign", "mine.yaml", "--plain")
    ssh_keygen("-Y", "sign", "-f", "alice", "-n", "calyx-domain", "mine.json")
    calyx.run("domain", "approve", "mine.json")
    assert verified(calyx, layout).domain == "mine"
    (here / "bad.sig").write_text("no signature")
    assert "bad.sig: its OpenSSH signature is not what" in calyx.run(
        "domain", "approve", "mine.json", "--sig", "bad.sig", status=2
    )[1]  # fmt: skip


def test_a_key_is_rotated_the_old_one_ends_and_the_same_edition_is_signed_anew(
    calyx: Console, layout: Layout, here: Path
) -> None:
    calyx.run("domain", "keygen", "--name", "old")
    calyx.run("domain", "new", "notes", "--owner", "noter", "--approve")
    admit(calyx, layout)
    digest = verified(calyx, layout).digest
    calyx.run("domain", "keygen", "--name", "new")
    assert [(each["name"], each["alone"]) for each in calyx.json("domain", "keys")["keys"]] == [
        ("new", []), ("old", ["notes"]),
    ]  # fmt: skip
    ended = calyx.json("domain", "revoke-key", "old")
    assert ended["ended"] == ["notes"]
    assert not (layout.operator_keys / "old.pub").exists()
    book = DomainBook(layout, BUILTIN, calyx.reach.clock)
    assert "whose key was revoked" in book.faults["notes.json"]
    assert "notes" not in book
    assert "whose key was revoked" in calyx.run("domain", "list")[1]
    assert "was revoked" in calyx.run(
        "domain", "sign", str(layout.admitted / "notes.json"), "--key", "old", "--out", "x.json", status=2
    )[1]  # fmt: skip
    calyx.run("domain", "sign", str(layout.admitted / "notes.json"), "--key", "new", "--out", "notes.signed.json")
    calyx.run("domain", "approve", "notes.signed.json")
    again = verified(calyx, layout)
    assert (again.digest, again.signed_by[:5]) == (digest, "new (")
    states = {each["name"]: each["state"] for each in calyx.json("domain", "keys")["keys"]}
    assert states.pop("new") == "counts"
    assert list(states.values()) == ["revoked"]
    assert "which was revoked" in calyx.run("domain", "trust-key", ended["kept"], "--name", "again", status=1)[1]


def test_a_renewal_is_the_same_work_with_new_dates_and_is_offered_in_time(
    calyx: Console, layout: Layout, here: Path
) -> None:
    calyx.run("domain", "new", "notes", "--owner", "noter", "--path", ".", "--days", "10", "--approve")
    first = verified(calyx, layout)
    admit(calyx, layout)
    warning = "notes ends in 10 days; `calyx domain renew notes` writes the next edition"
    calyx.answers(
        ListDomains=pb.ListDomainsResponse(domains=[pb.Domain(domain="notes", warning=warning)]),
        ListWaiting=inbox_pb2.ListWaitingResponse(
            items=[
                inbox_pb2.WaitingItem(kind="renewal", id="notes", title=warning, commands=["calyx domain renew notes"])
            ]
        ),
    )
    assert calyx.json("domain", "show", "notes")["warning"].startswith("notes ends in 10 days")
    assert "ends in 10 days" in calyx.run("domain", "list")[0]
    assert calyx.json("inbox")["domains"] == [
        {"domain": "notes", "warning": warning, "answer_with": "calyx domain renew notes"}
    ]
    assert "ends in 10 days" in calyx.run("inbox")[0]
    calyx.run("domain", "renew", "notes", "--days", "60", "--approve")
    second = verified(calyx, layout)
    assert (second.serial, second.previous) == (2, first.digest)
    assert second.expires_at == calyx.reach.clock.now() + timedelta(days=60)
    assert (second.paths, second.title, second.owner) == (first.paths, first.title, first.owner)
    admit(calyx, layout)
    assert calyx.json("domain", "show", "notes")["warning"] == ""
    assert list(here.iterdir()) == []


def test_what_was_changed_by_another_hand_is_not_renewed_and_approved_in_one_step(
    calyx: Console, layout: Layout, here: Path
) -> None:
    calyx.run("domain", "new", "notes", "--owner", "noter", "--approve")
    admit(calyx, layout)
    (layout.operator_keys / "operator.pub").rename(layout.root / "operator.pub")
    calyx.run("domain", "keygen", "--name", "bob")
    _, err = calyx.run("domain", "renew", "notes", "--key", "bob", "--approve", status=2)
    assert "nobody here knows" in err
    assert "look at it first" in err.splitlines()[-1]
    assert "read the new one before you sign it" in calyx.run("domain", "renew", "notes")[1]
    assert json.loads((here / "notes.json").read_text())["serial"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("renew", "cleanup"), 2, "built in"),
        (("renew", "nothing"), 2, "no domain 'nothing'"),
        (("renew", "../station"), 2, "no domain"),
        (("renew", "notes", "--days", "91"), 2, "no domain"),
        (("revoke-key", "nobody"), 2, "no key 'nobody'"),
        (("trust-key", "nowhere.pub"), 2, "can't be trusted"),
        (("trust-key", "text.pub"), 2, "neither a PEM public key"),
        (("trust-key", "link.pub"), 2, "is a link"),
        (("trust-key", "text.pub", "--name", "../x"), 2, "no name for a key"),
        (("require", "9"), 2, "9"),
    ],
)
def test_what_can_not_be_done_with_keys_is_said_in_one_line(
    calyx: Console, layout: Layout, here: Path, arguments: tuple[str, ...], status: int, why: str
) -> None:
    (here / "text.pub").write_text("hello")
    (here / "link.pub").symlink_to(here / "text.pub")
    assert why in calyx.run("domain", *arguments, status=status)[1]
    assert not list(layout.operator_keys.glob("*")) if layout.operator_keys.exists() else True


def test_no_key_is_made_behind_those_who_sign_elsewhere(calyx: Console, layout: Layout, here: Path) -> None:
    calyx.run("domain", "keygen", "--name", "bob")
    (layout.secrets / "operators" / "bob.key").unlink()
    _, err = calyx.run("domain", "new", "notes", "--owner", "noter", "--approve", status=2)
    assert "keys count already" in err
    assert [each.name for each in layout.operator_keys.iterdir()] == ["bob.pub"]


def test_a_key_is_trusted_once_and_under_one_name(calyx: Console, layout: Layout, here: Path) -> None:
    made = calyx.json("domain", "keygen", "--name", "bob")
    public = Path(made["public"])
    assert "counts already, as bob" in calyx.run("domain", "trust-key", str(public), "--name", "b", status=1)[1]
    moved = public.rename(here / "bob.pub")
    calyx.run("domain", "trust-key", str(moved))
    assert [each["name"] for each in calyx.json("domain", "keys")["keys"]] == ["bob"]
    assert "bob" in calyx.run("domain", "keys")[0]
