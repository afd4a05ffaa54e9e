"""An outside agent's account of its work, made into the station's ack, or refused with the reason."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from chassis.canonical import Json, canonical_json, digest
from chassis.clock import iso
from chassis.errors import InvalidInput
from chassis.exchange import rules
from chassis.exchange.manifest import Ack, Manifest
from chassis.exchange.port import Claim
from chassis.probing import KINDS

MAX_ACK_BYTES = 1024 * 1024
"""As canonical JSON. What an agent has to show beyond that belongs into a file that a prober can look at."""
MAX_DETAIL = 2000
MAX_CLAIMS, MAX_EFFECTS = 200, 10_000
_DIGEST_CHARS = 64

T = TypeVar("T", dict[str, Any], list[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """As it came. JSON texts may be empty; `duration_seconds` None is not said."""

    status: str
    detail: str = ""
    files_changed: int = 0
    plan_json: str = ""
    plan_digest: str = ""
    effects_json: str = ""
    claims_json: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    applied: bool = False
    reverted: bool = False
    duration_seconds: float | None = None


def fitting(task: Manifest) -> tuple[str, ...]:
    """The statuses that answer this task."""
    if task.undo_of:
        return ("undone", "failed", "cancelled")
    if task.rehearsal:
        return ("rehearsed", "no_work", "failed", "cancelled")
    return ("done", "no_work", "failed", "cancelled")


def ack_of(claim: Claim, answer: Answer, *, now: datetime, claimed_at: datetime) -> Ack:
    """Times are the CBO's: it ends now and began not before it was claimed; only the length is the agent's to say.

    Raises InvalidInput; nothing is recorded then, and the claim stays.
    """
    task = claim.manifest
    if answer.status not in fitting(task):
        raise _unfit(f"{answer.status[:40]!r} is no answer to this task; it takes {', '.join(fitting(task))}")
    if task.rehearsal and answer.applied:
        raise _unfit("a rehearsal applies nothing")
    elapsed = max(0.0, (now - claimed_at).total_seconds())
    said = answer.duration_seconds
    seconds = elapsed if said is None or not 0.0 <= said <= elapsed else said
    plan = _parsed(answer.plan_json, "plan_json", {})
    made: Json = {
        "task_id": task.task_id,
        "epoch": claim.epoch,
        "agent": task.owner,
        "status": answer.status,
        "started_at": iso(now - timedelta(seconds=seconds)),
        "ended_at": iso(now),
        "duration_seconds": seconds,
        "detail": answer.detail[:MAX_DETAIL],
        "files_changed": max(0, answer.files_changed),
        "plan": plan,
        "plan_digest": _plan_digest(plan, answer) if answer.status == "rehearsed" else "",
        "effects": _objects(answer.effects_json, "effects_json", MAX_EFFECTS),
        "claims": _claims(answer.claims_json),
        "cost": dict(answer.cost),
        "applied": answer.applied,
        "reverted": answer.reverted,
    }
    try:
        ack = Ack.from_json(made)
        size = len(canonical_json(ack.to_json()))
    except (ValueError, TypeError, RecursionError) as error:  # NaN, half a surrogate pair, too deep
        raise _unfit(str(error)) from error
    if size > MAX_ACK_BYTES:
        raise _unfit(f"an ack has at most {MAX_ACK_BYTES:,} bytes, this one has {size:,}")
    if why := rules.disbelieved(task, ack):
        raise _unfit(why)
    return ack


def _plan_digest(plan: Json, answer: Answer) -> str:
    """What a person will approve: as the agent says it, else over the plan's changes, as the services do."""
    if not plan:
        raise _unfit("a rehearsal shows its plan (plan_json)")
    try:
        return answer.plan_digest[:_DIGEST_CHARS] or digest(plan.get("changes", plan))
    except (ValueError, RecursionError) as error:
        raise _unfit(f"the plan has no digest: {error}") from error


def _claims(text: str) -> list[Json]:
    found = _objects(text, "claims_json", MAX_CLAIMS)
    for each in found:
        if each.get("kind") not in KINDS:
            raise _unfit(
                f"no prober checks a claim of kind {str(each.get('kind'))[:40]!r}; {', '.join(KINDS)} are known"
            )
    return found


def _objects(text: str, name: str, most: int) -> list[Json]:
    found = _parsed(text, name, list[Any]())
    if len(found) > most or not all(isinstance(each, dict) for each in found):
        raise _unfit(f"{name} is a list of at most {most:,} objects")
    return found


def _parsed(text: str, name: str, empty: T) -> T:
    if not text:
        return empty
    try:
        value = json.loads(text) if len(text) <= MAX_ACK_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _unfit(f"{name} is not JSON") from error
    if not isinstance(value, type(empty)):
        kind = "object" if isinstance(empty, dict) else "list"
        raise _unfit(f"{name} is a JSON {kind} of at most {MAX_ACK_BYTES:,} characters")
    return value


def _unfit(why: str) -> InvalidInput:
    return InvalidInput(f"{why}; nothing was recorded, the claim stays")
