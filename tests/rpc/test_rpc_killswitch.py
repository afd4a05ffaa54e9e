"""The flag, whatever lies there: anything stops, nothing leaks, nothing hangs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import Refused
from chassis.killswitch import KillSwitch

PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "empty": lambda flag, _: flag.touch(),
    "bytes": lambda flag, _: flag.write_bytes(b"\xff\x00\xfe"),
    "huge": lambda flag, _: flag.write_bytes(b"x" * 1_000_000),
    "folder": lambda flag, _: flag.mkdir(),
    "link to a secret": lambda flag, secret: flag.symlink_to(secret),
    "link to nothing": lambda flag, _: flag.symlink_to("nowhere"),
    "link to itself": lambda flag, _: flag.symlink_to(flag.name),
    "fifo": lambda flag, _: os.mkfifo(flag),
    "nobody may read it": lambda flag, _: (flag.touch(), flag.chmod(0))[1],
}


@pytest.mark.parametrize("kind", PLANTS)
def test_whatever_the_flag_is_it_stops_and_shows_no_other_file(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "operator.token"
    secret.write_text("a token that nobody may see")
    switch = KillSwitch(tmp_path / "manual_shutdown.flag")
    PLANTS[kind](switch.path, secret)
    assert switch.engaged()
    assert "token" not in switch.why()
    assert len(switch.why()) <= 500
    switch.engage("once more", "me", VirtualClock().now())
    assert switch.engaged()
    assert secret.read_text() == "a token that nobody may see"


def test_a_flag_that_cannot_be_removed_stays_engaged_and_says_so(tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path / "manual_shutdown.flag")
    switch.path.mkdir()
    with pytest.raises(Refused, match="by hand"):
        switch.release()
    assert switch.engaged()


def test_without_its_folder_the_switch_is_engaged(tmp_path: Path) -> None:
    assert KillSwitch(tmp_path / "gone" / "manual_shutdown.flag").engaged()


def test_a_folder_that_is_no_folder_or_a_link_to_nothing_counts_as_engaged(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "link", "loop", "x" * 300):
        assert KillSwitch(tmp_path / name / "manual_shutdown.flag").engaged(), name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_counts_as_engaged(tmp_path: Path) -> None:
    folder = tmp_path / "shut"
    folder.mkdir(mode=0)
    try:
        assert KillSwitch(folder / "manual_shutdown.flag").engaged()
    finally:
        folder.chmod(0o700)
