"""`calyx kpi`: the five targets and how the station stands."""

import json as jsonlib
from typing import Any

import typer

from chassis.errors import NotFound
from cli.output import JsonFlag, emit, figure, figure_state, optional, say, share, span
from cli.reach import reach_of
from cli.tables import Column, table
from cli.times import readable

NAMES = {"mean_tes": "mean TES", "confidence_delta": "confidence gained a day"}


def register(app: typer.Typer) -> None:
    app.command("kpi")(kpi)


def as_json(each: Any) -> dict[str, Any]:
    return {
        "name": each.name,
        "target": each.target,
        "value": figure(each.value),
        "state": figure_state(each.value),
        "unit": each.value.unit,
        "coverage": optional(each.value, "coverage"),
        "verdict": each.verdict,
        "note": each.note,
    }


def kpi(ctx: typer.Context, json: JsonFlag = False) -> None:
    """The KPIs with target, value, coverage and verdict. Example: calyx kpi"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.cbo().GetKpis(pb.GetKpisRequest())
    try:
        record = reach.cbo().GetPulse(pb.GetPulseRequest()).record_json
    except NotFound:  # before the first pulse
        record = ""
    learned = confidence(record)

    def words(v: dict[str, Any]) -> None:
        table(
            (
                Column("kpi"), Column("target"), Column("value", "number"), Column("coverage", "number"),
                Column("verdict", "state"), Column("note", "words"),
            ),
            [
                (
                    NAMES.get(k["name"], k["name"].replace("_", " ")), k["target"], amount(k["value"], k["unit"]),
                    share(k["coverage"]), k["verdict"], readable(k["note"], reach.clock.now()),
                )
                for k in v["kpis"]
            ],
            "No KPIs yet: they come with the first pulse (`calyx pulse --now`).",
        )  # fmt: skip
        say(f"over {span(v['window_s'])}; coverage is how much of that time was measured")
        for line in in_words(v["confidence"]):
            say(line)

    emit(
        {
            "window_s": answer.window_seconds,
            "kpis": [as_json(each) for each in answer.kpis],
            "confidence": learned,
        },
        json,
        words,
    )


def confidence(record_json: str) -> dict[str, Any]:
    """How good the predictions were and what memory is worth, as the last pulse has it; empty before the first one."""
    critique = (jsonlib.loads(record_json) if record_json else {}).get("critique", {})
    return {"calibration": critique.get("calibration") or {}, "uplift": critique.get("uplift") or {}}


def in_words(found: dict[str, Any]) -> list[str]:
    """Brier, calibration error and the reliability plot; then memory's uplift."""
    known, gain = found["calibration"], found["uplift"]
    if not known.get("predictions"):
        return ["confidence: no prediction has been scored in 24 h"]
    skill = "" if known.get("skill") is None else f", {known['skill']:+.1%} better than always saying the base rate"
    lines = [
        f"confidence: Brier {known['brier']:.4f}{skill}; calibration error {known['ece']:.4f} over "
        f"{known['predictions']} predictions"
    ]
    lines += [f"  {line}" for line in reliability(known.get("bins", []))]
    if gain.get("value") is None:
        lines.append(f"uplift of memory: unknown; {gain.get('note', 'not measured')}")
    else:
        lines.append(
            f"uplift of memory: {gain['value']:+.3f} utility a task, 95 % between {gain['low']:+.3f} and "
            f"{gain['high']:+.3f} ({gain['note']})"
        )
    return lines


def reliability(bins: list[dict[str, Any]], width: int = 40) -> list[str]:
    """One line for each tenth of the predictions: `|` where it was predicted, `o` how often it succeeded."""
    lines = []
    for each in (each for each in bins if each["count"]):
        predicted, came = each["predicted"] / each["count"], each["succeeded"] / each["count"]
        marks = [" "] * (width + 1)
        marks[round(predicted * width)] = "|"
        marks[round(came * width)] = "X" if marks[round(came * width)] == "|" else "o"
        lines.append(f"[{''.join(marks)}] said {predicted:5.1%}, came {came:5.1%} of {each['count']}")
    return lines


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit; a count is a whole number."""
    if value is None:
        return "unknown"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:+.1f} pp" if unit == "pp" else f"{value:.1f} %" if unit == "percent" else f"{value:.1f}"
