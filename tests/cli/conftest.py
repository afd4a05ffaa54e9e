from pathlib import Path

import pytest
from cli_harness import Console


@pytest.fixture
def calyx(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("COLUMNS", "200")
    return Console(tmp_path / "station", capsys)
