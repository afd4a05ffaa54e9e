"""The file drop: proposals as files in `svf/inbox/`, answers in `svf/outbox/`. Read as if an enemy had written them."""

import json
import os
import re
import sqlite3
import stat
from pathlib import Path
from typing import Any

import structlog

from chassis.atomic import write_json
from chassis.canonical import Json, sha256_hex
from chassis.errors import CalyxError, InvalidInput
from chassis.exchange.moves import Unfit, move, names, read_regular
from services.cbo.proposals import Proposals, Wish

log = structlog.get_logger(__name__)

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\.json")
VERSION = "1.0"
FIELDS = frozenset({"svf_proposal", "domain", "objective", "procedure", "params", "ttl_seconds"})
MAX_BYTES = 128 * 1024
MAX_TTL_SECONDS = 90 * 86_400
A_STEP = 16
"""Files a step; the rest waits for the next one, so that a flood delays nothing else."""
TAKEN = ".taken"
"""A file that is being answered lies here: what comes under its name meanwhile is another one."""


class Inbox:
    """`step` is called by one thread at a time. A crash at any line repeats nothing: the same name and content is the
    same task, and a file goes only once its answer is durable."""

    def __init__(self, root: Path, proposals: Proposals) -> None:
        self._inbox, self._outbox = root / "inbox", root / "outbox"
        self._taken = self._inbox / TAKEN
        self._proposals = proposals
        self._told: set[tuple[str, int]] = set()

    def step(self) -> int:
        """Answer what lies there, a few files at most; returns how many."""
        answered = 0
        for name in names(self._taken)[:A_STEP]:  # a crash left them
            answered += self._answer(name)
        for name in names(self._inbox):
            if answered >= A_STEP:
                break
            if name.startswith("."):  # being written: `mv` makes it visible
                continue
            if NAME.fullmatch(name) and self._take(name):
                answered += self._answer(name)
        return answered

    def _take(self, name: str) -> bool:
        """Out of everybody's way; a folder stays where it is, said once."""
        path = self._inbox / name
        try:
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                if (name, found.st_ino) not in self._told:
                    self._told.add((name, found.st_ino))
                    self._tell(name, {"error": "a folder is no proposal; it was left there"})
                return False
            self._taken.mkdir(mode=0o700, parents=True, exist_ok=True)
            move(path, self._taken / name)
        except FileNotFoundError:
            return False
        except FileExistsError:
            return False  # the one before it has no answer yet
        except OSError as error:
            log.warning("proposal left in the inbox", name=name, why=str(error))
            return False
        return True

    def _answer(self, name: str) -> bool:
        """Make the task, write the answer, then drop the file. False when it has to wait for better times."""
        path = self._taken / name
        try:
            try:
                answer = self._made(name, read_regular(path, MAX_BYTES))
            except FileNotFoundError:
                return False
            except Unfit as unfit:
                answer = {"error": f"{unfit}; nothing was taken in"}
            except CalyxError as error:
                answer = {"error": error.message}
            except (OSError, sqlite3.Error):
                raise
            except Exception:
                log.exception("proposal failed unforeseen", name=name)
                answer = {"error": "an unforeseen error; the details are in the overseer's log"}
            self._tell(name, answer)
            os.unlink(path)  # noqa: PTH108 — of a link it takes the link
        except (OSError, sqlite3.Error) as error:
            log.warning("proposal not answered yet, tried again", name=name, why=str(error))
            return False
        return True

    def _made(self, name: str, data: bytes) -> Json:
        wish = wish_of(data, key=f"{name}:{sha256_hex(data)}")
        task = self._proposals.make(wish)
        return {"task_id": task.id, "state": task.state, "reason": task.why}

    def _tell(self, name: str, answer: Json) -> None:
        self._outbox.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self._outbox / name, answer)


def wish_of(data: bytes, *, key: str) -> Wish:
    """What a dropped file wishes for. Raises InvalidInput for anything that is not exactly a proposal."""
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise InvalidInput("it is not JSON; nothing was taken in") from error
    if not isinstance(value, dict) or value.get("svf_proposal") != VERSION:
        raise InvalidInput(f'it is not {{"svf_proposal": "{VERSION}", …}}; nothing was taken in')
    if unknown := set(value) - FIELDS:
        raise InvalidInput(f"it has an unknown field {sorted(unknown)[0][:60]!r}; nothing was taken in")
    for field in ("domain", "objective", "procedure"):
        if not isinstance(value.get(field, ""), str):
            raise InvalidInput(f"{field} is a text; nothing was taken in")
    params, ttl = value.get("params", {}), value.get("ttl_seconds")
    if not isinstance(params, dict) or not all(isinstance(each, str) for each in params.values()):
        raise InvalidInput("params maps texts to texts; nothing was taken in")
    if ttl is not None and (type(ttl) not in (int, float) or not 0 < ttl < MAX_TTL_SECONDS):
        raise InvalidInput("ttl_seconds is a number of seconds, at most 90 days; nothing was taken in")
    return Wish(
        source="inbox",
        domain=value.get("domain", ""),
        objective=value.get("objective", ""),
        key=key,
        procedure=value.get("procedure", ""),
        params=params,
        ttl_seconds=None if ttl is None else float(ttl),
    )
