"""How the containers are fenced in."""

import os
from pathlib import Path

import pytest
from stack_client import ALL, Stack, sh

from chassis.layout import SERVICES

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("service", [*ALL, "prometheus"])
def test_a_container_has_a_read_only_root_no_capability_no_way_to_gain_any_and_limits(
    stack: Stack, service: str
) -> None:
    host = stack.container(service)["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_as_a_user_that_is_nobody_on_the_host(stack: Stack, service: str) -> None:
    pid = stack.container(service)["State"]["Pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == ["10001"] * 4
    assert status["CapEff"] == "0" * 16
    assert status["NoNewPrivs"] == "1"


def test_nothing_is_published_beyond_loopback(stack: Stack) -> None:
    published = {
        service: stack.container(service)["HostConfig"]["PortBindings"] or {} for service in (*ALL, "prometheus")
    }
    assert {binding["HostIp"] for ports in published.values() for bound in ports.values() for binding in bound} == {
        "127.0.0.1"
    }
    assert {service: sorted(ports) for service, ports in published.items()} == {
        "memory": ["50051/tcp"],
        "governor": ["50052/tcp"],
        "guardian": ["50053/tcp"],
        "cbo": ["50054/tcp"],
        "analytics": ["50055/tcp"],
        "dashboard": ["4040/tcp", "50056/tcp"],
        "broker": [],
        "prometheus": ["9090/tcp"],
    }


def test_only_the_broker_has_the_docker_socket_and_it_has_no_network(stack: Stack) -> None:
    holders = [
        service
        for service in (*ALL, "prometheus")
        if any("docker.sock" in mount["Source"] for mount in stack.container(service)["Mounts"])
    ]
    assert holders == ["broker"]
    assert stack.container("broker")["HostConfig"]["NetworkMode"] == "none"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_sees_its_own_secrets_only_and_can_not_change_them(stack: Stack, service: str) -> None:
    files = set(sh("docker", "exec", f"{stack.project}-{service}-1", "ls", "/run/calyx-secrets").split())
    assert files == {f"{service}.token", "callers.json"} | {"cbo": {"grant.key"}, "memory": {"memory.key"}}.get(
        service, set()
    )
    secrets = [m for m in stack.container(service)["Mounts"] if m["Destination"] == "/run/calyx-secrets"]
    assert [mount["RW"] for mount in secrets] == [False]


@pytest.mark.parametrize("service", SERVICES)
def test_the_shared_volume_is_one_mount_and_the_plans_names_lead_into_it(stack: Stack, service: str) -> None:
    mounts = [m["Destination"] for m in stack.container(service)["Mounts"] if m["Destination"].startswith("/station")]
    assert mounts == ["/station"]
    links = sh("docker", "exec", f"{stack.project}-{service}-1", "readlink", "/memory", "/reports").split()
    assert links == ["/station/memory", "/station/reports"]


@pytest.mark.parametrize("service", [*ALL, "prometheus"])
def test_docker_restarts_the_guardian_and_its_broker_and_nobody_else(stack: Stack, service: str) -> None:
    policy = stack.container(service)["HostConfig"]["RestartPolicy"]["Name"]
    assert policy == ("unless-stopped" if service in ("guardian", "broker") else "no")


def test_the_operator_container_runs_the_command_line(stack: Stack) -> None:
    compose = os.environ["CALYX_STACK_COMPOSE"].split()
    answer = sh(*compose, "run", "--rm", "--no-deps", "-T", "operator", "calyx", "ladder", "--json")
    assert '"domains"' in answer
