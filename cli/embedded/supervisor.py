"""supervisord for one station: its configuration, its start, its end."""

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from chassis.atomic import write_whole
from chassis.errors import Unavailable
from chassis.layout import DEPLOY, SERVICES, Layout
from chassis.runtime.supervisord import SupervisordRuntime

STOP_WAIT_SECONDS = 20
"""More than a service's own grace for calls and for its threads together."""

SOCKET_ROOM = 96
"""A unix socket's address holds 107 bytes, and supervisord appends its pid to the path for a moment."""


def render(template: str) -> str:
    """The configuration: the template, then the programs in start order."""
    return template.rstrip() + "\n" + "".join(_program(n, service) for n, service in enumerate(SERVICES))


def _program(order: int, service: str) -> str:
    healer = service == "guardian"
    return f"""
[program:{service}]
command="%(ENV_CALYX_PYTHON)s" -P -m services.{service}
priority={10 + order}
autostart=true
autorestart={"true" if healer else "false"}
startsecs=1
startretries={20 if healer else 0}
stopwaitsecs={STOP_WAIT_SECONDS}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{service}.out
stdout_logfile_maxbytes=256KB
stdout_logfile_backups=1
"""


def write_conf(layout: Layout) -> Path:
    """Write `run/supervisord.conf` and return its path."""
    conf = layout.run / "supervisord.conf"
    template = (DEPLOY / "supervisor" / "supervisord.conf.tmpl").read_text()
    write_whole(conf, render(template).encode(), mode=0o600)
    return conf


def choose_socket(layout: Layout, before: str) -> Path:
    """Where supervisord listens: in `run/`, or in a private temporary folder where that path is too long.

    `before` is the socket of an earlier start; its folder is used again if it is still ours alone.
    """
    beside = layout.run / "supervisor.sock"
    if len(os.fsencode(beside)) <= SOCKET_ROOM:
        return beside
    if before and _private(Path(before).parent):
        return Path(before)
    return Path(tempfile.mkdtemp(prefix="calyx-")) / "supervisor.sock"


def drop_socket(layout: Layout, socket: Path) -> None:
    """Remove the private folder of a socket that is not in `run/`."""
    if socket.parent != layout.run and _private(socket.parent) and socket.parent.name.startswith("calyx-"):
        socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def _private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


class Supervisor(SupervisordRuntime):
    """The runtime port, and the two verbs that only the person's own command has."""

    def alive(self) -> bool:
        try:
            self._call("getState")
        except Unavailable:
            return False
        return True

    def shut_down(self) -> int:
        """Ask supervisord to stop what still runs and to end; returns its pid."""
        pid = int(self._call("getPID"))
        self._call("shutdown")
        return pid


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What the services get of the shell's environment. gRPC's traces would write every token into the logs."""
    return {name: value for name, value in environment.items() if name != "GRPC_TRACE"}


def start(layout: Layout, conf: Path, environment: Mapping[str, str]) -> None:
    """Start supervisord in the background. Raises Unavailable with its own words when it would not."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(conf)],
        env={**inherited(os.environ), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=layout.root,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"supervisord did not start: {said[-1] if said else f'status {done.returncode}'}")
