"""One real station for all examples; each is run as its README says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.embedded.conftest import Station

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass
class Running:
    """An example under way; what it prints goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        return self.process.wait(timeout=30)


@dataclass
class Here:
    """The station, and how examples are started beside it."""

    station: Station
    folder: Path
    started: list[Running] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(json.loads(self.station.layout.endpoints.read_text())["dashboard"])

    def folder_of(self, domain: str, owner: str, *more: str) -> Path:
        """A signed and approved domain with a folder of its own."""
        path = self.folder / domain
        path.mkdir()
        self.station.calyx("domain", "new", domain, "--owner", owner, "--path", str(path), "--approve", *more)
        return path

    def invite(self, agent: str, domain: str) -> str:
        return self.station.calyx("agent", "invite", agent, "--domain", domain).stdout.strip()

    def start(self, example: str, *arguments: str, token: str = "") -> Running:
        log = self.folder / f"{example.replace('/', '-')}-{len(list(self.folder.iterdir()))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(EXAMPLES / example), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={
                    **self.station.environment,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "PYTHONPATH": f"{EXAMPLES.parent}:{EXAMPLES.parent / 'protos/gen'}",
                    "CALYX_URL": self.url,
                    "CALYX_AGENT_TOKEN": token,
                    "XDG_STATE_HOME": str(self.folder / "state"),
                },
            )
        self.started.append(Running(process, log))
        return self.started[-1]

    def end(self) -> None:
        """Whatever a failed test left behind."""
        for each in self.started:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("examples")
    station = Station(folder / "station")
    station.calyx("up", "--detach", "--port", "0", "--pulse-interval", "1s")
    made = Here(station, folder)
    try:
        yield made
    finally:
        made.end()
        station.calyx("down", status=None)
