"""What a person has to be told of signed domains before something stops: those that end soon, and whose keys changed.

Each thing goes into the audit log once: 14 and 3 days before an end, at the end, and when a key comes, goes, is
revoked, or another number of signatures is asked for.
"""

import json
import threading
from datetime import datetime

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domain_book import DomainBook, Ending, ending
from chassis.operator_keys import Trusted
from services.cbo.bridge import Bridge


def endings(bridge: Bridge, now: datetime) -> tuple[Ending, ...]:
    """Approved domains that end soon or have ended, the soonest first; not what was revoked."""
    found = (ending(each, now) for each in bridge.domains.values())
    standing = (each for each in found if each is not None and _stands(bridge, each.domain))
    return tuple(sorted(standing, key=lambda each: (each.expires_at, each.domain)))


def _stands(bridge: Bridge, domain: str) -> bool:
    return bridge.approved(domain) is not None and not bridge.revoked(domain)


class Notices:
    """Puts it on record. Thread-safe."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge, self._lock = bridge, threading.Lock()
        self._trusted: Trusted | None = None

    def step(self) -> None:
        with self._lock:
            self._ends()
            self._keys()

    def _ends(self) -> None:
        bridge = self._bridge
        for each in endings(bridge, bridge.clock.now()):
            fact = f"ending:{each.domain}"
            told = bridge.store.fact(fact)
            edition, _, stage = (told or "").rpartition(" ")
            if edition == iso(each.expires_at) and int(stage) <= each.stage:
                continue
            kind = "domain.expiring" if each.stage else "domain.expired"
            bridge.audit.write(kind, domain=each.domain, expires_at=iso(each.expires_at), why=each.reason)
            bridge.store.set_fact(fact, f"{iso(each.expires_at)} {each.stage}")

    def _keys(self) -> None:
        bridge = self._bridge
        if not isinstance(bridge.domains, DomainBook) or bridge.domains.trusted is self._trusted:
            return
        trusted = bridge.domains.trusted
        before: Json = {"keys": {}, "revoked": {}, "required": 1, "broken": "", **_kept(bridge)}
        after: Json = {
            "keys": {each.keyid: each.name for each in trusted.keys.values()},
            "revoked": {each.keyid: each.name for each in trusted.revoked.values()},
            "required": trusted.required,
            "broken": trusted.broken,
        }
        for kind, now, then in (
            ("key.added", after["keys"], before["keys"]),
            ("key.revoked", after["revoked"], before["revoked"]),
            ("key.removed", before["keys"], {**after["keys"], **after["revoked"]}),
            ("key.unrevoked", before["revoked"], after["revoked"]),
        ):
            for keyid in sorted(set(now) - set(then)):
                bridge.audit.write(kind, key=now[keyid], keyid=keyid)
        if before["required"] != after["required"]:
            bridge.audit.write("key.threshold", before=before["required"], after=after["required"])
        if after["broken"] and before["broken"] != after["broken"]:
            bridge.audit.write("key.broken", why=after["broken"])
        if before != after:
            bridge.store.set_fact("operator_keys", json.dumps(after))
        self._trusted = trusted


def _kept(bridge: Bridge) -> Json:
    return dict(json.loads(bridge.store.fact("operator_keys") or "{}"))
