"""Signed domains for tests: an operator's key, a manifest as a person would write it, envelopes of every kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cbo_station import Station

from chassis.canonical import canonical_json
from chassis.clock import VirtualClock, iso
from chassis.domain_book import PAYLOAD_TYPE, DomainBook
from chassis.domains import load_domains
from chassis.layout import DEPLOY, Layout
from chassis.signing import load_key, make_key, seal
from services.cbo.objectives import Schedule

BUILTIN = load_domains(DEPLOY / "domains")


@dataclass
class Office:
    """A station with a live book, and a person with a key. `clock` runs with the station's."""

    folder: Path
    notes: Path
    station: Station = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.folder)
        self.book = DomainBook(self.layout, BUILTIN, VirtualClock())
        self.key = self.new_key("alice")
        self.station = Station(self.folder, domains=self.book)  # type: ignore[arg-type]  # any mapping will do

    def new_key(self, name: str, *, known: bool = True) -> Any:
        public = self.layout.operator_keys if known else self.folder.parent
        private = self.folder.parent / "private" / f"{name}.key"
        make_key(private, public / f"{name}.pub")
        return load_key(private)

    def mapping(self, **changes: Any) -> dict[str, Any]:
        now = self.station.clock.now()
        whole = {
            "domain": "notes", "title": "Tidy the notes", "serial": 1, "owner": "noter", "prober": "guardian",
            "effects": "reversible", "procedures": ["plain"], "probes": ["file_digest"], "max_attempts": 1,
            "ttl_seconds": 600, "paths": [str(self.notes)], "objective": "tidy the notes",
            "expires_at": iso(now + timedelta(days=30)), **changes,
        }  # fmt: skip
        return {key: value for key, value in whole.items() if value is not None}

    def letter(self, raw: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """An envelope as it should be, but for the changes."""
        payload = canonical_json(raw if raw is not None else self.mapping(**changes))
        return self.sealed(payload)

    def sealed(self, payload: bytes, *, kind: str = PAYLOAD_TYPE, key: Any = None) -> str:
        return seal(payload, kind, key or self.key).decode()

    def approve(self, letter: str | None = None, **changes: Any) -> Any:
        return self.station.cbo.desk.admissions.approve(letter or self.letter(**changes), "operator")

    def revoke(self, domain: str = "notes", why: str = "too noisy") -> None:
        self.station.cbo.desk.admissions.revoke(domain, why, "operator")

    def ask(self, domain: str = "notes") -> str:
        """One objective, one pulse, without an agent's answer; the newest task of the domain."""
        made = self.station.cbo.desk.submit("tidy the notes", domain, {}, schedule=Schedule(), key="", who="operator")
        self.station.cbo.run_pulse()
        self.station.clock.advance(1)
        rows = self.station.cbo.bridge.store.tasks("tasks", "", domain, 50)
        return next(str(each.id) for each in rows if each.objective_id == made.id)

    def answer(self) -> int:
        """The outside agent does what is ready for it; its effects lie under its folder."""
        target = str(self.notes / "a.txt")
        self.station.answer.effects = (
            {"op": "replace", "target": target, "before_sha256": "0", "after_sha256": "1", "size_bytes": 1},
        )
        claims = self.station.exchange.claim("noter", "noter-1", 20)
        for claim in claims:
            self.station.done.append(claim.manifest)
            self.station.exchange.ack(claim, self.station.ack_for(claim.manifest, claim.epoch))
        return len(claims)

    def pulse(self) -> None:
        self.station.cbo.run_pulse()
        self.station.clock.advance(1)

    def task(self, task_id: str) -> Any:
        return self.station.cbo.bridge.store.task(task_id)

    def gate(self, task_id: str, name: str) -> tuple[str, str]:
        found = next(each for each in self.task(task_id).gates if each["gate"] == name)
        return found["answer"], found["reason"]
