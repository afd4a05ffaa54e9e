"""The station's policy.yaml as it counts now: looked at before each decision, read again when it changed.

A bad new version is refused and the good one goes on. A start with a bad file, or without the file that there once
was, allows nothing. Only a station that never had a policy of its own runs by the shipped one.
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from chassis.atomic import FileState, file_state
from chassis.audit import Audit
from chassis.clock import Clock
from chassis.policy import RuleSet
from chassis.policy_yaml import SHIPPED, Parsed, parse
from services.cbo.store import Store

log = structlog.get_logger(__name__)

OWN = "policy_own"
"""The fact that the station has had a policy of its own: from then on its absence allows nothing."""

_Look = FileState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What counts. `refused` says why a newer version does not; `text` is what the rules were read from."""

    rules: RuleSet
    source: str
    text: str
    since: datetime
    refused: str = ""


class PolicyFile:
    """Thread-safe. `own`: the station's file; with `must_exist` the shipped one never stands in for it."""

    def __init__(
        self, own: Path, station: Path, store: Store, audit: Audit, clock: Clock, *, must_exist: bool = False
    ) -> None:
        self._own, self._station = own, str(station)
        self._store, self._audit, self._clock = store, audit, clock
        self._lock = threading.Lock()
        self._looked: _Look = None
        self._must_exist = must_exist
        self._now = self._first()

    def rules(self) -> RuleSet:
        """The rules as of now."""
        return self.in_force().rules

    def in_force(self) -> InForce:
        with self._lock:
            look = self._look()
            if look != self._looked:
                self._looked = look
                self._take(self._read(look is not None))
            return self._now

    def parse(self, raw: bytes) -> Parsed:
        """A draft, with this station's folder in it."""
        return parse(raw, self._station)

    def _look(self) -> _Look:
        """What tells one version from the next; None while there is no file."""
        try:
            return file_state(self._own)
        except OSError:
            return None

    def _first(self) -> InForce:
        self._looked = self._look()
        never = not self._must_exist and self._store.fact(OWN) is None
        if self._looked is None and never:
            parsed, text, why = self._read_file(SHIPPED)
            source = "the shipped policy"
        else:
            parsed, text, why = self._read(self._looked is not None)
            source = str(self._own)
        if parsed is not None:
            self._audit.write("policy.adopted", source=source, digest=parsed.digest, rules=len(parsed.rules))
            return InForce(rules=parsed, source=source, text=text, since=self._clock.now())
        self._audit.write("policy.broken", why=why)
        log.error("nothing may act", why=why)
        return InForce(rules=RuleSet.nothing(why), source=source, text=text, since=self._clock.now())

    def _read(self, there: bool) -> tuple[RuleSet | None, str, str]:
        if there:
            self._store.set_fact(OWN, str(self._own))
        return self._read_file(self._own)

    def _read_file(self, path: Path) -> tuple[RuleSet | None, str, str]:
        """(rules, text, why not)."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None, "", f"{path} is missing; put it back, or `calyx policy init` writes the shipped one"
        except OSError as error:
            return None, "", f"{path} can't be read: {error.strerror}; mend it"
        parsed = self.parse(raw)
        text = raw.decode(errors="replace")
        return parsed.policy, text, f"{path}: {parsed.why}" if parsed.faults else ""

    def _take(self, read: tuple[RuleSet | None, str, str]) -> None:
        """A version that was not there at the last look."""
        rules, text, why = read
        before, now = self._now, self._clock.now()
        if rules is not None:
            if rules.digest != before.rules.digest or before.rules.fault:
                self._audit.write(
                    "policy.adopted", source=str(self._own), digest=rules.digest, rules=len(rules.rules),
                    before=before.rules.digest,
                )  # fmt: skip
            self._now = InForce(rules=rules, source=str(self._own), text=text, since=now)
        elif before.rules.fault:
            self._audit.write("policy.broken", why=why)
            self._now = InForce(rules=RuleSet.nothing(why), source=str(self._own), text=text, since=before.since)
        else:
            self._audit.write("policy.refused", why=why, kept=before.rules.digest)
            log.error("a new policy was refused; the one before goes on", why=why)
            self._now = InForce(
                rules=before.rules, source=before.source, text=before.text, since=before.since, refused=why
            )
