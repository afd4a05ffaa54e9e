"""`calyx run`, killed with SIGKILL at a named moment while it applies what was approved.

    python tests/run/killed_run.py MOMENT[:COUNT] run --domain … -- command

The moments: `kept` (nothing is changed yet), `remove:N` and `make:N` (before the n-th of them), `dressed:N` (the n-th
new file is whole and not in its place yet), `listed`, `finished` (all is done, and nobody was told). `overseer:N:PID`
kills that process instead, before the N-th file.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "protos" / "gen")]

from chassis.journal.journal import Watch  # noqa: E402 — the path comes first
from cli.main import main  # noqa: E402
from cli.run import applying, rehearsed  # noqa: E402


def die(*_given: object, **_more: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(real: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The same, until its `count`-th call."""
    calls = iter(range(1, count))

    def counted(*given: Any, **more: Any) -> Any:
        if next(calls, None) is None:
            die()
        return real(*given, **more)

    return counted


def after_the(count: int, name: str, act: Callable[[], object] = die) -> Callable[..., Any]:
    """What `applying` calls so, and this once it was called so often."""
    real, calls = getattr(applying, name), iter(range(count))

    def counted(*given: Any, **more: Any) -> None:
        real(*given, **more)
        if next(calls, None) == count - 1:
            act()

    return counted


def after(real: Callable[..., Any]) -> Callable[..., Any]:
    def told(*given: Any, **more: Any) -> Any:
        real(*given, **more)
        die()

    return told


def arm(moment: str) -> None:
    name, count, victim = [*moment.split(":"), "", ""][:3]
    if name == "kept":
        setattr(rehearsed, "apply", die)  # noqa: B010 — it only imported that
    elif name in ("remove", "make"):
        setattr(applying, f"_{name}", before(getattr(applying, f"_{name}"), int(count)))
    elif name == "dressed":
        setattr(applying, "dress", after_the(int(count), "dress"))  # noqa: B010 — it only imported that
    elif name == "overseer":
        applying._make = after_the(int(count), "_make", lambda: os.kill(int(victim), signal.SIGKILL))
    elif name == "listed":
        Watch.settle = after(Watch.settle)  # type: ignore[method-assign]  # that is what this is for
    elif name == "finished":
        Watch.finish = after(Watch.finish)  # type: ignore[method-assign]
    else:
        raise SystemExit(f"no moment {moment!r}")


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    sys.exit(main())
