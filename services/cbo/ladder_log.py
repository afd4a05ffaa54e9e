"""What the ladder rests on, as the pulse records keep it: every entry with what the manifest allowed by then.

`rebuild` folds the standings from the records alone. Each record also holds the standings as the CBO kept them, so
that the fold can begin at the oldest record there is, and so that a standing nobody earned is found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from chassis.domains import Level
from chassis.errors import Damaged
from services.cbo.autonomy_evaluator import Entry, Standing, Terms, step


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One entry as it was taken in: under which limit, and where a domain without a past began."""

    domain: str
    entry: Entry
    max_level: Level
    start_level: Level
    void: str = ""

    def after(self, before: Standing | None, **changed: Any) -> Standing:
        """The standing with this entry in it; None before the first. `changed`: terms other than the station's."""
        terms = Terms(max_level=self.max_level, void=self.void, **changed)
        return step(before or begin(self.start_level), self.entry, terms)

    def to_json(self) -> dict[str, Any]:
        forced = self.entry.forced
        entry = {**asdict(self.entry), "forced": None if forced is None else int(forced)}
        return {
            "domain": self.domain,
            "entry": entry,
            "max_level": int(self.max_level),
            "start_level": int(self.start_level),
            "void": self.void,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            domain=value["domain"],
            entry=entry_from_json(value["entry"]),
            max_level=Level(value["max_level"]),
            start_level=Level(value["start_level"]),
            void=value["void"],
        )


def entry_from_json(value: Mapping[str, Any]) -> Entry:
    """Of this version or an older one; keys of a newer one are left out."""
    known = {each.name: value[each.name] for each in fields(Entry) if each.name in value}
    forced = known.pop("forced", None)
    return Entry(**known, forced=None if forced is None else Level(forced))


def begin(start_level: Level) -> Standing:
    return Standing(level=start_level, reason=f"starts at {start_level.name} by its manifest")


def rebuild(records: Iterable[Mapping[str, Any]]) -> dict[str, Standing]:
    """Every domain's standing as of the last of these pulse records (oldest first).

    Where they begin later than the station did, the fold begins at the standings in the first of them. Interrupted
    pulses hold nothing; what was taken in then is in the next whole record. Raises Damaged when one is missing.
    """
    standings: dict[str, Standing] = {}
    last: int | None = None
    for record in records:
        log = record["critique"].get("ladder_log")
        if log is None:
            continue  # interrupted, or written before records kept this
        if last is None and log["after"] > 0:
            standings = standings_of(record)
        elif log["after"] != (last or 0):
            raise Damaged(f"ladder entries {(last or 0) + 1} to {log['after']} are missing before {record['id']}")
        else:
            for each in map(Taken.from_json, log["entries"]):
                standings[each.domain] = each.after(standings.get(each.domain))
        last = log["after"] + len(log["entries"])
    return standings


def standings_of(record: Mapping[str, Any]) -> dict[str, Standing]:
    """As the CBO kept them at the end of this pulse."""
    kept: Mapping[str, Any] = record["critique"]["ladder_log"]["standings"]
    return {domain: Standing.from_json(value) for domain, value in kept.items()}
