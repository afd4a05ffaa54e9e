"""`calyx artifact`: payloads too large for a task's params, handed in and out by their digest."""

from pathlib import Path
from typing import Annotated, Any

import typer

from chassis.errors import InvalidInput, NotFound
from cli.output import JsonFlag, emit, note, say
from cli.reach import Reach, reach_of


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("put")(put)
    group.command("get")(get)
    app.add_typer(
        group, name="artifact", help="Files too large for a task's params. Example: calyx artifact put big.csv"
    )


def hand_in(reach: Reach, source: Path) -> str:
    """The name that params give this file. Raises NotFound, InvalidInput, and what the station says."""
    from calyx.agent.v1 import agent_pb2 as pb

    from calyx_agent import artifacts

    def ask(asked: dict[str, Any]) -> dict[str, Any]:
        answer = reach.agents().PutArtifact(pb.PutArtifactRequest(**asked))
        return {"received": answer.received, "complete": answer.complete}

    if not source.is_file():
        raise NotFound(f"there is no file {source}")
    try:
        return artifacts.drive(artifacts.uploading(source, artifacts.name_of(source)), ask)
    except (OSError, artifacts.ArtifactError) as error:
        raise InvalidInput(str(error)) from error


def put(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file, at most 1 GiB.")],
    json: JsonFlag = False,
) -> None:
    """Hand a file in; a task names it in a param. What broke off goes on. Example: calyx artifact put big.csv"""
    name = hand_in(reach_of(ctx), file)

    def words(v: dict[str, Any]) -> None:
        say(v["artifact"])
        note("Name it in a task: calyx objective add … --param data=<that>. It stays 91 days after the last one did.")

    emit({"artifact": name, "file": str(file)}, json, words)


def get(
    ctx: typer.Context,
    artifact: Annotated[str, typer.Argument(help="As `put` printed it: sha256:<digest>:<bytes>.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; one that is there is replaced.")],
    json: JsonFlag = False,
) -> None:
    """Have it as a file, its digest checked. Example: calyx artifact get sha256:…:1048576 -o big.csv"""
    from calyx.agent.v1 import agent_pb2 as pb

    from calyx_agent import artifacts

    reach = reach_of(ctx)

    def ask(asked: dict[str, Any]) -> dict[str, Any]:
        return {"data": reach.agents().GetArtifact(pb.GetArtifactRequest(**asked)).data}

    try:
        artifacts.drive(artifacts.downloading(artifact, output), ask)
    except (OSError, artifacts.ArtifactError) as error:
        raise InvalidInput(str(error)) from error
    emit({"artifact": artifact, "file": str(output)}, json, lambda v: say(v["file"]))
