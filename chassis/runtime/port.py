"""The runtime port: logical targets, idempotent asynchronous verbs, a nullable pid."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

State = Literal["running", "starting", "stopping", "stopped", "failed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """What the runtime knows of a target.

    `detail` says how it ended or why it can't start. `signal` and `exit_code` are of its last end, where known.
    """

    target: str
    state: State
    pid: int | None
    detail: str = ""
    started_at: datetime | None = None
    exit_code: int | None = None
    signal: str = ""
    oom_killed: bool = False


class Runtime(Protocol):
    """supervisord, the Docker broker, or a fake; later Swarm and Kubernetes.

    Verbs return once the request is accepted, not when it took effect; repeating one is harmless. Raise
    NotFound for an unknown target, Unavailable when the runtime can't be reached.
    """

    def targets(self) -> tuple[str, ...]: ...
    def state(self, target: str) -> TargetState: ...
    def start(self, target: str) -> None: ...
    def stop(self, target: str) -> None: ...
    def restart(self, target: str) -> None: ...
