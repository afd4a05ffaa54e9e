"""The newer kinds of work in real containers: as another user, on a read-only root, done and undone."""

import time
from typing import Any

import pytest
from stack_client import Stack, eventually, sh

pytestmark = pytest.mark.stack

CBO = "calyx.cbo.v1.CboService"
OLD = "/station/reports/exports/left-behind.zip"
RECORD = "/station/memory/maintenance/index.json"
CONFIG = "/station/config/limits.yaml"


def inside(stack: Stack, service: str, script: str) -> str:
    """As the service's own user."""
    return sh("docker", "exec", f"{stack.project}-{service}-1", "sh", "-c", script).strip()


def there(stack: Stack, path: str) -> bool:
    return inside(stack, "cbo", f"test -e {path} && echo yes || true") == "yes"


def asked(stack: Stack, domain: str, **params: str) -> str:
    """An objective of its own, and the pulse that plans it."""
    wish = {"text": f"{domain} for the test", "domain": domain, "params": params}
    made = stack.call("cbo", f"{CBO}/SubmitObjective", wish)
    stack.call("cbo", f"{CBO}/RunPulse")
    return str(made["objective"]["id"])


def ended(stack: Stack, objective: str, state: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        tasks = stack.call("cbo", f"{CBO}/ListTasks", {"limit": 200})["tasks"]
        mine = [task for task in tasks if task["objective_id"] == objective]
        bad = [task for task in mine if task["state"] in ("failed", "dead", "expired")]
        assert not bad, bad
        return next((task for task in mine if task["state"] == state), None)

    return eventually(f"a task of {objective} that is {state}", found, 90)


def undone(stack: Stack, task: str) -> None:
    def answered() -> bool:
        return bool(stack.call("cbo", f"{CBO}/Undo", {"id": task})["done"])

    if not answered():
        eventually(
            f"{task} is undone",
            lambda: stack.call("cbo", f"{CBO}/GetTask", {"id": task})["task"]["state"] == "undone",
        )


def at_execute(stack: Stack, domain: str) -> None:
    stack.call("cbo", f"{CBO}/SetLevel", {"domain": domain, "level": "LEVEL_EXECUTE", "why": "for the test"})


def test_old_files_are_removed_and_come_back(stack: Stack) -> None:
    inside(stack, "cbo", f"mkdir -p $(dirname {OLD}) && echo old >{OLD} && touch -d 2020-01-01 {OLD}")
    at_execute(stack, "disk_cleanup")
    task = ended(stack, asked(stack, "disk_cleanup"), "done")
    assert not there(stack, OLD)
    undone(stack, task["id"])
    assert inside(stack, "cbo", f"cat {OLD}; stat -c '%u %Y' {OLD}").split() == ["old", "10001", "1577836800"]


def test_the_index_is_looked_after_and_its_record_goes_with_the_undo(stack: Stack) -> None:
    at_execute(stack, "index_maintenance")
    task = ended(stack, asked(stack, "index_maintenance", procedure="rebuild"), "done")
    assert there(stack, RECORD)
    undone(stack, task["id"])
    assert not there(stack, RECORD)


def approved(stack: Stack, objective: str) -> str:
    """A person says yes to its plan; the task that has done it."""
    plan = ended(stack, objective, "rehearsed")
    stack.call("cbo", f"{CBO}/RunPulse")  # which has its plan probed
    answer = stack.call("cbo", f"{CBO}/ApproveTask", {"id": plan["id"], "plan_digest": plan["plan_digest"]})
    task = str(answer["task"]["id"])
    eventually(f"{task} is done", lambda: stack.call("cbo", f"{CBO}/GetTask", {"id": task})["task"]["state"] == "done")
    return task


def test_a_changed_configuration_is_put_back_when_a_person_says_so_and_the_undo_brings_the_change(stack: Stack) -> None:
    good = f"as it should be in {stack.project} at {time.time_ns()}"
    inside(stack, "cbo", f"echo '{good}' >{CONFIG}")
    approved(stack, asked(stack, "config_drift", accept="yes"))
    inside(stack, "cbo", f"echo changed >{CONFIG}")
    task = approved(stack, asked(stack, "config_drift", procedure="digest"))
    assert inside(stack, "cbo", f"cat {CONFIG}") == good
    undone(stack, task)
    assert inside(stack, "cbo", f"cat {CONFIG}") == "changed"
