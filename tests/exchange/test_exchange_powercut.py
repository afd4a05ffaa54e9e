"""The power goes; what had been promised is there. An ext4 image on a loop device is copied without any sync."""

from pathlib import Path

import pytest

from bench.powercut import power_cuts, why_not


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    return tmp_path / "run"


def test_no_promised_task_or_ack_is_lost_in_a_power_cut_and_nothing_torn_is_believed(folder: Path) -> None:
    losses = power_cuts(folder, cuts=2, seed=20261123)
    assert [loss.faults for loss in losses] == [[], []]
    assert losses[-1].promised["submit"] > losses[0].promised["submit"] > 0
    assert losses[-1].promised["ack"] > 0


@pytest.mark.parametrize("bug", ["file", "folder"])
def test_a_left_out_fsync_is_noticed(folder: Path, bug: str) -> None:
    after_a_submit, after_an_ack = power_cuts(folder, cuts=2, seed=1, bug=bug)
    assert after_a_submit.faults
    assert after_an_ack.faults
