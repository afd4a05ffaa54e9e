"""Ask a gRPC server for its health and say it by exit status; what a container's HEALTHCHECK runs.

`python -IS health_probe.py [HOST:PORT] [SERVICE]`: 0 serving, 1 not. Without an address it takes `CALYX_<NAME>_LISTEN`
of `CALYX_SERVICE`. It runs every few seconds in every container, so it speaks the few bytes of HTTP/2 that
grpc.health.v1.Health/Check needs itself: importing grpc would cost ten times as much as the whole answer.
"""

import os
import socket
import struct
import sys

TIMEOUT_SECONDS = 3.0
SERVING = 1
_HEADERS, _SETTINGS, _RST_STREAM, _GOAWAY, _DATA = 0x1, 0x4, 0x3, 0x7, 0x0
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1


def check(address: str, service: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """The `ServingStatus` the server answers (1 = SERVING). Raises OSError when it can't be had."""
    host, _, port = address.rpartition(":")
    name = service.encode()
    message = (b"\x0a" + bytes([len(name)]) + name) if name else b""
    request = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, _headers(address))
        + _frame(_DATA, _END_STREAM, 1, b"\x00" + struct.pack(">I", len(message)) + message)
    )
    with socket.create_connection((host.strip("[]"), int(port)), timeout_seconds) as connection:
        connection.sendall(request)
        return _status(_answer(connection))


def _headers(authority: str) -> bytes:
    """HPACK, every field a literal without indexing: no table, no Huffman code."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": f"{int(TIMEOUT_SECONDS * 1000)}m",
    }
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


def _answer(connection: socket.socket) -> bytes:
    """The bytes of the one response message."""
    body = b""
    while True:
        length_and_type = _exactly(connection, 9)
        length = int.from_bytes(length_and_type[:3], "big")
        kind, flags = length_and_type[3], length_and_type[4]
        payload = _exactly(connection, length)
        if kind == _SETTINGS and not flags & _ACK:
            connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _DATA:
            body += payload
            if len(body) >= 5 and len(body) >= 5 + struct.unpack(">I", body[1:5])[0]:
                return body[5:]
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            raise ConnectionError("the server answered without a health status")


def _status(message: bytes) -> int:
    """`HealthCheckResponse.status`: field 1, varint; a message without it says UNKNOWN (0)."""
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return data


def _own_address() -> str:
    service = os.environ["CALYX_SERVICE"].upper()
    _, _, port = os.environ[f"CALYX_{service}_LISTEN"].rpartition(":")
    return f"127.0.0.1:{port}"


def main(arguments: list[str]) -> int:
    address = arguments[0] if arguments else _own_address()
    try:
        status = check(address, arguments[1] if len(arguments) > 1 else "")
    except OSError as error:
        sys.stderr.write(f"{address}: {error}\n")
        return 1
    if status != SERVING:
        sys.stderr.write(f"{address}: not serving (status {status})\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
