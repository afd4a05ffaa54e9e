"""What a person may change. Every route asks `writer` first: session or token, and our own origin."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from chassis.canonical import Json
from chassis.clock import iso
from services.dashboard.web.context import Context

Why = Annotated[str, Field(max_length=500)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Switch(Body):
    """The kill switch; stopping needs a reason."""

    engaged: bool
    why: Why = ""


class Approval(Body):
    """The digest of the plan the person saw."""

    plan_digest: str = Field(max_length=200)


class Reason(Body):
    why: Why = ""


class Wanted(Body):
    """An objective; at most one of every_seconds, at and every_pulse (none: once, at the next pulse)."""

    text: str = Field(min_length=1, max_length=2000)
    domain: str = Field("", max_length=120)
    params: dict[str, str] = Field(default_factory=dict, max_length=50)
    every_seconds: float | None = Field(None, ge=1, le=86400 * 366)
    at: AwareDatetime | None = None
    every_pulse: bool = False
    idempotency_key: str = Field("", max_length=200)

    @model_validator(mode="after")
    def _one_schedule(self) -> "Wanted":
        if sum((self.every_seconds is not None, self.at is not None, self.every_pulse)) > 1:
            raise ValueError("give one of every_seconds, at and every_pulse")
        return self


def writes(at: Context) -> APIRouter:
    api = APIRouter()

    @api.post("/api/kill-switch")
    async def kill_switch(request: Request, body: Switch) -> Json:
        who = at.writer(request)
        answer = await at.run(at.desk.set_kill_switch, body.engaged, body.why, who)
        at.board.changed()
        return answer

    @api.post("/api/tasks/{task_id}/approve")
    async def approve(request: Request, task_id: str, body: Approval) -> Json:
        who = at.writer(request)
        task = await at.run(at.desk.approve, task_id, body.plan_digest, who)
        at.board.changed()
        return task

    @api.post("/api/tasks/{task_id}/reject")
    async def reject(request: Request, task_id: str, body: Reason) -> Json:
        who = at.writer(request)
        task = await at.run(at.desk.reject, task_id, body.why, who)
        at.board.changed()
        return task

    @api.post("/api/tasks/{task_id}/cancel")
    async def cancel(request: Request, task_id: str, body: Reason) -> Json:
        who = at.writer(request)
        task = await at.run(at.desk.cancel, task_id, body.why, who)
        at.board.changed()
        return task

    @api.post("/api/objectives")
    async def submit(request: Request, body: Wanted) -> Json:
        who = at.writer(request)
        wanted = body.model_dump(exclude={"at"}) | {"at": iso(body.at) if body.at else None}
        objective = await at.run(at.desk.submit, wanted, who)
        at.board.changed()
        return objective

    @api.post("/api/pulse")
    async def pulse(request: Request) -> Json:
        who = at.writer(request)
        answer = await at.run(at.desk.run_pulse, who)
        at.board.changed()
        return answer

    return api
