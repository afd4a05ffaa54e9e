"""A pulse as a page for people: plain words first, the station's term in brackets where it appears first."""

from collections.abc import Iterable
from typing import Any

from chassis.canonical import Json

LEVELS = {
    "OBSERVE": "Watch (OBSERVE)",
    "SUGGEST": "Suggest (SUGGEST)",
    "GUIDE": "Rehearse and ask (GUIDE)",
    "EXECUTE": "Act (EXECUTE)",
}
NAMES = {
    "uptime": "Uptime",
    "mean_tes": "Mean run score",
    "policy_violations": "Policy violations",
    "confidence_delta": "Confidence gained a day",
    "overrides": "Times a person overruled the station",
}
UNITS = {"percent": " %", "pp": " pp", "score": "", "count": ""}


def report(record: Json) -> str:
    """Markdown. Unknown figures read `unknown`, never a number."""
    parts = [_head(record)]
    if record["status"] == "interrupted":
        parts.append(f"This check-in did not end: {record.get('reason', '')}. What it had planned goes on.\n")
        return "\n".join(parts)
    parts += [_machine(record["reflect"]), _incidents(record["reflect"]["incidents"]), _planned(record["plan"])]
    parts += [_ended(record["critique"]), _ladder(record["critique"]), _kpis(record["critique"]["kpis"])]
    return "\n".join(part for part in parts if part)


def _head(record: Json) -> str:
    switch = record["kill_switch"]
    took = record["duration_seconds"]
    lines = [
        f"# Check-in {record['id']} (Bridge Pulse)",
        "",
        f"- Began {record['started_at']}, " + ("did not end" if took is None else f"took {took:.2f} s"),
        f"- Stop switch (kill switch): {'engaged: ' + (switch['why'] or 'no reason') if switch['engaged'] else 'off'}",
    ]
    if record.get("reflect", {}).get("trends"):
        lines.append(f"- Trends: {record['reflect']['trends']['summary'] or 'none yet'}")
    return "\n".join(lines) + "\n"


def _machine(reflect: Json) -> str:
    rows = [(name.removesuffix("_percent"), _figure(figure)) for name, figure in sorted(reflect["capacity"].items())]
    services = ", ".join(_service(each) for each in reflect["services"] or ()) or "unknown"
    silent = "".join(f"\n- No answer from {name}: {why}" for name, why in sorted(reflect["silent"].items()))
    ending = "".join(f"\n- {each['reason']}" for each in reflect.get("domains_ending", ()))
    return "## Machine and services\n\n" + _table(("", "in use"), rows) + f"\n- Services: {services}{silent}{ending}\n"


def _service(each: Json) -> str:
    age = each["age_seconds"]
    return f"{each['service']} {each['state']}" + ("" if age is None else f" ({age:.0f} s ago)")


def _figure(figure: Json) -> str:
    if "value" not in figure:
        return f"{figure['state']}" + (f" ({figure['note']})" if figure.get("note") else "")
    stale = " (stale)" if figure["state"] == "stale" else ""
    return f"{figure['value']:.1f} %{stale}, {figure['age_seconds']:.0f} s old"


def _incidents(incidents: list[Json] | None) -> str:
    """None is unknown: the guardian did not say."""
    if incidents is None:
        return "## Incidents\n\nUnknown: the guardian did not answer.\n"
    if not incidents:
        return ""
    lines = ["## Incidents", ""]
    for each in incidents:
        end = "still open" if each["closed_at"] is None else f"over at {each['closed_at']}"
        lines.append(f"- {each['id']}: {each['target']}, {each['class']}: {each['symptom']}; {end}; {each['action']}")
        lines += [
            f"  - likely cause ({cause['confidence']:.0%}): {cause['cause']}; would be disproved by "
            f"{cause['disproved_by'] or 'nothing named'}"
            for cause in each["root_cause"]
        ]
    return "\n".join(lines) + "\n"


def _planned(plan: Json) -> str:
    if not plan["tasks"]:
        return "## Planned\n\nNothing was due.\n"
    rows = [
        (
            each["task_id"],
            each["objective"],
            each["procedure"],
            LEVELS[each["level"]],
            each["state"],
            each["reason"],
            "" if each["prediction"] is None else f"{each['prediction']:.0%}",
        )
        for each in plan["tasks"]
    ]
    head = ("task", "what for (objective)", "how (procedure)", "level", "now", "why", "expected to succeed")
    return "## Planned\n\n" + _table(head, rows)


def _ended(critique: Json) -> str:
    lines = ["## Ended", ""]
    if not critique["ended"]:
        lines.append("Nothing ended.\n")
    else:
        rows = [
            (
                each["task_id"],
                each["domain"],
                each["procedure"],
                each["state"],
                _score(each),
                each["tes_note"],
                "not probed" if each["probe"] is None else f"{each['probe']['verdict']} by {each['probe']['prober']}",
            )
            for each in critique["ended"]
        ]
        head = ("task", "kind of work (domain)", "how", "ended", "run score (TES)", "rests on", "looked at")
        lines.append(_table(head, rows))
    for each in critique.get("verifications", ()):
        lines.append(f"- {each['task_id']} looked at again ({each['window']}): {each['verdict']}. {each['detail']}")
    return "\n".join(lines)


def _score(each: Json) -> str:
    if each["tes"] is not None:
        return f"{each['tes']:.1f}"
    return "unknown" if each["worked"] else "–"


def _ladder(critique: Json) -> str:
    rows = [
        (
            each["domain"],
            LEVELS[each["level"]] + "".join(f", {flag}" for flag in ("frozen", "probation") if each[flag]),
            each["reason"],
            each["next"],
        )
        for each in critique["ladder"]
    ]
    changes = "".join(
        f"\n**{each['domain']} moved from {LEVELS[each['before']]} to {LEVELS[each['after']]}**: {each['reason']}\n"
        for each in critique.get("level_changes", ())
    )
    return "## How far each kind of work may act alone (ladder)\n" + changes + "\n" + _table(
        ("kind of work", "level", "why", "what would change it"), rows
    )  # fmt: skip


def _kpis(kpis: list[Json]) -> str:
    rows = []
    for each in kpis:
        decimals = 0 if each["unit"] == "count" else 1
        value = "unknown" if each["value"] is None else f"{each['value']:.{decimals}f}{UNITS[each['unit']]}"
        coverage = "< 1%" if 0 < each["coverage"] < 0.01 else f"{each['coverage']:.0%}"
        rows.append((NAMES[each["name"]], each["target"], value, coverage, each["verdict"], each["note"]))
    return "## Targets over 24 h (KPIs)\n\n" + _table(("", "target", "value", "coverage", "verdict", "rests on"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
