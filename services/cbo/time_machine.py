"""What another policy, or another ladder, would have made of the past: pure, from what the records keep.

Every question to the gates is asked again with the same inputs. A draft policy replaces the policy gate's rules, other
terms the level; what the other gates looked at stays as it was. Under the same policy and terms every answer comes out
as it was, word by word. What did not happen has no end: the past is judged by how the tasks that ran ended.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from chassis.canonical import Json
from chassis.clock import iso
from chassis.domains import Level
from chassis.errors import InvalidInput
from chassis.policy import RuleSet
from services.cbo.autonomy_evaluator import Standing
from services.cbo.autonomy_evaluator import Terms as LadderTerms
from services.cbo.gate_log import NOBODY_ASKED, Asked, Entry, Tally, answer, answers_of
from services.cbo.gates import careful, gone
from services.cbo.history import End, History
from services.cbo.ladder_log import Taken

EXAMPLES = 20
_FIXED = ("max_level", "void")
ADJUSTABLE = {each.name: each.default for each in fields(LadderTerms) if each.name not in _FIXED}
"""The ladder's numbers that a draft may change, with what they are."""


def terms_of(changed: Mapping[str, float]) -> dict[str, float]:
    """Ladder terms as asked for, each of its own type. Raises InvalidInput that names them."""
    made: dict[str, float] = {}
    for name, value in changed.items():
        if name not in ADJUSTABLE:
            raise InvalidInput(f"the ladder has no term {name!r}; there are {', '.join(ADJUSTABLE)}")
        whole = isinstance(ADJUSTABLE[name], int)
        if not value >= 0 or value > 1e6 or (whole and value != int(value)):
            raise InvalidInput(f"{name} is a {'whole ' if whole else ''}number from 0 on, not {value:g}")
        made[name] = int(value) if whole else value
    return made


@dataclass(slots=True)
class _Course:
    """One domain on the ladder, as its questions found it; pulses count from one question to the next."""

    level: Level
    first_execute: int | None = None
    at_execute: int = 0
    changes: int = 0
    since: int = 0

    def move(self, level: Level, pulse: int) -> None:
        if self.level is Level.EXECUTE:
            self.at_execute += max(0, pulse - self.since)
        self.since = max(self.since, pulse)
        if level is self.level:
            return
        self.level, self.changes = level, self.changes + 1
        if level is Level.EXECUTE and self.first_execute is None:
            self.first_execute = pulse

    def to_json(self) -> Json:
        return {
            "level": self.level.name,
            "first_execute_pulse": self.first_execute,
            "pulses_at_execute": self.at_execute,
            "level_changes": self.changes,
        }


class _Ladders:
    """The ladder as it would have been, moved along with the questions; as it was, they say themselves."""

    def __init__(self, history: History, changed: Mapping[str, float]) -> None:
        self._entries = iter(history.ladder)
        self._next: tuple[int, Taken] | None = next(self._entries, None)
        self._changed = changed
        self._would: dict[str, Standing] = dict(history.standings)
        self.courses: dict[str, tuple[_Course, _Course]] = {}

    def _to(self, number: int) -> None:
        """Take in every entry up to this number."""
        while self._next is not None and self._next[0] <= number:
            taken = self._next[1]
            self._would[taken.domain] = taken.after(self._would.get(taken.domain), **self._changed)
            self._next = next(self._entries, None)

    def asked(self, asked: Asked, pulse: int) -> Asked:
        """At the level at which the domain would have stood; as it was where that is the same."""
        self._to(asked.ladder)
        domain = asked.request.domain
        would = self._would.get(domain)
        level = asked.earned if would is None else would.level
        for course, stood in zip(self._courses(domain, asked.earned, pulse), (asked.earned, level), strict=True):
            course.move(stood, pulse)
        if asked.approved_by or would is None or level is asked.earned:
            return asked
        stands = careful(min(level, asked.most), asked.unconfirmed, asked.undrilled)
        return asked.at_level(stands, probation=would.probation)

    def _courses(self, domain: str, level: Level, pulse: int) -> tuple["_Course", "_Course"]:
        if domain not in self.courses:
            first = pulse if level is Level.EXECUTE else None
            self.courses[domain] = (_Course(level, first, since=pulse), _Course(level, first, since=pulse))
        return self.courses[domain]


@dataclass(slots=True)
class _Task:
    """What became of one task, and what would have."""

    domain: str
    at: datetime
    was: str = ""
    would: str = ""
    was_first: int | None = None
    would_first: int | None = None
    waits: bool = False
    reason: str = ""
    rule: str = ""
    level_was: Level | None = None
    level_would: Level | None = None
    admission_unknown: bool = False


@dataclass(slots=True)
class Replay:
    """The whole finding; `to_json` is what people and scripts get."""

    questions: int = 0
    first: datetime | None = None
    last: datetime | None = None
    pulses: set[int] = field(default_factory=set)
    differing: int = 0
    differing_gates: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, _Task] = field(default_factory=dict)


def replay(
    history: History, rules: RuleSet, since: datetime, changed: Mapping[str, float] | None = None
) -> tuple[Replay, dict[str, tuple[Json, Json]]]:
    """Ask every question since then again. Earlier entries (a day of them) only fill the budgets.

    The second part is each domain's course on the ladder, as it was and as it would have been; empty without terms.
    """
    found, tally = Replay(), Tally()
    ladders = _Ladders(history, changed) if changed else None
    ahead: set[str] = set()  # went under the draft while in truth they waited: later questions are not asked
    for entry in history.entries:
        if entry.at < since:
            tally.take(entry.at, entry.pulse, entry.task, entry.rule, entry.verdict)
            continue
        _one(found, entry, rules, tally, ladders, ahead)
    if ladders is None:
        return found, {}
    last = max(found.pulses, default=0)
    courses = {}
    for domain, (was, would) in sorted(ladders.courses.items()):
        was.move(was.level, last)
        would.move(would.level, last)
        courses[domain] = (was.to_json(), would.to_json())
    return found, courses


def _one(found: Replay, entry: Entry, rules: RuleSet, tally: Tally, ladders: _Ladders | None, ahead: set[str]) -> None:
    found.questions += 1
    found.first = found.first or entry.at
    found.last = entry.at
    found.pulses.add(entry.pulse)
    found.policies[entry.rules] += 1
    known = entry.asked
    task = found.tasks.get(entry.task)
    if task is None:
        task = found.tasks[entry.task] = _Task(domain=entry.domain, at=entry.at)
    if known is None:
        gated, rule, asked = gone(entry.domain), "", None
    else:
        asked = known if ladders is None else ladders.asked(known, entry.pulse)
        admit = (entry.admission or NOBODY_ASKED).give
        used = tally.used(rules.about(entry.domain), entry.pulse, entry.at)
        gated, rule = answer(asked, rules, entry.at, used, admit)
    if entry.task not in ahead:
        tally.take(entry.at, entry.pulse, entry.task, rule, gated.verdict)
        if gated.verdict == "go" and entry.verdict != "go":
            ahead.add(entry.task)
    said = answers_of(gated)
    if said != entry.answers:
        found.differing += 1
        found.differing_gates.update(new[0] for new, old in zip(said, entry.answers, strict=False) if new != old)
    policy = next((each for each in said if each[0] == "policy"), None)
    would = policy is not None and policy[1] == "pass"
    if entry.policy_passed and task.was_first is None:
        task.was_first = found.questions
    if would and task.would_first is None:
        task.would_first = found.questions
        task.admission_unknown = entry.admission is None and gated.verdict == "go"
    task.was, task.would = entry.verdict, gated.verdict
    if policy is not None and not would:
        task.waits, task.reason, task.rule = policy[1] == "hold", policy[2], rule
    elif would and not entry.policy_passed:
        task.reason, task.rule = policy[2] if policy else "", rule
    if asked is not None and known is not None and asked.level is not known.level:
        task.level_was, task.level_would = known.level, asked.level


def told(found: Replay, courses: Mapping[str, tuple[Json, Json]], ends: Mapping[str, End], rules: RuleSet) -> Json:
    """The finding as one JSON document. Tasks count once; how they ended stands beside each number."""
    blocked = {name: each for name, each in found.tasks.items() if each.was_first and not each.would_first}
    allowed = {name: each for name, each in found.tasks.items() if each.would_first and not each.was_first}
    both = [(name, each) for name, each in found.tasks.items() if each.was_first and each.would_first]
    earlier = dict(each for each in both if each[1].would_first < each[1].was_first)  # type: ignore[operator]  # both are set
    later = dict(each for each in both if each[1].would_first > each[1].was_first)  # type: ignore[operator]  # likewise
    moved = {name: each for name, each in found.tasks.items() if each.level_would is not None}
    return {
        "since": None if found.first is None else iso(found.first),
        "until": None if found.last is None else iso(found.last),
        "pulses": len(found.pulses),
        "questions": found.questions,
        "tasks": len(found.tasks),
        "policy": {"digest": rules.digest, "rules": len(rules.rules)},
        "policies_then": dict(found.policies),
        "same": found.differing == 0,
        "answers_differ": found.differing,
        "gates_differ": dict(found.differing_gates),
        "blocks": {**_group(blocked, ends), "held": sum(each.waits for each in blocked.values())},
        "allows": {**_group(allowed, ends), "admission_unknown": sum(e.admission_unknown for e in allowed.values())},
        "earlier": _group(earlier, ends),
        "later": _group(later, ends),
        "changes": _changes({"blocks": blocked, "allows": allowed, "earlier": earlier, "later": later}, ends),
        "ladder": [_rung(domain, *pair) for domain, pair in courses.items()],
        "levels": _levels(moved, ends),
        "examples": [
            {
                "task": name, "domain": each.domain, "at": iso(each.at), "was": each.was, "would": each.would,
                "rule": each.rule, "reason": each.reason, "ended": ends.get(name, "not run"),
            }
            for name, each in [*blocked.items(), *allowed.items()][:EXAMPLES]
        ],
    }  # fmt: skip


def _group(tasks: Mapping[str, _Task], ends: Mapping[str, End]) -> Json:
    return {"tasks": len(tasks), "ended": dict(Counter(ends.get(name, "not run") for name in tasks))}


def _changes(groups: Mapping[str, Mapping[str, _Task]], ends: Mapping[str, End]) -> list[Json]:
    """One row for each kind of change, domain and rule."""
    rows: dict[tuple[str, str, str], dict[str, _Task]] = {}
    for change, tasks in groups.items():
        for name, each in tasks.items():
            rows.setdefault((change, each.domain, each.rule), {})[name] = each
    return [
        {"change": change, "domain": domain, "rule": rule, **_group(tasks, ends)}
        for (change, domain, rule), tasks in rows.items()
    ]


def _rung(domain: str, was: Json, would: Json) -> Json:
    first, second = was["first_execute_pulse"], would["first_execute_pulse"]
    return {
        "domain": domain,
        "was": was,
        "would": would,
        "execute_earlier_pulses": first - second if first is not None and second is not None else None,
    }


def _levels(moved: Mapping[str, _Task], ends: Mapping[str, End]) -> list[Json]:
    rows: dict[tuple[str, str, str], dict[str, _Task]] = {}
    for name, each in moved.items():
        assert each.level_was is not None and each.level_would is not None
        rows.setdefault((each.domain, each.level_was.name, each.level_would.name), {})[name] = each
    return [
        {"domain": domain, "was": was, "would": would, **_group(tasks, ends)}
        for (domain, was, would), tasks in sorted(rows.items())
    ]


def in_words(result: Mapping[str, Any]) -> list[str]:
    """A few sentences; the first says the most."""
    blocks, allows = result["blocks"], result["allows"]
    if not result["questions"]:
        return ["There is no history to replay in this time: nothing was asked of the gates."]
    said = [f"{result['pulses']} pulses, {result['tasks']} tasks, {result['questions']} questions to the gates."]
    if result["same"]:
        said.append("Every gate would have answered exactly as it did.")
    if blocks["tasks"]:
        held = f" ({blocks['held']} of them only held until later)" if blocks["held"] else ""
        said.append(f"Blocks {_tasks(blocks['tasks'])} that went{held}, {_ended(blocks)}.")
    if allows["tasks"]:
        unknown = allows["admission_unknown"]
        doubt = f"; of {unknown} the governor was never asked" if unknown else ""
        said.append(f"Allows {_tasks(allows['tasks'])} that were blocked{doubt}.")
    if result["earlier"]["tasks"]:
        said.append(f"Lets {_tasks(result['earlier']['tasks'])} go earlier, {_ended(result['earlier'])}.")
    if result["later"]["tasks"]:
        said.append(f"Lets {_tasks(result['later']['tasks'])} go later, {_ended(result['later'])}.")
    said += [line for rung in result["ladder"] if (line := _climbed(rung))]
    for each in result["levels"]:
        said.append(
            f"{_tasks(each['tasks'])} of {each['domain']} would have been at {each['would']} instead of "
            f"{each['was']}, {_ended(each)}."
        )
    if len(said) == 1:
        said.append("No task would have fared otherwise; only reasons differ.")
    return said


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _ended(group: Mapping[str, Any]) -> str:
    ended: Mapping[str, int] = group["ended"]
    well, badly = ended.get("well", 0), ended.get("badly", 0)
    rest = [f"{number} {how}" for how, number in sorted(ended.items()) if how not in ("well", "badly")]
    return ", ".join([f"{well} of which ended well", f"{badly} badly", *rest])


def _climbed(rung: Mapping[str, Any]) -> str:
    domain, was, would = rung["domain"], rung["was"], rung["would"]
    first, second = was["first_execute_pulse"], would["first_execute_pulse"]
    if was == would:
        return ""
    spent = f"{would['pulses_at_execute']} instead of {was['pulses_at_execute']} pulses at EXECUTE"
    if first is None and second is not None:
        return f"{domain} would have reached EXECUTE in pulse {second}; it never did. {spent}."
    if second is None and first is not None:
        return f"{domain} would not have reached EXECUTE, which it did in pulse {first}. {spent}."
    if first is not None and second is not None and first != second:
        way = "earlier" if second < first else "later"
        number = abs(first - second)
        return f"{domain} would have reached EXECUTE {number} pulse{'' if number == 1 else 's'} {way}; {spent}."
    return f"{domain}: {spent}, {would['level_changes']} instead of {was['level_changes']} level changes."
