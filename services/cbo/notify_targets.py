"""Where notices go: `<secrets>/notify.conf`, one `name = address` a line, addresses as apprise writes them.

An address is a secret (it holds tokens and passwords): it is in no log, export, audit line or answer.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chassis.atomic import read_json
from chassis.layout import Layout

FILE = "notify.conf"
MAX_BYTES = 64 * 1024
MAX_TARGETS = 20
_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,39})\s*=\s*(([a-z][a-z0-9+.-]{0,30})://\S+)")
_CHATTY = ("apprise", "urllib3", "requests", "smtplib")


class NotSent(Exception):
    """The target did not take it; the message says why, without the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`url` stays out of every repr. `fault`: why the line is none; empty when it is one."""

    name: str
    kind: str = ""
    url: str = field(default="", repr=False)
    fault: str = ""


Send = Callable[[Target, str, str], None]
"""Deliver title and text; blocks for some seconds at most. Raises NotSent."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The file, read anew each time: a change counts with the next notice. No file: nobody is told."""

    path: Path

    def here(self) -> tuple[Target, ...]:
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES).decode()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror or "") if isinstance(error, OSError) else "not UTF-8"
            return (Target(name=FILE, fault=f"{self.path.name} can't be read: {why}"),)
        return parse(text)


def page_of(layout: Layout) -> str:
    """The dashboard's address as the embedded station wrote it down, else its usual one."""
    try:
        value = read_json(layout.endpoints)
    except (OSError, ValueError):
        value = {}
    found = value.get("dashboard") if isinstance(value, dict) else None
    return str(found or "http://127.0.0.1:4040").rstrip("/")


def parse(text: str) -> tuple[Target, ...]:
    """Each line a target, or what is wrong with it; comments begin with #."""
    found: dict[str, Target] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        good = _LINE.fullmatch(line)
        if good is None:
            name, fault = f"line-{number}", "not `name = address`, e.g. phone = ntfys://ntfy.example/topic"
            found[name] = Target(name=name, fault=f"line {number} of {FILE} is {fault}")
        elif good[1] in found:
            found[f"line-{number}"] = Target(name=f"line-{number}", fault=f"line {number}: {good[1]} is there twice")
        else:
            found[good[1]] = Target(name=good[1], kind=good[3], url=good[2])
    return tuple(found.values())[:MAX_TARGETS]


def send_by_apprise(target: Target, title: str, body: str) -> None:
    """apprise waits 4 s for a connection and 4 s for an answer, unless the address says otherwise (cto, rto)."""
    import apprise  # half a second: only where somebody is to be told

    for name in _CHATTY:  # they log addresses
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    asset = apprise.AppriseAsset(app_id="Station Calyx", app_url="", async_mode=False, secure_logging=True)
    sender = apprise.Apprise(asset=asset)
    try:
        if not sender.add(target.url):
            raise NotSent(f"apprise does not understand this {target.kind} address")
        taken = sender.notify(body=body, title=title, notify_type=apprise.NotifyType.WARNING)
    except NotSent:
        raise
    except Exception as error:  # of a hundred plug-ins; its words may hold the address
        raise NotSent(f"the {target.kind} plug-in failed: {type(error).__name__}") from None
    if not taken:
        raise NotSent(f"the {target.kind} target did not take it: not reached, or refused")
