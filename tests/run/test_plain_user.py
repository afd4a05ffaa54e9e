"""A plain user, with user namespaces and without: what can't be rehearsed is asked for before it runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.embedded.conftest import Station
from tests.run.conftest import ROOT, Seat

NONE_LEFT = (
    "-c",
    "import os, sys\n"
    "less = 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"'\n"
    "calyx = [sys.executable, '-m', 'cli.main', *sys.argv[1:]]\n"
    "os.execvp('unshare', ['unshare', '-Ur', 'sh', '-c', less, 'sh', *calyx])",
)
"""What Python is to run: the same command where no further user namespace may be made."""


def test_where_user_namespaces_are_refused_a_run_says_that_it_cannot_rehearse_and_asks_before(
    station: Station, seat: Seat, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespace can be made here at all, so the limit of one can't be set")
    folder = tmp_path / "notes"
    folder.mkdir()
    made = station.calyx("run", "--domain", "refused", "--path", str(folder), "--", "true", status=125)
    station.calyx(*made.stderr.split("make it with: calyx ")[1].split())
    command = ("run", "--domain", "refused", "--", "sh", "-c", f"echo x > {folder}/a")
    status, shown = seat.type(*command, through=NONE_LEFT)
    assert "cannot rehearse: namespaces: " in shown and "so you are asked first" in shown, shown
    assert "rehearsed:" not in shown
    assert status == 0 and (folder / "a").read_text() == "x\n", shown
    unasked = subprocess.run(
        [sys.executable, *NONE_LEFT, *command[:-1], f"echo y > {folder}/a"],
        env=station.environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert unasked.returncode == 125 and "needs a person's yes" in unasked.stderr, unasked.stderr
    assert (folder / "a").read_text() == "x\n"


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])}
LOOK = """
import sys
from pathlib import Path
from chassis.layout import Layout
from cli.run.stage import obstacle
print(obstacle(Layout(Path(sys.argv[1]) / "look"), print))
"""
AS_A_PLAIN_USER = """
import os, sys
from pathlib import Path
from chassis.layout import Layout
from cli.run.stage import opened
from tests.run.test_rehearsal import Ground
from tests.run.test_watched_journal import tree
assert os.geteuid() != 0
for overlay in (True, False):
    root = Path(sys.argv[1]) / str(overlay)
    with opened(Layout(root / "state"), "plain") as stage:
        ground = Ground(root, stage, overlay=overlay)
        before = tree(ground.data)
        plan, _ = ground.bash("rm a; echo more >> b; mv d e; chmod 700 e; ln b h; echo x > /etc/shadow")
        assert tree(ground.data) == before
        ground.apply(plan)
        assert (ground.data / "h").samefile(ground.data / "b") and (ground.data / "e" / "c").exists()
        ground.journal.undo("t-1")
        assert tree(ground.data) == before
print("held")
"""


def test_a_plain_user_rehearses_applies_and_undoes_as_root_does() -> None:
    """Where the suite runs as root; else every test of rehearsals is this one."""
    if os.geteuid() != 0:
        pytest.skip("this is a plain user, for whom the other tests of rehearsals speak")
    plain = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv to become a plain user with")
    twice = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import grpc'], check=True)"
    python = subprocess.run([*plain, sys.executable, "-c", twice], check=False, capture_output=True, text=True)
    if python.returncode:
        pytest.skip(f"a plain user can't run this Python: {python.stderr.strip().splitlines()[-1]}")
    with tempfile.TemporaryDirectory(prefix="calyx-plain-") as folder:
        os.chown(folder, 65534, 65534)
        if why := subprocess.run(
            [*plain, sys.executable, "-c", LOOK, folder], env=ENVIRONMENT, check=True, capture_output=True, text=True
        ).stdout.strip():
            pytest.skip(f"a plain user can't rehearse here: {why}")
        ran = subprocess.run(
            [*plain, sys.executable, "-c", AS_A_PLAIN_USER, folder],
            env=ENVIRONMENT, check=False, capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
    assert ran.stdout.strip().endswith("held"), ran.stderr
