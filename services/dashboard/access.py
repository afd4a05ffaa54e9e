"""Who may read and who may write: names in the Host header, one-time login links, sessions, tokens, origins."""

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from chassis.canonical import sha256_hex
from chassis.clock import Clock
from chassis.errors import PermissionDenied, Unauthenticated
from chassis.ids import Ids

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LINK_LIFE = timedelta(minutes=10)
LINKS_KEPT = 32
WRITERS = frozenset({"operator", "dashboard"})
_PORT = re.compile(r":\d+$")


def host_allowed(host: str, port: int, allowed: Iterable[str] = ()) -> bool:
    """Is this Host header one of ours? A page on another name that resolves to us (DNS rebinding) is not.

    `allowed` entries are `name` (any port) or `name:port`.
    """
    given = host.strip().lower()
    ours = {f"{name}:{port}" for name in LOOPBACK} | (set(LOOPBACK) if port == 80 else set())
    bare = _PORT.sub("", given)
    return given in ours or any(entry.lower() in (given, bare) for entry in allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who sends this request. `by` empty: nobody we know, who may read only."""

    by: Literal["", "session", "token"]
    name: str = ""


def may_write(asker: Asker, *, origin: str, host: str) -> None:
    """Raise unless a known person sent it from our own page, or a known program from no page at all."""
    if not asker.by:
        raise Unauthenticated("writing needs a login: run `calyx login-link` and open what it prints in this browser")
    if not origin and asker.by == "token":
        return
    if origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        raise PermissionDenied("this request comes from another page; nothing was changed")


class Sessions:
    """Signed cookies that outlive a restart: `v1.<expiry>.<nonce>.<mac>`. The key never leaves the process."""

    def __init__(self, secret: str, station_id: str, clock: Clock, ids: Ids, life: timedelta) -> None:
        self._key = hashlib.sha256(f"calyx dashboard session\0{station_id}\0{secret}".encode()).digest()
        self._clock, self._ids, self.life = clock, ids, life
        # Cookies know no ports: two stations on one machine need two names.
        self.cookie = "calyx_" + sha256_hex(station_id.encode())[:12]

    def issue(self) -> str:
        expires = int((self._clock.now() + self.life).timestamp())
        body = f"v1.{expires}.{self._ids.new('n')}"
        return f"{body}.{self._mac(body)}"

    def valid(self, cookie: str) -> bool:
        body, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(self._mac(body).encode(), mac.encode()):
            return False
        return int(body.split(".")[1]) > self._clock.now().timestamp()

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


class LoginLinks:
    """One-time tokens, kept by their hash and gone after ten minutes, one use, or a restart."""

    def __init__(self, clock: Clock, ids: Ids, address: Callable[[], str]) -> None:
        self._clock, self._ids, self._address = clock, ids, address
        self._open: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def issue(self) -> tuple[str, datetime]:
        """(link, until when)."""
        token, expires = self._ids.new("login"), self._clock.now() + LINK_LIFE
        with self._lock:
            self._drop_old()
            if len(self._open) >= LINKS_KEPT:
                del self._open[min(self._open, key=lambda each: self._open[each])]
            self._open[sha256_hex(token.encode())] = expires
        return f"{self._address()}/login?token={token}", expires

    def use(self, token: str) -> None:
        """Raises Unauthenticated for a token that is unknown, used or too old."""
        with self._lock:
            self._drop_old()
            if self._open.pop(sha256_hex(token.encode()), None) is None:
                raise Unauthenticated("this login link is used up or too old; run `calyx login-link` for a new one")

    def _drop_old(self) -> None:
        now = self._clock.now()
        self._open = {token: expires for token, expires in self._open.items() if expires > now}
