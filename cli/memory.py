"""`calyx recall` and `calyx memory`: what the station remembers."""

from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.errors import InvalidInput
from cli.output import JsonFlag, at, emit, optional, say
from cli.reach import reach_of
from cli.tables import Column, facts, table
from cli.times import ago, parse_moment


def register(app: typer.Typer) -> None:
    app.command("recall")(recall)
    group = typer.Typer(no_args_is_help=True)
    group.command("verify")(verify)
    group.command("backup")(backup)
    group.command("rebuild-index")(rebuild_index)
    group.command("stats")(stats)
    group.command("feedback")(feedback)
    app.add_typer(group, name="memory", help="Look after the experience store. Example: calyx memory stats")


def match_json(match: Any) -> dict[str, Any]:
    from calyx.memory.v1 import memory_pb2 as pb

    experience = match.experience
    return {
        "id": experience.id,
        "cosine": match.cosine,
        "objective": experience.objective,
        "domain": experience.domain,
        "procedure": experience.procedure,
        "outcome": pb.Outcome.Name(experience.outcome).removeprefix("OUTCOME_").lower(),
        "tes": optional(experience, "tes"),
        "confidence": optional(experience, "confidence"),
        "at": at(experience, "occurred_at"),
        "near": match.near,
        "why": match.why,
    }


def recall(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What you are about to do, in words.")],
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="At most this many.")] = 5,
    min_cosine: Annotated[float | None, typer.Option(min=0.8, max=1.0, help="Stricter than 0.8.")] = None,
    domain: Annotated[str, typer.Option(help="Only this domain.")] = "",
    since: Annotated[str, typer.Option(help="Only later than this (2026-01-31, or a span like 24h).")] = "",
    json: JsonFlag = False,
) -> None:
    """Experiences that mean the same. Example: calyx recall "rotate the logs" -n 3"""
    from calyx.memory.v1 import memory_pb2 as pb

    reach = reach_of(ctx)
    request = pb.RecallRequest(objective=text, limit=n, domain=domain, min_cosine=min_cosine)
    if since:
        request.since.FromDatetime(parse_moment(since, reach.clock.now(), ago=True))
    answer = reach.memory().Recall(request)
    value = {
        "query": text,
        "min_cosine": answer.floor,
        "matches": [match_json(match) for match in answer.matches],
        "searched": answer.searched,
        "pending": answer.pending,
    }
    emit(
        value,
        json,
        lambda v: table(
            (
                Column("id"), Column("cosine", "number"), Column("outcome", "state"), Column("TES", "number"),
                Column("domain", drop=1), Column("procedure", drop=3), Column("when", drop=2),
                Column("objective", "words"),
            ),
            [
                (
                    m["id"], f"{m['cosine']:.3f}", m["outcome"], m["tes"], m["domain"] or "open",
                    m["procedure"] or "none", ago(m["at"], reach.clock.now()), m["objective"],
                )
                for m in v["matches"]
            ],
            f"Nothing above cosine {v['min_cosine']:.2f} among {v['searched']} experiences: nothing that means the "
            "same was done yet. Whole sentences find more than single words.",
        ),
    )  # fmt: skip


def verify(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Check store and index against each other; exit 1 if something is damaged. Example: calyx memory verify"""
    from calyx.memory.v1 import memory_pb2 as pb

    answer = reach_of(ctx).memory().Verify(pb.VerifyRequest(), timeout=120)
    value = {
        "ok": answer.ok,
        "damages": [{"what": d.what, "why": d.why} for d in answer.damages],
        "experiences": answer.experiences,
        "vectors": answer.vectors,
        "verified_at": at(answer, "verified_at"),
    }

    def words(v: dict[str, Any]) -> None:
        for damage in v["damages"]:
            say(f"damaged: {damage['what']}: {damage['why']}")
        say(f"{'holds' if v['ok'] else 'DAMAGED'}: {v['experiences']} experiences, {v['vectors']} vectors")

    emit(value, json, words)
    if not answer.ok:
        raise Exit(1)


def backup(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Write a verified copy. Example: calyx memory backup"""
    from calyx.memory.v1 import memory_pb2 as pb

    answer = reach_of(ctx).memory().Backup(pb.BackupRequest(), timeout=120)
    value = {"path": answer.path, "size_bytes": answer.size_bytes, "sha256": answer.sha256}
    emit(value, json, lambda v: say(f"{v['path']} ({v['size_bytes']} bytes, sha256 {v['sha256'][:12]}…)"))


def rebuild_index(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Derive the vectors anew from the store. Example: calyx memory rebuild-index"""
    from calyx.memory.v1 import memory_pb2 as pb

    answer = reach_of(ctx).memory().RebuildIndex(pb.RebuildIndexRequest(), timeout=300)
    emit({"vectors": answer.vectors}, json, lambda v: say(f"{v['vectors']} vectors in the new index"))


def stats(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Size, recalls, age of the last check. Example: calyx memory stats --json"""
    from calyx.memory.v1 import memory_pb2 as pb

    reach = reach_of(ctx)
    answer = reach.memory().Stats(pb.StatsRequest())
    value = {
        "experiences": answer.experiences,
        "vectors": answer.vectors,
        "recalls": answer.recalls,
        "hits": answer.hits,
        "model": answer.model,
        "index": answer.index,
        "verified_at": at(answer, "verified_at"),
        "schema_version": answer.schema_version,
    }

    def words(v: dict[str, Any]) -> None:
        facts(
            (
                ("experiences", v["experiences"]),
                ("vectors", f"{v['vectors']} ({v['index']} index, {v['model']})"),
                ("recalls", f"{v['recalls']}, {v['hits']} with a match, since the memory service started"),
                ("checked", ago(v["verified_at"], reach.clock.now())),
                ("schema", f"version {v['schema_version']}"),
            )
        )

    emit(value, json, words)


def feedback(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The experience's id.")],
    judgement: Annotated[str, typer.Argument(help="useful or useless.")],
    query: Annotated[str, typer.Option(help="What it was recalled for.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say whether a match helped. Example: calyx memory feedback exp-1 useful"""
    from calyx.memory.v1 import memory_pb2 as pb

    if judgement not in ("useful", "useless"):
        raise InvalidInput(f"{judgement!r} is not a judgement; say useful or useless")
    request = pb.FeedbackRequest(id=id, useful=judgement == "useful", query=query)
    answer = reach_of(ctx).memory().Feedback(request)
    emit({"labels": answer.labels}, json, lambda v: say(f"noted; {v['labels']} judgements so far"))
