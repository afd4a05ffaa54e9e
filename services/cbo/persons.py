"""What only a person decides is refused to every process beneath a governed program, whatever token it shows."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from chassis.ancestry import Lineage
from chassis.audit import Audit
from chassis.errors import PermissionDenied
from chassis.executor import Executor
from chassis.rpc.auth import caller

log = structlog.get_logger(__name__)

DECIDES = (
    "SubmitObjective", "CancelObjective", "ApproveTask", "RejectTask", "CancelTask", "Undo", "SetLevel",
    "SetKillSwitch", "RequeueTask", "ApproveDomain", "RevokeDomain", "InviteAgent", "RevokeAgent",
)  # fmt: skip
"""Everything that changes what may happen. Engaging the kill switch is everybody's."""

S = TypeVar("S")


def guarded(servicer: S, lineage: Lineage, executor: Executor, audit: Audit, decides: Sequence[str] = DECIDES) -> S:
    """The same servicer; each of these methods first looks who is calling."""
    for method in decides:
        setattr(servicer, method, _guarded(method, getattr(servicer, method), lineage, executor, audit))
    return servicer


def _guarded(method: str, behaviour: Any, lineage: Lineage, executor: Executor, audit: Audit) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        if not getattr(request, "engaged", False):
            why = await executor.run(lineage.refusal, str(context.peer()))
            if why:
                log.warning("refused to a governed process", method=method, why=why)
                await executor.run(lambda: audit.write("policy.blocked", method=method, by=caller(), why=why))
                raise PermissionDenied(f"{method}: {why}")
        return await behaviour(request, context)

    return call
