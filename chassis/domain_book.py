"""The domains of a station as they are now: the built-in ones, and those of outside programs that a person admitted.

An admitted one is a signed envelope, `config/domains/<domain>.json`. Who reads it here verifies it again, so that a
file which was put there or changed by anybody but a holder of an operator key counts for nothing. Whether it may run
now (approved, not revoked, in time) is the CBO's to say; this is what it is.
"""

import re
import threading
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chassis.canonical import canonical_json
from chassis.clock import Clock
from chassis.consent import forbidden
from chassis.domains import DomainManifest, Level, folder_state
from chassis.errors import CalyxError, InvalidInput, Refused
from chassis.layout import SERVICES, Layout
from chassis.operator_keys import REVOKED, THRESHOLD, Trusted, trusted_keys
from chassis.signing import MAX_BYTES, read_plain, strict_json, unseal

PAYLOAD_TYPE = "application/vnd.calyx.domain+json"
NAMESPACE = "calyx-domain"
"""Of OpenSSH signatures: `ssh-keygen -Y sign -n calyx-domain`."""
DOMAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
OWNER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_DOMAINS = 1000
MAX_PATHS = 32
WARN_DAYS = (14, 3)
"""So long before its end a domain warns."""
STATION_UNDOES = "governor"
"""The station's own agent that can undo what `calyx run` journaled."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "domain": str, "title": str, "serial": int, "owner": str, "prober": str, "effects": str, "start_level": str,
    "max_level": str, "procedures": list, "probes": list, "limits": dict, "ttl_seconds": (int, float),
    "max_attempts": int, "budget": dict, "paths": list, "objective": str, "params": dict, "undo_by": str,
    "rehearses": bool, "not_before": str, "expires_at": str, "previous": str,
    "windows": list, "metrics": dict, "undo_on_regression": bool, "watch": dict, "checks": list,
}  # fmt: skip
CHECKS = frozenset({"absent", "file_digest", "json_fields", "none_left", "sqlite"})
"""Kinds that a manifest from outside may ask for: they look at files."""
MAX_LOOKS = 32
LAST_LOOK_SECONDS = 30 * 86400.0
"""As long as the journal can give back what was there before."""
_LIMITS = {"fast_s", "slow_s", "small_files", "large_files"}


def read_manifest(payload: bytes, layout: Layout, builtin: Mapping[str, DomainManifest]) -> DomainManifest:
    """A manifest for an outside program, from the bytes that were (or will be) signed.

    Raises InvalidInput for what is no such manifest, Refused for one that asks for what nobody outside may have.
    """
    raw = strict_json(payload)
    _shape(raw)
    try:
        canonical = canonical_json(raw)
    except ValueError as error:
        raise InvalidInput(f"domain manifest: {error}") from error
    if canonical != payload.removesuffix(b"\n"):  # OpenSSH signs the file, and a file of text ends in a newline
        raise InvalidInput("domain manifest: it is not canonical JSON; `calyx domain sign [--plain]` makes it so")
    manifest = DomainManifest.from_mapping(raw)
    if why := refusal(manifest, layout, builtin):
        raise Refused(f"{manifest.domain}: {why}")
    return manifest


def refusal(manifest: DomainManifest, layout: Layout, builtin: Mapping[str, DomainManifest]) -> str:
    """Why a program from outside can't have this domain, whoever signs it; empty when it can."""
    station = layout.root.resolve()
    bad_path = next(((path, why) for path in manifest.paths if (why := forbidden(Path(path), station))), None)
    rules = (
        (not DOMAIN.fullmatch(manifest.domain), "its name must be a-z, 0-9, - and _, at most 60"),
        (manifest.domain in builtin, "this is the name of a built-in domain"),
        (
            not OWNER.fullmatch(manifest.owner),
            f"{manifest.owner!r} is no agent's name: a-z, 0-9, - and _, at most 40",
        ),
        (manifest.owner in (*SERVICES, "operator"), f"{manifest.owner} is part of the station; name the agent outside"),
        (manifest.prober not in SERVICES, f"{manifest.prober!r} is no service; guardian looks at the work of others"),
        (
            manifest.undo_by not in (manifest.owner, STATION_UNDOES),
            f"undo_by is the owner or {STATION_UNDOES}, not {manifest.undo_by!r}",
        ),
        (manifest.start_level > Level.GUIDE, "it starts at GUIDE at most; EXECUTE is earned"),
        (manifest.start_level > manifest.max_level, "it can't start above its max_level"),
        (manifest.expires_at is None, "it needs an expires_at"),
        (
            manifest.not_before is not None
            and manifest.expires_at is not None
            and manifest.not_before >= manifest.expires_at,
            "it expires before it begins",
        ),
        (manifest.serial < 1, "its serial is 1 or more"),
        (
            manifest.every_pulse or manifest.every is not None,
            "an outside program is not scheduled by its manifest; add an objective",
        ),
        (not 1 <= manifest.ttl_seconds <= 86400, "ttl_seconds is 1 to 86400"),
        (not 1 <= manifest.max_attempts <= 10, "max_attempts is 1 to 10"),
        (manifest.per_pulse < 1 or manifest.per_day < 1, "a budget is 1 or more"),
        (len(manifest.paths) > MAX_PATHS, f"it names more than {MAX_PATHS} paths"),
        (bool(manifest.paths) and manifest.effects == "none", "it declares paths to change, and effects none"),
        (not all(map(_WORD.fullmatch, manifest.procedures)), "a procedure is a short word"),
    )
    for broken, why in rules:
        if broken:
            return why
    if why := _looks(manifest):
        return why
    if bad_path is not None:
        return f"{bad_path[0]} can't be declared: {bad_path[1]}"
    wild = next((path for path in manifest.paths if str(Path(path)) != path or "{" in path), None)
    return "" if wild is None else f"{wild!r} is not written plainly; name the folder in full"


def _looks(manifest: DomainManifest) -> str:
    """Why its work can't be looked at as it says; empty when it can. What it may fill in itself would check nothing."""
    windows, folders, grows = manifest.windows or {}, manifest.watched.folders, manifest.watched.grows
    if max(len(windows), len(manifest.checks), len(grows)) > MAX_LOOKS:
        return f"it names more than {MAX_LOOKS} windows, checks or files that grow"
    if late := next((name for name, seconds in windows.items() if seconds > LAST_LOOK_SECONDS), ""):
        return f"the window {late} ends after 30 days, when the journal has let go"
    if manifest.undo_on_regression and manifest.effects != "reversible":
        return "undo_on_regression needs effects: reversible"
    if folders is not None and not folders:
        return "watch.folders names no folder; leave it out, and its paths are watched"
    if wide := next((each for each in folders or () if not _under(each, manifest.paths)), ""):
        return f"it watches {wide}, which is not under its paths"
    if odd := next((each for each in grows if "/" in each), ""):
        return f"watch.grows takes names as *.log, not {odd!r}"
    return next((why for each in manifest.checks if (why := _unfit(each, manifest.paths))), "")


def _unfit(check: Mapping[str, Any], paths: Sequence[str]) -> str:
    from chassis.probing import KINDS

    kind, target, expect = check["kind"], check["target"], check["expect"]
    if kind not in CHECKS:
        return f"there is no check {kind!r} for it; there are {', '.join(sorted(CHECKS))}"
    if "{" in "".join((target, *expect.values())):
        return f"the check of {target} is not written out; the doer must not fill in what it is held against"
    if not _under(target, paths) or (kind != "none_left" and target in paths):
        return f"it checks {target}, which is not under its paths"
    _, known, needed = KINDS[kind]
    wrong = sorted((set(expect) - known if known is not None else set()) | (needed - set(expect)))
    if wrong or (known is None and not expect):
        takes = "at least one field" if known is None else ", ".join(sorted(known)) or "nothing"
        return f"the check {kind} of {target} takes {takes}"
    return ""


def _under(path: str, folders: Sequence[str]) -> bool:
    plain = str(Path(path)) == path and ".." not in Path(path).parts
    return plain and any(Path(path).is_relative_to(each) for each in folders)


def _shape(raw: Any) -> None:
    """Types as written, before anything is converted. Raises InvalidInput that names the key."""
    if not isinstance(raw, dict):
        raise InvalidInput("a domain manifest is a JSON object")
    for key, value in raw.items():
        kind = _TYPES.get(key)
        if kind is None:
            raise InvalidInput(f"domain manifest: unknown key {key[:60]!r}; remove it")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput(f"domain manifest: {key} has the wrong type")
        if isinstance(value, str) and (len(value) > 2000 or not value.isprintable()):
            raise InvalidInput(f"domain manifest: {key} is not plain text of at most 2,000 characters")
    listed = {key: raw.get(key, ()) for key in ("procedures", "probes", "paths", "windows")}
    listed |= {f"watch.{key}": value for key, value in raw.get("watch", {}).items()}
    for key, value in listed.items():
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise InvalidInput(f"domain manifest: {key[:60]} is a list of texts")
    for check in raw.get("checks", ()):
        if not isinstance(check, dict) or not all(
            isinstance(each, str)
            for each in (check.get("kind"), check.get("target"), *_values(check.get("expect", {})))
        ):
            raise InvalidInput("domain manifest: a check is {kind, target, expect}, of texts")
    if not all(points is None or type(points) in (int, float) for points in raw.get("metrics", {}).values()):
        raise InvalidInput("domain manifest: metrics map names to numbers or null")
    if not all(isinstance(each, str) for each in raw.get("params", {}).values()):
        raise InvalidInput("domain manifest: params map texts to texts")
    for key, known, whole in (("limits", _LIMITS, False), ("budget", {"per_pulse", "per_day"}, True)):
        for name, value in raw.get(key, {}).items():
            fits = type(value) is int or (type(value) is float and not whole)
            if name not in known or not fits or not 0 < value < 1e9:
                raise InvalidInput(f"domain manifest: {key} can't hold {name[:60]} {value!r}")


def _values(expect: Any) -> Sequence[Any]:
    return list(expect.values()) if isinstance(expect, dict) else [None]


def verify(raw: bytes, trusted: Trusted, layout: Layout, builtin: Mapping[str, DomainManifest]) -> DomainManifest:
    """The manifest in an envelope, with who signed it. Raises BadSignature, InvalidInput, Refused."""
    sealed = unseal(raw, PAYLOAD_TYPE, trusted, namespace=NAMESPACE)
    return replace(read_manifest(sealed.payload, layout, builtin), signed_by=sealed.signed_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A domain that ends soon or has ended. `stage`: at most this many days are left; 0: it is over."""

    domain: str
    expires_at: datetime
    stage: int
    reason: str


def ending(manifest: DomainManifest, now: datetime) -> Ending | None:
    """What to say of its end, from 14 days before it; None while there is time, and for built-in ones."""
    if manifest.expires_at is None:
        return None
    left = manifest.expires_at - now
    if left > timedelta(days=WARN_DAYS[0]):
        return None
    stage = next((days for days in reversed(WARN_DAYS) if left <= timedelta(days=days)), WARN_DAYS[0])
    when, name = f"{manifest.expires_at:%Y-%m-%d %H:%M} UTC", manifest.domain
    if left <= timedelta():
        stage, when = 0, f"{name} ended on {when}"
    else:
        soon = {0: "within a day", 1: "in 1 day"}.get(left.days, f"in {left.days} days")
        when = f"{name} ends {soon} ({when})"
    return Ending(
        domain=name,
        expires_at=manifest.expires_at,
        stage=stage,
        reason=f"{when}; `calyx domain renew {name}` writes the next edition",
    )


class DomainBook(Mapping[str, DomainManifest]):
    """A live mapping, read again when a file or key changes; whoever iterates sees the domains as they were by then.

    A domain may appear or vanish between two looks: use `get`. `faults` says which files are left out, and why.
    Thread-safe.
    """

    def __init__(self, layout: Layout, builtin: Mapping[str, DomainManifest], clock: Clock) -> None:
        self._layout, self._builtin, self._clock = layout, dict(builtin), clock
        self._folder, self._keys = layout.admitted, layout.operator_keys
        self._lock = threading.Lock()
        self._seen: object = None
        self._domains: dict[str, DomainManifest] = dict(builtin)
        self._faults: dict[str, str] = {}
        self._trusted = Trusted(keys={})

    def __getitem__(self, domain: str) -> DomainManifest:
        return self.now()[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self.now())

    def __len__(self) -> int:
        return len(self.now())

    def items(self) -> ItemsView[str, DomainManifest]:
        """As they are at one moment, like keys and values: one look, not one for each."""
        return self.now().items()

    def keys(self) -> KeysView[str]:
        return self.now().keys()

    def values(self) -> ValuesView[DomainManifest]:
        return self.now().values()

    @property
    def faults(self) -> Mapping[str, str]:
        """File name → why it counts for nothing."""
        self.now()
        return self._faults

    @property
    def trusted(self) -> Trusted:
        """The keys by which they were verified: another object when a key has changed."""
        self.now()
        return self._trusted

    def now(self) -> Mapping[str, DomainManifest]:
        """All of them at one moment; it does not change any more."""
        with self._lock:
            seen = (
                _seen(self._folder, ".json"),
                _seen(self._keys, (".pub", THRESHOLD, REVOKED)),
                _seen(self._keys / REVOKED, ".pub"),
            )
            if seen != self._seen:
                self._read()
                self._seen = seen
            return self._domains

    def admitted(self) -> tuple[DomainManifest, ...]:
        """Those of outside programs."""
        return tuple(each for each in self.now().values() if each.signed_by)

    def folders(self, undo_by: str = "") -> list[Path]:
        """Folders that admitted domains declare (only those whose undo is this agent's, if named), as far as they are
        there and still are what was declared: none that became a link. In time or not: what was done can be undone."""
        declared = {
            Path(path) for each in self.admitted() if not undo_by or each.undo_by == undo_by for path in each.paths
        }
        return sorted(path for path in declared if path.is_dir() and path.resolve() == path)

    def out_of_time(self, domain: str) -> str:
        """Why its dates keep it from running now; empty when they don't. Raises KeyError."""
        return self[domain].out_of_time(self._clock.now())

    def _read(self) -> None:
        trusted = trusted_keys(self._keys)
        domains, faults = dict(self._builtin), {f"keys/operators/{name}": why for name, why in trusted.faults.items()}
        if trusted.broken:
            faults["keys/operators"] = trusted.broken
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            names = []
        except OSError as error:
            names, faults[str(self._folder)] = [], f"can't be listed: {error.strerror}"
        for name in names[MAX_DOMAINS:]:
            faults[name] = f"more than {MAX_DOMAINS} domains"
        for name in names[:MAX_DOMAINS]:
            try:
                raw = read_plain(self._folder / name, MAX_BYTES)
                manifest = verify(raw, trusted, self._layout, self._builtin)
                if f"{manifest.domain}.json" != name:
                    raise Refused(f"it is the manifest of {manifest.domain}")
                domains[manifest.domain] = manifest
            except CalyxError as error:
                faults[name] = error.message
            except OSError as error:
                faults[name] = f"can't be read: {error.strerror or error}"
        self._domains, self._faults = domains, faults
        if trusted != self._trusted:
            self._trusted = trusted


def _seen(folder: Path, suffix: str | tuple[str, ...]) -> object:
    """What changes when something in the folder does."""
    try:
        return folder_state(folder, suffix)
    except OSError as error:
        return error.errno
