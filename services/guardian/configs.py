"""The last configuration a service was healthy with, and the way back to it."""

import threading
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_whole
from chassis.canonical import sha256_hex
from chassis.layout import Layout

NO_FILE = ""
"""Digest of a configuration file that is not there."""


class Configs:
    """config/<service>.env against guardian/good/<service>.env (or `.none`: it was healthy without one).

    A process runs with what the file held when it started: `started` notes that, `healthy` keeps it as good.
    """

    def __init__(self, layout: Layout) -> None:
        self._config = layout.root / "config"
        self._good = layout.state("guardian") / "good"
        self._replaced = layout.state("guardian") / "replaced"
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}

    def file(self, service: str) -> Path:
        return self._config / f"{service}.env"

    def started(self, service: str, at: datetime | None) -> None:
        """The service's process is new. With a file written after `at` nobody knows what it runs with."""
        path = self.file(service)
        with self._lock:
            self._running.pop(service, None)
            if at is None or not path.exists() or path.stat().st_mtime <= at.timestamp():
                self._running[service] = self._digest(path)

    def healthy(self, service: str) -> bool:
        """It has run well for a while: keep its configuration as good. True if that is news."""
        path = self.file(service)
        with self._lock:
            running, now = self._running.get(service), self._digest(path)
            if running is None or running != now or self._good_digest(service) == now:
                return False
            self._good.mkdir(parents=True, exist_ok=True)
            kept, none = self._good / f"{service}.env", self._good / f"{service}.none"
            if now == NO_FILE:
                write_whole(none, b"")
                kept.unlink(missing_ok=True)
            else:
                write_whole(kept, path.read_bytes(), mode=0o600)
                none.unlink(missing_ok=True)
            return True

    def suspect(self, service: str) -> bool:
        """There is a good configuration, and the present one is another."""
        with self._lock:
            good = self._good_digest(service)
            return good is not None and good != self._digest(self.file(service))

    def changed_seconds(self, service: str, now: datetime) -> float | None:
        """Since the file was written last; None without one."""
        try:
            return max(0.0, now.timestamp() - self.file(service).stat().st_mtime)
        except FileNotFoundError:
            return None

    def restore(self, service: str, now: datetime) -> str:
        """Put the good configuration in place and say what was done; the replaced one is kept. OSError may come.

        Empty when the configuration in place is the good one, or none is known.
        """
        path = self.file(service)
        with self._lock:
            good = self._good_digest(service)
            if good is None or good == self._digest(path):
                return ""
            if path.exists():
                self._replaced.mkdir(parents=True, exist_ok=True)
                aside = self._replaced / f"{service}-{now:%Y%m%dt%H%M%S%f}.env"
                write_whole(aside, path.read_bytes(), mode=0o600)
            if good == NO_FILE:
                path.unlink()
                fsync_dir(path.parent)
                return f"config/{service}.env removed, as in the last good state; kept in guardian/replaced"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (self._good / f"{service}.env").read_bytes(), mode=0o600)
            return f"config/{service}.env restored from guardian/good; the other one is in guardian/replaced"

    def _good_digest(self, service: str) -> str | None:
        kept = self._good / f"{service}.env"
        if kept.exists():
            return self._digest(kept)
        return NO_FILE if (self._good / f"{service}.none").exists() else None

    @staticmethod
    def _digest(path: Path) -> str:
        try:
            return sha256_hex(path.read_bytes())
        except FileNotFoundError:
            return NO_FILE
