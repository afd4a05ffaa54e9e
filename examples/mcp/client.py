"""A model's client without the model: one piece of work through `calyx mcp`, from the first look to the ack.

    CALYX_AGENT_TOKEN=… CALYX_URL=… python client.py FOLDER

It writes one note into FOLDER, a folder of the agent's first domain. Where a person is asked, it says so and waits.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def call(client: Client, tool: str, **arguments: object) -> dict:
    """One tool, as a model calls it; its answer, or the one line that says why not."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        sys.exit(f"{tool}: {result.content[0].text}")
    print(f"{tool:17} {result.structured_content['next']}", flush=True)
    return result.structured_content


async def approved(client: Client, task: dict) -> str:
    """The id of the task to claim, once a person has said yes."""
    await call(client, "request_approval", task_id=task["task_id"], why="It writes one small note, and nothing else.")
    while True:
        answer = await call(client, "await_approval", task_id=task["task_id"], wait_seconds=60)
        if answer["answer"] == "approved":
            return answer["run_task_id"]
        if answer["answer"] != "waiting":
            sys.exit(f"a person said: {answer['answer']} ({answer['task']['reason']})")


async def main(folder: Path) -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "cli.main", "mcp"], env=dict(os.environ))
    async with Client(server) as client:
        domain = (await call(client, "status"))["domains"][0]
        await call(client, "recall", text="write a note", limit=3)
        key = f"note-{time.time_ns()}"
        wish = {"domain": domain["domain"], "objective": "write a note", "idempotency_key": key}
        task = (await call(client, "propose", **wish))["task"]
        task_id = await approved(client, task) if task["waits_for_person"] else task["task_id"]

        claimed = await call(client, "claim", task_id=task_id, wait_seconds=60)
        if claimed["mode"] != "perform":
            sys.exit(f"this example can't do a task of mode {claimed['mode']!r}")
        if not (await call(client, "heartbeat", task_id=task_id, progress="about to write"))["may_act"]:
            sys.exit("the station says not now")
        note, text = folder / f"{task_id}.txt", b"written through MCP\n"
        note.write_bytes(text)
        proof = {"kind": "file_digest", "target": str(note), "expect": {"sha256": hashlib.sha256(text).hexdigest()}}
        effect = {"op": "create", "target": str(note)}
        done = {"status": "done", "applied": True, "files_changed": 1, "effects": [effect], "claims": [proof]}
        acked = await call(client, "ack", task_id=task_id, detail="one note written", **done)
        print(json.dumps({"task": task_id, "status": acked["status"], "note": str(note)}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
