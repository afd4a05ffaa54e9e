"""Who is really calling: the process behind a loopback connection, and whether it runs beneath a governed program.

A token can be stolen; who started a process can't be changed by it. The holders of claims are found beside the
claims (`svf/claimed/*/*.holder`); what runs beneath one may not decide as a person, whatever token it shows.
"""

import contextlib
import ipaddress
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

UNKNOWN = (
    "it can't be told which process is calling, and a governed program runs; try again when it has ended, or stop it "
    "(`calyx stop`, `calyx task cancel`)"
)

LOOKS = 5
"""The tables of /proc are no snapshot: a row can be missed, an ancestor can end. It is looked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a TCP connection on this machine."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """Looks at processes as they are now. `proc` and `claimed` are folders, so that tests can make them up."""

    claimed: Path
    proc: Path = Path("/proc")

    def refusal(self, peer: str) -> str:
        """Why this caller may not decide as a person; empty if nothing speaks against it.

        Fails closed: while a governed program runs, a loopback caller whose process can't be found is refused. A
        caller from elsewhere (another container) can't be traced from here and is let through: its token decides.
        """
        holders = set(self._holders())
        found = parse_peer(peer)
        if not holders or found is None:
            return ""
        for _ in range(LOOKS):
            pids = self._owners(found)
            lines = {pid: self._line(pid) for pid in pids}
            for pid, line in lines.items():
                for ancestor in line:
                    if ancestor in holders:
                        return (
                            f"process {pid} runs beneath a governed program (process {ancestor[0]}); "
                            "a person decides this"
                        )
            if lines and all(lines.values()):
                return ""
        return UNKNOWN

    def _holders(self) -> Iterator[tuple[int, int]]:
        """(pid, start_ticks) of everybody who holds a claim."""
        for path in self.claimed.glob("*/*.holder"):
            try:
                value = json.loads(path.read_bytes())
                yield int(value["pid"]), int(value["start_ticks"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # just given back, or not ours to read

    def _owners(self, peer: Peer) -> list[int]:
        """The processes that hold the peer's socket."""
        wanted = {f"socket:[{inode}]" for inode in self._inodes(peer)}
        if not wanted:
            return []
        return [int(each.name) for each in self.proc.iterdir() if each.name.isdigit() and _has_open(each, wanted)]

    def _inodes(self, peer: Peer) -> set[int]:
        """The sockets at this end. More than one may have the port: connections elsewhere, and ended ones (inode 0)."""
        wanted = {f"{form}:{peer.port:04X}" for form in _forms(peer.address)}
        found = set()
        for table in ("tcp", "tcp6"):
            try:
                lines = (self.proc / "self" / "net" / table).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if fields[1] in wanted:
                    found.add(int(fields[9]))
        return found - {0}

    def _line(self, pid: int) -> list[tuple[int, int]]:
        """(pid, start_ticks) of a process and of all above it; empty if one of them ended while it was looked at."""
        line: list[tuple[int, int]] = []
        while pid > 0:
            try:
                after = (self.proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                return []
            line.append((pid, int(after[19])))
            pid = int(after[1])
        return line


def _has_open(process: Path, wanted: set[str]) -> bool:
    """Whether one of its file descriptors is among these; no for one that has ended or is not ours to look into."""
    try:
        names = os.listdir(process / "fd")  # noqa: PTH208 — names only
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(process / "fd" / name) in wanted:  # noqa: PTH115 — as text, it is no path
                return True
    return False


def parse_peer(peer: str) -> Peer | None:
    """From gRPC's `ipv4:127.0.0.1:41234` or `ipv6:%5B::1%5D:41234`; None for what is not this machine's loopback."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return Peer(address=str(address), port=int(port)) if address.is_loopback else None


def _forms(address: str) -> list[str]:
    """How /proc/net/tcp and tcp6 write an address: host order words in hex."""
    if ":" in address:
        return [_words(socket.inet_pton(socket.AF_INET6, address))]
    packed = socket.inet_aton(address)
    return [_words(packed), _words(bytes(10) + b"\xff\xff" + packed)]


def _words(packed: bytes) -> str:
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
