"""Work on a service's files while it does not run, by the service's own program and under its own lock."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from chassis.errors import Damaged, InvalidInput, NotFound
from cli.reach import Reach


def ask(reach: Reach, service: str, *words: str) -> Any:
    """What `python -m services.SERVICE WORDS` says, a line of JSON. Raises Damaged with its reason."""
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}", *(each for each in words if each)],
        env={**os.environ, "CALYX_STATION_DIR": str(reach.layout.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise Damaged(last.removeprefix(f"{service}: can't start: "))
    return json.loads(done.stdout.splitlines()[-1])


def in_station(reach: Reach, path: str, service: str, listed_by: str) -> str:
    """A backup's path as the service reads it: relative to the station folder. Raises NotFound, InvalidInput."""
    if not path:
        return ""
    for found in (Path(path), reach.layout.root / path):
        if found.is_file():
            try:
                return found.resolve().relative_to(reach.layout.root.resolve()).as_posix()
            except ValueError as error:
                raise InvalidInput(
                    f"{path} is not in the station folder; copy it to {service}/backups first"
                ) from error
    raise NotFound(f"there is no backup {path}; `{listed_by}` shows what there is")
