"""Each section of a pulse record, decided again from the others: (what was recorded, what comes out now). Pure.

The inputs are those parts that came from outside: readings, acks, what memory recalled, what probers and the governor
answered, random seeds and times. What follows from them goes through the same functions that decided the first time.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import chassis.rng
from chassis.canonical import Json
from chassis.clock import parse_iso
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from chassis.policy import RuleSet
from chassis.rng import Rng
from services.cbo import objectives
from services.cbo.autonomy_evaluator import Standing, Terms
from services.cbo.gate_log import NOBODY_ASKED, Entry, answer, answers_of
from services.cbo.gates import Gated, careful, gone
from services.cbo.judging import Judged, Look, Seen, entries_of, heard_from_json, judge
from services.cbo.judging import Terms as JudgingTerms
from services.cbo.ladder import Changed, rung_of
from services.cbo.ladder_log import Taken
from services.cbo.measured import Measured
from services.cbo.objectives import Objective, Schedule
from services.cbo.pulse import Planned
from services.cbo.record import (
    calibration_json,
    change_json,
    judged_json,
    planned_json,
    rung_json,
    sent_json,
    tes_json,
)
from services.cbo.steps import Step, domain_of
from services.cbo.tasks import Task, task_id

Pair = tuple[Any, Any]
Decide = Callable[[], Pair]


class Unknown(Exception):
    """An input that lies outside the record is not kept any more."""


def sections(whole: Json, rules: Callable[[str], RuleSet | None]) -> Iterator[tuple[str, Decide]]:
    """Name and decision of each."""
    again = _Again(whole, rules)
    yield "rng", again.rng
    yield "plan.objectives", again.objectives
    yield "plan.steps", again.steps
    yield "gate_log", again.gates
    yield "plan.tasks", again.tasks
    yield "act.dispatched", again.dispatched
    yield "critique.ended", again.ended
    yield "critique.verifications", again.verifications
    yield "critique.tes", again.tes
    yield "critique.ladder_log", again.ladder_log
    yield "critique.level_changes", again.level_changes
    yield "critique.ladder", again.ladder
    yield "critique.kpis", again.kpis
    yield "critique.calibration", again.calibration


class _Again:
    """One record. Each method is one section."""

    def __init__(self, whole: Json, rules: Callable[[str], RuleSet | None]) -> None:
        self._whole, self._rules = whole, rules
        self._plan, self._critique = whole["plan"], whole["critique"]
        self._number = int(whole["id"].removeprefix("bp-"))
        self._started = parse_iso(whole["started_at"])

    def rng(self) -> Pair:
        seed = Rng.of(self._whole["station_id"], self._whole["id"]).seed
        return self._whole["rng"], {"version": chassis.rng.VERSION, "seed": seed}

    # Plan

    def objectives(self) -> Pair:
        interval = timedelta(seconds=self._whole["interval_seconds"])
        made = []
        for each in self._plan["objectives"]:
            due = objectives.due(_objective(each), self._started, interval, has_open_task=each["busy"])
            made.append({"id": each["id"], "reason": due.reason, "due": due.due})
        planned = {each["objective"] for each in self._plan["steps"]}
        kept = [
            {"id": each["id"], "reason": each["reason"], "due": each["id"] in planned}
            for each in self._plan["objectives"]
        ]
        return kept, made

    def steps(self) -> Pair:
        """Which domain, which procedure by which draws, with which prediction: all but what the gates said."""
        wishes = {each["id"]: _objective(each) for each in self._plan["objectives"]}
        tasks = iter([each for each in self._plan["tasks"] if each["new"]])
        rng = Rng.of(self._whole["station_id"], self._whole["id"])
        kept: list[Json] = []
        made: list[Json] = []
        for ordinal, value in enumerate(self._plan["steps"], start=1):
            step, wish = Step.from_json(value), wishes[value["objective"]]
            task = next(tasks) if step.made else None
            matches = step.matches if task is None else task["recalled"]
            domain = domain_of(wish.domain, [each["domain"] for each in matches], step.there, step.same_words)
            declared = step.declared
            if declared is None or step.waiting or task is None:
                kept.append({"made": step.made})
                made.append({"made": declared is not None and not step.waiting})
                continue
            params, procedures = declared.with_params(wish.params)
            choice = step.decide(rng)
            came: Json = {
                "task_id": task_id(self._whole["station_id"], self._number, ordinal),
                "objective_id": wish.id,
                "objective": wish.text,
                "domain": domain,
                "procedure": choice.procedure,
                "params": params,
                "prediction": choice.prediction,
                "owner": declared.owner,
                "draws": [dict(each) for each in choice.draws],
                "counted": _counted(step, domain, ignored=all(not _recalled(each) for each in choice.draws)),
                "candidates": list(procedures),
            }
            was: Json = {name: task[name] for name in came if name in task}
            was["draws"] = [  # a draw may also say in which context it was made, which decides nothing here
                {name: draw[name] for name in now if name in draw}
                for draw, now in zip(task["draws"], came["draws"], strict=True)
            ]
            was["counted"] = {
                each.procedure: [each.recalled_successes, each.recalled_failures] for each in step.candidates
            }
            was["candidates"] = [each.procedure for each in step.candidates]
            kept.append(was)
            made.append(came)
        return kept, made

    def _gated(self, entry: Entry) -> tuple[Gated, str]:
        if entry.asked is None:
            return gone(entry.domain), ""
        rules = RuleSet.nothing(entry.fault) if entry.fault else self._rules(entry.rules)
        if rules is None:
            raise Unknown(f"the policy {entry.rules[:12]} is not kept any more")
        level = min(entry.asked.earned, entry.asked.most)
        if not entry.asked.approved_by:
            level = careful(level, entry.asked.unconfirmed, entry.asked.undrilled)
        if entry.asked.level > level:
            raise ValueError(f"{entry.task} was gated at {entry.asked.level.name}, above {level.name}")
        return answer(entry.asked, rules, entry.at, entry.used, (entry.admission or NOBODY_ASKED).give)

    def gates(self) -> Pair:
        """Every question to the gates since the record before, also those of approvals and of outside agents."""
        kept, made = [], []
        for value in self._whole["gate_log"]["entries"]:
            entry = Entry.from_json(value)
            gated, rule = self._gated(entry)
            kept.append({"verdict": entry.verdict, "rule": entry.rule, "answers": [list(a) for a in entry.answers]})
            made.append({"verdict": gated.verdict, "rule": rule, "answers": [list(a) for a in answers_of(gated)]})
        return kept, made

    def tasks(self) -> Pair:
        """What the gates' answers made of each planned task."""
        asked: dict[str, Entry] = {}
        for value in self._whole["gate_log"]["entries"]:
            if value["pulse"] == self._number:
                asked[value["task"]] = Entry.from_json(value)  # the last: an approval may have been gated just before
        sent = {each["task_id"] for each in self._whole["act"]["dispatched"]}
        made = []
        for each in self._plan["tasks"]:
            entry = asked[each["task_id"]]
            gated, _ = self._gated(entry)
            level = entry.asked.level if entry.asked is not None else Level[each["level"]]
            task = Task(
                id=TaskId(each["task_id"]), domain=entry.domain, procedure=each["procedure"], owner=each["owner"],
                state="ready", level=level, created_at=self._started, objective_id=each["objective_id"],
                objective=each["objective"], params=each["params"], prediction=each["prediction"],
                approval=each["approval"], gates=tuple(said.to_json() for said in gated.answers),
                choices=tuple(each["draws"]), recalled=tuple(each["recalled"]),
            )  # fmt: skip
            planned = Planned(task=task, gated=gated, new=each["new"])
            states = {task.id: each["state"]} if each["task_id"] in sent else {}
            made.append(planned_json(planned, states))
        return self._plan["tasks"], made

    def dispatched(self) -> Pair:
        """Only what every gate let through, as it was planned."""
        planned = {each["task_id"]: each for each in self._plan["tasks"]}
        kept: list[Json] = self._whole["act"]["dispatched"]
        made = []
        for sent in kept:
            each = planned[sent["task_id"]]
            level = Level[each["level"]]
            task = Task(
                id=TaskId(each["task_id"]), domain=each["domain"], procedure=each["procedure"], owner=each["owner"],
                state="ready", level=level, created_at=self._started,
                rehearsal=level is Level.GUIDE and not each["approval"],
            )  # fmt: skip
            refused = any(said["answer"] != "pass" for said in each["gates"])
            made.append({"refused": each["reason"]} if refused else sent_json(task))
        return kept, made

    # Critique

    def _judged(self) -> list[Judged]:
        acks = {each["task_id"]: each["ack"] for each in self._whole["reflect"]["acks"]}
        return [self._judge(each, acks[each["task_id"]]) for each in self._critique["ended"]]

    def _judge(self, each: Mapping[str, Any], ack: Json | None) -> Judged:
        terms = None if each["terms"] is None else JudgingTerms.from_json(each["terms"])
        heard = heard_from_json(each["heard"])
        task = Task(
            id=TaskId(each["task_id"]), domain=each["domain"], procedure=each["procedure"], owner="",
            state=each["state"], level=Level[each["level"]], created_at=self._started, rehearsal=each["rehearsal"],
            undo_of=each["undo_of"], prediction=each["prediction"], probe_tries=each["probe_tries"], ack=ack,
            dispatched_at=_moment(each["dispatched_at"]), ended_at=_moment(each["ended_at"]),
        )  # fmt: skip
        return judge(task, terms, lambda _claims: heard or "", self._whole["probe_tries"])

    def ended(self) -> Pair:
        return self._critique["ended"], [judged_json(each) for each in self._judged()]

    def verifications(self) -> Pair:
        kept = self._critique["verifications"]
        made = []
        for each, value in zip(kept, self._critique["looks"], strict=True):
            verdict, prober, detail = Look.from_json(value).verdict()
            made.append({**each, "verdict": verdict, "prober": prober, "detail": detail})
        return [kept, self._whole["reflect"]["verifications_due"]], [made, made]

    def _entries(self) -> Mapping[str, Any]:
        looks = [
            Seen(domain=each["domain"], window=each["window"], verdict=each["verdict"])
            for each in self._critique["verifications"]
        ]
        return entries_of(self._number, self._critique["tes"], self._judged(), looks)

    def tes(self) -> Pair:
        return self._critique["tes"], {domain: tes_json(made) for domain, (made, _) in self._entries().items()}

    def _taken(self) -> list[tuple[Taken, Standing]]:
        """What the ladder took in since the record before, each with the standing before it."""
        log = self._critique["ladder_log"]
        if any(each is None for each in log["before"]):
            raise Unknown("it was taken in before records kept where a domain stood")
        return [
            (Taken.from_json(each), Standing.from_json(before))
            for each, before in zip(log["entries"], log["before"], strict=True)
        ]

    def _own(self) -> list[tuple[Taken, Standing]]:
        """Those that this pulse's critique made."""
        return [pair for pair in self._taken() if pair[0].entry.pulse == self._number and _by_rule(pair[0])]

    def ladder_log(self) -> Pair:
        """The pulse's own entries from its scores, and every standing that an entry moved."""
        came = {d: entry for d, (_, entry) in self._entries().items() if entry is not None}
        own = {taken.domain: taken.entry for taken, _ in self._own()}
        after: dict[str, Json] = {}
        befores: dict[str, list[Json]] = {"kept": [], "made": []}
        for taken, before in self._taken():
            if taken.domain in after:  # one entry begins where the one before it ended
                befores["kept"].append(before.to_json())
                befores["made"].append(after[taken.domain])
            after[taken.domain] = taken.after(before).to_json()
        standings = self._critique["ladder_log"]["standings"]
        kept = {
            "entries": {d: Taken.to_json(_bare(d, entry)) for d, entry in sorted(own.items())},
            "before": befores["kept"],
            "standings": {domain: standings[domain] for domain in after},
        }
        made = {
            "entries": {d: Taken.to_json(_bare(d, entry)) for d, entry in sorted(came.items())},
            "before": befores["made"],
            "standings": after,
        }
        return kept, made

    def level_changes(self) -> Pair:
        made = []
        for taken, before in self._own():
            after = taken.after(before)
            if after.level is not before.level:
                changed = Changed(domain=taken.domain, before=before.level, after=after.level, reason=after.reason)
                made.append(change_json(changed))
        return self._critique["level_changes"], made

    def ladder(self) -> Pair:
        standings = self._critique["ladder_log"]["standings"]
        made = []
        for each in self._critique["ladder"]:
            standing = Standing.from_json(standings[each["domain"]])
            terms = Terms(max_level=Level[each["max_level"]], void=each["void"])
            made.append(rung_json(rung_of(each["domain"], standing, terms, self._started)))
        return self._critique["ladder"], made

    def kpis(self) -> Pair:
        measured = Measured.from_json(self._critique["measured"])
        return self._critique["kpis"], [each.to_json() for each in measured.kpis()]

    def calibration(self) -> Pair:
        measured = Measured.from_json(self._critique["measured"])
        return self._critique["calibration"], calibration_json(measured.calibration())


def _objective(value: Mapping[str, Any]) -> Objective:
    times = value["schedule"]
    every = times["every_seconds"]
    schedule = Schedule(
        every=None if every is None else timedelta(seconds=every),
        at=_moment(times["at"]),
        every_pulse=times["every_pulse"],
    )
    last = _moment(value["last_planned_at"])
    return Objective(
        id=value["id"], text=value["text"], domain=value["domain"], source=value["source"], params=value["params"],
        created_at=datetime.min.replace(tzinfo=UTC), schedule=schedule, last_planned_at=last,
    )  # fmt: skip


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_iso(text)


def _recalled(draw: Mapping[str, Any]) -> int:
    return int(draw["recalled_successes"]) + int(draw["recalled_failures"])


def _counted(step: Step, domain: str, *, ignored: bool) -> Json:
    """What memory counted of each candidate; nothing where the decision was made without it."""
    said = {} if ignored else {each.procedure: each for each in step.summaries if each.domain == domain}
    return {
        each.procedure: [said[each.procedure].successes, said[each.procedure].failures]
        if each.procedure in said
        else [0, 0]
        for each in step.candidates
    }


def _by_rule(taken: Taken) -> bool:
    """Neither a person's level nor a new manifest."""
    return taken.entry.forced is None and not taken.entry.digest and not taken.entry.code


def _bare(domain: str, entry: Any) -> Taken:
    return Taken(domain=domain, entry=entry, max_level=Level.EXECUTE, start_level=Level.OBSERVE)
