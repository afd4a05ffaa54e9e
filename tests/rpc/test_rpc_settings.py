from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.layout import Layout
from chassis.settings import ServiceSettings, StationSettings, load
from cli.settings_page import PAGE, discovered, render


class MemorySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CALYX_MEMORY_")
    recall_limit: int = Field(5, gt=0, description="Most matches.")


def test_each_service_has_its_own_ports_by_default() -> None:
    settings = MemorySettings()
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9151")


def test_the_environment_goes_before_the_services_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "memory.env").write_text("CALYX_MEMORY_RECALL_LIMIT=7\nCALYX_MEMORY_GRACE_SECONDS=2\n")
    monkeypatch.setenv("CALYX_MEMORY_GRACE_SECONDS", "3")
    settings = load(MemorySettings, "memory", Layout(tmp_path))
    assert (settings.recall_limit, settings.grace_seconds) == (7, 3.0)


def test_bad_settings_end_the_process_with_one_line_that_names_them_without_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALYX_MEMORY_LISTEN", "sekrit")
    monkeypatch.setenv("CALYX_MEMORY_RECALL_LIMIT", "0")
    with pytest.raises(SystemExit) as caught:
        load(MemorySettings, "memory")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "CALYX_MEMORY_LISTEN: write it as host:port" in line
    assert "CALYX_MEMORY_RECALL_LIMIT: Input should be greater than 0" in line
    assert "sekrit" not in line


def test_an_unknown_key_in_the_services_file_is_a_typo_not_a_wish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "memory.env").write_text("CALYX_MEMORY_RECAL_LIMIT=7\n")
    with pytest.raises(SystemExit):
        load(MemorySettings, "memory", Layout(tmp_path))
    assert "CALYX_MEMORY_RECAL_LIMIT" in capsys.readouterr().err


def test_settings_are_frozen_and_the_station_folder_is_made_absolute() -> None:
    station = StationSettings(station_dir=Path("station"))
    with pytest.raises(ValueError, match="frozen"):
        station.log_level = "debug"  # type: ignore[misc] # the point of the test
    assert station.layout.root.is_absolute()
    assert station.secrets == station.layout.secrets
    assert station.endpoint("cbo") == "127.0.0.1:50054"


def test_every_setting_says_what_it_is_and_stands_on_the_settings_page() -> None:
    classes = discovered()
    assert len(classes) >= 1
    for cls in classes:
        for name, each in cls.model_fields.items():
            assert each.description, f"{cls.__name__}.{name} needs a description"
    assert PAGE.read_text() == render(classes), "docs/settings.md is not current: run 'make docs' and commit it"
