"""`manual_shutdown.flag`: present = nothing new takes effect. Read at dispatch, at claim and before the effect."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_whole
from chassis.clock import iso


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """The flag file. An unreadable folder counts as engaged: in doubt, no effect."""

    path: Path

    def engaged(self) -> bool:
        try:
            self.path.lstat()
        except FileNotFoundError:
            return not self.path.parent.is_dir()
        except OSError:
            return True
        return True

    def why(self) -> str:
        """The reason a person gave; empty when released or unreadable."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[0][:500] if lines else ""

    def engage(self, why: str, who: str, now: datetime) -> None:
        """Idempotent; the first reason stays."""
        if not self.path.exists():
            write_whole(self.path, f"{why}\nby {who} at {iso(now)}\n".encode())

    def release(self) -> bool:
        """Remove the flag; False if it was not there."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        fsync_dir(self.path.parent)
        return True
