"""Playbooks: the declared answers to a fault (`deploy/playbooks/*.yaml`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from chassis.errors import InvalidInput
from services.guardian.incidents import Action, Class, Terms

KEYS = {"name", "description", "answers", "action", "cooldown_seconds", "max_attempts", "runbook"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Playbook:
    """One answer. `max_attempts` in one outage, then the next harder one; `cooldown_seconds` per target."""

    name: str
    description: str
    answers: Class
    action: Action
    cooldown_seconds: float
    max_attempts: int
    runbook: str = ""


def parse(raw: Any) -> Playbook:
    """Raises InvalidInput that names what is wrong."""
    if not isinstance(raw, dict):
        raise InvalidInput("a playbook is a mapping")
    if unknown := set(raw) - KEYS:
        raise InvalidInput(f"unknown key {sorted(unknown)[0]!r}")
    try:
        playbook = Playbook(
            name=str(raw["name"]),
            description=str(raw["description"]),
            answers=Class[str(raw["answers"]).upper()],
            action=cast("Action", raw["action"]),
            cooldown_seconds=float(raw["cooldown_seconds"]),
            max_attempts=int(raw["max_attempts"]),
            runbook=str(raw.get("runbook", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"missing or bad {error}") from error
    if playbook.action not in get_args(Action):
        raise InvalidInput(f"action must be one of {', '.join(get_args(Action))}")
    if playbook.cooldown_seconds < 0 or playbook.max_attempts < 1:
        raise InvalidInput("cooldown_seconds is at least 0, max_attempts at least 1")
    return playbook


def load_playbooks(folder: Path) -> Mapping[Action, Playbook]:
    """One playbook per action. A missing, doubled or bad one refuses the lot, naming the file."""
    found: dict[Action, Playbook] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            playbook = parse(yaml.safe_load(path.read_text()))
        except (InvalidInput, yaml.YAMLError) as error:
            raise InvalidInput(f"playbook {path.name}: {error}") from error
        if playbook.action in found:
            raise InvalidInput(f"playbook {path.name}: {playbook.action} is already answered by another one")
        found[playbook.action] = playbook
    if missing := set(get_args(Action)) - set(found):
        raise InvalidInput(f"no playbook in {folder.name} for {sorted(missing)[0]}")
    return found


def terms_of(playbooks: Mapping[Action, Playbook], *, grace_seconds: float = Terms().grace_seconds) -> Terms:
    """The guardian's terms with the attempts that the playbooks allow."""
    return Terms(
        grace_seconds=grace_seconds,
        restarts=playbooks["restart"].max_attempts,
        failed_starts=playbooks["rollback"].max_attempts,
    )
