"""A whole `calyx run` at GUIDE: rehearsed without a trace, approved, applied exactly, undone byte-identically."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.layout import Layout
from cli.run.stage import obstacle
from tests.embedded.conftest import Station, until
from tests.run.conftest import Seat

AGENT = """
set -eu
one=$1 two=$2
for n in $(seq 0 124); do rm $one/remove-$n; done
for n in $(seq 0 124); do mv $one/rename-$n $two/renamed-$n; done
for n in $(seq 0 124); do echo edited $n >> $one/edit-$n; done
mkdir -p $two/deep/er; for n in $(seq 0 124); do echo created $n > $two/deep/er/create-$n; done
chmod 600 $one/mode; ln -s ../one $two/link; ln $one/keep $one/hard; mv $one/folder $two/moved
printf x > "$two/a
name"; truncate -s 10M $two/sparse
if (echo leak > $one/../outside) 2>/dev/null; then echo outside-written; fi
"""


def tree(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Content, kind, mode, owner and times: all that a trace would show in, atimes of files too."""
    found: dict[str, tuple[object, ...]] = {}
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))]:
            info = path.lstat()
            plain = stat.S_ISREG(info.st_mode)
            content = "" if not path.is_symlink() else str(path.readlink())
            found[str(path)] = (
                info.st_mode, info.st_uid, info.st_gid, 0 if path.is_symlink() else info.st_mtime_ns, content, plain
            )  # fmt: skip
    return found


def contents(*folders: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def times(*folders: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_atime_ns, path.stat().st_ctime_ns)
        for folder in folders for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "folder").mkdir(parents=True)
    two.mkdir()
    for kind in ("remove", "rename", "edit"):
        for n in range(125):
            (one / f"{kind}-{n}").write_text(f"{kind} {n}\n")
            (one / f"{kind}-{n}").chmod(0o640 + n % 2)
            os.utime(one / f"{kind}-{n}", ns=(10**18 + n, 10**18 + n))
    for name in ("mode", "keep", "folder/in"):
        (one / name).write_text(name)
    return one, two


def options(folders: tuple[Path, Path]) -> list[str]:
    return [word for folder in folders for word in ("--path", str(folder))]


def start(station: Station, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "run", *arguments],
        env=station.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _can(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := obstacle(Layout(tmp_path_factory.mktemp("look")), print):
        pytest.skip(f"this kernel can't rehearse: {why}")


def test_a_bash_agent_on_500_files_is_rehearsed_without_a_trace_approved_applied_and_undone(
    station: Station, seat: Seat, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    script, summary = tmp_path / "agent.sh", tmp_path / "summary.json"
    script.write_text(AGENT)
    before, kept = tree(*folders), contents(*folders)
    for path in kept:
        os.utime(path, ns=(10**18, Path(path).stat().st_mtime_ns))  # old enough that a read would show
    untouched = times(*folders)
    common = ("run", "--domain", "five", *options(folders), "--json-summary", str(summary), "--")
    made = station.calyx("run", "--domain", "five", *options(folders), "--", "true", status=125)
    station.calyx(*made.stderr.split("make it with: calyx ")[1].split())
    refused = station.calyx(*common, "bash", str(script), *map(str, folders), status=125)
    assert "needs a person's yes" in refused.stderr, refused.stderr
    assert times(*folders) == untouched, "neither read nor touched, as far as a file tells"
    assert tree(*folders) == before and contents(*folders) == kept and not (tmp_path / "outside").exists()
    status, shown = seat.type(*common, "bash", str(script), *map(str, folders))
    assert status == 0, shown
    assert "outside-written" not in shown and not (tmp_path / "outside").exists()
    told = json.loads(summary.read_text())
    assert (told["status"], told["applied"]) == ("done", True), shown
    plan = {(each["op"], each["target"]) for each in told["plan"]}
    one, two = folders
    assert {("remove", f"{one}/rename-7"), ("create", f"{two}/renamed-7"), ("edit", f"{one}/edit-7")} <= plan
    assert {("remove", f"{one}/remove-7"), ("create", f"{two}/deep/er/create-7"), ("dress", f"{one}/mode")} <= plan
    assert (two / "renamed-7").read_text() == "rename 7\n" and (two / "renamed-7").stat().st_mtime_ns == 10**18 + 7
    assert (one / "hard").samefile(one / "keep") and (two / "link").readlink() == Path("../one")
    assert (two / "a\nname").read_text() == "x" and (two / "sparse").stat().st_blocks == 0
    task = station.json("task", "show", told["task"])
    assert task["rehearsal_of"] == told["rehearsal"] and task["plan_digest"] == told["plan_digest"]
    rehearsal = station.json("task", "show", told["rehearsal"])
    assert rehearsal["plan"]["changes"] == told["plan"], "the person's card has all of it"
    assert "confirmed" in rehearsal["tes_note"]
    station.calyx("undo", told["task"], status=None)  # which waits a while, and goes on when that is over
    until(lambda: station.json("task", "show", told["task"])["state"] == "undone", 120, "the undo of all of it")
    assert tree(*folders) == before and contents(*folders) == kept
    assert [each for each in (station.layout.root / "work" / "rehearsals").iterdir() if each.is_dir()] == []


@pytest.fixture
def notes(station: Station, tmp_path: Path) -> Iterator[Path]:
    """A folder of a domain that is rehearsed."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a").write_text("a")
    made = station.calyx("run", "--domain", tmp_path.name.replace("_", "-"), "--path", str(folder), "--", "true",
                         status=125)  # fmt: skip
    station.calyx(*made.stderr.split("make it with: calyx ")[1].split())
    yield folder


def waiting(station: Station, domain: str) -> list[str]:
    return [task["id"] for task in station.json("inbox")["tasks"] if task["domain"] == domain]


def test_a_plan_approved_elsewhere_is_applied_by_the_run_that_waits_unless_the_world_has_changed(
    station: Station, notes: Path, tmp_path: Path
) -> None:
    domain, summary = tmp_path.name.replace("_", "-"), tmp_path / "summary.json"
    command = ["--domain", domain, "--wait", "2m", "--json-summary", str(summary), "--", "sh", "-c", "echo b >> a"]

    def approved(run: subprocess.Popen[str], meddle: str = "") -> int:
        until(lambda: waiting(station, domain), 30, "the plan in the inbox")
        (task,) = waiting(station, domain)
        until(lambda: "confirmed" in station.json("task", "show", task)["tes_note"], 30, "the probe of the rehearsal")
        assert (notes / "a").read_text() == "a"
        if meddle:
            (notes / "a").write_text(meddle)
        station.calyx("task", "approve", task)
        status = run.wait(60)
        assert run.stderr is not None
        run.stderr.close()
        return status

    cwd = notes  # a relative name means the layer, too
    assert approved(start(station, *command, cwd=cwd), meddle="mine") == 125
    told = json.loads(summary.read_text())
    assert "changed since the rehearsal" in told["refused"] and (notes / "a").read_text() == "mine"
    (notes / "a").write_text("a")
    assert approved(start(station, *command, cwd=cwd)) == 0
    assert (notes / "a").read_text() == "ab\n"
    assert json.loads(summary.read_text())["status"] == "done"


def test_what_fails_in_the_rehearsal_and_what_changes_nothing_asks_nobody(
    station: Station, notes: Path, tmp_path: Path
) -> None:
    domain = tmp_path.name.replace("_", "-")
    failed = station.calyx("run", "--domain", domain, "--", "sh", "-c", f"echo x > {notes}/a; exit 3", status=3)
    assert "not applied" in failed.stderr and (notes / "a").read_text() == "a"
    looked = station.calyx("run", "--domain", domain, "--", "cat", str(notes / "a"))
    assert looked.stdout == "a"
    refused = station.calyx("run", "--domain", domain, "--", "sh", "-c", f"echo K=1 > {notes}/.env", status=125)
    assert "secret" in refused.stderr and not (notes / ".env").exists()
    assert waiting(station, domain) == []


def test_what_needs_the_network_is_not_rehearsed_but_asked_for_before(
    station: Station, seat: Seat, notes: Path, tmp_path: Path
) -> None:
    domain = tmp_path.name.replace("_", "-")
    status, shown = seat.type("run", "--domain", domain, "--network", "--", "sh", "-c", f"echo x > {notes}/a")
    assert status == 0, shown
    assert "cannot rehearse: it needs the network" in shown and "so you are asked first" in shown
    assert (notes / "a").read_text() == "x\n"


def test_irreversible_effects_are_asked_for_and_never_called_undoable(
    station: Station, seat: Seat, tmp_path: Path
) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    station.calyx("domain", "new", "sent", "--owner", "sent", "--path", str(folder), "--effects", "irreversible",
                  "--undo-by", "governor", "--sign", "--approve")  # fmt: skip
    refused = station.calyx("run", "--domain", "sent", "--undo-on-failure", "--", "true", status=125)
    assert "irreversible" in refused.stderr
    summary = tmp_path / "summary.json"
    status, shown = seat.type("run", "--domain", "sent", "--json-summary", str(summary), "--", "sh", "-c",
                              f"echo x > {folder}/x; exit 4")  # fmt: skip
    assert status == 4 and "cannot rehearse: its effects are declared irreversible" in shown
    assert "there is no undo" in shown and "calyx undo" not in shown
    undo = station.json("task", "show", json.loads(summary.read_text())["task"])["undo"]
    assert not undo["possible"] and "irreversible" in undo["reason"]
