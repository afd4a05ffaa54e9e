"""What the end of a task says of the experiences that its plan followed."""

from services.cbo.ports import Judgement
from services.cbo.tasks import Task

CARRIED_OUT = ("done", "failed")
"""What never ran (expired, dead, cancelled) says nothing of what it was to follow."""


def judgements(task: Task, success: bool) -> dict[str, Judgement]:
    """By experience id. A failed task speaks against every success that was recalled for its procedure and believed.

    One that went well speaks for those against which something was said already; for others it would change nothing
    (memory's test of harm starts at the first failure), and routine would fill the memory with praise.
    """
    if not task.has_effects or task.state not in CARRIED_OUT:
        return {}
    return {
        str(each["id"]): Judgement(
            verdict="useful" if success else "harmful",
            task_id=task.id,
            query=task.objective,
            cosine=float(each["cosine"]),
        )
        for each in task.recalled
        if (each["domain"], each["procedure"], each["outcome"]) == (task.domain, task.procedure, "success")
        and not each["rehearsal"]
        and each.get("standing") == "valid"
        and (not success or each["harmful"])
    }
