"""An agent that keeps a text in a file: rehearsed, approved, written, and undone if somebody wants that."""

from pathlib import Path

from calyx_agent import Agent, Plan, Result, Task

agent = Agent()


def rehearse(task: Task) -> Plan:
    return task.plan({Path(task.params["file"]): task.params["text"].encode()})


@agent.task("notes", rehearse=rehearse, undo=Task.restore)
def write(task: Task) -> Result:
    return task.apply({Path(task.params["file"]): task.params["text"].encode()}, "the note is written")


agent.run()
