"""Manifests of outside programs' domains on the operator's side: written from flags, signed with the operator's key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.consent import folder_of
from chassis.domains import DomainManifest, Level, load_domains
from chassis.errors import InvalidInput, NotFound, Unavailable
from chassis.layout import DEPLOY, Layout
from cli.reach import Reach

if TYPE_CHECKING:
    from chassis.domain_book import DomainBook

USUAL_KEY = "operator"
DAYS = 90
"""How long an edition lasts unless said otherwise; the overseer takes no longer one."""
USUAL_FILES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a person says of an outside program. `ttl` is how long one task may take."""

    name: str
    owner: str
    title: str = ""
    paths: Sequence[str] = ()
    effects: str = ""
    procedures: Sequence[str] = ()
    probes: Sequence[str] = ()
    undo_by: str = ""
    rehearses: bool = True
    ttl: timedelta = timedelta(minutes=10)
    max_level: str = Level.EXECUTE.name
    attempts: int = 1
    files: int = USUAL_FILES
    days: int = DAYS
    serial: int = 0
    """0: one more than the last edition's."""

    def manifest(self, reach: Reach) -> bytes:
        """Canonical JSON, ready to be signed. Raises InvalidInput, NotFound, Refused for what can't be declared."""
        layout, now = reach.layout, reach.clock.now()
        paths = list(dict.fromkeys(str(folder_of(_full(each), layout.root)) for each in self.paths))
        last = book(reach).get(self.name)
        undo_by = self.undo_by or (self.owner if self.rehearses else "governor")
        usual = ["file_digest"] if paths else ["process"]
        ttl_seconds, title = self.ttl.total_seconds(), self.title or f"{self.name}, done by {self.owner}"
        value: dict[str, Any] = {
            "domain": self.name,
            "title": title,
            "serial": self.serial or (1 if last is None else last.serial + 1),
            "owner": self.owner,
            "prober": "guardian",
            "effects": self.effects or ("reversible" if paths else "none"),
            "start_level": min(Level.GUIDE, _level(self.max_level)).name,
            "max_level": self.max_level,
            "procedures": list(self.procedures) or ["run"],
            "probes": list(self.probes) or (usual if undo_by == self.owner else []),
            "limits": {
                "fast_s": 0.15 * ttl_seconds,
                "slow_s": 1.5 * ttl_seconds,
                "small_files": self.files,
                "large_files": 10 * self.files,
            },
            "ttl_seconds": ttl_seconds,
            "max_attempts": self.attempts,
            "paths": paths,
            "objective": title,
            "undo_by": undo_by,
            "rehearses": self.rehearses,
            "expires_at": until(now, self.days),
        }
        if last is not None and last.signed_by:
            value["previous"] = last.digest
        payload = canonical_json(value)
        checked(payload, layout)
        return payload


def until(now: datetime, days: int) -> str:
    """When an edition made now ends. Raises InvalidInput."""
    if not 1 <= days <= DAYS:
        raise InvalidInput(f"--days is 1 to {DAYS}")
    return iso(now + timedelta(days=days))


def checked(payload: bytes, layout: Layout) -> DomainManifest:
    """The manifest, as the overseer will read it. Raises InvalidInput, Refused."""
    from chassis.domain_book import read_manifest

    return read_manifest(payload, layout, builtin())


def builtin() -> dict[str, DomainManifest]:
    return load_domains(DEPLOY / "domains")


def book(reach: Reach) -> "DomainBook":
    """The station's domains as any of its services sees them."""
    from chassis.domain_book import DomainBook

    return DomainBook(reach.layout, builtin(), reach.clock)


def make_key(reach: Reach, name: str) -> dict[str, Any]:
    """A key pair of this station's operator. Raises Duplicate when it is there."""
    from chassis import signing

    private = _keys(reach) / f"{name}.key"
    public = reach.layout.operator_keys / f"{name}.pub"
    made = signing.make_key(private, public)
    return {"name": name, "keyid": made.keyid, "private": str(private), "public": str(public)}


def key_name(reach: Reach, given: str = "") -> str:
    """Which key signs: the one named, else `operator`, else the only one; empty where there is none yet.

    Raises InvalidInput when there are several to choose from.
    """
    if given:
        return given
    there = sorted(path.stem for path in _keys(reach).glob("*.key"))
    if USUAL_KEY in there or len(there) == 1:
        return USUAL_KEY if USUAL_KEY in there else there[0]
    if there:
        raise InvalidInput(f"there are several keys, say which with --key: {', '.join(there)}")
    return ""


def sign(reach: Reach, payload: bytes, key: str = "") -> bytes:
    """The payload in an envelope. Raises NotFound without a key, and for one whose public half is not here."""
    from chassis import signing
    from chassis.domain_book import PAYLOAD_TYPE

    name = key_name(reach, key)
    if not name:
        raise NotFound("there is no key to sign with; `calyx domain keygen` makes one")
    signer = signing.load_key(_keys(reach) / f"{name}.key")
    if signer.public_key.keyid not in signing.trusted_keys(reach.layout.operator_keys).keys:
        raise NotFound(
            f"the public half of {name} is not in {reach.layout.operator_keys}; put it there, or take another"
        )
    return signing.seal(payload, PAYLOAD_TYPE, signer)


def _keys(reach: Reach) -> Path:
    """Where the private halves are: beside the operator's token."""
    from chassis.settings import StationSettings, load

    return (load(StationSettings, "calyx").secrets_dir or reach.layout.secrets) / "operators"


def _full(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _level(name: str) -> Level:
    try:
        return Level[name]
    except KeyError as error:
        raise InvalidInput("--max-level is OBSERVE, SUGGEST, GUIDE or EXECUTE") from error


def station_of(reach: Reach) -> Layout:
    """Raises Unavailable where no station was founded."""
    if not reach.layout.identity.exists():
        raise Unavailable(f"there is no station in {reach.layout.root}; `calyx up` makes one, --station picks another")
    return reach.layout
