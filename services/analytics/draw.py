"""`python -m services.analytics.draw`: the short-lived process that knows scipy and matplotlib.

stdin: {"series": {metric: {"unit", "points": [[epoch_s, value|null], …]}}, "out": folder or null, "title": str}
stdout: {"trends": [...], "charts": [file names]}. Charts go to `out` as svg, png and csv, each written whole.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chassis.atomic import write_whole
from services.analytics.trend import DAY, Trend, trends, why_no_line

Points = Sequence[tuple[float, float | None]]
TITLES = {
    "uptime_percent": "Uptime",
    "tes": "Run score (TES)",
    "ram_percent": "Memory in use",
}
TARGETS = {"uptime_percent": 95.0, "tes": 96.0, "ram_percent": 80.0}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Compute all trends and, if a folder is given, draw them."""
    series: dict[str, tuple[str, Points]] = {
        metric: (each["unit"], [(float(at), value) for at, value in each["points"]])
        for metric, each in request["series"].items()
    }
    found = trends(series)
    charts: list[str] = []
    if request.get("out"):
        for each in found:
            charts += draw(each, series[each.metric][1], Path(request["out"]), request.get("title", ""))
    return {"trends": [asdict(each) for each in found], "charts": charts}


def draw(trend: Trend, points: Points, out: Path, title: str) -> list[str]:
    """One chart as svg and png, its values as csv. Unknown values are gaps and ticks on the floor, not points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import dates
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    # matplotlib counts days since the epoch
    days = [at / DAY for at, _ in points]
    values = [float("nan") if value is None else value for _, value in points]
    axes.plot(days, values, color="#2463a6", linewidth=1.2, marker="o", markersize=2.5, label="measured")
    axes.set_ylim(*axes.get_ylim())  # the line must not stretch the scale away from the measurements
    if trend.slope_per_day is not None and trend.intercept is not None:
        start, end = trend.origin / DAY, days[-1]
        rise = trend.slope_per_day * (end - start)
        interval = f"{trend.slope_low:+.3g} … {trend.slope_high:+.3g}"
        axes.plot(
            [start, end],
            [trend.intercept, trend.intercept + rise],
            color="#b4531f",
            linestyle=":" if trend.verdict == "flat" else "--",
            linewidth=1.4,
            label=f"trend {trend.slope_per_day:+.3g} a day ({interval}), p = {trend.p_value:.2g}: {trend.verdict}",
        )
    else:
        axes.plot(
            [], [], " ", label=f"no trend line: {trend.verdict} ({why_no_line(trend.points, trend.span_seconds)})"
        )
    if trend.metric in TARGETS:
        axes.axhline(TARGETS[trend.metric], color="#888888", linewidth=0.8, linestyle="-.")
    unknown = [at / DAY for at, value in points if value is None]
    if unknown:
        floor = axes.get_ylim()[0]
        axes.plot(unknown, [floor] * len(unknown), "|", color="#999999", markersize=6, label=f"{len(unknown)} unknown")
    axes.set_title(f"{TITLES.get(trend.metric, trend.metric)}{' · ' + title if title else ''}", loc="left", fontsize=11)
    axes.set_ylabel(trend.unit)
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]  # matplotlib types it not
    axes.xaxis.set_major_locator(locator)
    formatter = dates.ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]  # likewise
    axes.xaxis.set_major_formatter(formatter)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best", frameon=False)
    names = []
    for kind in ("svg", "png"):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
        names.append(f"{trend.metric}.{kind}")
        write_whole(out / names[-1], data.getvalue())
    plt.close(figure)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["at", trend.metric])
    for at, value in points:
        rows.writerow([datetime.fromtimestamp(at, UTC).isoformat(), "" if value is None else repr(value)])
    names.append(f"{trend.metric}.csv")
    write_whole(out / names[-1], table.getvalue().encode())
    return names


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
