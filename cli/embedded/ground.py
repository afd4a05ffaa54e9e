"""What must be true before a station can start here; each check that fails is one line saying what to do."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator

from chassis.errors import InvalidInput, Refused
from chassis.layout import SERVICES, Layout

LEAST_FREE_BYTES = 64 * 1024 * 1024


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3]), platform: str = sys.platform) -> None:
    """Raises Refused on a Python or a system that the station does not run on."""
    if version[:2] < (3, 11):
        raise Refused(f"Python {'.'.join(map(str, version))} is too old; the station needs 3.11 or newer")
    if not platform.startswith("linux"):
        raise Refused(f"the embedded station needs Linux, not {platform}; use the containers: docker compose up")


def check_interval(seconds: float) -> None:
    if not 1 <= seconds <= 86400:
        raise InvalidInput("--pulse-interval is at least 1s and at most 1d")


def check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise InvalidInput("--port is 0 to 65535 (0 picks a free one)")


def check_folder(layout: Layout, least_free_bytes: int = LEAST_FREE_BYTES) -> None:
    """The folder is there, ours to write, and not full. Raises Refused."""
    root = layout.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = root / f".probe-{secrets.token_hex(4)}"
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, b"x" * 4096)
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(f"the disk under {root} is full; free some space and start again") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise Refused(f"{root} is not a folder; choose another with --station") from error
        raise Refused(
            f"can't write in {root} ({error.strerror}); give yourself write permission or choose another "
            "folder with --station"
        ) from error
    free = shutil.disk_usage(root).free
    if free < least_free_bytes:
        raise Refused(
            f"the disk under {root} is nearly full ({free // 2**20} MiB free, {least_free_bytes // 2**20} needed); "
            "free some space and start again"
        )


@contextlib.contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold `run/station.lock`: one `up` or `down` at a time. Raises Refused for the second."""
    layout.run.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(layout.run / "station.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                f"another `calyx up` or `calyx down` works on {layout.root}; wait until it is done"
            ) from error
        yield
    finally:
        os.close(fd)


def processes(layout: Layout) -> dict[int, str]:
    """pid → what it is, of this station's processes that run, whoever started them."""
    import psutil

    found: dict[int, str] = {}
    names = {f"services.{service}": service for service in SERVICES} | {"supervisor.supervisord": "supervisord"}
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        cmdline = process.info["cmdline"] or []
        name = next((names[part] for part in cmdline if part in names), None)
        if name is None or "-m" not in cmdline or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CALYX_STATION_DIR") == str(layout.root):
                found[int(process.info["pid"])] = name
    return found
