"""The compose file as compose reads it (no container needed)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chassis.layout import SERVICES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CALYX_", "COMPOSE_"))}
    answer = subprocess.run(
        [str(ROOT / "deploy/containers/compose"), "-f", str(ROOT / "docker-compose.yml"), "config", "--format", "json"],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    if answer.returncode == 127:
        pytest.skip(answer.stderr.strip())
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)["services"]
    return found


def test_the_published_ports_are_the_documented_ones_on_loopback(services: dict[str, Any]) -> None:
    published = {
        (port["host_ip"], name, port["published"]) for name, one in services.items() for port in one.get("ports", [])
    }
    assert published == {
        ("127.0.0.1", "memory", "50051"),
        ("127.0.0.1", "governor", "50052"),
        ("127.0.0.1", "guardian", "50053"),
        ("127.0.0.1", "cbo", "50054"),
        ("127.0.0.1", "analytics", "50055"),
        ("127.0.0.1", "dashboard", "50056"),
        ("127.0.0.1", "dashboard", "4040"),
        ("127.0.0.1", "prometheus", "9090"),
        ("127.0.0.1", "grafana", "3000"),
    }


def test_every_container_is_fenced_in_and_limited(services: dict[str, Any]) -> None:
    for name, one in services.items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in one["security_opt"], name
        assert int(one["mem_limit"]) > 0 and float(one["cpus"]) > 0, name


def test_images_from_a_registry_are_pinned_to_a_version(services: dict[str, Any]) -> None:
    foreign = [one["image"] for one in services.values() if not one["image"].startswith("station-calyx/")]
    assert {image.split(":")[0] for image in foreign} == {"prom/prometheus", "grafana/grafana"}
    for image in foreign:
        assert any(character.isdigit() for character in image.partition(":")[2]), image


def test_the_guardian_starts_when_all_it_watches_is_healthy(services: dict[str, Any]) -> None:
    waits = {name: how["condition"] for name, how in services["guardian"]["depends_on"].items()}
    watched = set(SERVICES) - {"guardian"}
    assert waits == dict.fromkeys(watched | {"broker"}, "service_healthy")
