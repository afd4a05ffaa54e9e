"""The compose stack's first start: found the station and give each service its own secrets.

The vault (all tokens and the grant key) is mounted here and nowhere else. Each service's volume gets its own token
and the hashes of all; the CBO's also the key that signs tasks. Run again, it changes nothing.
"""

import secrets
import sys
from pathlib import Path

from chassis.atomic import write_whole
from chassis.clock import SystemClock
from chassis.identity import CALLERS, found_station
from chassis.ids import RandomIds
from chassis.layout import Layout

KEYS = {"cbo": "grant.key", "memory": "memory.key"}
"""Who signs, and the file of its private key."""

GRAFANA_LOGIN = "admin.password"


def shares(vault: Path) -> dict[str, tuple[str, ...]]:
    """Caller → names of the vault's files it may see."""
    return {
        caller: (f"{caller}.token", "callers.json", *((KEYS[caller],) if caller in KEYS else ())) for caller in CALLERS
    }


def hand_out(vault: Path, volumes: Path) -> None:
    """Copy each share into `<volumes>/<caller>`, where it differs."""
    for caller, names in shares(vault).items():
        for name in names:
            _copy(vault / name, volumes / caller / name, mode=0o400)
    password = vault / GRAFANA_LOGIN
    if not password.exists():
        write_whole(password, secrets.token_urlsafe(18).encode(), mode=0o600)
    grafana = volumes / "grafana"
    grafana.chmod(0o755)  # Grafana runs as its own user; only Grafana mounts this volume
    _copy(password, grafana / GRAFANA_LOGIN, mode=0o444)


def _copy(source: Path, target: Path, *, mode: int) -> None:
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        write_whole(target, data, mode=mode)


def main(station: Path, volumes: Path) -> None:
    vault = volumes / "all"
    identity = found_station(Layout(station), SystemClock(), RandomIds(), secrets_dir=vault)
    hand_out(vault, volumes)
    audit = station / "audit"
    audit.mkdir(exist_ok=True)
    audit.chmod(0o775)  # the broker, of our group but another user, keeps its log there too
    sys.stdout.write(f"station {identity.station_id} stands in {station}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
