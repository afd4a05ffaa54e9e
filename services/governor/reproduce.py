"""`python -m services.governor.reproduce STATION TASK`: do a task of the governor again in a scratch folder."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from chassis.clock import SystemClock, VirtualClock
from chassis.errors import InvalidInput, NotFound
from chassis.exchange.files import FilesExchange
from chassis.exchange.manifest import Manifest, TaskId
from chassis.killswitch import KillSwitch
from chassis.layout import Layout
from chassis.reproduce import Reproduced, World, reproduce
from chassis.work import Work
from services.governor.agent import modified
from services.governor.cleanup import Cleanup
from services.governor.holders import Holding
from services.governor.log_rotation import LogRotation


class AsThen:
    """Writers as the task met them: whatever it had to leave was held."""

    def __init__(self, world: World) -> None:
        self._free = {str(world.here(path)) for path in world.paths("remove")}

    def writers(self, path: Path) -> Holding:
        return Holding(state="free" if str(path) in self._free else "held")


def _rotation(task: Manifest, world: World) -> tuple[Work, Mapping[str, str]]:
    clock = VirtualClock(task.created_at)
    folders = dict.fromkeys(str(world.here(path).parent) for path in world.paths("rotate", "remove"))
    work = LogRotation(
        default_folder=world.root,
        roots=lambda: [world.root],
        holders=AsThen(world),
        clock=clock,
        cpu_seconds=time.thread_time,
    )
    return work, {**task.params, "folders": ":".join(folders)}


def _cleanup(task: Manifest, world: World) -> tuple[Work, Mapping[str, str]]:
    params = {**task.params, "folder": str(world.root), "max_age_seconds": "0"}  # what was removed was old enough then
    then = VirtualClock(task.created_at)
    return Cleanup(work=world.root, live=lambda _: False, clock=then, modified=modified), params


AGAIN: Mapping[str, Callable[[Manifest, World], tuple[Work, Mapping[str, str]]]] = {
    "log_rotation": _rotation,
    "cleanup": _cleanup,
}


def again(layout: Layout, task_id: str, folder: Path) -> Reproduced:
    """Raises NotFound, InvalidInput."""
    exchange = FilesExchange(layout.svf, SystemClock(), lambda _: False, KillSwitch(layout.kill_switch))
    task = exchange.get(TaskId(task_id)).manifest
    if task is None:
        raise NotFound(f"there is no manifest of {task_id} any more")
    if task.domain not in AGAIN:
        raise InvalidInput(f"{task.domain} is not the governor's")
    made = AGAIN[task.domain]
    return reproduce(task, layout.journal, folder, SystemClock(), lambda world: made(task, world))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="calyx-again-") as place:
        found = again(Layout(Path(sys.argv[1])), sys.argv[2], Path(place) / "again")
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
