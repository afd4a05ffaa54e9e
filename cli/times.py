"""Times and spans as people type and read them."""

import re
from datetime import UTC, datetime, timedelta

from chassis.errors import InvalidInput

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?Z")
LONGEST_SECONDS = 10 * 366 * 86400.0


def parse_span(text: str) -> float:
    """Seconds in `90s`, `10m`, `1h30m`, `2d` or a bare number of seconds. Raises InvalidInput."""
    stripped = text.strip().replace(" ", "")
    parts = _PART.findall(stripped)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", stripped):
        seconds = float(stripped)
    elif parts and "".join(number + unit for number, unit in parts) == stripped:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise InvalidInput(f"{text!r} is not a time span; write 90s, 10m, 1h30m or 2d")
    if seconds > LONGEST_SECONDS:
        raise InvalidInput(f"{text!r} is longer than ten years; write 90s, 10m, 1h30m or 2d")
    return seconds


def parse_moment(text: str, now: datetime, *, ago: bool) -> datetime:
    """An aware UTC time from ISO 8601 (without an offset: local time), or a span from now (`ago`: before now)."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            seconds = parse_span(text)
        except InvalidInput:
            raise InvalidInput(
                f"{text!r} is not a time; write 2026-01-31T18:00, 2026-01-31T18:00+01:00 or a span like 2h"
            ) from None
        return now + timedelta(seconds=-seconds if ago else seconds)
    return moment.astimezone(UTC)


def local(stamp: str | None, now: datetime) -> str:
    """An ISO 8601 time in local time: 01:14:39 today, Nov 22 01:14 in the last months, else 2025-11-22."""
    if not stamp:
        return "unknown"
    moment, here = datetime.fromisoformat(stamp).astimezone(), now.astimezone()
    if moment.date() == here.date():
        return f"{moment:%H:%M:%S}" if stamp.count(":") > 1 else f"{moment:%H:%M}"
    return f"{moment:%b %d %H:%M}" if abs(now - moment) < timedelta(days=300) else f"{moment:%Y-%m-%d}"


def ago(stamp: str | None, now: datetime) -> str:
    """How long ago an ISO 8601 time was, 12 s ago; from a day on the time itself."""
    if not stamp:
        return "unknown"
    seconds = (now - datetime.fromisoformat(stamp)).total_seconds()
    if not 0 <= seconds < 86400:
        return local(stamp, now) if abs(seconds) > 5 else "just now"
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size or (size == 1 and seconds >= 1):
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"


def readable(text: str, now: datetime) -> str:
    """Text of a service with its ISO 8601 times as `local` writes them."""
    return _STAMP.sub(lambda found: local(found.group(), now), text)
