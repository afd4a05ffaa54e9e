"""`calyx inbox`: everything that waits for a person, with what to type next."""

from datetime import datetime
from typing import Any

import typer

from cli.output import JsonFlag, at, emit, moment, say
from cli.reach import reach_of
from cli.tables import painted, tell
from cli.tasks import row_json
from cli.times import ago, local

WORDS = {
    "approval": "a plan waits for your yes or no",
    "proposal": "a proposal waits for your answer",
    "renewal": "a domain ends soon",
    "regression": "what a task changed did not hold and could not be undone",
    "quarantine": "in quarantine",
    "incident": "a critical fault is open",
    "kill_switch": "the kill switch is on",
}


def register(app: typer.Typer) -> None:
    app.command("inbox")(inbox)


def item_json(item: Any, now: datetime) -> dict[str, Any]:
    since = at(item, "since")
    return {
        "kind": item.kind,
        "id": item.id,
        "title": item.title,
        "domain": item.domain,
        "since": since,
        "age_s": None if since is None else max(0.0, (now - moment(item, "since")).total_seconds()),
        "expires_at": at(item, "expires_at"),
        "commands": list(item.commands),
    }


def inbox(ctx: typer.Context, json: JsonFlag = False) -> None:
    """What waits for your answer, newest first. Example: calyx inbox"""
    from calyx.inbox.v1 import inbox_pb2 as pb

    reach = reach_of(ctx)
    now = reach.clock.now()
    answer = reach.inbox().ListWaiting(pb.ListWaitingRequest())
    items = [item_json(each, now) for each in answer.items]
    tasks = [
        {**row_json(each.task), "answer_with": _first_answer(each.commands)}
        for each in answer.items
        if each.HasField("task")
    ]
    domains = [
        {"domain": each["id"], "warning": each["title"], "answer_with": each["commands"][0]}
        for each in items
        if each["kind"] == "renewal"
    ]
    value = {"items": items, "tasks": tasks, "domains": domains, "unknown": list(answer.unknown)}

    def words(v: dict[str, Any]) -> None:
        for each in v["unknown"]:
            tell(f"Something may be missing: {each}")
        if not v["items"]:
            tell(
                "Nothing waits for you. Plans that need your yes stand here; what was done already is in "
                "`calyx task list`."
            )
        for n, item in enumerate(v["items"]):
            if n:
                say("")
            age = "since when is unknown" if item["since"] is None else ago(item["since"], now)
            until = f", until {local(item['expires_at'], now)}" if item["expires_at"] else ""
            say(f"{item['id']}  {painted(item['kind'])} {age}{until}", plain=False)
            kind = f"{item['domain']}: " if item["domain"] else ""
            tell(f"{WORDS.get(item['kind'], item['kind'])}: {kind}{item['title']}", "  ")
            for command in item["commands"]:
                say(f"  {command}")

    emit(value, json, words)


def _first_answer(commands: Any) -> str:
    return next((each for each in commands if not each.startswith("calyx task show")), "")
