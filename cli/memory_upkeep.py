"""`calyx memory verify`, `backup`, `restore`, `rebuild-index`, `export` and `import`: keeping what is remembered."""

import json as json_text
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Exit

from chassis.errors import Damaged, InvalidInput, NotFound, Unavailable
from cli import offline
from cli.experiences import FORMATS, format_of, lines_of
from cli.output import JsonFlag, at, emit, note, say
from cli.reach import Reach, reach_of
from cli.tables import Column, table

LONG_SECONDS = 3600.0
PART_BYTES, PART_LINES = 1 << 20, 1000
TOLD_EVERY = 10_000


def register(group: typer.Typer) -> None:
    group.command("verify")(verify)
    group.command("backup")(backup)
    group.command("restore")(restore)
    group.command("rebuild-index")(rebuild_index)
    group.command("export")(export)
    group.command("import")(import_)


def verify(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Check all that is stored, and take out of use what is damaged; exit 1 then. Example: calyx memory verify"""
    from calyx.memory.v1 import memory_pb2 as pb

    answer = reach_of(ctx).memory().Verify(pb.VerifyRequest(), timeout=LONG_SECONDS)
    value = {
        "ok": answer.ok,
        "damages": [{"what": d.what, "why": d.why, "done": d.done} for d in answer.damages],
        "experiences": answer.experiences,
        "vectors": answer.vectors,
        "roots": answer.roots,
        "backups": answer.backups,
        "verified_at": at(answer, "verified_at"),
    }

    def words(v: dict[str, Any]) -> None:
        for damage in v["damages"]:
            say(f"damaged: {damage['what']}: {damage['why']}; {damage['done']}")
        say(
            f"{'holds' if v['ok'] else 'DAMAGED'}: {v['experiences']} experiences, {v['vectors']} vectors, "
            f"{v['roots']} signed days, {v['backups']} backups"
        )

    emit(value, json, words)
    if not answer.ok:
        raise Exit(1)


def backup(
    ctx: typer.Context,
    list_: Annotated[bool, typer.Option("--list", help="Show the backups there are; write none.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a verified copy; the newest 14 are kept. Example: calyx memory backup"""
    from calyx.memory.v1 import memory_pb2 as pb

    reach = reach_of(ctx)
    if list_:
        found = _backups(reach)
        emit(
            {"backups": found, "kept": 14},
            json,
            lambda v: table(
                (Column("backup"), Column("bytes", "number"), Column("state", "state")),
                [(each["path"], each["size_bytes"], each["state"]) for each in v["backups"]],
                "There is no backup yet; `calyx memory backup` writes one.",
            ),
        )
        return
    answer = reach.memory().Backup(pb.BackupRequest(), timeout=LONG_SECONDS)
    value = {"path": answer.path, "size_bytes": answer.size_bytes, "sha256": answer.sha256}
    emit(value, json, lambda v: say(f"{v['path']} ({v['size_bytes']} bytes, sha256 {v['sha256'][:12]}…)"))


def _backups(reach: Reach) -> list[dict[str, Any]]:
    """Newest first. Their sha256 is compared by verify, not here."""
    folder = reach.layout.memory / "backups"
    names = [*folder.glob("experience-*.sqlite"), *folder.glob("experience-*.sqlite.damaged")]
    return [
        {
            "path": path.relative_to(reach.layout.root).as_posix(),
            "size_bytes": path.stat().st_size,
            "state": "damaged" if path.suffix == ".damaged" else "kept",
        }
        for path in sorted(names, reverse=True)
    ]


def restore(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(help="A backup (see `backup --list`); left out: the newest whole one.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would come back and what would not.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Put the store right from every intact copy; the old one is set aside. Example: calyx memory restore --dry-run"""
    from calyx.memory.v1 import memory_pb2 as pb

    reach = reach_of(ctx)
    name = offline.in_station(reach, path, "memory", "calyx memory backup --list")
    note("restoring; recording waits until it is done")
    try:
        answer = reach.memory().Restore(pb.RestoreRequest(path=name, dry_run=dry_run), timeout=LONG_SECONDS)
        value = {
            "backup": answer.path,
            "from_backup": answer.from_backup,
            "replayed": answer.replayed,
            "lost": list(answer.lost),
            "set_aside": answer.set_aside,
        }
    except Unavailable as error:
        value = _offline(reach, name, dry_run, error)
    value["dry_run"] = dry_run

    def words(v: dict[str, Any]) -> None:
        would = "would bring" if dry_run else "brought"
        backup = v["backup"] or "no backup"
        say(f"{would} back {v['from_backup']} experiences from {backup}, {v['replayed']} from other copies")
        for each in v["lost"]:
            say(f"lost: {each}")
        say(f"{len(v['lost'])} lost" if v["lost"] else "nothing is lost")
        if v["set_aside"]:
            say(f"the store that was replaced lies in {v['set_aside']}")

    emit(value, json, words)
    if value["lost"]:
        raise Exit(1)


def _offline(reach: Reach, name: str, dry_run: bool, error: Unavailable) -> dict[str, Any]:
    """The service is not there, perhaps because it can't open its store: the files themselves, under its lock."""
    if not reach.layout.identity.exists():
        raise error
    note("the memory service does not run; working on its files")
    value: dict[str, Any] = offline.ask(reach, "memory", "restore", name, "--dry-run" if dry_run else "")
    value["backup"] = f"memory/backups/{value['backup']}" if value["backup"] else ""
    value["set_aside"] = f"memory/{value['set_aside']}" if value["set_aside"] else ""
    return value


def rebuild_index(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Derive the vectors anew from the store. Example: calyx memory rebuild-index"""
    from calyx.memory.v1 import memory_pb2 as pb

    answer = reach_of(ctx).memory().RebuildIndex(pb.RebuildIndexRequest(), timeout=LONG_SECONDS)
    emit({"vectors": answer.vectors}, json, lambda v: say(f"{v['vectors']} vectors in the new index"))


def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write the lines of JSON; it must not be there yet.")],
    namespace: Annotated[str, typer.Option(help="Only this namespace.")] = "",
    json: JsonFlag = False,
) -> None:
    """Every experience as a line of JSON with its digest. Example: calyx memory export experiences.jsonl"""
    from calyx.memory.v1 import memory_pb2 as pb

    if file.exists():
        raise InvalidInput(f"{file} is there already; nothing was written, choose another name")
    part_file, count, last = file.with_name(f".{file.name}.part"), 0, b""
    stream = reach_of(ctx).memory().Export(pb.ExportRequest(namespace=namespace), timeout=LONG_SECONDS)
    try:
        with part_file.open("wb") as out:
            for part in stream:
                out.write(part.lines)
                before, count = count, count + part.lines.count(b"\n")
                last = part.lines.splitlines()[-1]
                if count // TOLD_EVERY > before // TOLD_EVERY:
                    note(f"{count} experiences so far")
            out.flush()
            os.fsync(out.fileno())
        end = json_text.loads(last)
        if end.get("count") != count - 1:
            raise Damaged(f"the export broke off after {count} lines; nothing was kept, try again")
        part_file.replace(file)
    finally:
        part_file.unlink(missing_ok=True)
    value = {"path": str(file), "experiences": end["count"], "left_out": end["left_out"], "digest": end["digest"]}

    def words(v: dict[str, Any]) -> None:
        say(f"{v['experiences']} experiences in {v['path']} (digest {v['digest'][:12]}…)")
        if v["left_out"]:
            say(f"{v['left_out']} are damaged and were left out; `calyx memory verify` names them")

    emit(value, json, words)
    if end["left_out"]:
        raise Exit(1)


def import_(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Files, or folders of pulse reports.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}; left out: by the ending.")] = "",
    namespace: Annotated[str, typer.Option(help="Into this namespace, whatever the file says.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken in.")] = False,
    json: JsonFlag = False,
) -> None:
    """Take in an export, a CSV file or older pulse reports. Example: calyx memory import pulses/ --format pulse"""
    reach = reach_of(ctx)
    created = known = 0
    refused: list[str] = []
    for kind, source, paths in _sources(files, format):
        lines = lines_of(kind, paths, refused)
        new, there = _send(reach, lines, source, namespace, dry_run, refused)
        created, known = created + new, known + there
    value = {"created": created, "known": known, "refused": refused, "dry_run": dry_run}

    def words(v: dict[str, Any]) -> None:
        for each in v["refused"][:50]:
            say(f"refused: {each}")
        if len(v["refused"]) > 50:
            say(f"and {len(v['refused']) - 50} more")
        taken = "would be taken in" if dry_run else "were taken in"
        say(f"{v['created']} {taken}, {v['known']} were known, {len(v['refused'])} refused")

    emit(value, json, words)
    if refused:
        raise Exit(1)


def _sources(files: list[Path], format: str) -> Iterator[tuple[str, str, list[Path]]]:
    """(format, name of the source, its files). Pulse reports are read together: a repeat shows only beside another."""
    reports: list[Path] = []
    for path in files:
        if not path.exists():
            raise NotFound(f"there is no {path}")
        kind = format_of(path, format)
        if kind != "pulse":
            yield kind, path.name, [path]
        else:
            reports += sorted(path.glob("*.md")) if path.is_dir() else [path]
    if reports:
        yield "pulse", reports[0].resolve().parent.name if len(reports) > 1 else reports[0].name, reports


def _send(
    reach: Reach, lines: Iterator[tuple[str, bytes]], source: str, namespace: str, dry_run: bool, refused: list[str]
) -> tuple[int, int]:
    from calyx.memory.v1 import memory_pb2 as pb

    stub, created, known, sent = reach.memory(), 0, 0, 0
    batch: list[bytes] = []
    names: list[str] = []

    def send() -> None:
        nonlocal created, known, sent
        request = pb.ImportRequest(
            format="jsonl", source=source, namespace=namespace, data=b"".join(batch), dry_run=dry_run
        )
        answer = stub.Import(request, timeout=LONG_SECONDS)
        created, known = created + answer.created, known + answer.known
        for each in answer.refused:
            number, _, why = each.removeprefix("line ").partition(": ")
            refused.append(f"{names[int(number) - 1]}: {why}" if number.isdigit() else each)
        before, sent = sent, sent + len(batch)
        if sent // TOLD_EVERY > before // TOLD_EVERY:
            note(f"{source}: {sent} lines so far, {created} new")
        batch.clear()
        names.clear()

    size = 0
    for name, line in lines:
        if batch and (size + len(line) > PART_BYTES or len(batch) == PART_LINES):
            send()
            size = 0
        batch.append(line)
        names.append(name)
        size += len(line)
    if batch:
        send()
    return created, known
