"""A service whose process is killed comes back without a person."""

import pytest
from stack_client import Stack, eventually, sh

from chassis.layout import SERVICES

pytestmark = pytest.mark.stack

HEALED = tuple(service for service in SERVICES if service != "guardian")


def kill(stack: Stack, service: str) -> str:
    """SIGKILL to the container's process as the host sees it (`docker kill` would count as the user's wish).

    Returns when the killed container had started.
    """
    container = stack.container(service)
    state, image = container["State"], container["Config"]["Image"]
    sh(
        "docker",
        "run",
        "--rm",
        "--pid=host",
        "--network=none",
        "--user=0",
        image,
        "sh",
        "-c",
        f"kill -9 {state['Pid']}",
    )
    return str(state["StartedAt"])


def started_again(stack: Stack, service: str, before: str) -> bool:
    return stack.container(service)["State"]["StartedAt"] != before and stack.healthy(service)


@pytest.mark.parametrize("service", HEALED)
def test_a_killed_service_is_healthy_again_through_the_guardian(stack: Stack, service: str) -> None:
    before = kill(stack, service)
    eventually(f"{service} healthy again", lambda: started_again(stack, service, before), 90)
    assert stack.container(service)["RestartCount"] == 0, "Docker restarted it, not the guardian"

    def incidents() -> list[str]:
        answer = stack.call("guardian", "calyx.guardian.v1.GuardianService/ListIncidents", {})
        return [one["id"] for one in answer.get("incidents", []) if one["target"] == service]

    assert eventually(f"an incident about {service}", incidents)


def test_a_killed_guardian_is_restarted_by_docker_and_heals_again(stack: Stack) -> None:
    before = kill(stack, "guardian")
    eventually("guardian healthy again", lambda: started_again(stack, "guardian", before), 90)
    assert stack.container("guardian")["RestartCount"] == 1
