"""What a policy costs: `python -m bench.policy [--json] [--rules 1000] [--pulses 43200] [--keep DIR]`.

A decision: requests against policies of 10, 100 and 1,000 rules, all of which have to be read (each is about every
domain, and only the last matches), and the same with rules that name their domains; and how long reading one takes.

The time machine: a month of pulses as a station leaves them (a check in each pulse, a rotation in each hour, a pulse
in twenty with one more), written into a CBO's database and replayed through `calyx policy try`'s own path under the
policy in force, under a draft, and under other ladder terms. Exits 1 when a bound does not hold: 1 ms a decision at
1,000 rules, 10 s for 43,200 pulses, and the unchanged policy's answers exactly those of the past.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from chassis.clock import iso
from chassis.domains import Level, load_domains
from chassis.layout import DEPLOY
from chassis.policy import Request, RuleSet, Used, decide
from chassis.policy_yaml import SHIPPED, parse
from services.cbo.autonomy_evaluator import Entry as LadderEntry
from services.cbo.autonomy_evaluator import Standing
from services.cbo.gate_log import Admission, Asked, Entry, Tally, Terms, answer, answers_of
from services.cbo.gates import Use
from services.cbo.history import from_store
from services.cbo.ladder_log import Taken
from services.cbo.policy import Ruling
from services.cbo.store import Store
from services.cbo.time_machine import in_words, replay, told

START = datetime(2026, 1, 1, tzinfo=UTC)
DOMAINS = load_domains(DEPLOY / "domains")
DRAFT = """\
schema: calyx.policy/2
rules:
  - deny: quiet hours
    does: [act]
    hours: 22:00-06:00
  - allow: checks
    domains: [diagnostics]
    per_pulse: 1
    per_day: 1000
  - allow: the rest
...
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the answer; `holds` None where there is no bound."""

    name: str
    value: float
    unit: str
    bound: str = ""
    holds: bool | None = None


def written(rules: int, *, named: bool) -> bytes:
    """A policy of so many rules, of which only the last matches a check."""
    parts = ["schema: calyx.policy/2", "rules:"]
    for n in range(rules - 1):
        about = f"    domains: [domain-{n}]\n" if named else ""
        parts.append(
            f"  - deny: rule {n}\n{about}    agents: [agent-{n}, other-{n}]\n    paths: [/srv/{n}]\n    days: [mon]"
        )
    parts += ["  - allow: the last\n    per_day: 100000", "...", ""]
    return "\n".join(parts).encode()


def request(n: int) -> Request:
    return Request(
        agent="guardian", asked_by="station", domain="diagnostics", procedure="quick", does="act",
        effects="reversible", manifest="built-in", folders=("/station/reports/diagnostics", f"/srv/app-{n}/logs"),
    )  # fmt: skip


def seconds(call: Callable[[], Any], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def decisions(most: int) -> list[Figure]:
    found = []
    for rules in (10, 100, most):
        for named in (False, True):
            raw = written(rules, named=named)
            reading = seconds(lambda raw=raw: parse(raw), 3)  # type: ignore[misc]  # default binds
            policy = parse(raw).policy
            assert policy is not None
            assert decide(request(0), policy, START, {}).allowed
            used = {"the last": Used(pulse=1, day=1)}
            taken = [one for n in range(300) for one in seconds(lambda: decide(request(n), policy, START, used), 1)]  # noqa: B023 — called at once
            kind = "naming their domains" if named else "about every domain"
            worst = rules == most and not named
            ms = 1000 * sorted(taken)[int(0.99 * len(taken))]
            found.append(Figure(name=f"decision, {rules} rules {kind}, 99 of 100 under", value=ms, unit="ms",
                                bound="≤ 1" if worst else "", holds=ms <= 1.0 if worst else None))  # fmt: skip
            if named:
                found.append(Figure(name=f"reading {rules} rules", value=1000 * median(reading), unit="ms"))
    return found


def live(store: Store, pulses: int) -> RuleSet:
    """Let the station's gates answer for so many pulses, and leave the database as a station does."""
    policy = parse(SHIPPED.read_bytes(), "/station").policy
    assert policy is not None
    tally, number = Tally(), 0
    standings: dict[str, Standing] = {}
    with store.transaction():
        for pulse in range(1, pulses + 1):
            now = START + timedelta(minutes=pulse)
            wanted = ["diagnostics"]
            wanted += ["log_rotation"] if pulse % 60 == 0 else []
            wanted += ["cleanup"] if pulse % 20 == 0 else []
            for n, domain in enumerate(wanted, start=1):
                gate(
                    store, policy, tally, now, pulse, domain, f"t-bench-{pulse:09d}-{n}", number, standings.get(domain)
                )
            for domain in wanted:
                number += 1
                standings[domain] = ladder(store, domain, pulse, now, standings.get(domain))
    return policy


def gate(
    store: Store,
    policy: RuleSet,
    tally: Tally,
    now: datetime,
    pulse: int,
    domain: str,
    task: str,
    number: int,
    standing: Standing | None,
) -> None:
    manifest = DOMAINS[domain]
    level = Level.GUIDE if standing is None else standing.level
    asked = Asked(
        request=Request(
            agent=manifest.owner, asked_by="station", domain=domain, procedure=manifest.procedures[0],
            does="act" if level is Level.EXECUTE else "rehearse", effects=manifest.effects, manifest="built-in",
            folders=(f"/station/{domain}",),
        ),
        manifest=Terms.of(manifest),
        pinned=Ruling(allowed=True, reason=f"built-in, pinned {manifest.digest[:12]}, owner {manifest.owner}"),
        kill_switch=None, revoked="", level=level, approved_by="",
        use=Use(this_pulse=0, this_day=0, effects_this_pulse=0),
        probation=False, unconfirmed=(), earned=level, most=Level.EXECUTE, ladder=number,
    )  # fmt: skip
    admission = Admission(admitted=True, reason="no rule of the governor speaks against it: RAM 45 %, CPU 12 %")
    gated, rule = answer(asked, policy, now, tally.used(policy.about(domain), pulse, now), admission.give)
    tally.take(now, pulse, task, rule, gated.verdict)
    entry = Entry(
        at=now, pulse=pulse, task=task, domain=domain, rules=policy.digest, asked=asked, admission=admission,
        verdict=gated.verdict, rule=rule, answers=answers_of(gated),
    )  # fmt: skip
    store.run("gate_entry_insert", iso(now), task, json.dumps(entry.to_json()))
    store.value(
        "INSERT INTO task (id, domain, procedure, owner, state, level, created_at, objective_id, objective, params,"
        " attempt, rehearsal, rehearsal_of, plan_digest, approval, approved_as, undo_of, gates, prediction, choices,"
        " recalled, pulse_id, ended_pulse_id, dispatched_at, ended_at, scored, worked, probe_tries, tes, tes_note,"
        f" stability, ack, why, remembered) VALUES ('{task}', '{domain}', 'p', 'o', 'done', {int(level)},"
        f" '{iso(now)}', '', '', '{{}}', 1, 0, '', '', '', '', '', '[]', 0.9, '[]', '[]', '', '', '{iso(now)}',"
        f" '{iso(now)}', 1, 1, 0, 97.0, '', {1.0 if pulse % 50 else 0.0}, NULL, '', 1) RETURNING 1"
    )


def ladder(store: Store, domain: str, pulse: int, now: datetime, before: Standing | None) -> Standing:
    entry = LadderEntry(pulse=pulse, worked=True, tes=97.0 if pulse % 50 else 60.0, failures=int(pulse % 50 == 0))
    taken = Taken(domain=domain, entry=entry, max_level=Level.EXECUTE, start_level=Level.GUIDE)
    store.run("ladder_entry_insert", domain, iso(now), json.dumps(taken.to_json()))
    return taken.after(before)


def month(pulses: int, folder: Path) -> tuple[list[Figure], list[str]]:
    store = Store(folder, durable=False)
    policy = live(store, pulses)
    size = sum(path.stat().st_size for path in folder.glob("cbo.sqlite*")) / 2**20
    draft = parse(DRAFT.encode(), "/station").policy
    assert draft is not None
    since = START
    found = [Figure(name=f"database of {pulses} pulses", value=size, unit="MiB")]
    words: list[str] = []
    for name, rules, terms in (
        ("the policy in force", policy, {}), ("a draft with quiet hours and budgets", draft, {}),
        ("the same draft and other ladder terms", draft, {"promote_run": 3, "demote_below": 90.0}),
    ):  # fmt: skip
        began, cpu = time.perf_counter(), time.process_time()
        past = from_store(store, since)
        replayed, courses = replay(past, rules, since, terms)
        result = told(replayed, courses, past.ends, rules)
        taken, busy = time.perf_counter() - began, time.process_time() - cpu
        full = pulses >= 43_200
        found.append(Figure(name=f"replay under {name}", value=taken, unit="s", bound="≤ 10" if full else "",
                            holds=taken <= 10.0 if full else None))  # fmt: skip
        found.append(Figure(name="  of which the processor's", value=busy, unit="s"))
        if rules is policy:
            found.append(Figure(name="answers other than in the past, unchanged policy", value=result["answers_differ"],
                                unit="", bound="0", holds=result["answers_differ"] == 0))  # fmt: skip
        words += [f"{name}: {line}" for line in in_words(result)]
    store.close()
    return found, words


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--pulses", type=int, default=43_200)
    asked = parser.parse_args(argv)
    figures = decisions(asked.rules)
    with tempfile.TemporaryDirectory(prefix="calyx-bench-") as folder:
        more, words = month(asked.pulses, Path(folder))
    figures += more
    if asked.json:
        print(json.dumps({"figures": [asdict(each) for each in figures], "words": words}))
    else:
        for each in figures:
            held = "" if each.holds is None else "  holds" if each.holds else "  DOES NOT HOLD"
            print(f"{each.name:<62} {each.value:>9.3f} {each.unit:<4} {each.bound:<6}{held}")
        print("\n".join(words))
    return int(any(each.holds is False for each in figures))


if __name__ == "__main__":
    sys.exit(main())
