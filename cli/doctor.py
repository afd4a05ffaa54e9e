"""`calyx doctor`: is this a place where a station can live, and is its folder whole?"""

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import typer
from typer.exceptions import Exit

from chassis.atomic import read_json
from chassis.clock import Clock
from chassis.errors import CalyxError
from chassis.identity import load_identity
from chassis.layout import Layout
from cli.output import JsonFlag, emit
from cli.reach import reach_of
from cli.tables import Column, table

_MADE = re.compile(r"-(\d{8}T\d{6})")
Answer = Literal["ok", "note", "fail"]
"""`note`: fine without, but worth knowing. Only `fail` makes the exit status 1."""


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Check machine and station folder, with fixes. Exit 1 if one fails. Example: calyx doctor"""
    reach = reach_of(ctx)
    checks = examine(reach.layout, reach.clock)
    emit(
        {"ok": all(c["answer"] != "fail" for c in checks), "checks": checks},
        json,
        lambda v: table(
            (Column("check"), Column("answer", "state"), Column("found", "words"), Column("fix", "words")),
            [(c["check"], c["answer"], c["found"], c["fix"]) for c in v["checks"]],
            "",
        ),
    )
    if any(check["answer"] == "fail" for check in checks):
        raise Exit(1)


def examine(layout: Layout, clock: Clock) -> list[dict[str, Any]]:
    """Every check's answer; a check that itself fails is a failed check, not a crash."""
    checks: list[dict[str, Any]] = []
    for name, check in _CHECKS:
        try:
            answer, found, fix = check(layout, clock)
        except (OSError, CalyxError, ValueError) as error:
            answer, found, fix = "fail", str(error), "look at the message"
        checks.append({"check": name, "answer": answer, "found": found, "fix": fix})
    return checks


Check = Callable[[Layout, Clock], tuple[Answer, str, str]]


def _python(_layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    from cli.embedded.ground import check_python

    try:
        check_python()
    except CalyxError as error:
        return "fail", error.message, "install Python 3.11 or newer on Linux"
    return "ok", f"Python {platform.python_version()} on {sys.platform}", ""


def _ports(layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    from cli.embedded.endpoints import Endpoints
    from cli.embedded.station import running

    if running(layout) is not None:
        return "ok", "the station is running on them", ""
    try:
        Endpoints.choose({}, 4040, Path("unused"))
    except CalyxError:
        return "note", "port 4040 is taken", "calyx up --port 0"
    return "ok", "port 4040 and twelve others are free", ""


def _disk(layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    there = next(folder for folder in (layout.root, *layout.root.parents) if folder.exists())
    usage = shutil.disk_usage(there)
    found = f"{usage.free // 2**20} MiB free of {usage.total // 2**20}"
    if usage.free < 64 * 2**20:
        return "fail", found, f"free some space under {there}"
    return (
        ("note" if usage.free < 1024 * 2**20 else "ok"),
        found,
        "" if usage.free >= 1024 * 2**20 else "free some space",
    )


def _permissions(layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    if not layout.root.exists():
        return "note", f"there is no {layout.root} yet", "calyx up makes it"
    if not os.access(layout.root, os.W_OK | os.X_OK):
        return "fail", f"{layout.root} is not ours to write", f"chown or chmod {layout.root}"
    for path in (layout.secrets, *(layout.secrets.glob("*") if layout.secrets.is_dir() else ())):
        if path.exists() and path.stat().st_mode & 0o077:
            return "fail", f"others may read {path}", f"chmod go= {path}"
    return "ok", "folder ours, secrets ours alone", ""


def _clock(layout: Layout, clock: Clock) -> tuple[Answer, str, str]:
    now = clock.now()
    try:
        created = load_identity(layout).created_at
    except CalyxError:
        return "ok", f"it is {now:%Y-%m-%d %H:%M} UTC", ""
    if now < created:
        return "fail", f"the clock says {now:%Y-%m-%d %H:%M}, before the station was founded", "set the clock (NTP)"
    return "ok", f"it is {now:%Y-%m-%d %H:%M} UTC", ""


def _cgroup(_layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "ok", "cgroup v2", ""
    if Path("/sys/fs/cgroup/memory").exists():
        return "note", "cgroup v1", "memory limits are read from v1; v2 tells more"
    return "note", "none", "figures are the whole machine's"


def _psi(_layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    try:
        Path("/proc/pressure/memory").read_text()
    except OSError:
        return "note", "no pressure information", "boot with psi=1; until then pressure is unknown"
    return "ok", "pressure information is there", ""


def _gpu(_layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return "ok", "an NVIDIA driver is there", ""
    return "note", "no NVIDIA driver", "GPU figures read absent"


def _docker(_layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    if shutil.which("docker") is None:
        return "note", "no docker", "only needed for the container stack"
    if not os.access("/var/run/docker.sock", os.W_OK):
        return "note", "docker is installed, its daemon is not reachable for you", "start it, or join its group"
    return "ok", "docker answers to you", ""


def _notify(layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    from cli.notify import failing

    dead = failing(layout)
    if not dead:
        return "ok", "no target of notices is failing", ""
    found = "; ".join(f"{name} since {each['failing_since'][:16]}: {each['why']}" for name, each in dead.items())
    return "note", found, "calyx notify test; correct its line in notify.conf"


_PUT_BACK = {
    "experience.sqlite": "calyx memory restore --dry-run", "cbo.sqlite": "calyx down, then calyx cbo restore --dry-run",
}  # fmt: skip


def _integrity(layout: Layout, _clock: Clock) -> tuple[Answer, str, str]:
    if not layout.root.exists():
        return "note", "no station folder yet", "calyx up makes it"
    damages = list(_damages(layout))
    if damages:
        fix = next((fix for name, fix in _PUT_BACK.items() if any(each.startswith(name) for each in damages)), "")
        fix = fix or "stop the station and restore the named file from a backup"
        return "fail", "; ".join(damages[:3]), fix
    return "ok", "identity, audit chains, database and last pulse hold", ""


def _backups(layout: Layout, clock: Clock) -> tuple[Answer, str, str]:
    """One a day is made. A station younger than two days may have none yet."""
    found, late = [], []
    for name, folder in (("memory", layout.memory), ("cbo", layout.state("cbo"))):
        if any(folder.glob("*.sqlite")):
            names = (_MADE.search(path.name) for path in (folder / "backups").glob("*.sqlite"))
            newest = max((match[1] for match in names if match), default="")
            made = datetime.strptime(f"{newest}+0000", "%Y%m%dT%H%M%S%z") if newest else _founded(layout, clock)
            hours = (clock.now() - made) / timedelta(hours=1)
            found.append(f"{name} {f'{hours:.0f} h ago' if newest else 'none yet'}")
            late += [name] if hours > 48 else []
    if not found:
        return "note", "nothing to back up yet", "calyx up makes a station"
    return ("note" if late else "ok"), ", ".join(found), f"logs/{late[0]}.log says why" if late else ""


def _founded(layout: Layout, clock: Clock) -> datetime:
    return load_identity(layout).created_at if layout.identity.exists() else clock.now()


def _damages(layout: Layout) -> Iterator[str]:
    from chassis.ledger import check_ledger

    if layout.identity.exists():
        try:
            load_identity(layout)
        except CalyxError as error:
            yield error.message
    chains, signed = check_ledger(layout)
    yield from (f"audit chain {each.service}: {each.reason}" for each in chains if not each.ok)
    yield from (f"audit checkpoint {each.name}: {each.fault}" for each in signed if each.fault)
    for database in filter(Path.exists, (layout.memory / "experience.sqlite", layout.state("cbo") / "cbo.sqlite")):
        try:
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5) as connection:
                said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.close()
            if said != "ok":
                yield f"{database.name}: {said}"
        except sqlite3.Error as error:
            yield f"{database.name}: {error}"
    for path in sorted(layout.pulses.glob("*/bp-*.json"), reverse=True)[:1]:
        try:
            read_json(path)
        except ValueError:
            yield f"{path.name} is not JSON"


_CHECKS: tuple[tuple[str, Check], ...] = (
    ("python", _python),
    ("ports", _ports),
    ("disk", _disk),
    ("permissions", _permissions),
    ("clock", _clock),
    ("cgroup", _cgroup),
    ("psi", _psi),
    ("gpu", _gpu),
    ("docker", _docker),
    ("notify", _notify),
    ("backups", _backups),
    ("integrity", _integrity),
)
