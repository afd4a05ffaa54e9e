"""`calyx memory feedback`, `standing` and `evicted`: what may still be believed, and who says so."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, say
from cli.reach import reach_of
from cli.tables import Column, table
from cli.times import ago

VERDICTS = ("useful", "useless", "harmful", "withdrawn")
STANDINGS = ("valid", "invalidated", "superseded")


def name_of(kind: str, number: int) -> str:
    """A memory enum's value as people write it."""
    from calyx.memory.v1 import memory_pb2 as pb

    return str(getattr(pb, kind).Name(number)).removeprefix(f"{kind.upper()}_").lower()


def feedback(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The experience's id.")],
    verdict: Annotated[str, typer.Argument(help="useful, useless, harmful, or withdrawn to take yours back.")],
    query: Annotated[str, typer.Option(help="What it was recalled for.")] = "",
    task: Annotated[str, typer.Option(help="The task it was used for, if any.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say whether a match helped. Example: calyx memory feedback exp-1 useful --query "rotate the logs" """
    from calyx.memory.v1 import memory_pb2 as pb

    if verdict not in VERDICTS:
        raise InvalidInput(f"{verdict!r} is not a judgement; say {', '.join(VERDICTS)}")
    request = pb.FeedbackRequest(
        id=id, verdict=pb.Verdict.Value(f"VERDICT_{verdict.upper()}"), query=query, task_id=task
    )
    answer = reach_of(ctx).memory().Feedback(request)
    value = {"labels": answer.labels, "standing": name_of("Standing", answer.standing), "reason": answer.reason}
    emit(value, json, lambda v: say(f"noted; it is {v['standing']}: {v['reason']}. {v['labels']} judgements count."))


def standing(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The experience's id.")],
    standing: Annotated[str, typer.Argument(help="valid (takes back anything), invalidated or superseded.")],
    by: Annotated[str, typer.Option("--by", help="With superseded: the experience that replaces it.")] = "",
    reason: Annotated[str, typer.Option(help="Why, in a line.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say what may still be believed. Example: calyx memory standing exp-1 superseded --by exp-2"""
    from calyx.memory.v1 import memory_pb2 as pb

    if standing not in STANDINGS:
        raise InvalidInput(f"{standing!r} can't be set; say {', '.join(STANDINGS)}")
    request = pb.SetStandingRequest(
        id=id, standing=pb.Standing.Value(f"STANDING_{standing.upper()}"), because_of=by, reason=reason
    )
    answer = reach_of(ctx).memory().SetStanding(request)
    value = {"id": id, "standing": standing, "changed": answer.changed}
    emit(value, json, lambda v: say(f"{id} is {standing}{'' if v['changed'] else ' already'}"))


def evicted(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Superseded and invalidated ones as well.")] = False,
    n: Annotated[int, typer.Option("-n", min=1, max=500, help="At most this many.")] = 50,
    json: JsonFlag = False,
) -> None:
    """What recall leaves out because it did harm, with the evidence. Example: calyx memory evicted"""
    from calyx.memory.v1 import memory_pb2 as pb

    reach = reach_of(ctx)
    which = pb.STANDING_UNSPECIFIED if every else pb.STANDING_EVICTED
    answer = reach.memory().ListStandings(pb.ListStandingsRequest(standing=which, limit=n))
    value = {"standings": [_stood_json(each) for each in answer.standings]}
    emit(
        value,
        json,
        lambda v: table(
            (
                Column("id"), Column("standing", "state"), Column("since"), Column("by", drop=2),
                Column("objective", "words", drop=1), Column("evidence", "words"),
            ),
            [
                (
                    each["id"], each["standing"], ago(each["at"], reach.clock.now()),
                    each["because_of"] or each["caller"], each["objective"], each["reason"],
                )
                for each in v["standings"]
            ],
            "Nothing. What fails too often when it is followed is listed here; "
            "`calyx memory standing ID valid` takes that back.",
        ),
    )  # fmt: skip


def _stood_json(stood: Any) -> dict[str, Any]:
    return {
        "id": stood.experience.id,
        "standing": name_of("Standing", stood.standing),
        "at": at(stood, "at"),
        "because_of": stood.because_of,
        "caller": stood.caller,
        "reason": stood.reason,
        "objective": stood.experience.objective,
        "domain": stood.experience.domain,
        "procedure": stood.experience.procedure,
        "outcome": name_of("Outcome", stood.experience.outcome),
    }
