"""One objective becomes a task, or does not, with all that it rests on by value: for the record, and for its replay."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.domains import DomainManifest, Level
from chassis.rng import Rng
from services.cbo.planner import Candidate, Choice, again
from services.cbo.ports import Summary
from services.cbo.posterior import Posterior


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What planning looks at in a manifest, and where its domain stands."""

    owner: str
    procedures: tuple[str, ...]
    params: Mapping[str, str]
    level: Level

    @classmethod
    def of(cls, manifest: DomainManifest, level: Level) -> Self:
        return cls(
            owner=manifest.owner, procedures=manifest.procedures, params=dict(manifest.params), level=level
        )  # fmt: skip

    def with_params(self, wished: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """A task's params, and the procedures that may be chosen: only one where the wish names it."""
        params = {**self.params, **wished}
        pinned = params.pop("procedure", "")
        return params, (pinned,) if pinned else self.procedures


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One objective that was due. `there` are those of the domains in question that exist, `same_words` the first
    whose own objective reads the same. `matches` are empty where the task that was made holds them."""

    objective: str
    there: tuple[str, ...]
    same_words: str
    matches: tuple[Json, ...] = ()
    summaries: tuple[Summary, ...] = ()
    declared: Declared | None = None
    waiting: bool = False
    """A proposal of this objective waits for a person already."""
    candidates: tuple[Candidate, ...] = ()
    how: Json = field(default_factory=dict)
    made: bool = False

    def chosen(self, choice: Choice) -> Self:
        """It became a task, which holds the matches."""
        return replace(self, matches=(), candidates=choice.candidates, how=choice.how, made=True)

    def decide(self, rng: Rng) -> Choice:
        return again(self.candidates, self.how, rng)

    def to_json(self) -> Json:
        known = self.declared
        return {
            "objective": self.objective,
            "there": list(self.there),
            "same_words": self.same_words,
            "matches": list(self.matches),
            "summaries": [asdict(each) for each in self.summaries],
            "declared": None
            if known is None
            else {
                "owner": known.owner, "procedures": list(known.procedures), "params": dict(known.params),
                "level": known.level.name,
            },
            "waiting": self.waiting,
            "candidates": [_plain(each) for each in self.candidates],
            "how": self.how,
            "made": self.made,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        known = value["declared"]
        return cls(
            **{
                **value,
                "there": tuple(value["there"]),
                "matches": tuple(value["matches"]),
                "summaries": tuple(Summary(**each) for each in value["summaries"]),
                "declared": None
                if known is None
                else Declared(**{**known, "procedures": tuple(known["procedures"]), "level": Level[known["level"]]}),
                "candidates": tuple(_candidate(each) for each in value["candidates"]),
            }
        )


def domain_of(given: str, alike: Sequence[str], there: Sequence[str], same_words: str) -> str:
    """As the objective says; else as the nearest experience had it; else of the domain that says it in these words."""
    return given or next((each for each in alike if each in there), "") or same_words


def _plain(candidate: Candidate) -> Json:
    """Whatever a candidate holds: figures, and posteriors of several scopes."""
    made: Json = {}
    for each in fields(candidate):
        value = getattr(candidate, each.name)
        made[each.name] = {**asdict(value), "at": iso(value.at)} if isinstance(value, Posterior) else value
    return made


def _candidate(value: Mapping[str, Any]) -> Candidate:
    known: dict[str, Any] = {
        name: Posterior(**{**each, "at": parse_iso(each["at"])}) if isinstance(each, dict) else each
        for name, each in value.items()
    }
    return Candidate(**known)
