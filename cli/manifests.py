"""Manifests of outside programs' domains on the operator's side: written from flags, signed with the operator's key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chassis.canonical import canonical_json, digest
from chassis.clock import iso
from chassis.consent import folder_of
from chassis.domains import DomainManifest, Level, load_domains
from chassis.errors import InvalidInput, NotFound, Refused, Unavailable
from chassis.layout import DEPLOY, Layout
from cli.reach import Reach

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, not re-exported

    from chassis.domain_book import DomainBook
    from chassis.operator_keys import Trusted

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


def ending_soon(reach: Reach) -> list[dict[str, str]]:
    """Domains that end soon or have ended, as the overseer sees them. It is asked only if the files name any."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    from chassis.domain_book import ending

    now = reach.clock.now()
    if not any(ending(each, now) for each in book(reach).admitted()):
        return []
    listed = reach.cbo().ListDomains(pb.ListDomainsRequest()).domains
    return [
        {"domain": each.domain, "warning": each.warning, "answer_with": f"calyx domain renew {each.domain}"}
        for each in listed
        if each.warning
    ]


def make_key(reach: Reach, name: str) -> dict[str, Any]:
    """A key pair of this station's operator. Raises Duplicate when it is there."""
    from chassis import operator_keys

    private = _keys(reach) / f"{name}.key"
    public = reach.layout.operator_keys / f"{name}.pub"
    made = operator_keys.make_key(private, public)
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


def trusted(reach: Reach) -> "Trusted":
    from chassis.operator_keys import trusted_keys

    return trusted_keys(reach.layout.operator_keys)


def first_key(reach: Reach, given: str = "") -> str:
    """Makes the station's first key where nobody has one yet, and says where it lies; empty where there is one.

    Raises NotFound where others sign here, with keys whose private halves are elsewhere: none is made behind them.
    """
    if key_name(reach, given):
        return ""
    if trusted(reach).keys:
        raise NotFound(
            "no private key lies here, but keys count already: sign with `ssh-keygen -Y sign -n calyx-domain`, or make "
            "one with `calyx domain keygen`"
        )
    return str(make_key(reach, USUAL_KEY)["private"])


def one_signature_is_enough(reach: Reach) -> None:
    """Raises Refused where more than one person has to sign."""
    if (required := trusted(reach).required) > 1:
        raise Refused(
            f"{required} have to sign here: make it with `calyx domain new … --sign`, have it signed again with "
            "`calyx domain sign FILE`, then `calyx domain approve FILE`"
        )


def renewed(reach: Reach, name: str, days: int) -> tuple[bytes, str]:
    """The next edition of an admitted domain, ready to be signed, and why the present one does not count (empty: it
    does). Raises NotFound, InvalidInput, Refused, Unavailable."""
    from chassis.domain_book import DOMAIN
    from chassis.signing import MAX_BYTES, read_letter, read_plain, strict_json

    if name in builtin():
        raise NotFound(f"{name} is built in: it needs no signature, and ends with its release")
    path = reach.layout.admitted / f"{name}.json"
    try:
        if not DOMAIN.fullmatch(name):
            raise FileNotFoundError
        last = strict_json(read_letter(read_plain(path, MAX_BYTES)).envelope.payload)
    except FileNotFoundError as error:
        raise NotFound(f"there is no domain {name!r} to renew; `calyx domain list` shows them") from error
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror or error}") from error
    if not isinstance(last, dict) or not isinstance(last.get("serial"), int):
        raise InvalidInput(f"{path} is no manifest; make a new one with `calyx domain new`")
    value = {
        **last, "serial": last["serial"] + 1, "previous": digest(last), "expires_at": until(reach.clock.now(), days),
    }  # fmt: skip
    value.pop("not_before", None)
    payload = canonical_json(value)
    checked(payload, reach.layout)
    return payload, book(reach).faults.get(path.name, "")


def sign(reach: Reach, payload: bytes, key: str = "") -> bytes:
    """The payload in an envelope. Raises NotFound without a key, and for one whose public half does not count here."""
    from chassis.domain_book import PAYLOAD_TYPE
    from chassis.signing import seal

    return seal(payload, PAYLOAD_TYPE, signer(reach, key))


def signer(reach: Reach, key: str = "") -> "CryptoSigner":
    """The key to sign with. Raises NotFound as `sign` does, InvalidInput when one has to be named."""
    from chassis.operator_keys import load_key

    name = key_name(reach, key)
    if not name:
        raise NotFound("there is no key to sign with; `calyx domain keygen` makes one")
    found, count = load_key(_keys(reach) / f"{name}.key"), trusted(reach)
    if found.public_key.keyid in count.revoked:
        raise NotFound(f"the key {name} was revoked; take another with --key, or make one: calyx domain keygen")
    if found.public_key.keyid not in count.keys:
        raise NotFound(
            f"the public half of {name} is not in {reach.layout.operator_keys}; put it there, or take another"
        )
    return found


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
