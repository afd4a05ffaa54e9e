"""What a governed program may ask of this command line: to look, to stop. Deciding is a person's.

This is the polite line. Tokens, Landlock and the overseer's own look at who is calling hold where a program is not.
"""

import os
from collections.abc import Mapping, Sequence

_MAY: Mapping[str, frozenset[str] | None] = {
    "status": None, "doctor": None, "inbox": None, "recall": None, "kpi": None, "trends": None, "capacity": None,
    "stop": None, "mcp": None,
    "task": frozenset({"list", "show"}),
    "objective": frozenset({"list"}),
    "pulse": frozenset({"list", "show", "replay"}),
    "ladder": frozenset({"explain"}),
    "domain": frozenset({"list", "show"}),
    "agent": frozenset({"list"}),
    "memory": frozenset({"verify", "stats"}),
    "governor": frozenset({"leases"}),
    "incident": frozenset({"list", "show"}),
    "playbook": frozenset({"list"}),
    "audit": frozenset({"verify", "tail"}),
}  # fmt: skip
"""Command → its words that only read; None: all of it. What is not here is refused."""


def refusal(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Why this command is not for whoever runs beneath `calyx run`; empty for everybody else and what only reads."""
    task = environment.get("CALYX_TASK_ID", "")
    words = [each for each in arguments if not each.startswith("-")]
    if not task or not words or "--help" in arguments or "-h" in arguments:
        return ""
    may = _MAY.get(words[0], frozenset())
    if may is None or (len(words) > 1 and words[1] in may) or (words[0] in ("pulse", "ladder") and len(words) == 1):
        return ""
    return f"`calyx {' '.join(words[:2])}` is a person's to say; this runs beneath task {task}"
