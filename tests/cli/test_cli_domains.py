"""`calyx domain`: what is listed, what may be allowed, and that a refusal says why."""

from pathlib import Path

import pytest
from cli_harness import Console

from chassis.clock import VirtualClock
from chassis.consent import read
from chassis.identity import found_station
from chassis.ids import CountedIds
from chassis.layout import Layout


@pytest.fixture
def layout(calyx: Console) -> Layout:
    found_station(calyx.reach.layout, VirtualClock(), CountedIds())
    return calyx.reach.layout


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app").resolve()


def test_an_allowed_folder_is_kept_listed_and_taken_back(calyx: Console, layout: Layout, folder: Path) -> None:
    given = calyx.json("domain", "allow-path", "log_rotation", str(folder))
    assert (given["path"], given["by"], given["confirmed_at"], given["changed"]) == (
        str(folder), "operator", None, True,
    )  # fmt: skip
    assert calyx.json("domain", "allow-path", "log_rotation", str(folder))["changed"] is False
    listed = {each["domain"]: each for each in calyx.json("domain", "list")["domains"]}
    assert [each["path"] for each in listed["log_rotation"]["allowed"]] == [str(folder)]
    assert listed["log_rotation"]["paths"] == [str(layout.logs)]
    assert listed["cleanup"]["allowed"] == []
    assert "its first effect needs your approval" in " ".join(calyx.run("domain", "list")[0].split())
    calyx.run("domain", "forbid-path", "log_rotation", str(folder))
    assert read(layout) == ()
    calyx.run("domain", "forbid-path", "log_rotation", str(folder), status=2)


def test_a_link_is_allowed_as_what_it_leads_to(
    calyx: Console, layout: Layout, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("links") / "app"
    link.symlink_to(folder)
    assert calyx.json("domain", "allow-path", "log_rotation", str(link))["path"] == str(folder)


@pytest.mark.parametrize(
    ("domain", "path", "status", "why"),
    [
        ("log_rotation", "/", 1, "too wide"),
        ("log_rotation", "/etc", 1, "system"),
        ("log_rotation", "/usr/share", 1, "system"),
        ("log_rotation", "var/log", 2, "absolute"),
        ("log_rotation", "/no/such/folder", 2, "no folder"),
        ("cleanup", "/var/log", 2, "own folder only"),
        ("nothing", "/var/log", 2, "no domain"),
    ],
)
def test_what_may_not_be_allowed_is_refused_with_the_reason(
    calyx: Console, layout: Layout, domain: str, path: str, status: int, why: str
) -> None:
    assert why in calyx.run("domain", "allow-path", domain, path, status=status)[1]
    assert not layout.consents.exists()


def test_secrets_and_the_station_itself_are_refused(calyx: Console, layout: Layout, folder: Path) -> None:
    (folder / ".ssh").mkdir()
    for path in (folder, folder / ".ssh", layout.root, layout.logs, layout.root.parent):
        assert "can't be allowed" in calyx.run("domain", "allow-path", "log_rotation", str(path), status=1)[1]


def test_a_damaged_file_is_said_and_not_overwritten(calyx: Console, layout: Layout, folder: Path) -> None:
    layout.consents.parent.mkdir(exist_ok=True)
    layout.consents.write_text("{")
    assert "can't be read" in calyx.run("domain", "allow-path", "log_rotation", str(folder), status=1)[1]
    assert layout.consents.read_text() == "{"
    assert "can't be read" in calyx.run("domain", "list")[1]
    assert "can't be read" in calyx.json("domain", "list")["fault"]


def test_without_a_station_nothing_is_allowed(calyx: Console, folder: Path) -> None:
    assert "no station" in calyx.run("domain", "allow-path", "log_rotation", str(folder), status=3)[1]
