"""`calyx trends`: where things are heading."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, note, optional, say, table
from cli.reach import reach_of


def register(app: typer.Typer) -> None:
    app.command("trends")(trends)


def trend_json(trend: Any) -> dict[str, Any]:
    return {
        "metric": trend.metric,
        "unit": trend.unit,
        "points": trend.points,
        "unknown": trend.unknown,
        "slope_per_day": optional(trend, "slope_per_day"),
        "slope_low": optional(trend, "slope_low"),
        "slope_high": optional(trend, "slope_high"),
        "p_value": optional(trend, "p_value"),
        "verdict": trend.verdict,
        "latest": optional(trend, "latest"),
    }


def trends(
    ctx: typer.Context,
    last: Annotated[int, typer.Option("--last", min=1, max=100_000, help="How many pulses.")] = 240,
    import_dir: Annotated[
        Path | None, typer.Option("--import", help="Read older Markdown pulses from this folder instead.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Analyse now and draw the charts. Example: calyx trends --last 1440"""
    from calyx.analytics.v1 import analytics_pb2 as pb

    if import_dir is not None and not import_dir.is_dir():
        raise InvalidInput(f"{import_dir} is not a folder")
    folder = "" if import_dir is None else str(import_dir.resolve())
    answer = (
        reach_of(ctx).analytics().Analyze(pb.AnalyzeRequest(last=last, import_dir=folder, charts=True), timeout=180)
    )
    value = {
        "pulses": answer.pulses,
        "rejected": answer.rejected,
        "reasons": list(answer.reasons),
        "summary": answer.summary,
        "trends": [trend_json(trend) for trend in answer.trends],
        "charts": [
            {"name": c.name, "path": c.path, "metric": c.metric, "written_at": at(c, "written_at")}
            for c in answer.charts
        ],
    }

    def words(v: dict[str, Any]) -> None:
        table(
            ("metric", "verdict", "latest", "per day", "95 %", "p", "points", "unknown"),
            [
                (
                    t["metric"], t["verdict"], t["latest"], t["slope_per_day"],
                    "unknown" if t["slope_low"] is None else f"{t['slope_low']:.2f} … {t['slope_high']:.2f}",
                    "unknown" if t["p_value"] is None else f"{t['p_value']:.3f}", t["points"], t["unknown"],
                )
                for t in v["trends"]
            ],
            "no trends",
        )  # fmt: skip
        for chart in v["charts"]:
            say(f"chart: {chart['path']}")
        for reason in v["reasons"]:
            note(f"set aside: {reason}")
        say(v["summary"])

    emit(value, json, words)
