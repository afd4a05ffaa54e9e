"""`calyx recall` and `calyx memory`: what the station remembers."""

from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput
from cli import judging, memory_upkeep
from cli.output import JsonFlag, at, emit, note, optional, say, share
from cli.reach import reach_of
from cli.tables import Column, facts, table, tell
from cli.times import ago, parse_moment


def register(app: typer.Typer) -> None:
    app.command("recall")(recall)
    group = typer.Typer(no_args_is_help=True)
    memory_upkeep.register(group)
    group.command("compact")(compact)
    group.command("stats")(stats)
    group.command("feedback")(judging.feedback)
    group.command("standing")(judging.standing)
    group.command("evicted")(judging.evicted)
    app.add_typer(group, name="memory", help="Look after the experience store. Example: calyx memory stats")


def match_json(match: Any) -> dict[str, Any]:
    experience = match.experience
    return {
        "id": experience.id,
        "cosine": match.cosine,
        "objective": experience.objective,
        "domain": experience.domain,
        "procedure": experience.procedure,
        "outcome": judging.name_of("Outcome", experience.outcome),
        "tes": optional(experience, "tes"),
        "confidence": optional(experience, "confidence"),
        "at": at(experience, "occurred_at"),
        "near": match.near,
        "why": match.why,
        "standing": judging.name_of("Standing", match.standing),
        "because_of": match.because_of,
        "copies": match.copies,
        "harmful": match.harmful,
        "source": match.source,
        "untrusted": match.untrusted,
    }


def summary_json(summary: Any) -> dict[str, Any]:
    return {
        "domain": summary.domain,
        "procedure": summary.procedure,
        "successes": summary.successes,
        "failures": summary.failures,
        "rehearsals": summary.rehearsals,
        "mean_tes": optional(summary, "mean_tes"),
        "tes_known": summary.tes_known,
        "success_mean": optional(summary, "success_mean"),
        "success_low": optional(summary, "success_low"),
        "success_high": optional(summary, "success_high"),
    }


def recall(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="What you are about to do, in words.")],
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="At most this many.")] = 5,
    min_cosine: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Stricter than 0.8; below it with --near only.")
    ] = None,
    domain: Annotated[str, typer.Option(help="Only this domain.")] = "",
    procedure: Annotated[str, typer.Option(help="Only this procedure.")] = "",
    namespace: Annotated[str, typer.Option(help="Another one than default.")] = "",
    outcome: Annotated[str, typer.Option(help="Only success, failure, unknown or no_work.")] = "",
    since: Annotated[str, typer.Option(help="Only later than this (2026-01-31, or a span like 24h).")] = "",
    until: Annotated[str, typer.Option(help="Only before this.")] = "",
    near: Annotated[bool, typer.Option("--near", help="Weaker matches too, marked as such.")] = False,
    json: JsonFlag = False,
) -> None:
    """Experiences that mean the same. Example: calyx recall "rotate the logs" -n 3"""
    from calyx.memory.v1 import memory_pb2 as pb

    if outcome not in ("", "success", "failure", "unknown", "no_work"):
        raise InvalidInput(f"{outcome!r} is not an outcome; say success, failure, unknown or no_work")
    if min_cosine is not None and min_cosine < 0.8 and not near:
        raise InvalidInput("below 0.80 matches are mostly wrong; add --near to get them, marked as weak")
    reach = reach_of(ctx)
    request = pb.RecallRequest(
        objective=text,
        limit=n,
        domain=domain,
        procedure=procedure,
        namespace=namespace,
        min_cosine=min_cosine,
        near=near,
        outcome=pb.Outcome.Value(f"OUTCOME_{outcome.upper() or 'UNSPECIFIED'}"),
    )
    for name, moment in (("since", since), ("until", until)):
        if moment:
            getattr(request, name).FromDatetime(parse_moment(moment, reach.clock.now(), ago=True))
    answer = reach.memory().Recall(request)
    value = {
        "query": text,
        "min_cosine": answer.floor,
        "matches": [match_json(match) for match in answer.matches],
        "summaries": [summary_json(summary) for summary in answer.summaries],
        "searched": answer.searched,
        "pending": answer.pending,
        "evicted": answer.evicted,
    }

    def words(v: dict[str, Any]) -> None:
        table(
            (
                Column("id"), Column("cosine", "number"), Column("outcome", "state"), Column("TES", "number"),
                Column("domain", drop=2), Column("procedure", drop=5), Column("when", drop=3),
                Column("copies", "number", drop=4), Column("source", drop=1), Column("objective", "words"),
            ),
            [
                (
                    m["id"], f"{m['cosine']:.3f}" + (" weak" if m["near"] else ""), m["outcome"], m["tes"],
                    m["domain"] or "open", m["procedure"] or "none", ago(m["at"], reach.clock.now()), m["copies"],
                    m["source"], m["objective"],
                )
                for m in v["matches"]
            ],
            f"Nothing above cosine {v['min_cosine']:.2f} among {v['searched']} experiences: nothing that means the "
            "same was done yet. Whole sentences find more than single words.",
        )  # fmt: skip
        for m in v["matches"]:
            if m["standing"] not in ("valid", "unspecified"):
                tell(f"{m['id']}: {m['why']}")
        if v["evicted"]:
            tell(f"{v['evicted']} more were left out because they did harm: calyx memory evicted")

    emit(value, json, words)


def compact(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: JsonFlag = False,
) -> None:
    """Roll up old routine work, as happens every night. Example: calyx memory compact --dry-run"""
    from concurrent.futures import ThreadPoolExecutor

    from calyx.memory.v1 import memory_pb2 as pb

    memory = reach_of(ctx).memory()
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(memory.Compact, pb.CompactRequest(dry_run=dry_run), timeout=3600)
        while True:
            try:
                answer = asked.result(timeout=2.0)
                break
            except TimeoutError:
                if not dry_run:
                    note(f"{memory.Stats(pb.StatsRequest()).rolled_up} experiences in roll-ups so far")
    value = {
        "dry_run": dry_run,
        "merged": answer.merged,
        "kept": answer.kept,
        "rollups": answer.rollups,
        "retired": answer.retired,
        "freed_bytes": None if dry_run else answer.freed_bytes,
    }

    def words(v: dict[str, Any]) -> None:
        would = "would be " if dry_run else ""
        say(f"{v['merged']} experiences {would}rolled up, {v['rollups']} roll-ups in all; {v['kept']} rows kept")
        say(f"{v['retired']} {would}retired by policy" + ("" if dry_run else f"; {v['freed_bytes']} bytes given back"))

    emit(value, json, words)


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
        "rolled_up": answer.rolled_up,
        "compacted_at": at(answer, "compacted_at"),
        "backed_up_at": at(answer, "backed_up_at"),
    }

    def words(v: dict[str, Any]) -> None:
        facts(
            (
                ("experiences", v["experiences"]),
                ("vectors", f"{v['vectors']} ({v['index']} index, {v['model']})"),
                ("recalls", f"{v['recalls']}, {v['hits']} with a match, since the memory service started"),
                ("rolled up", v["rolled_up"]),
                ("floor", f"cosine {v['floor']:.2f}"),
                ("judgements", f"{v['labels']}, useful: {share(v['feedback_precision'])}"),
                ("evicted", f"{v['evicted']} that did harm"),
                ("checked", ago(v["verified_at"], reach.clock.now())),
                ("compacted", ago(v["compacted_at"], reach.clock.now())),
                ("backed up", ago(v["backed_up_at"], reach.clock.now())),
                ("schema", f"version {v['schema_version']}"),
            )
        )

    emit(value, json, words)
