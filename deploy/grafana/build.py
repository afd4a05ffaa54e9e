"""Write the Grafana dashboards with Grafana's own SDK, so that their JSON is valid for Grafana.

`python deploy/grafana/build.py` writes deploy/grafana/dashboards/*.json; with `--check` it writes nothing and exits 1
when a committed file differs from what would be written.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardSpecialValueMapOptions,
    DataSourceRef,
    FieldColorModeId,
    RangeMap,
    RegexMap,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.grafana.boards import BOARDS, Board, Panel

HERE = Path(__file__).parent
DATASOURCE = DataSourceRef(type_val="prometheus", uid="calyx-prometheus")
UNKNOWN = "unknown"
GREEN, RED, BLUE, GREY = "green", "red", "blue", "text"

Mapping = ValueMap | RangeMap | RegexMap | SpecialValueMap
AnyPanel = stat.Panel | statetimeline.Panel | timeseries.Panel


def board_json(board: Board) -> str:
    """Grafana's JSON of one dashboard."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["station-calyx"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
    )
    number = 0
    for title, panels in board.rows.items():
        number += 1
        builder = builder.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            builder = builder.with_panel(_panel(panel).id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _panel(panel: Panel) -> AnyPanel:
    made: AnyPanel
    if panel.kind == "stat":
        made = _stat(panel).height(4)
    elif panel.kind == "states":
        made = _states(panel).height(8)
    else:
        made = _lines(panel).height(8)
    made = (
        made.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .no_value(UNKNOWN)
        .mappings(_words(panel))
        .thresholds(_thresholds(panel))
        .span(panel.width)
    )
    for letter, (legend, expression) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(DATASOURCE).expr(expression)
        query = query.legend_format(legend or panel.title)
        made = made.with_target(query.instant() if panel.kind == "stat" else query.range())
    return made


def _stat(panel: Panel) -> stat.Panel:
    bounded = panel.bad_above is not None or panel.bad_below is not None
    return (
        stat.Panel()
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE if bounded else BigValueColorMode.NONE)
        # lastNotNull would go on showing the last figure after it became unknown
        .reduce_options(common.ReduceDataOptions().calcs(["last"]))
    )


def _states(panel: Panel) -> statetimeline.Panel:
    return statetimeline.Panel().merge_values(True).fill_opacity(70)


def _lines(panel: Panel) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(8)
        .span_nulls(False)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )


def _words(panel: Panel) -> list[Mapping]:
    words: list[Mapping] = [
        SpecialValueMap(
            DashboardSpecialValueMapOptions(
                SpecialValueMatch.NULL_AND_NAN, ValueMappingResult(text=UNKNOWN, color=GREY, index=0)
            )
        )
    ]
    if panel.names:
        colours = {0: RED, 1: GREEN} if panel.bad_above is None else {0: GREEN, 1: RED}
        if len(panel.names) != len(colours):
            colours = dict.fromkeys(panel.names, BLUE)
        words.append(
            ValueMap(
                {
                    str(value): ValueMappingResult(text=text, color=colours[value], index=index)
                    for index, (value, text) in enumerate(panel.names.items(), start=1)
                }
            )
        )
    return words


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    base = Threshold(color=GREEN if panel.bad_below is None else RED)
    base.value = None  # Grafana writes "from minus infinity" as null
    steps = [base]
    if panel.bad_below is not None:
        steps.append(Threshold(value=panel.bad_below, color=GREEN))
    elif panel.bad_above is not None:
        steps.append(Threshold(value=panel.bad_above, color=RED))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def main(arguments: list[str]) -> int:
    stale = 0
    for board in BOARDS:
        path = HERE / "dashboards" / f"{board.uid}.json"
        text = board_json(board)
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.stderr.write(f"{path} is stale: run python deploy/grafana/build.py\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
