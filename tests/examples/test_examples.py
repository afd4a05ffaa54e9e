"""The examples as written, against one real station."""

import hashlib
import json
import os
import signal

from calyx_agent import Client
from tests.embedded.conftest import until
from tests.examples.conftest import EXAMPLES, Here


def test_every_example_says_what_it_is_and_can_be_run() -> None:
    folders = [each for each in EXAMPLES.iterdir() if each.is_dir() and any(each.iterdir())]
    assert {"python-agent", "http-agent", "file-drop"} <= {each.name for each in folders}
    listed = (EXAMPLES / "README.md").read_text()
    for folder in folders:
        assert f"]({folder.name})" in listed, f"{folder.name} is missing in examples/README.md"
        assert (folder / "README.md").is_file(), folder.name
        assert os.access(folder / "run.sh", os.X_OK), folder.name


def test_the_python_agent_rehearses_writes_after_approval_outlives_an_overseer_and_undoes(here: Here) -> None:
    station, notes = here.station, here.folder_of("notes", "scribe")
    token = here.invite("scribe", "notes")
    agent = here.start("python-agent/run.sh", token=token)
    with Client(here.url, token) as asks:
        until(lambda: "joined as scribe" in agent.text, 20, "the agent joins")
        file = notes / "today"
        task = asks.propose(
            domain="notes", objective="write it", idempotency_key="1", params={"file": str(file), "text": "hello"}
        )["task"]["task_id"]
        until(lambda: asks.await_task(task_id=task, wait=0)["task"]["state"] == "rehearsed", 20, "it rehearses")
        assert not file.exists()
        until(lambda: station.calyx("task", "approve", task, status=None).returncode == 0, 20, "probed and approved")
        done = until(lambda: _ended(asks, f"{task}-a"), 20, "it writes")
        assert (done["state"], file.read_text()) == ("done", "hello")

        overseer = next(each for each in station.json("status")["services"] if each["name"] == "cbo")
        os.kill(overseer["pid"], signal.SIGKILL)
        until(lambda: "claim: " in agent.text, 20, "the agent notices")
        until(lambda: station.calyx("undo", f"{task}-a", status=None).returncode == 0, 30, "it is undone")
        assert not file.exists()
    agent.process.terminate()
    assert agent.wait() == 0, agent.text
    assert "Traceback" not in agent.text


def test_the_http_agent_asks_waits_for_a_yes_and_writes(here: Here) -> None:
    pages = here.folder_of("pages", "pager", "--no-rehearse", "--effects", "irreversible")
    token = here.invite("pager", "pages")
    agent = here.start("http-agent/run.sh", str(pages / "one"), "hello", token=token)
    until(lambda: "asked; a person answers" in agent.text, 20, "it asks")
    assert not (pages / "one").exists()
    here.station.calyx("task", "approve", agent.text.partition(":")[0])
    assert agent.wait() == 0, agent.text
    assert agent.text.splitlines()[-1] == "done", agent.text
    assert (pages / "one").read_text() == "hello\n"


def test_a_dropped_file_becomes_a_task_and_its_ack_is_found(here: Here) -> None:
    drop = here.start("file-drop/run.sh", str(here.station.layout.root))
    assert drop.wait() == 0, drop.text
    answer, ack = (json.loads(line) for line in drop.text.splitlines())
    assert ack["task_id"] == answer["task_id"]
    assert ack["status"] in ("rehearsed", "done", "no_work")
    assert hashlib.sha256(answer["task_id"].encode()).hexdigest()[:2]


def test_a_python_agent_fits_on_fifteen_lines() -> None:
    lines = [line for line in (EXAMPLES / "python-agent/main.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 15


def _ended(asks: Client, task_id: str) -> dict[str, object] | None:
    task = asks.await_task(task_id=task_id, wait=0)["task"]
    return task if task["ended"] else None
