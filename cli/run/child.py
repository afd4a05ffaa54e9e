"""Starting the command through its supervisor, and hearing how it goes."""

import contextlib
import ctypes
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.run.tree import Tree, end_own_descendants

_PR_SET_CHILD_SUBREAPER = 36
_ROOT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[2]); from cli.run.inside import main; main(int(sys.argv[1]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a rehearsal sees at `real`: changes land in `upper`. `work` None: `upper` is a whole copy of it."""

    real: Path
    upper: Path
    work: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is run, and how it is shut in."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    writable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    cgroup: str = ""
    """The folder of the control group to run in; empty for none."""
    confine: bool = True
    contain: bool = True
    layers: tuple["Layer", ...] = ()
    """With any, it is a rehearsal: apart, without a network, and what it writes lands in the layers."""
    scratch: Path = Path("/")
    """The folder of a rehearsal that can be written to beside its layers."""
    mask: tuple[int, ...] = ()
    """Signals that the command has blocked from the start: those that we were started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the command ended. `status` as a shell gives it: 128 + n for signal n. None is unknown."""

    status: int
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """How the command was started. `failed`: 126 or 127 when it could not be."""

    landlock: int
    """The ABI version that it is confined under; 0: not confined."""
    apart: bool
    """Whether it has a process namespace of its own, whose end nothing in it survives."""
    failed: int = 0
    why: str = ""
    sealed: bool = False
    """It is a rehearsal: all but its layers is mounted read-only, whether there is Landlock or not."""
    cannot: str = ""
    """Why no rehearsal could be set up for it; nothing was started then."""


class Child:
    """One command beneath its supervisor. From the wrapper's main thread only."""

    def __init__(self, spec: Spec) -> None:
        """Returns when the command runs, or could not."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(theirs.fileno()), str(_ROOT)],
                pass_fds=[theirs.fileno()],
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            )
        self._lines = self._control.makefile("rb")
        self._control.sendall(
            json.dumps(
                {
                    "argv": spec.argv,
                    "env": dict(spec.env),
                    "cwd": str(spec.cwd),
                    "cgroup": spec.cgroup,
                    "writable": [str(each) for each in spec.writable],
                    "hidden": [str(each) for each in spec.hidden],
                    "confine": spec.confine,
                    "contain": spec.contain,
                    "mask": spec.mask,
                    "scratch": str(spec.scratch),
                    "layers": [
                        {"real": str(each.real), "upper": str(each.upper), "work": str(each.work or "")}
                        for each in spec.layers
                    ],
                }
            ).encode()
            + b"\n"
        )
        said = self._hear() or {"failed": 126, "why": "its supervisor ended"}
        self.began = Began(
            landlock=int(said.get("landlock", 0)),
            apart=bool(said.get("apart", False)),
            failed=int(said.get("failed", 0)),
            why=str(said.get("why", "")),
            sealed=bool(spec.layers) and not said.get("failed"),
            cannot=str(said.get("cannot", "")),
        )
        self.tree = Tree(self._process.pid, int(said["pid"]) if self.began.apart else 0)

    def ended(self, wait_seconds: float = 0.0) -> Ended | None:
        """How it ended, once it has, and all that it had started with it."""
        if not select.select([self._control], [], [], wait_seconds)[0]:
            return None
        said = self._hear()
        if said is None:  # the supervisor itself was ended
            end_own_descendants()
            self._bury()
            return Ended(status=137)
        self._bury()
        return Ended(
            status=exit_status(int(said["status"])),
            cpu_seconds=float(said["cpu_seconds"]),
            max_rss_bytes=int(said["max_rss_bytes"]),
        )

    def kill(self) -> None:
        """End it and all beneath at once; `ended` then says so."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def _hear(self) -> dict[str, Any] | None:
        try:
            line = self._lines.readline()
        except OSError:
            return None
        found: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return found

    def _bury(self) -> None:
        with contextlib.suppress(ChildProcessError):
            self._process.wait()
        self._lines.close()
        self._control.close()


def exit_status(wait_status: int) -> int:
    """As a shell gives it."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def environment(inherited: Mapping[str, str], given: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The command's environment: ours without anything of the station's, its own token, its own scratch."""
    kept = {name: value for name, value in inherited.items() if not name.startswith("CALYX_")}
    return {**kept, **given, **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(scratch))}
