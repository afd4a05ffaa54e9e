"""Each service through grpcurl, from the host, over its published port."""

import json

import pytest
from stack_client import Stack, eventually

pytestmark = pytest.mark.stack

CALLS = {
    "memory": ("calyx.memory.v1.MemoryService", "Stats"),
    "governor": ("calyx.governor.v1.GovernorService", "GetCapacity"),
    "guardian": ("calyx.guardian.v1.GuardianService", "GetHealth"),
    "cbo": ("calyx.cbo.v1.CboService", "GetLadder"),
    "analytics": ("calyx.analytics.v1.AnalyticsService", "ListCharts"),
    "dashboard": ("calyx.dashboard.v1.DashboardService", "GetOverview"),
}
each_service = pytest.mark.parametrize(("service", "contract", "method"), [(s, *c) for s, c in CALLS.items()])


@each_service
def test_grpcurl_lists_the_service(stack: Stack, service: str, contract: str, method: str) -> None:
    listed = stack.grpcurl(service, "list").split()
    assert {contract, "grpc.health.v1.Health"} <= set(listed)


@each_service
def test_grpcurl_describes_the_service(stack: Stack, service: str, contract: str, method: str) -> None:
    described = stack.grpcurl(service, f"describe {contract}")
    assert f"rpc {method} (" in described


@each_service
def test_grpcurl_calls_the_service(stack: Stack, service: str, contract: str, method: str) -> None:
    assert stack.call(service, f"{contract}/{method}")


@each_service
def test_a_call_without_a_token_is_refused(stack: Stack, service: str, contract: str, method: str) -> None:
    with pytest.raises(AssertionError, match="Unauthenticated"):
        stack.grpcurl(service, "-d", "{}", f"{contract}/{method}")


@each_service
def test_the_health_of_the_service_is_open_and_says_serving(
    stack: Stack, service: str, contract: str, method: str
) -> None:
    assert json.loads(stack.grpcurl(service, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}


def test_three_pulses_pass(stack: Stack) -> None:
    def numbers() -> list[int]:
        pulses = stack.call("cbo", "calyx.cbo.v1.CboService/ListPulses", {"limit": 50}).get("pulses", [])
        return [int(pulse["id"].removeprefix("bp-")) for pulse in pulses]

    first = max(numbers(), default=0)
    after = eventually("three more pulses", lambda: [n for n in numbers() if n > first + 2])
    assert set(range(1, first + 3)) <= set(numbers()) | set(after)


def test_memory_searches_by_chroma_here(stack: Stack) -> None:
    assert stack.call("memory", "calyx.memory.v1.MemoryService/Stats")["index"] == "chroma"


def test_a_task_of_the_overseer_is_done_by_an_agent_in_another_container(stack: Stack) -> None:
    def answered() -> list[object]:
        tasks = stack.call("cbo", "calyx.cbo.v1.CboService/ListTasks", {"domain": "diagnostics"}).get("tasks", [])
        return [task for task in tasks if task["state"] in ("rehearsed", "done")]

    eventually("a diagnostics task rehearsed by the guardian's agent", answered)


def test_the_governor_reads_the_machine_and_not_its_own_containers_limits(stack: Stack) -> None:
    capacity = stack.call("governor", "calyx.governor.v1.GovernorService/GetCapacity")["capacity"]
    assert capacity["source"]["ram"] == "host"
