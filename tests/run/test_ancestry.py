"""Who is really calling: real sockets, real processes, and holders made up beside the claims."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.ancestry import UNKNOWN, Lineage, parse_peer
from chassis.exchange.holders import holder_of

CALLER = """
import socket, sys, os
depth = int(sys.argv[2])
def call():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as one:
        sys.stdin.read()
    os._exit(0)
if depth == 0:
    call()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        call()
    os._exit(0)
os.wait()
sys.stdin.read()
"""


class Door:
    """A listener that says who came in, as gRPC says it."""

    def __init__(self, claimed: Path) -> None:
        self.claimed = claimed
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def holds(self, pid: int, start_ticks: int | None = None) -> None:
        folder = self.claimed / "agent.run"
        folder.mkdir(parents=True, exist_ok=True)
        holder = holder_of(pid)
        assert holder is not None
        ticks = holder.start_ticks if start_ticks is None else start_ticks
        (folder / f"{pid}.e1.holder").write_text(json.dumps({"pid": pid, "start_ticks": ticks}))

    def peer(self) -> tuple[socket.socket, str]:
        came, address = self.socket.accept()
        return came, f"ipv4:{address[0]}:{address[1]}"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "claimed")
    with made.socket:
        yield made


def caller(door: Door, depth: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CALLER, str(door.port), str(depth)], stdin=subprocess.PIPE)


@pytest.fixture(autouse=True)
def adopting() -> Iterator[None]:
    """As `calyx run` does: what detaches itself stays beneath."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)
    yield
    libc.prctl(36, 0, 0, 0, 0)


@pytest.mark.parametrize("depth", [0, 1], ids=["child", "double fork"])
def test_a_process_beneath_a_holder_is_found_whatever_it_did_to_get_away(door: Door, depth: int) -> None:
    process = caller(door, depth)
    came, peer = door.peer()
    lineage = Lineage(door.claimed)
    assert lineage.refusal(peer) == "", "nobody holds a claim"
    door.holds(os.getpid())
    assert "beneath a governed program" in lineage.refusal(peer)
    came.close()
    process.communicate()
    if depth:
        os.waitpid(-1, 0)


def test_a_process_beside_the_holder_is_let_through(door: Door) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    process = caller(door, 0)
    came, peer = door.peer()
    door.holds(other.pid)
    assert Lineage(door.claimed).refusal(peer) == ""
    came.close()
    process.communicate()
    other.communicate()


def test_a_pid_that_was_given_out_again_is_not_taken_for_the_holder(door: Door) -> None:
    process = caller(door, 0)
    came, peer = door.peer()
    door.holds(process.pid, start_ticks=1)
    assert Lineage(door.claimed).refusal(peer) == ""
    came.close()
    process.communicate()


def test_an_ended_connection_with_the_same_port_does_not_hide_the_caller(door: Door) -> None:
    """A client's port is used again for another server; the row of the first stays a minute, with inode 0."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        first = socket.socket()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
        first.connect(other.getsockname())
        first.close()  # it closes first, so the row that stays is at its end
        other.accept()[0].close()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind(("127.0.0.1", port))
        caller.connect(("127.0.0.1", door.port))
        came, peer = door.peer()
        rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
        ours = [row.split() for row in rows if row.split()[1] == f"0100007F:{port:04X}"]
        assert sorted(int(row[9]) == 0 for row in ours) == [False, True], ours
        door.holds(os.getpid())
        assert "beneath a governed program" in Lineage(door.claimed).refusal(peer)
        came.close()


def test_a_caller_that_can_not_be_found_is_refused_while_a_governed_program_runs(door: Door) -> None:
    door.holds(os.getpid())
    assert Lineage(door.claimed).refusal("ipv4:127.0.0.1:1") == UNKNOWN


def test_a_caller_from_elsewhere_is_judged_by_its_token_alone(door: Door) -> None:
    door.holds(os.getpid())
    for peer in ("ipv4:172.18.0.3:4444", "unix:/x", "ipv6:%5Bfe80::1%5D:1", "", "ipv4:nonsense"):
        assert Lineage(door.claimed).refusal(peer) == ""


def test_peers_are_read_as_grpc_writes_them() -> None:
    for text in ("ipv4:127.0.0.1:41", "ipv6:[::ffff:127.0.0.1]:41"):
        peer = parse_peer(text)
        assert peer is not None and (peer.address, peer.port) == ("127.0.0.1", 41)
    six = parse_peer("ipv6:%5B::1%5D:41")
    assert six is not None and (six.address, six.port) == ("::1", 41)
