"""Once a day the heads of all audit chains are signed, so that a past written anew from its first line shows too.

`audit/checkpoints/<yyyymmdd>.json` is a DSSE envelope by the station's grant key; each names the sha256 of the one
before it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from chassis.atomic import write_whole
from chassis.canonical import canonical_json, sha256_hex
from chassis.clock import iso
from chassis.errors import CalyxError
from chassis.signing import MAX_BYTES, OperatorKey, Trusted, public_key, read_plain, strict_json, unseal

PAYLOAD_TYPE = "application/vnd.calyx.audit-checkpoint+json"

Seal = Callable[[bytes, str], bytes]
"""(payload, payload type) to a signed envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`heads` by service. `fault` says why it counts for nothing; empty: it holds."""

    name: str
    pulse: str
    heads: Mapping[str, str]
    fault: str


def folder_of(audit: Path) -> Path:
    return audit / "checkpoints"


def write_checkpoint(
    audit: Path, heads: Mapping[str, str], pulse: str, station_id: str, now: datetime, seal: Seal
) -> Path | None:
    """Sign these heads; None if the day has its checkpoint already. Raises OSError."""
    folder = folder_of(audit)
    path = folder / f"{now:%Y%m%d}.json"
    if path.exists():
        return None
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    before = [each for each in sorted(folder.glob("[0-9]*.json")) if each.name < path.name]
    payload: dict[str, Any] = {
        "schema": "calyx.audit-checkpoint/1",
        "station_id": station_id,
        "at": iso(now),
        "pulse": pulse,
        "heads": dict(heads),
        "previous": sha256_hex(before[-1].read_bytes()) if before else "",
    }
    write_whole(path, seal(canonical_json(payload), PAYLOAD_TYPE), mode=0o640)
    return path


def checkpoints(audit: Path, public: Path, station_id: str) -> list[Checkpoint]:
    """All of them, oldest first, each checked: signature, station, and that it follows the one before."""
    try:
        key = public_key(public)
    except (OSError, ValueError) as error:
        return [
            Checkpoint(name=path.name, pulse="", heads={}, fault=f"no public key to check it with: {error}")
            for path in sorted(folder_of(audit).glob("[0-9]*.json"))
        ]
    found, previous = [], None
    for path in sorted(folder_of(audit).glob("[0-9]*.json")):
        try:
            raw = read_plain(path, MAX_BYTES)
        except OSError as error:
            found.append(Checkpoint(name=path.name, pulse="", heads={}, fault=f"can't be read: {error}"))
            continue
        found.append(_check(path.name, raw, key, station_id, previous))
        previous = sha256_hex(raw)
    return found


def _check(name: str, raw: bytes, key: OperatorKey, station_id: str, previous: str | None) -> Checkpoint:
    try:
        value = strict_json(unseal(raw, PAYLOAD_TYPE, Trusted(keys={key.keyid: key})).payload)
        heads = {str(service): str(head) for service, head in value["heads"].items()}
        pulse, fault = str(value["pulse"]), ""
        if value["station_id"] != station_id:
            fault = "it is another station's"
        elif f"{value['at'][:10].replace('-', '')}.json" != name:
            fault = "it is another day's"
        elif previous is not None and value["previous"] != previous:
            fault = "the checkpoint before it was changed or removed"
        elif previous is None and value["previous"]:
            fault = "the checkpoints before it are gone"
    except CalyxError as error:
        return Checkpoint(name=name, pulse="", heads={}, fault=error.message)
    except (KeyError, TypeError, AttributeError):
        return Checkpoint(name=name, pulse="", heads={}, fault="it is no checkpoint")
    return Checkpoint(name=name, pulse=pulse, heads=heads, fault=fault)
