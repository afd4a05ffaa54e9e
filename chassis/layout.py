"""Where things lie in the state folder (`CALYX_STATION_DIR`)."""

from dataclasses import dataclass
from pathlib import Path

SERVICES = ("memory", "governor", "guardian", "cbo", "analytics", "dashboard")
"""Start order too: each needs at most those before it to be useful."""

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
"""Shipped domains, playbooks, schemas and templates (beside the packages, in a checkout and in the image)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one station. Nothing is created by reading a path."""

    root: Path

    @property
    def memory(self) -> Path:
        return self.root / "memory"

    @property
    def svf(self) -> Path:
        return self.root / "svf"

    @property
    def pulses(self) -> Path:
        return self.root / "pulses"

    @property
    def capacity_csv(self) -> Path:
        return self.root / "governor" / "capacity.csv"

    @property
    def trends(self) -> Path:
        return self.root / "reports" / "trends"

    @property
    def incidents(self) -> Path:
        return self.root / "guardian" / "incidents"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def keys(self) -> Path:
        """Public keys; readable by every service."""
        return self.root / "keys"

    def drilled(self, agent: str) -> Path:
        """Which of an agent's procedures passed the drill of their undo: null, or why not, by domain/procedure."""
        return self.root / "work" / agent / "drilled.json"

    @property
    def kill_switch(self) -> Path:
        return self.root / "manual_shutdown.flag"

    @property
    def consents(self) -> Path:
        """Folders outside the station that a person allowed."""
        return self.root / "config" / "paths.json"

    @property
    def policy(self) -> Path:
        """The station's own rules, written by the operator; without it the shipped ones count."""
        return self.root / "config" / "policy.yaml"

    @property
    def admitted(self) -> Path:
        """Signed manifests of outside programs' domains, one file each; written by the CBO alone."""
        return self.root / "config" / "domains"

    @property
    def operator_keys(self) -> Path:
        """Public keys of those who may sign domains."""
        return self.keys / "operators"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets, pids, endpoints and service configuration of the running embedded station."""
        return self.root / "run"

    @property
    def endpoints(self) -> Path:
        return self.run / "endpoints.json"

    @property
    def identity(self) -> Path:
        """`station.json`: station_id, created_at, schema."""
        return self.root / "station.json"

    def audit(self, service: str) -> Path:
        return self.root / "audit" / f"{service}.jsonl"

    def state(self, service: str) -> Path:
        """A service's own folder."""
        return self.root / service

    def work(self, service: str) -> Path:
        """Scratch space of a service's agent: rehearsals happen here."""
        return self.root / "work" / service
