"""`calyx run` against a real station: asked first, throttled, asleep, resumed, stopped, undone; and no way around."""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from chassis import confine
from chassis.identity import load_token
from cli.run import notes as ungoverned
from tests.embedded.conftest import Station, until
from tests.run.conftest import ROOT, Seat

AGENT = str(ROOT / "examples" / "bash-agent" / "agent.sh")


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def notes(folder: Path) -> Path:
    shutil.copytree(ROOT / "examples" / "bash-agent" / "notes", folder)
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in folder.iterdir()
    }  # fmt: skip


def start(station: Station, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "run", *arguments],
        env=station.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def asked(station: Station) -> list[str]:
    """Tasks of this domain that wait for a person."""
    return [task["id"] for task in station.json("inbox")["tasks"] if task["domain"] == "notes"]


def approve(station: Station) -> None:
    for task in asked(station):
        station.calyx("task", "approve", task, status=None)


@pytest.fixture(scope="module")
def ground(station: Station, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and the domain that may change it, made by the very command that a refusal names."""
    folder = notes(tmp_path_factory.mktemp("ground") / "notes")
    refused = station.calyx("run", "--domain", "notes", "--path", str(folder), "--", "true", status=125)
    assert refused.stdout == ""
    command = refused.stderr.split("make it with: ")[1].strip()
    station.calyx(*shlex.split(command)[1:], "--no-rehearse")
    return folder


def test_a_domain_is_made_and_the_run_approved_at_the_terminal_in_one_go(
    seat: Seat, station: Station, tmp_path: Path
) -> None:
    folder, summary = notes(tmp_path / "mine"), tmp_path / "summary.json"
    before = contents(folder)
    status, shown = seat.type(
        "run", "--domain", "typed", "--path", str(folder), "--json-summary", str(summary), "--",
        "sh", "-c", f"{AGENT} {folder} && tty && exit 0",
    )  # fmt: skip
    assert status == 0, shown
    assert "there is no domain typed yet" in shown and "rehearsed: 1 changes" in shown
    assert "/dev/pts/" in shown, "its terminal is the person's"
    told = json.loads(summary.read_text())
    assert (told["status"], told["files_changed"]) == ("done", 1)
    until(lambda: "confirmed" in station.json("task", "show", told["task"])["tes_note"], 30, "the independent probe")
    station.calyx("undo", told["task"])
    assert contents(folder) == before


def test_without_a_terminal_a_guided_run_waits_for_the_answer_or_is_refused(station: Station, ground: Path) -> None:
    refused = station.calyx("run", "--domain", "notes", "--", "true", status=125)
    assert "needs a person's yes" in refused.stderr
    assert asked(station) == [], "what nobody waits for is withdrawn"
    waiting = start(station, "--domain", "notes", "--wait", "1m", "--", "sh", "-c", "exit 7")
    until(lambda: asked(station), 20, "the question")
    approve(station)
    assert waiting.wait(30) == 7
    assert waiting.stderr is not None
    waiting.stderr.close()


def test_a_bash_agent_is_throttled_put_to_sleep_resumed_stopped_by_the_kill_switch_and_undone(
    station: Station, ground: Path, tmp_path: Path
) -> None:
    station.calyx("ladder", "set", "notes", "EXECUTE", "--why", "a test")
    ungoverned.keep(station.layout, "notes", "an earlier one", NOW, NOW, 3)
    # The first effect under a newly declared folder needs a yes even there.
    before, summary = contents(ground), tmp_path / "summary.json"
    options = ("--domain", "notes", "--wait", "1m", "--json-summary", str(summary))
    run = start(station, *options, "--", AGENT, str(ground), "1000000")
    assert run.stderr is not None
    said: list[str] = []

    def hear(words: str) -> None:
        while not (said and words in said[-1]):
            line = run.stderr.readline() if run.stderr is not None else ""
            assert line, f"it ended before it said {words!r}: {said}"
            said.append(line)

    def processes() -> list[psutil.Process]:
        found = []
        for each in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [each] if any("agent.sh" in part for part in each.cmdline()) else []
        return found

    def states() -> set[str]:
        found: set[str] = set()
        for each in processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.add(each.status())
        return found

    def running() -> bool:
        approve(station)
        return bool((ground / "INDEX.md").exists() and processes())

    until(running, 30, "the agent runs")
    station.calyx("governor", "throttle", "notes", "--for", "1m", "--share", "0.2")
    hear("held to 20 % of one core")
    station.calyx("governor", "resume", "notes")
    hear("goes on")
    station.calyx("governor", "sleep", "notes", "--for", "1m")
    hear("put to sleep")
    until(lambda: states() == {psutil.STATUS_STOPPED}, 5, "all of it sleeps")
    station.calyx("governor", "resume", "notes")
    hear("goes on")
    until(lambda: states() - {psutil.STATUS_STOPPED}, 5, "it is awake")
    victims = processes()
    station.calyx("stop", "--why", "enough")
    try:
        _gone, alive = psutil.wait_procs(victims, timeout=2.0)
        assert not alive, "the kill switch has two seconds"
        assert run.wait(20) == 143
        run.stderr.close()
        told = json.loads(summary.read_text())
        assert (told["status"], told["applied"]) == ("cancelled", True)
        station.calyx("undo", told["task"])
        assert contents(ground) == before
    finally:
        station.calyx("resume")
    assert station.json("task", "show", told["task"])["state"] == "undone"
    assert ungoverned.kept(station.layout, "notes") == [], "what ran while the station was down has been told"
    assert "an earlier one" in station.layout.audit("cbo").read_text()


ESCAPES = """
import os, sys
import httpx
from calyx.cbo.v1 import cbo_pb2 as pb
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
from chassis.rpc.client import open_channel
address, stolen = sys.argv[1:]
asks = {
    "SetLevel": pb.SetLevelRequest(domain="notes", level=4, why="me"), "ApproveTask": pb.ApproveTaskRequest(id="t"),
    "SetKillSwitch": pb.SetKillSwitchRequest(engaged=False),
    "ApproveDomain": pb.ApproveDomainRequest(envelope_json="{}"),
    "InviteAgent": pb.InviteAgentRequest(agent="me", domains=["notes"]), "Undo": pb.UndoRequest(id="t"),
}
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for who, token in (("own", os.environ["CALYX_AGENT_TOKEN"]), ("stolen", stolen)):
        stub = CboServiceStub(open_channel(address, token))
        for name, request in asks.items():
            try:
                getattr(stub, name)(request)
                answer = "allowed"
            except Exception as error:
                answer = type(error).__name__ + " " + str(error)
            print(who, name, answer, flush=True)
    bearer = {"authorization": f"Bearer {stolen}"}
    page = httpx.post(f"{os.environ['CALYX_URL']}/api/kill-switch", json={"engaged": False}, headers=bearer)
    print("stolen page", page.status_code, page.text, flush=True)
    print("end", flush=True)
    os._exit(0)
os.wait()
while not os.path.exists("stop"):
    pass
"""


def test_a_governed_program_decides_nothing_whatever_way_it_tries(station: Station, ground: Path) -> None:
    """Its own token, a stolen one, a double fork, the command line, the flag file."""
    station.calyx("ladder", "set", "notes", "EXECUTE", "--why", "a test")
    address = json.loads(station.layout.endpoints.read_text())["services"]["cbo"]["grpc"]
    stolen = load_token(station.layout.secrets, "operator")
    (ground / "escape.py").write_text(ESCAPES)
    here, calyx = str(station.layout.root), f"{sys.executable} -m cli.main --station {station.layout.root}"
    script = (
        f"cd {ground}; export PYTHONPATH={station.environment['PYTHONPATH']}; "
        f"{sys.executable} escape.py {address} {stolen} > said & "
        "while ! grep -q end said 2>/dev/null; do sleep 0.05; done; "
        f"{calyx} ladder set notes OBSERVE --why me 2>> cli; {calyx} resume 2>> cli; "
        f"unset CALYX_TASK_ID; {calyx} resume 2>> cli; "
        f"cat {here}/secrets/operator.token {here}/station.json >> leaked; "
        f"touch {here}/manual_shutdown.flag && echo touched >> leaked; touch stop; wait; exit 0"
    )
    run = start(station, "--domain", "notes", "--wait", "1m", "--", "bash", "-c", script)
    until(lambda: bool(asked(station)), 20, "the question")
    approve(station)
    until(lambda: run.poll() is not None, 60, "it tried every way")
    assert run.stderr is not None
    with run.stderr as words:
        assert run.returncode == 0, words.read()
    said = (ground / "said").read_text().splitlines()
    assert len(said) == 14 and not any("allowed" in line for line in said), said
    assert all("PermissionDenied" in line or "page 403" in line for line in said[:-1]), said
    assert all("beneath a governed program" in line for line in said if line.startswith("stolen")), said
    cli = (ground / "cli").read_text()
    assert cli.count("is a person's to say") == 2, cli
    if confine.abi():
        assert (ground / "leaked").read_text() == ""
        assert not station.layout.kill_switch.exists()
    assert station.domain("notes")["level"] == "EXECUTE"
    assert "policy.blocked" in station.layout.audit("cbo").read_text()


def test_while_the_station_is_down_a_run_is_refused_or_ungoverned_and_recorded(station: Station, ground: Path) -> None:
    station.calyx("down")
    refused = station.calyx("run", "--domain", "notes", "--", "true", status=125)
    assert "--if-down run" in refused.stderr
    ran = station.calyx("run", "--domain", "notes", "--if-down", "run", "--", "sh", "-c", "echo out; exit 5", status=5)
    assert ran.stdout == "out\n" and "ungoverned" in ran.stderr
    ((_, note),) = ungoverned.kept(station.layout, "notes")
    assert note["exit_status"] == 5
