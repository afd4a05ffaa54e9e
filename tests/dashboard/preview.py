"""Look at the page without a station.

PYTHONPATH=.:protos/gen python tests/dashboard/preview.py SCENE PORT [stopped] [late]

SCENE: empty, busy, trouble. `stopped` engages the kill switch; `late` takes the governor down after the first round.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from dashboard_fakes import bench
from dashboard_scenes import SCENES

from chassis.clock import SystemClock
from chassis.executor import ThreadExecutor
from services.dashboard.http import bind, serve


async def main(scene: str, port: int, options: set[str]) -> None:
    clock = SystemClock()
    listener = bind(f"127.0.0.1:{port}")
    made = bench(
        Path(tempfile.mkdtemp()), SCENES[scene](clock), clock=clock, executor=ThreadExecutor("preview", 8), port=port
    )
    if "stopped" in options:
        made.switch.engage("backup of the disk is running", "operator", clock.now())
    if "late" in options:
        await made.at.board.overview()
        made.station.down.add("governor")
    print(made.at.links.issue()[0], flush=True)
    await serve(made.app, listener, made.at.stopping, 1.0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), set(sys.argv[3:])))
