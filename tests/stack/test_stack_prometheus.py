"""What the real Prometheus, scraping the live stack, knows."""

import math

import pytest
from stack_client import Stack, eventually

from chassis.layout import SERVICES
from deploy.grafana.boards import BOARDS, Board, Panel

pytestmark = pytest.mark.stack

PANELS = [pytest.param(board, panel, id=f"{board.title}: {panel.title}") for board in BOARDS for panel in board.panels]


def test_every_service_is_a_target_and_up(stack: Stack) -> None:
    def up() -> set[str]:
        targets = stack.prometheus("targets", state="active")["activeTargets"]
        return {target["labels"]["instance"] for target in targets if target["health"] == "up"}

    eventually("six targets up", lambda: up() == set(SERVICES))


def test_prometheus_judges_by_all_of_our_rules(stack: Stack) -> None:
    groups = stack.prometheus("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 7
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] == "err"} == {}


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panels_queries_are_answered_and_have_data_where_they_must(stack: Stack, board: Board, panel: Panel) -> None:
    def answers() -> list[list[float]]:
        queries = [query.replace("$__rate_interval", "1m") for query in panel.queries.values()]
        results = [stack.prometheus("query", query=query)["result"] for query in queries]
        return [[float(sample["value"][1]) for sample in result] for result in results]

    def known() -> bool:
        """Each query finds series, and not every figure of the panel is unknown."""
        found = answers()
        return all(found) and not all(math.isnan(figure) for figures in found for figure in figures)

    if panel.filled:
        eventually(f"data for {panel.title}", known)
    else:
        answers()
