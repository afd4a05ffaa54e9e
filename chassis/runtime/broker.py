"""The runtime port over the Docker broker (services/guardian/broker): HTTP on a unix socket."""

import http.client
import json
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from chassis.clock import parse_iso
from chassis.errors import NotFound, Refused, ResourceExhausted, Unavailable
from chassis.runtime.port import TargetState
from chassis.runtime.unix_http import UnixConnection


class BrokerRuntime:
    """Targets are the station's labelled containers; the broker decides what may be done to them.

    Beside the port's errors, Refused (not on the broker's allow-list) and ResourceExhausted (rate limit).
    """

    def __init__(self, socket_path: Path, *, timeout_seconds: float = 3.0) -> None:
        self._socket, self._timeout_seconds = socket_path, timeout_seconds

    def targets(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self._ask("GET", "/v1/targets")["targets"])

    def state(self, target: str) -> TargetState:
        answer = self._ask("GET", f"/v1/targets/{target}")
        started: datetime | None = parse_iso(answer["started_at"]) if answer.get("started_at") else None
        return TargetState(
            target=target,
            state=answer["state"],
            pid=answer.get("pid"),
            detail=str(answer.get("detail", "")),
            started_at=started,
            exit_code=answer.get("exit_code"),
            signal=str(answer.get("signal", "")),
            oom_killed=bool(answer.get("oom_killed", False)),
        )

    def start(self, target: str) -> None:
        self._ask("POST", f"/v1/targets/{target}/start")

    def stop(self, target: str) -> None:
        self._ask("POST", f"/v1/targets/{target}/stop")

    def restart(self, target: str) -> None:
        self._ask("POST", f"/v1/targets/{target}/restart")

    def _ask(self, method: str, path: str) -> Any:
        try:
            with closing(UnixConnection(self._socket, self._timeout_seconds)) as connection:
                connection.request(method, path)
                answer = connection.getresponse()
                status, body = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"the Docker broker does not answer: {error}") from error
        if status < 300:
            return body
        kind = {404: NotFound, 403: Refused, 429: ResourceExhausted}.get(status, Unavailable)
        raise kind(str(body.get("reason", f"the Docker broker answered {status}")))
