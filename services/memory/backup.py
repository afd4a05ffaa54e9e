"""A copy of the store that was read back and found whole before it got its name."""

import contextlib
import hashlib
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chassis.atomic import fsync_dir
from chassis.errors import Damaged
from services.memory.store import Store, explained
from services.memory.verify import check_file

KEPT = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    path: Path
    size_bytes: int
    sha256: str


def write_backup(store: Store, folder: Path, now: datetime) -> Backup:
    """`VACUUM INTO` a temporary file, check it, fsync, rename. The newest 14 backups are kept.

    Recording and recall go on meanwhile. Raises Damaged if the copy does not pass; it is removed then.
    """
    path = folder / f"experience-{now:%Y%m%dT%H%M%S%fZ}.sqlite"
    temporary = folder / f".{path.name}.tmp"
    with explained("write a backup", path):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".experience-*.tmp*"):  # what a kill left; one backup at a time
            left.unlink()
        try:
            with closing(store.snapshot()) as connection:
                connection.execute("VACUUM INTO ?", (str(temporary),))
            with closing(sqlite3.connect(f"{temporary.absolute().as_uri()}?mode=ro", uri=True)) as copy:
                if damages := check_file(copy):
                    raise Damaged(f"the backup is damaged and was removed: {damages[0].why}; run `calyx memory verify`")
            with temporary.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            size = temporary.stat().st_size
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        fsync_dir(folder)
        for old in sorted(folder.glob("experience-*.sqlite"))[:-KEPT]:
            old.unlink()
    return Backup(path=path, size_bytes=size, sha256=sha256)
