"""From an agent's function to the answer: which function, what its exceptions mean, what is never tried."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from calyx_agent.task import Stopped, Task
from calyx_agent.work import Plan, Result, Status

log = logging.getLogger("calyx_agent")

T = TypeVar("T")
Said = Result | None
Work = Callable[[Task], Said | Awaitable[Said]]
Rehearse = Callable[[Task], Plan | Awaitable[Plan]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """What an agent can do in one domain."""

    work: Work
    rehearse: Rehearse | None
    undo: Work | None


async def answer(functions: Functions, task: Task) -> Result | None:
    """What the function says, or what its exception means; None: nothing happened yet and the agent is ending."""
    try:
        if task.undo_of:
            return await _undo(functions, task)
        if task.rehearsal:
            return await _rehearse(functions, task)
        if task.plan_digest:
            if functions.rehearse is None:
                return task.failed("approved by its plan, but this agent can't rehearse", applied=False)
            if (await _call(functions.rehearse, task)).digest != task.plan_digest:
                return task.failed("the world no longer matches the approved plan; nothing was changed", applied=False)
        return await _call(functions.work, task) or task.done()
    except Stopped as stopped:
        if task.orders.leaving and (task.reverted or not task.touched):
            return None
        status: Status = "failed" if task.orders.leaving else "cancelled"
        return Result(status=status, detail=str(stopped), reverted=task.reverted)
    except Exception as error:
        log.exception("%s failed", task.id)
        return task.failed(f"{type(error).__name__}: {error}", reverted=task.reverted)


async def _undo(functions: Functions, task: Task) -> Result:
    if functions.undo is None:
        return task.failed(f"this agent has no undo for {task.domain}", applied=False)
    if task.params.get("dry_run") == "true":
        return Result(status="undone", detail="a dry run: the agent has an undo and would be asked to do it")
    return await _call(functions.undo, task) or task.done()


async def _rehearse(functions: Functions, task: Task) -> Result:
    if functions.rehearse is None:
        return task.failed("this agent can't rehearse; say `rehearses: false` in its domain's manifest", applied=False)
    plan = await _call(functions.rehearse, task)
    if not plan.changes:
        return Result(status="no_work", detail=plan.notes)
    return Result(status="rehearsed", detail=plan.notes, plan=plan, files_changed=len(plan.changes), applied=False)


async def _call(function: Callable[[Task], T | Awaitable[T]], task: Task) -> T:
    """Coroutines here, everything else in a thread."""
    if inspect.iscoroutinefunction(function):
        return await cast(Coroutine[Any, Any, T], function(task))
    made = await asyncio.to_thread(function, task)
    return await made if inspect.isawaitable(made) else made
