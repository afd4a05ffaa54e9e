"""Who calls: bearer tokens, known by their hash only, and what each caller may."""

import hmac
from collections.abc import Callable, Mapping, Set
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Self

from chassis.canonical import sha256_hex
from chassis.errors import PermissionDenied, Unauthenticated
from chassis.identity import load_callers

_caller: ContextVar[str] = ContextVar("calyx_caller", default="")

SCHEME = "Bearer "

AGENT = "agent"
"""The class of callers that allow-lists name for everybody who joined: `agent:<name>`."""

Joined = Callable[[str], str]
"""sha256 (hex) of a token → the name of the outside agent whose good token it is; empty: nobody's."""


def agent_caller(name: str) -> str:
    """How an outside agent is called among callers; no station caller's name has a colon."""
    return f"{AGENT}:{name}"


def agent_of(name: str) -> str:
    """The agent behind a caller's name; empty for everybody else."""
    kind, _, agent = name.partition(":")
    return agent if kind == AGENT else ""


def caller() -> str:
    """Name of the authenticated caller of the current request; empty outside one."""
    return _caller.get()


def set_caller(name: str) -> Token[str]:
    """Note who calls; the server (and the in-process channel) do this for each request."""
    return _caller.set(name)


class Callers:
    """The known callers. Comparison takes the same time whether and where a token differs.

    `joined` knows the outside agents; only the CBO's server has it, so elsewhere their tokens are nobody's.
    """

    def __init__(self, hashes: Mapping[str, str], joined: Joined | None = None) -> None:
        self._hashes, self._joined = dict(hashes), joined

    @classmethod
    def load(cls, secrets_dir: Path, joined: Joined | None = None) -> Self:
        """From `callers.json`. Raises NotFound, Damaged."""
        return cls(load_callers(secrets_dir), joined)

    @classmethod
    def of_tokens(cls, tokens: Mapping[str, str], joined: Joined | None = None) -> Self:
        """From caller → token."""
        return cls({name: sha256_hex(token.encode()) for name, token in tokens.items()}, joined)

    def identify(self, authorization: str) -> str:
        """The caller whose token is in the `authorization` header. Raises Unauthenticated."""
        if not authorization.startswith(SCHEME):
            raise Unauthenticated(
                "no token: send the header 'authorization: Bearer <token>' "
                "with a token from the station's secrets folder"
            )
        token = authorization.removeprefix(SCHEME).strip()
        if not token:
            raise Unauthenticated("the token is empty; it never is one of this station")
        given = sha256_hex(token.encode(errors="replace"))
        found = [name for name, digest in self._hashes.items() if hmac.compare_digest(given, digest)]
        if not found and self._joined is not None and (agent := self._joined(given)):
            return agent_caller(agent)
        if not found:
            raise Unauthenticated("this token belongs to nobody on this station")
        return found[0]


def permit(name: str, service: str, method: str, allow: Mapping[str, Set[str]]) -> None:
    """Raise PermissionDenied unless `name` (or its class, `agent`) is on the list; without a list it is for nobody."""
    listed = AGENT if agent_of(name) else name
    if listed not in allow.get(method, frozenset()) or name == AGENT:  # the class itself is no caller
        raise PermissionDenied(f"{name} may not call {service}/{method}", caller=name, method=method)
