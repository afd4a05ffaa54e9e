"""HTTP over a unix socket, also where the socket's path is longer than the 107 bytes an address holds."""

import http.client
import os
import socket
from pathlib import Path

MAX_ADDRESS_BYTES = 107


def connect_unix(path: Path, timeout_seconds: float) -> socket.socket:
    """A connected stream socket. Raises OSError (also TimeoutError)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_seconds)
        if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
            connection.connect(os.fspath(path))
        else:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
    except BaseException:
        connection.close()
        raise
    return connection


class UnixConnection(http.client.HTTPConnection):
    """`http.client` over a unix socket."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path, self._timeout_seconds = path, timeout_seconds

    def connect(self) -> None:
        self.sock = connect_unix(self._path, self._timeout_seconds)
