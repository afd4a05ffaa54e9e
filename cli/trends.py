"""`calyx trends`: where things are heading."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, note, optional, say
from cli.reach import reach_of
from cli.tables import Column, table, tell

REASONS = 10
"""Set-aside files that are named; the rest is counted."""


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
            (
                Column("metric"), Column("verdict", "state"), Column("latest", "number"), Column("per day", "number"),
                Column("95 %", drop=1), Column("p", "number", drop=2), Column("points", "number"),
                Column("unknown", "number"),
            ),
            [
                (
                    t["metric"].replace("_percent", " %"), t["verdict"], t["latest"], _slope(t["slope_per_day"]),
                    _between(t["slope_low"], t["slope_high"]), _chance(t["p_value"]), t["points"], t["unknown"],
                )
                for t in v["trends"]
            ],
            "No trends.",
        )  # fmt: skip
        if not any(t["points"] for t in v["trends"]):
            tell(
                "There are no pulses to analyse yet. The overseer checks in by itself (`calyx status` says when); "
                "`calyx pulse --now` runs one, and a trend needs some tens of them."
            )
        elif any(t["verdict"] == "insufficient data" for t in v["trends"]):
            tell("insufficient data: a trend needs 10 known points over at least an hour; come back after more pulses.")
        for folder in sorted({Path(c["path"]).parent for c in v["charts"]}):
            kinds = sorted({Path(c["path"]).suffix.removeprefix(".") for c in v["charts"]})
            say(f"charts in {folder} ({', '.join(kinds)})")
        for reason in v["reasons"][:REASONS]:
            note(f"set aside: {reason}")
        if len(v["reasons"]) > REASONS:
            note(f"… and {len(v['reasons']) - REASONS} more (--json lists all)")

    emit(value, json, words)


def _slope(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3g}" if abs(value) < 1000 else f"{value:+.0f}"


def _between(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{_slope(low)} to {_slope(high)}"


def _chance(p_value: float | None) -> str:
    return "unknown" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
