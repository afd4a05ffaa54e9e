"""What a command prints: one JSON document, or plain words. Notes and progress go to stderr."""

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from chassis.clock import iso

_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What JSON lets stand in a string and a terminal may obey: C1 controls, text direction."""

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]


def emit(value: Any, as_json: bool, render: Callable[[Any], None]) -> None:
    """Print `value` as JSON, or let `render` put it into words."""
    if as_json:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        print(_STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", text), flush=True)
    else:
        render(value)


def say(text: str, *, plain: bool = True) -> None:
    """One or more lines on stdout. `plain`: what others wrote must not steer the terminal."""
    print("\n".join(_printable(line) for line in text.split("\n")) if plain else text, flush=True)


def note(text: str) -> None:
    """For people only: stays out of what a script reads. It may quote others, and must not steer the terminal."""
    print("\n".join(_printable(line) for line in text.split("\n")), file=sys.stderr, flush=True)


def shown(value: Any) -> str:
    """A cell: unknown is said, never left blank or made a zero."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return "\n".join(_printable(line) for line in str(value).split("\n"))


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(each if each.isprintable() else " " for each in line)


def span(seconds: float | None) -> str:
    """A time span for people: 40 ms, 3.5 s, 12 min, 5 h, 2 d."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    if 0 < seconds < 0.95:
        return f"{max(seconds * 1000, 1):.0f} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0") + " s"


def share(value: float | None) -> str:
    """0.97 as 97 %; a little of something is not shown as nothing."""
    if value is None:
        return "unknown"
    return f"{100 * value:.1f} %" if 0 < value < 0.0995 else f"{100 * value:.0f} %"


def at(message: Any, field: str) -> str | None:
    """ISO 8601 of a Timestamp field; None where it is not set."""
    return iso(moment(message, field)) if message.HasField(field) else None


def moment(message: Any, field: str) -> datetime:
    from datetime import UTC

    value: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return value


def optional(message: Any, field: str) -> Any:
    """An optional scalar; None where it is not set."""
    return getattr(message, field) if message.HasField(field) else None


def figure(message: Any) -> float | None:
    """A Figure's number while it may be used (state OK); else None."""
    usable = message.state == 1 and message.HasField("value")  # FIGURE_STATE_OK
    return float(message.value) if usable else None


def figure_state(message: Any) -> str:
    return {0: "unknown", 1: "ok", 2: "stale", 3: "unknown", 4: "absent"}.get(int(message.state), "unknown")
