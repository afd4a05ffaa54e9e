"""The committed dashboards, read as Grafana reads them (no container needed)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


def boards() -> list[Any]:
    return [pytest.param(json.loads(file.read_text()), id=file.stem) for file in FILES]


def data_panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_two_dashboards_are_there() -> None:
    assert {json.loads(file.read_text())["title"] for file in FILES} == {"Station overview", "Resources"}


def test_the_committed_dashboards_are_what_their_generator_writes() -> None:
    answer = subprocess.run(
        [sys.executable, str(GRAFANA / "build.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("board", boards())
def test_every_panel_says_what_it_shows_in_which_unit_from_where(board: dict[str, Any]) -> None:
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    for panel in data_panels(board):
        assert panel["title"] and len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == uid
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == uid
            assert target["expr"], panel["title"]


@pytest.mark.parametrize("board", boards())
def test_what_is_unknown_reads_unknown_on_every_panel(board: dict[str, Any]) -> None:
    for panel in data_panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["noValue"] == "unknown", panel["title"]
        special = [m["options"] for m in defaults["mappings"] if m["type"] == "special"]
        assert [(s["match"], s["result"]["text"]) for s in special] == [("null+nan", "unknown")], panel["title"]
        # the last known value must not stand in for one that became unknown
        assert panel.get("options", {}).get("reduceOptions", {}).get("calcs", ["last"]) == ["last"], panel["title"]


@pytest.mark.parametrize("board", boards())
def test_ids_and_titles_are_unique_and_panels_do_not_overlap(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    titles = [panel["title"] for panel in data_panels(board)]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    cells: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert cells.setdefault((x, y), panel["title"]) == panel["title"]
