"""What travels through the exchange: the task manifest and its one ack."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NewType, Self, get_args

from chassis.canonical import Json, canonical_json
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput

TaskId = NewType("TaskId", str)
TASK_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
MAX_MANIFEST_BYTES = 256 * 1024
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3}|\.[0-9]{6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)

_TEXTS = (
    "objective", "rehearsal_of", "plan_digest", "approval", "undo_of", "objective_id", "pulse_id", "level",
    "policy_digest", "trace", "grant",
)  # fmt: skip

AckStatus = Literal["rehearsed", "done", "no_work", "failed", "expired", "cancelled", "undone"]
"""`no_work`: it ran and found nothing to do. `undone`: an `undo_of` task restored its target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One unit of work for one owner. Only the CBO issues it; `grant` is the CBO's signature over the rest.

    Raises InvalidInput from `from_json` for anything that is not exactly this.
    """

    station_id: str
    task_id: TaskId
    owner: str
    issuer: str
    domain: str
    procedure: str
    created_at: datetime
    expires_at: datetime
    ttl_seconds: float
    objective: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    dependencies: tuple[TaskId, ...] = ()
    max_attempts: int = 3
    priority: int = 5
    rehearsal: bool = False
    rehearsal_of: str = ""
    plan_digest: str = ""
    approval: str = ""
    undo_of: str = ""
    objective_id: str = ""
    pulse_id: str = ""
    level: str = "GUIDE"
    policy_digest: str = ""
    artifacts: tuple[Mapping[str, Any], ...] = ()
    trace: str = ""
    svf_version: str = "2.0"
    grant: str = ""
    _written: tuple[bytes, bytes, Mapping[str, str]] | None = field(default=None, init=False, repr=False, compare=False)
    """What `_around` said, and the params it said it of: all that could have changed since."""

    def to_json(self) -> Json:
        value = {name: getattr(self, name) for name in _FIELDS}
        value["created_at"], value["expires_at"] = iso(self.created_at), iso(self.expires_at)
        value["dependencies"], value["artifacts"] = list(self.dependencies), [dict(a) for a in self.artifacts]
        value["params"] = dict(self.params)
        return value

    def signed_bytes(self) -> bytes:
        """What the grant signs: the canonical JSON of everything but the grant."""
        before, after = self._around()
        return before + after

    def stored_bytes(self) -> bytes:
        """The canonical JSON of it all, as it is kept."""
        before, after = self._around()
        return b'%b"grant":%b,%b' % (before, canonical_json(self.grant), after)

    def _around(self) -> tuple[bytes, bytes]:
        """The canonical JSON before the grant and after it. Raises TypeError, ValueError, RecursionError: no JSON."""
        if self._written is not None and self._written[2] == self.params:
            return self._written[:2]
        value = self.to_json() | {"grant": ""}
        if self.artifacts:  # which may hold a grant of their own
            before = canonical_json({name: value[name] for name in _FIELDS if name < "grant"})[:-1] + b","
            return before, canonical_json({name: value[name] for name in _FIELDS if name > "grant"})[1:]
        before, _, after = canonical_json(value).partition(b'"grant":"",')  # params, which may hold one, come after
        # Kept where equal means written alike: not so with values that may be anything (1 and True).
        if all(type(each) is str for pair in self.params.items() for each in pair):
            object.__setattr__(self, "_written", (before, after, dict(self.params)))
        return before, after

    @classmethod
    def as_signed(cls, data: bytes) -> Self:
        """What these bytes say, its `signed_bytes` being the same bytes without the grant: not encoded anew.

        Only for what is then checked against its grant. The CBO signs nothing but canonical JSON without a grant, so
        what passes is canonical, and says what was signed: wherever else in it the grant could have been put in, it
        would not be the manifest's own. Raises InvalidInput, ValueError, RecursionError, as reading it all would; also
        for what only reading it all can tell.
        """
        manifest = cls._checked(json.loads(data))
        before, found, after = data.partition(b'"grant":"%b",' % manifest.grant.encode())
        if not found or not manifest.grant or manifest.artifacts:
            raise ValueError("not as the CBO writes it")
        object.__setattr__(manifest, "_written", (before, after, dict(manifest.params)))
        return manifest

    def with_grant(self, grant: str) -> Self:
        granted = replace(self, grant=grant)
        object.__setattr__(granted, "_written", self._written)
        return granted

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Build from parsed JSON, checked field by field (the JSON Schema in deploy/svf says the same)."""
        manifest = cls._checked(value)
        try:
            manifest._around()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"not a manifest: {error}") from error  # NaN, half a surrogate pair
        return manifest

    @classmethod
    def _checked(cls, value: Any) -> Self:
        if not isinstance(value, dict):
            raise InvalidInput("a manifest is a JSON object")
        if value.get("svf_version") != "2.0":
            raise InvalidInput(f"svf_version is {value.get('svf_version')!r}, this exchange speaks '2.0'")
        if unknown := value.keys() - _FIELDS.keys():
            raise InvalidInput(f"manifest has an unknown field {sorted(unknown)[0]!r}")
        try:
            made = {**value}
            for name in ("created_at", "expires_at"):
                if not _TIME.fullmatch(value[name]):
                    raise InvalidInput(f"manifest field {name} must be a time like 2026-01-31T09:30:00.000000Z")
                made[name] = parse_iso(value[name])
            for name in ("dependencies", "artifacts"):
                if not isinstance(value.get(name, []), list):
                    raise InvalidInput(f"manifest field {name} must be a list")
                made[name] = tuple(value.get(name, ()))
            manifest = cls(**made)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidInput(f"not a manifest: {error}") from error
        manifest._check()
        return manifest

    def _check(self) -> None:
        for name in ("station_id", "task_id", "owner", "issuer", "domain", "procedure"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"manifest field {name} must be a non-empty string")
        for name in ("task_id", "owner", "domain"):
            if not TASK_ID.fullmatch(getattr(self, name)):
                raise InvalidInput(f"manifest field {name} must match {TASK_ID.pattern}")
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise InvalidInput(f"manifest field {name} must be a string")
        if not all(isinstance(each, dict) for each in self.artifacts):
            raise InvalidInput("manifest artifacts are objects")
        for dependency in self.dependencies:
            if not isinstance(dependency, str) or not TASK_ID.fullmatch(dependency):
                raise InvalidInput(f"manifest dependency {dependency!r} is not a task id")
        if not isinstance(self.params, dict) or not all(
            isinstance(k, str) and isinstance(v, str) for k, v in self.params.items()
        ):
            raise InvalidInput("manifest params map strings to strings")
        if type(self.priority) is not int or not 0 <= self.priority <= 9:
            raise InvalidInput("manifest priority is 0 to 9")
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise InvalidInput("manifest max_attempts is at least 1")
        if type(self.ttl_seconds) not in (int, float) or not 0 < self.ttl_seconds <= 86400 * 90:
            raise InvalidInput("manifest ttl_seconds is above 0 and at most 90 days")
        if type(self.rehearsal) is not bool:
            raise InvalidInput("manifest rehearsal is true or false")


_FIELDS = {name: None for name in Manifest.__dataclass_fields__ if name != "_written"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The one answer to a task.

    `plan` is the rehearsed plan (GUIDE), `effects` what was changed (EXECUTE), `claims` what a prober will
    find if it is true: a list of `{"kind", "target", "expect"}` as in calyx.probe.v1.Check.
    """

    task_id: TaskId
    epoch: int
    agent: str
    status: AckStatus
    started_at: datetime
    ended_at: datetime
    duration_seconds: float
    detail: str = ""
    files_changed: int = 0
    plan: Json = field(default_factory=dict)
    plan_digest: str = ""
    effects: tuple[Json, ...] = ()
    claims: tuple[Json, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    applied: bool = False
    """Whether anything outside scratch was changed (stability 0.2 against 0.6 when it then failed)."""
    reverted: bool = False
    """Whether what was applied has been undone again after a failure."""

    def to_json(self) -> Json:
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["started_at"], value["ended_at"] = iso(self.started_at), iso(self.ended_at)
        value["effects"], value["claims"] = list(self.effects), list(self.claims)
        value["cost"] = dict(self.cost)
        return value

    @classmethod
    def from_json(cls, value: Any) -> Self:
        try:
            made = {**value}
            made["started_at"], made["ended_at"] = (
                parse_iso(value["started_at"]),
                parse_iso(value["ended_at"]),
            )
            made["effects"], made["claims"] = tuple(value.get("effects", ())), tuple(value.get("claims", ()))
            ack = cls(**made)
            ack._check()
            return ack
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidInput(f"not an ack: {error}") from error

    def _check(self) -> None:
        """Raises ValueError, TypeError: what reads acks relies on these types, whoever wrote the file."""
        if not TASK_ID.fullmatch(self.task_id) or not all(
            isinstance(each, str) for each in (self.agent, self.detail, self.plan_digest)
        ):
            raise ValueError("task_id, agent, detail and plan_digest are texts")
        if self.status not in get_args(AckStatus):
            raise ValueError("an unknown status")
        if type(self.epoch) is not int or type(self.files_changed) is not int or self.epoch < 1:
            raise ValueError("epoch and files_changed are whole numbers")
        if not all(isinstance(each, dict) for each in (self.plan, self.cost, *self.effects, *self.claims)):
            raise ValueError("plan, cost, effects and claims are objects")
        if type(self.applied) is not bool or type(self.reverted) is not bool:
            raise ValueError("applied and reverted are true or false")
        if not all(
            type(each) in (int, float) and math.isfinite(each) for each in (self.duration_seconds, *self.cost.values())
        ):
            raise ValueError("durations and costs are finite numbers")
