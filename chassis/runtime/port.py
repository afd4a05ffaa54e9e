"""The runtime port: logical targets, idempotent asynchronous verbs, a nullable pid."""

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """What the runtime knows of a target. `starts` counts starts where the runtime counts them."""

    target: str
    state: Literal["running", "starting", "stopping", "stopped", "failed", "unknown"]
    pid: int | None
    detail: str = ""


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
