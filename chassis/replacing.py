"""An SQLite file replaced by another one, whole or not at all, while nobody has it open. The old one is set aside."""

import os
from pathlib import Path

import structlog

from chassis.atomic import fsync_dir, read_json, write_json

log = structlog.get_logger(__name__)

MARK = "restore.json"


def put_in_place(path: Path, new: Path | None, aside: Path) -> None:
    """Set the file aside and rename the new one, if there is one. A crash at any line is finished by `finish`.

    `new` and `aside` lie in the file's folder; `aside` is a folder of its own. OSError: try `finish` again.
    """
    folder = path.parent
    mark = {"new": new.name if new is not None else "", "aside": aside.relative_to(folder).as_posix()}
    write_json(folder / MARK, mark)
    _put(path, new, aside)


def finish(path: Path) -> str:
    """End what a crash cut short, before the file is opened; the folder set aside, empty if there was nothing."""
    mark = path.with_name(MARK)
    if not mark.exists():
        return ""
    value = read_json(mark)
    new, aside = str(value["new"]), str(value["aside"])
    _put(path, path.with_name(new) if new else None, path.parent / aside)
    log.info("a restore that was cut short was finished", file=path.name, set_aside=aside)
    return aside


def _put(path: Path, new: Path | None, aside: Path) -> None:
    """The log beside it goes first: another database must never be opened with it."""
    aside.mkdir(parents=True, exist_ok=True)
    if new is None or new.exists():  # else the rename was done
        for suffix in ("-wal", "-shm"):
            old = path.with_name(path.name + suffix)
            if old.exists():
                old.replace(aside / old.name)
        if path.exists() and not (aside / path.name).exists():
            os.link(path, aside / path.name)
        fsync_dir(aside)
        if new is not None:
            new.replace(path)
        else:
            path.unlink(missing_ok=True)
    fsync_dir(path.parent)
    path.with_name(MARK).unlink(missing_ok=True)
    fsync_dir(path.parent)
