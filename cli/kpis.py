"""`calyx kpi`: the five targets and how the station stands."""

from typing import Any

import typer

from cli.output import JsonFlag, emit, figure, figure_state, optional, shown, table
from cli.reach import reach_of


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

    answer = reach_of(ctx).cbo().GetKpis(pb.GetKpisRequest())
    emit(
        {"window_s": answer.window_seconds, "kpis": [as_json(each) for each in answer.kpis]},
        json,
        lambda v: table(
            ("kpi", "target", "value", "coverage", "verdict", "note"),
            [
                (
                    k["name"], k["target"], shown(k["value"]),
                    "unknown" if k["coverage"] is None else f"{k['coverage']:.0%}", k["verdict"], k["note"],
                )
                for k in v["kpis"]
            ],
            "no KPIs",
        ),
    )  # fmt: skip
