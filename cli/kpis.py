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

    emit({"window_s": answer.window_seconds, "kpis": [as_json(each) for each in answer.kpis]}, json, words)


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit; a count is a whole number."""
    if value is None:
        return "unknown"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:+.1f} pp" if unit == "pp" else f"{value:.1f} %" if unit == "percent" else f"{value:.1f}"
