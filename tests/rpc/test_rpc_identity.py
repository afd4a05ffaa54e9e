import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from chassis.canonical import sha256_hex
from chassis.clock import VirtualClock
from chassis.errors import Damaged, NotFound, Unauthenticated
from chassis.identity import CALLERS, found_station, load_identity, load_token
from chassis.ids import CountedIds
from chassis.layout import Layout
from chassis.rpc.auth import Callers


def test_founding_twice_keeps_identity_key_and_tokens(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "station")
    first = found_station(layout, VirtualClock(), CountedIds("a"))
    before = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}
    assert found_station(layout, VirtualClock(), CountedIds("b")) == first == load_identity(layout)
    assert {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()} == before


def test_what_is_secret_is_for_the_owner_only_and_tokens_are_stored_as_hashes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "station")
    found_station(layout, VirtualClock(), CountedIds())
    assert layout.root.stat().st_mode & 0o777 == 0o700
    assert layout.secrets.stat().st_mode & 0o777 == 0o700
    for path in layout.secrets.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    callers = (layout.secrets / "callers.json").read_text()
    for caller in CALLERS:
        token = load_token(layout.secrets, caller)
        assert token not in callers
        assert Callers.load(layout.secrets).identify(f"Bearer {token}") == caller
    with pytest.raises(Unauthenticated):
        Callers.load(layout.secrets).identify("Bearer ")


def test_the_public_key_belongs_to_the_grant_key(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "station")
    found_station(layout, VirtualClock(), CountedIds())
    private = load_pem_private_key((layout.secrets / "grant.key").read_bytes(), None)
    public = load_pem_public_key((layout.keys / "grant.pub").read_bytes())
    assert private.public_key() == public


def test_two_processes_that_found_one_station_at_once_agree(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from chassis.clock import SystemClock;"
        "from chassis.ids import RandomIds;"
        "from chassis.identity import *; from chassis.layout import Layout;"
        "layout = Layout(Path(sys.argv[1])); sys.stdin.read(1);"
        "print(found_station(layout, SystemClock(), RandomIds()).station_id, load_token(layout.secrets, 'cbo'))"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "station")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("g")
        racer.stdin.flush()
    answers = {racer.communicate(timeout=30)[0] for racer in racers}
    assert len(answers) == 1 and all(racer.returncode == 0 for racer in racers)
    token = answers.pop().split()[1]
    assert Callers.load(tmp_path / "station" / "secrets").identify(f"Bearer {token}") == "cbo"
    assert not list((tmp_path / "station").rglob("*.first"))


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"\xff" * 43], ids=["empty", "blank", "torn", "bytes"])
def test_a_damaged_token_file_never_becomes_a_token(tmp_path: Path, content: bytes) -> None:
    layout = Layout(tmp_path / "station")
    found_station(layout, VirtualClock(), CountedIds())
    before = (layout.secrets / "callers.json").read_bytes()
    (layout.secrets / "operator.token").write_bytes(content)
    with pytest.raises(Damaged, match=r"operator\.token"):
        load_token(layout.secrets, "operator")
    with pytest.raises(Damaged, match=r"operator\.token"):
        found_station(layout, VirtualClock(), CountedIds())
    assert (layout.secrets / "callers.json").read_bytes() == before


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer    ", "Bearer \t"])
def test_the_empty_token_is_nobodys_even_if_its_hash_is_listed(authorization: str) -> None:
    with pytest.raises(Unauthenticated):
        Callers({"operator": sha256_hex(b"")}).identify(authorization)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"callers":[]}', b'{"callers":{"operator":null}}', b'{"callers":{"operator":"\xc3\xa9"}}'],
)
def test_damaged_callers_are_no_callers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "callers.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"callers\.json"):
        Callers.load(tmp_path)


def test_missing_callers_are_no_callers(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"callers\.json"):
        Callers.load(tmp_path)


def test_a_token_of_another_station_is_nobodys_here(tmp_path: Path) -> None:
    for name in ("one", "two"):
        found_station(Layout(tmp_path / name), VirtualClock(), CountedIds(name))
    with pytest.raises(Unauthenticated, match="nobody on this station"):
        Callers.load(tmp_path / "one" / "secrets").identify(f"Bearer {load_token(tmp_path / 'two' / 'secrets', 'cbo')}")


def test_a_damaged_grant_key_is_said_in_one_line_and_not_replaced(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "station")
    found_station(layout, VirtualClock(), CountedIds())
    (layout.secrets / "grant.key").write_bytes(b"torn")
    with pytest.raises(Damaged, match=r"grant\.key"):
        found_station(layout, VirtualClock(), CountedIds())
    assert (layout.secrets / "grant.key").read_bytes() == b"torn"


def test_a_folder_without_a_station_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="calyx up"):
        load_identity(Layout(tmp_path))
    with pytest.raises(NotFound, match="calyx up"):
        load_token(tmp_path, "operator")
