"""The stack that `make stack-test` has started."""

import os

import pytest
from stack_client import Stack, sh


@pytest.fixture(scope="session")
def stack() -> Stack:
    project = os.environ.get("COMPOSE_PROJECT_NAME", "")
    if "CALYX_STACK_COMPOSE" not in os.environ:
        pytest.skip("no stack is up for the tests: run make stack-test")
    token = sh(*os.environ["CALYX_STACK_COMPOSE"].split(), "run", "--rm", "--no-deps", "-T", "operator",
               "cat", "/run/calyx-secrets/operator.token").strip()  # fmt: skip
    assert token
    return Stack(project, token)
