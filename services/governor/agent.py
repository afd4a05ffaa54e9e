"""The governor as an agent: the works it does for `log_rotation` and both cleanups, and where they may look."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from chassis.clock import Clock
from chassis.consent import ConsentFile
from chassis.errors import CalyxError
from chassis.exchange.manifest import TASK_ID, TaskId
from chassis.exchange.port import Exchange
from chassis.layout import Layout
from chassis.work import Work
from chassis.worker import LeaseView
from services.governor.cleanup import Cleanup
from services.governor.disk_cleanup import DiskCleanup
from services.governor.holders import Holders
from services.governor.leases import Leases
from services.governor.log_rotation import LogRotation

AGENT = "governor"
OVER = frozenset({"done", "dead", "cancelled", "unknown"})


def modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


def governor_works(
    *,
    layout: Layout,
    roots: Sequence[Path],
    exchange: Exchange,
    holders: Holders,
    clock: Clock,
    cpu_seconds: Callable[[], float],
    modified: Callable[[Path], datetime] = modified,
) -> list[Work]:
    """All three works, on the station's own folders; log rotation on those that a person allowed, too."""
    return [
        LogRotation(
            default_folder=layout.logs,
            roots=lambda: roots,
            allowed=ConsentFile(layout).here,
            holders=holders,
            clock=clock,
            cpu_seconds=cpu_seconds,
        ),
        Cleanup(
            work=layout.root / "work",
            live=live_in(exchange),
            clock=clock,
            modified=modified,
            cpu_seconds=cpu_seconds,
        ),
        DiskCleanup(
            layout=layout,
            scratch_root=layout.work(AGENT),
            clock=clock,
            modified=modified,
            cpu_seconds=cpu_seconds,
        ),
    ]


def live_in(exchange: Exchange) -> Callable[[str], bool]:
    """Whether a scratch folder's name is that of a task which is not over yet. In doubt it is live."""

    def live(name: str) -> bool:
        if not TASK_ID.fullmatch(name):
            return False
        try:
            return exchange.get(TaskId(name)).state not in OVER
        except CalyxError:
            return True

    return live


def sleep_leases(leases: Leases) -> Callable[[str], LeaseView | None]:
    """What the worker asks before a claim: is this agent or domain asleep?"""

    def look(target: str) -> LeaseView | None:
        lease = leases.sleeping(target)
        if lease is None:
            return None
        return LeaseView(kind=lease.kind, target=lease.target, until=lease.expires_at, reason=lease.reason)

    return look
