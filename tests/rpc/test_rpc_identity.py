import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from chassis.clock import VirtualClock
from chassis.errors import NotFound, Unauthenticated
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


def test_a_folder_without_a_station_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="calyx up"):
        load_identity(Layout(tmp_path))
    with pytest.raises(NotFound, match="calyx up"):
        load_token(tmp_path, "operator")
