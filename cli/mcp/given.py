"""What a model hands in with an ack, typed, and as the station takes it."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chassis.canonical import digest
from chassis.probing import KINDS
from cli.mcp.answers import Json

_KINDS: list[JsonValue] = [*sorted(KINDS)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlannedChange(_Given):
    """One change that a rehearsal found it would make."""

    op: Literal["create", "replace", "remove", "rotate"]
    target: str = Field(max_length=4096, description="Absolute path")
    before_sha256: str | None = Field(default=None, description="Of the content now; null: there is no file")
    after_sha256: str | None = Field(default=None, description="Of the content then; null: there will be no file")
    size_bytes: int = Field(default=0, ge=0)


class Effect(_Given):
    """One change that was made."""

    op: Literal["create", "replace", "remove", "rotate", "other"]
    target: str = Field(max_length=4096, description="What was changed; an absolute path for files")
    note: str = Field(default="", max_length=500)


class Claim(_Given):
    """What an independent prober will find if the answer is true."""

    kind: str = Field(max_length=40, description="What the prober does", json_schema_extra={"enum": _KINDS})
    target: str = Field(max_length=4096, description="Absolute path, or what the kind looks at")
    expect: dict[str, str] = Field(
        description='What it must find, e.g. {"sha256": "…"} with file_digest; {} with absent'
    )


def planned(plan: list[PlannedChange] | None) -> Json:
    if plan is None:
        return {}
    changes = [each.model_dump() for each in plan]
    return {"plan_json": json.dumps({"changes": changes, "notes": ""}), "plan_digest": digest(changes)}


def listed(given: list[Effect] | list[Claim] | None) -> str:
    return json.dumps([each.model_dump() for each in given]) if given else ""
