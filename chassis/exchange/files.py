"""The exchange in a folder (being built)."""

from collections.abc import Callable
from pathlib import Path

from chassis.clock import Clock
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Exchange
from chassis.killswitch import KillSwitch


class FilesExchange(Exchange):
    """Tasks as files on one local file system; every transition is a rename."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        verifier: Callable[[Manifest], bool],
        kill_switch: KillSwitch,
        lease_seconds: float = 30.0,
    ) -> None:
        self._root = root
