"""The runtime port over supervisord's XML-RPC on its unix socket."""

import http.client
import re
import threading
import xmlrpc.client
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from chassis.errors import NotFound, Unavailable
from chassis.runtime.port import State, TargetState
from chassis.runtime.unix_http import UnixConnection

log = structlog.get_logger(__name__)

STATES: Mapping[str, State] = {
    "RUNNING": "running",
    "STARTING": "starting",
    "BACKOFF": "starting",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
    "EXITED": "failed",
    "FATAL": "failed",
    "UNKNOWN": "unknown",
}
BAD_NAME, ALREADY_STARTED, NOT_RUNNING = 10, 60, 70
"""Fault codes of supervisor.xmlrpc.Faults."""
LOG_TAIL_BYTES = 16384
RESTART_LIMIT_SECONDS = 60.0


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__()
        self._path, self._timeout_seconds = path, timeout_seconds

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = UnixConnection(self._path, self._timeout_seconds)
        self._connection = host, connection  # where the base class finds it to close it
        return connection


class SupervisordRuntime:
    """Targets are supervisord's programs. A restart waits for the stop in a thread of its own.

    The programs should have `autorestart=false` and `startretries=0`: the guardian is the one restarter.
    """

    def __init__(self, socket_path: Path, *, timeout_seconds: float = 3.0) -> None:
        self._socket, self._timeout_seconds = socket_path, timeout_seconds
        self._lock = threading.Lock()
        self._restarting: set[str] = set()

    def targets(self) -> tuple[str, ...]:
        return tuple(str(info["name"]) for info in self._call("getAllProcessInfo"))

    def state(self, target: str) -> TargetState:
        info = self._call("getProcessInfo", target, target=target)
        state: State = STATES.get(str(info["statename"]), "unknown")
        exit_code, signal, detail = None, "", str(info["spawnerr"] or "")
        if info["statename"] == "EXITED":
            exit_code = int(info["exitstatus"])
            if exit_code == 0:
                state = "stopped"
            detail = f"exited with status {exit_code}"
        if state == "failed" and exit_code in (None, -1):
            # XML-RPC tells the status, not the signal: that is in supervisord's own log only.
            ending = self._last_ending(target)
            detail, found = ending or detail, re.search(r"terminated by (SIG[A-Z0-9+]+)", ending)
            signal, exit_code = (found.group(1), None) if found else ("", exit_code)
        with self._lock:
            if target in self._restarting and state in ("stopped", "failed"):
                state, detail = "stopping", "being restarted"
        alive = state in ("running", "starting", "stopping") and int(info["pid"]) > 0
        started = int(info["start"]) if alive else 0
        return TargetState(
            target=target,
            state=state,
            pid=int(info["pid"]) if alive else None,
            detail=detail,
            started_at=datetime.fromtimestamp(started, UTC) if started else None,
            exit_code=exit_code,
            signal=signal,
        )

    def start(self, target: str) -> None:
        self._call("startProcess", target, False, target=target, harmless=ALREADY_STARTED)

    def stop(self, target: str) -> None:
        self._call("stopProcess", target, False, target=target, harmless=NOT_RUNNING)

    def restart(self, target: str) -> None:
        if self.state(target).state in ("stopped", "failed"):
            self.start(target)
            return
        with self._lock:
            if target in self._restarting:
                return
            self._restarting.add(target)
        threading.Thread(target=self._stop_then_start, args=(target,), name=f"restart-{target}", daemon=True).start()

    def _stop_then_start(self, target: str) -> None:
        try:
            limit = RESTART_LIMIT_SECONDS
            self._call("stopProcess", target, True, target=target, harmless=NOT_RUNNING, timeout_seconds=limit)
            self.start(target)
        except (NotFound, Unavailable) as error:
            log.error("restart failed", target=target, error=error.message)
        finally:
            with self._lock:
                self._restarting.discard(target)

    def _last_ending(self, target: str) -> str:
        """The last `exited: …` of the target in supervisord's log, e.g. `terminated by SIGKILL; not expected`."""
        try:
            tail = str(self._call("readLog", -LOG_TAIL_BYTES, 0))
        except Unavailable:
            return ""
        found = re.findall(rf"exited: {re.escape(target)} \((.*)\)", tail)
        return str(found[-1]) if found else ""

    def _call(
        self, method: str, *args: Any, target: str = "", harmless: int = 0, timeout_seconds: float | None = None
    ) -> Any:
        transport = _Transport(self._socket, timeout_seconds or self._timeout_seconds)
        try:
            with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == BAD_NAME:
                raise NotFound(f"supervisord has no program {target!r}", target=target) from fault
            if fault.faultCode == harmless:
                return True
            raise Unavailable(f"supervisord refused {method}: {fault.faultString}", target=target) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"supervisord does not answer on {self._socket.name}: {error}") from error
