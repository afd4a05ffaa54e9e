"""`calyx journal`: what is kept, what can no longer be undone, and what the bounds would drop."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.journal import Journal, consent_within
from chassis.layout import Layout
from cli.main import main
from cli.reach import Reach


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    clock, data = VirtualClock(), tmp_path / "data"
    data.mkdir()
    journal = Journal(Layout(tmp_path / "station").journal, clock, consent_within([data]))
    for task in ("t1", "t2"):
        (data / task).write_bytes(bytes(5000))
        with journal.session(task, 1, lambda: None) as effects:
            effects.remove(data / task)
            effects.finish({})
        clock.advance(60)
    return Reach(tmp_path / "station", clock)


def test_it_says_what_is_kept_and_drops_nothing(reach: Reach, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["journal", "--prune", "--max-mib", "0", "--json"], reach) == 0
        said = json.loads(capsys.readouterr().out)
        assert [each["id"] for each in said["tasks"]] == ["t1", "t2"] == said["would_drop"]
        assert (said["oldest_undoable"], said["kept_bytes"], said["dropped"]) == ("t1", 10_000, [])


def test_it_says_in_words_what_can_no_longer_be_undone(reach: Reach, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(reach.layout.journal, reach.clock, consent_within([]))
    assert journal.prune(6000, timedelta(days=1)) == ["t1"]
    assert main(["journal"], reach) == 0
    said = capsys.readouterr().out
    assert "1 can no longer be undone" in said and "(size:" in said
    assert "The oldest that can still be undone: t2" in said


def test_without_a_station_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal"], Reach(tmp_path / "none")) == 3
    assert "calyx up" in capsys.readouterr().err
