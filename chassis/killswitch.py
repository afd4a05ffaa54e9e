"""`manual_shutdown.flag`: present = nothing new takes effect. Read at dispatch, at claim and before the effect."""

import os
import re
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir, write_whole
from chassis.clock import iso
from chassis.errors import Refused


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
        lines = self._lines()
        return lines[0][:500] if lines else ""

    def _lines(self) -> list[str]:
        """Shown to everybody, so a link to another file is not followed; a FIFO is not waited for."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            plain = stat.S_ISREG(os.fstat(fd).st_mode)
            return os.read(fd, 4096).decode(errors="replace").splitlines() if plain else []
        except OSError:
            return []
        finally:
            os.close(fd)

    def by(self) -> str:
        """Who set the flag, as the flag says it; empty when it does not. Anybody who can write it can say anything."""
        lines = self._lines()
        found = re.fullmatch(r"by (.{1,100}) at \S+", lines[1]) if len(lines) > 1 else None
        return found[1] if found else ""

    def engage(self, why: str, who: str, now: datetime) -> None:
        """Idempotent; the first reason stays. On a full disk the bare flag is set: it stops, only without the words."""
        if self.path.exists():
            return
        try:
            write_whole(self.path, f"{why}\nby {who} at {iso(now)}\n".encode())
        except OSError:
            self.path.touch()

    def release(self) -> bool:
        """Remove the flag; False if it was not there. Raises Refused if it can't be removed: then it stays engaged."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Refused(f"{self.path.name} can't be removed ({error.strerror}); remove it by hand") from error
        fsync_dir(self.path.parent)
        return True
