"""A real station for `calyx run`, and a terminal to type at."""

import contextlib
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded.conftest import Station, until

ROOT = Path(__file__).resolve().parents[2]


class Seat:
    """A person before a terminal, who says yes to everything."""

    def __init__(self, station: Station, folder: Path) -> None:
        self._station, self._folder = station, folder

    def type(self, *arguments: str, through: tuple[str, ...] = ("-m", "cli.main")) -> tuple[int, str]:
        """The command's exit status, and all that the terminal showed. `through`: what Python is to run."""
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self._folder)
            os.execve(sys.executable, [sys.executable, *through, *arguments], self._station.environment)
        shown, said = b"", 0
        with contextlib.suppress(OSError):  # the terminal closes with its last process
            while part := os.read(fd, 65536):
                shown += part
                if shown.count(b"[y/N] ") > said:
                    said += 1
                    os.write(fd, b"y\n")
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    found = Station(tmp_path_factory.mktemp("governed") / "station")
    found.environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])}
    found.environment.pop("CALYX_TASK_ID", None)
    found.calyx("up", "--detach", "--port", "0", "--pulse-interval", "1s")
    # Before its first whole reading the governor admits nothing, and a rehearsal would be held.
    until(lambda: found.json("capacity")["cpu_percent"] is not None, 60, "the governor's first whole reading")
    try:
        yield found
    finally:
        found.calyx("down", status=None)


@pytest.fixture
def seat(station: Station, tmp_path: Path) -> Seat:
    return Seat(station, tmp_path)
