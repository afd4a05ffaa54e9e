"""Errors as a model reads them: one line that says what happened and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import ValidationError

from calyx_agent import AgentError

_NEXT = {
    "Unauthenticated": "A person has to make a new token with `calyx agent invite`, set CALYX_AGENT_TOKEN and restart "
    "this server.",
    "PermissionDenied": "Only your own domains and tasks are yours; status lists them.",
    "NotFound": "Check the id; status lists your tasks.",
    "InvalidInput": "Correct the arguments and call again.",
    "Duplicate": "It is already there; status lists it.",
    "LeaseLost": "Stop the work on it and ack nothing; claim again.",
    "AlreadyAcked": "It has its answer; go on with another task.",
    "ResourceExhausted": "Wait a minute, then call again.",
    "Unavailable": "Nothing was lost; wait a minute, then call again. A person can check with `calyx status`.",
    "DeadlineExceeded": "It may or may not have happened; look with status before you call again.",
}
_REFUSED = "Do not repeat it unchanged; status shows how things stand."


def one_line(text: str) -> str:
    return " ".join(text.split())


def refused(what: str, then: str) -> ToolError:
    return ToolError(one_line(f"{what.rstrip('.')}. {then}"))


@contextmanager
def explained() -> Iterator[None]:
    """The station's refusals become tool errors; anything else is a crash and stays in our log."""
    try:
        yield
    except AgentError as error:
        raise refused(f"{error.code}: {error.message}", _NEXT.get(error.code, _REFUSED)) from error


def misfit(error: ValidationError) -> ToolError:
    """Arguments that don't fit the schema, named without their values."""
    found = [f"{'.'.join(str(part) for part in each['loc']) or 'arguments'}: {each['msg']}" for each in error.errors()]
    return refused(f"InvalidInput: {'; '.join(found[:3])}", _NEXT["InvalidInput"])
