"""HTTP/1.1 on a unix socket: no TCP port, so only who may open the socket can ask."""

import http.server
import json
import os
import socketserver
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handle = Callable[[str, str], tuple[int, dict[str, Any]]]

IDLE_SECONDS = 60.0


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread a connection; `handle` gets method and path, bodies are not read."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, path: Path, handle: Handle, *, gid: int | None = None) -> None:
        self.handle_request_for = handle
        path.unlink(missing_ok=True)
        before = os.umask(0o117)  # the socket is 0660 from its first moment on
        try:
            super().__init__(str(path), Handler)
        finally:
            os.umask(before)
        if gid is not None and path.stat().st_gid != gid:
            os.chown(path, -1, gid)


MOST_READ_BYTES = 4096


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and POST; anything else is answered 501 by the base class."""

    server: UnixServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        if int(self.headers.get("content-length") or 0) > 0:
            # An unread body would be taken for the next request of this connection. A small one is read all the same,
            # so that its sender gets the answer and not a broken pipe.
            self.rfile.read(min(int(self.headers["content-length"]), MOST_READ_BYTES))
            status, body = 403, {"reason": "this broker takes no body"}
            self.close_connection = True
        else:
            status, body = self.server.handle_request_for(method, self.path)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """The audit has it."""
