"""`calyx kpi`: the five targets and how the station stands."""

from typing import Any

import typer

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
            "confidence": confidence(answer.confidence),
        },
        json,
        words,
    )


def confidence(found: Any) -> dict[str, Any]:
    """How good the predictions of the last 24 h were, and what memory is worth; None is unknown."""
    return {
        "predictions": found.predictions,
        "brier": optional(found, "brier"),
        "calibration_error": optional(found, "calibration_error"),
        "skill": optional(found, "skill"),
        "note": found.note,
        "bins": [
            {"count": b.count, "predicted": b.predicted, "came": b.came, "low": b.low, "high": b.high}
            for b in found.bins
        ],
        "uplift": optional(found, "uplift"),
        "uplift_low": optional(found, "uplift_low"),
        "uplift_high": optional(found, "uplift_high"),
        "uplift_note": found.uplift_note,
    }


def in_words(found: dict[str, Any]) -> list[str]:
    """Brier, calibration error and the reliability plot; then memory's uplift."""
    if not found["predictions"]:
        lines = ["confidence: no prediction has been scored in 24 h"]
    elif found["brier"] is None:
        lines = [f"confidence: unknown; {found['note'] or 'not measured'}"]
    else:
        skill = "" if found["skill"] is None else f", {found['skill']:+.1%} better than always saying the base rate"
        lines = [
            f"confidence: Brier {found['brier']:.4f}{skill}; calibration error {found['calibration_error']:.4f} over "
            f"{found['predictions']} predictions"
        ]
        lines += [f"  {line}" for line in reliability(found["bins"])]
    if found["uplift"] is None:
        lines.append(f"uplift of memory: unknown; {found['uplift_note'] or 'not measured'}")
    else:
        lines.append(
            f"uplift of memory: {found['uplift']:+.3f} utility a task, 95 % between {found['uplift_low']:+.3f} and "
            f"{found['uplift_high']:+.3f} ({found['uplift_note']})"
        )
    return lines


def reliability(bins: list[dict[str, Any]], width: int = 40) -> list[str]:
    """One line for each tenth of the predictions: `|` where it was predicted, `o` how often it succeeded, in `·`."""
    lines = []
    for each in bins:
        marks = [" "] * (width + 1)
        for at in range(round(each["low"] * width), round(each["high"] * width) + 1):
            marks[at] = "·"
        predicted, came = round(each["predicted"] * width), round(each["came"] * width)
        marks[predicted] = "|"
        marks[came] = "X" if came == predicted else "o"
        lines.append(f"[{''.join(marks)}] said {each['predicted']:5.1%}, came {each['came']:5.1%} of {each['count']}")
    return lines


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit; a count is a whole number."""
    if value is None:
        return "unknown"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:+.1f} pp" if unit == "pp" else f"{value:.1f} %" if unit == "percent" else f"{value:.1f}"
