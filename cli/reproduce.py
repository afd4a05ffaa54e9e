"""`calyx task reproduce`: a task's procedure again, on what it found, in a scratch folder."""

import json as jsonlib
import subprocess
import sys
from typing import Any

import typer
from typer.exceptions import Exit

from chassis.errors import Refused
from cli.output import JsonFlag, emit
from cli.reach import reach_of
from cli.tables import tell

DOERS = {"log_rotation": "governor", "cleanup": "governor"}
"""Whose code does it: a module of its own, run as a process, since the command knows no service."""
LIVE = {
    "config_drift": "the generation that it put back is in guardian/generations, not in the journal",
    "index_maintenance": "the index is derived and in memory, of which only the record is journaled",
    "disk_cleanup": "what it left, because it was young or among the newest backups, is not journaled",
    "diagnostics": "it reports how the machine was at that moment, of which nothing is journaled",
    "metrics_summary": "its inputs (capacity.csv and the pulse records) are not journaled, only what it wrote",
}
SECONDS = 600.0


def reproduce(ctx: typer.Context, id: str, json: JsonFlag = False) -> None:
    """Do it again in a scratch folder and compare; exit 1 unless it comes out alike.
    Example: calyx task reproduce t-000000012-1"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    task = reach.cbo().GetTask(pb.GetTaskRequest(id=id)).task
    doer = DOERS.get(task.domain)
    if doer is None:
        why = LIVE.get(task.domain, f"{task.owner} is a program from outside, whose code is not here")
        found: dict[str, Any] = {"task": id, "status": "not reproducible", "reason": why, "changes": []}
    else:
        command = [sys.executable, "-P", "-m", f"services.{doer}.reproduce", str(reach.layout.root), id]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        if ran.returncode != 0:
            said = ran.stderr.strip().splitlines() or ["it said nothing"]
            raise Refused(f"{id} can't be reproduced: {said[-1]}")
        found = jsonlib.loads(ran.stdout)
    emit({**found, "domain": task.domain, "procedure": task.procedure}, json, _words)
    if found["status"] != "same":
        raise Exit(1)


def _words(value: dict[str, Any]) -> None:
    tell(f"{value['task']} ({value['domain']}, {value['procedure']}) {value['status']}: {value['reason']}")
    for change in value["changes"]:
        if change["again"] != change["after"]:
            tell(f"{change['op']} {change['target']}: left {change['after']}, again {change['again']}", "  ")
