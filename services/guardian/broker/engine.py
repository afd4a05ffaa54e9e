"""The little of the Docker Engine API that the broker needs, over its unix socket."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from chassis.errors import NotFound, Refused, Unavailable
from chassis.runtime.port import State

NEWEST_KNOWN = (1, 47)
STOP_SECONDS = 10
STATES: Mapping[str, State] = {
    # `created` was never started: compose is still bringing it up.
    "created": "starting",
    "restarting": "starting",
    "running": "running",
    "paused": "failed",
    "removing": "stopping",
    "exited": "failed",
    "dead": "failed",
}
SIGNALS = {128 + 6: "SIGABRT", 128 + 9: "SIGKILL", 128 + 11: "SIGSEGV", 128 + 15: "SIGTERM"}
STATION_LABEL, SERVICE_LABEL, ONE_OFF_LABEL = "calyx.station", "calyx.service", "com.docker.compose.oneoff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of the station, by its labels."""

    id: str
    service: str


class Engine:
    """Raises Unavailable when the engine can't be reached or says no; NotFound for a container that went away."""

    def __init__(self, socket_path: Path, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(
            transport=transport or httpx.HTTPTransport(uds=str(socket_path)),
            base_url="http://docker",
            timeout=httpx.Timeout(STOP_SECONDS + 20.0, connect=2.0),
        )
        self._lock = threading.Lock()
        self._version = ""

    def containers(self, station: str) -> list[Container]:
        """Every container of the station, running or not, but those of `docker compose run`."""
        filters = f'{{"label":["{STATION_LABEL}={station}"]}}'
        found = self._ask("GET", "/containers/json", params={"all": "1", "filters": filters})
        return [
            Container(id=str(each["Id"]), service=str(each["Labels"].get(SERVICE_LABEL, "")))
            for each in found
            if each["Labels"].get(STATION_LABEL) == station and each["Labels"].get(ONE_OFF_LABEL, "False") != "True"
        ]

    def state(self, container: Container) -> dict[str, Any]:
        """As the broker answers it: state, pid, detail, started_at, exit_code, signal, oom_killed."""
        raw = self._ask("GET", f"/containers/{container.id}/json")["State"]
        status, code = str(raw["Status"]), int(raw.get("ExitCode", 0))
        state: State = STATES.get(status, "unknown")
        ended = status in ("exited", "dead")
        if ended and code == 0:
            state = "stopped"
        signal = SIGNALS.get(code, "") if ended else ""
        detail = str(raw.get("Error", ""))
        if ended:
            detail = detail or (f"terminated by {signal}" if signal else f"exited with status {code}")
            detail += ", OOM-killed" if raw.get("OOMKilled") else ""
        return {
            "state": state,
            "pid": int(raw["Pid"]) or None,
            "detail": detail or status,
            "started_at": _seconds(str(raw.get("StartedAt", ""))),
            "exit_code": code if ended else None,
            "signal": signal,
            "oom_killed": bool(raw.get("OOMKilled", False)),
        }

    def act(self, container: Container, verb: str) -> None:
        """start, stop or restart; blocks until the engine is done. Repeating one is harmless."""
        if verb not in ("start", "stop", "restart"):
            raise Refused(f"{verb!r} is not a verb of this broker")
        params = {} if verb == "start" else {"t": str(STOP_SECONDS)}
        self._ask("POST", f"/containers/{container.id}/{verb}", params=params)

    def ping(self) -> None:
        self._ask("GET", "/_ping")

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, *, params: Mapping[str, str] | None = None) -> Any:
        answer = self._request(method, f"/v{self._negotiated()}{path}", params)
        if answer.status_code == 404:
            raise NotFound(f"the engine has no such container any more: {_message(answer)}")
        if answer.status_code == 304:  # it was so already
            return None
        if not answer.is_success:
            raise Unavailable(f"the engine answered {answer.status_code}: {_message(answer)}")
        try:
            return answer.json() if answer.content and answer.headers.get("content-type", "").endswith("json") else None
        except ValueError as error:
            raise Unavailable("the engine's answer is no JSON") from error

    def _negotiated(self) -> str:
        """The engine's API version, at most the newest that this code was written against."""
        with self._lock:
            if not self._version:
                answer = self._request("GET", "/version", None)
                try:
                    said = tuple(int(part) for part in str(answer.json()["ApiVersion"]).split("."))
                except (ValueError, KeyError, TypeError) as error:
                    raise Unavailable("the engine does not say its API version") from error
                self._version = ".".join(str(part) for part in min(said, NEWEST_KNOWN))
            return self._version

    def _request(self, method: str, path: str, params: Mapping[str, str] | None) -> httpx.Response:
        try:
            return self._http.request(method, path, params=params)
        except httpx.HTTPError as error:
            raise Unavailable(f"the Docker engine does not answer: {error}") from error


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


def _seconds(text: str) -> str | None:
    """Docker's time has nanoseconds, which Python's parser does not take; year 1 means never."""
    if not text or text.startswith("0001"):
        return None
    return re.sub(r"\.(\d{6})\d*", r".\1", text)
