"""Rehearsing on a real kernel: no trace, no way out, exactly the plan afterwards, all of it taken back by an undo."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import Drifted, Refused, ResourceExhausted
from chassis.journal import Journal, consent_within
from chassis.layout import Layout
from cli.run.applying import apply
from cli.run.child import Child, Ended, Layer, Spec, environment
from cli.run.plan import Plan, shown
from cli.run.stage import Stage, obstacle, opened, sweep
from tests.run.conftest import ROOT
from tests.run.test_watched_journal import ACTIONS, misbehave, tree

LOST = "the rehearsal left a trace"


class Ground:
    """A folder to rehearse on, a state folder that is hidden, and a journal."""

    def __init__(self, root: Path, stage: Path, *, overlay: bool) -> None:
        self.data, self.scratch, self.hidden, self._stage = root / "data", root / "scratch", root / "station", stage
        self.root, self.overlay = root, overlay
        for folder in (self.data / "d", self.scratch, self.hidden):
            folder.mkdir(parents=True)
        (self.hidden / "operator.token").write_text("s3cret")
        for name in ("a", "b", "d/c"):
            (self.data / name).write_text(name)
            os.utime(self.data / name, ns=(10**18, 10**18))
        self.journal = Journal(root / "journal", VirtualClock(), consent_within([self.data]))

    def rehearse(self, *argv: str, confine: bool = True) -> tuple[Plan, Child, Ended]:
        folder = self._stage / os.urandom(4).hex()
        folder.mkdir()
        stage = Stage(folder, [self.data], lambda _: None, overlay=self.overlay)
        stage.look()

        def spec(layers: tuple[Layer, ...]) -> Spec:
            return Spec(
                argv=argv, env=environment(os.environ, {"PYTHONPATH": str(ROOT)}, self.scratch), cwd=self.data,
                writable=(self.data, self.scratch), hidden=(self.hidden,), layers=layers, scratch=self.scratch,
                confine=confine,
            )  # fmt: skip

        child = stage.start(spec)
        ended = child.ended(60.0)
        assert ended is not None, "it did not end"
        assert (child.began.sealed or child.began.failed) and child.began.apart
        return stage.plan(), child, ended

    def bash(self, script: str, *, confine: bool = True) -> tuple[Plan, str]:
        """The plan, and what it said."""
        plan, _, ended = self.rehearse(
            "bash", "-c", f"exec >{self.scratch}/said 2>&1; {script}; exit 0", confine=confine
        )  # fmt: skip
        assert ended.status == 0
        return plan, (self.scratch / "said").read_text()

    def apply(self, plan: Plan) -> None:
        with self.journal.watch("t-1", 1, [self.data]) as seen:
            try:
                apply(plan, lambda: None)
            finally:
                seen.settle()
                seen.finish({})


@pytest.fixture(scope="module")
def can(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := obstacle(Layout(tmp_path_factory.mktemp("look")), print):
        pytest.skip(f"this kernel can't rehearse: {why}")


@pytest.fixture(params=[True, False], ids=["overlay", "copy"])
def ground(can: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    with opened(Layout(tmp_path / "state"), "test") as folder:
        yield Ground(tmp_path, folder, overlay=request.param)


BY_CHANCE = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {gen!r}]
from tests.run.test_watched_journal import misbehave
misbehave(Path({data!r}), {seed}, {actions!r})
"""


@pytest.mark.parametrize("seed", range(3))
def test_what_is_applied_is_what_the_command_would_have_done_and_its_undo_gives_all_back(
    ground: Ground, seed: int
) -> None:
    actions = [each for each in ACTIONS if each not in ("fifo", "touch")] * 4
    actions = [actions[(n * (seed + 3) + seed) % len(actions)] for n in range(24)]
    script = BY_CHANCE.format(
        root=str(ROOT), gen=str(ROOT / "protos" / "gen"), data=str(ground.data), seed=seed, actions=actions
    )
    before = tree(ground.data)
    plan, _, ended = ground.rehearse(sys.executable, "-c", script)
    assert ended.status == 0
    assert tree(ground.data) == before, LOST
    assert plan.changes
    ground.apply(plan)
    applied = tree(ground.data)
    ground.journal.undo("t-1")
    assert tree(ground.data) == before
    misbehave(ground.data, seed, actions)
    done = tree(ground.data)

    def timeless(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
        return {path: (*each[:4], each[5]) for path, each in found.items()}

    assert timeless(applied) == timeless(done)


def test_it_reaches_neither_the_network_nor_a_socket_nor_the_state_folder_nor_the_world_outside(
    ground: Ground,
) -> None:
    """Without Landlock too: the mounts alone hold it."""
    outside, named = ground.root / "outside", ground.root / "daemon.sock"
    reach = (
        "import socket, sys\n"
        "for family, where in ((socket.AF_INET, ('127.0.0.1', int(sys.argv[1]))), (socket.AF_UNIX, sys.argv[2]),\n"
        "                      (socket.AF_UNIX, '\\0' + sys.argv[2])):\n"
        "    try:\n        socket.socket(family).connect(where); print('REACHED', where)\n"
        "    except OSError as error: print(error)\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as daemon,
        socket.socket(socket.AF_UNIX) as hidden,
    ):
        daemon.bind(str(named))
        daemon.listen()
        hidden.bind("\0" + str(named))
        hidden.listen()
        port = listening.getsockname()[1]
        for confine in (True, False):
            _, said = ground.bash(
                f"{sys.executable} -c \"$(cat <<'END'\n{reach}\nEND\n)\" {port} {named}; echo leak > {outside}; "
                f"cat {ground.hidden}/operator.token; umount {ground.data}; mount -o remount,rw /; "
                f"kill -9 {os.getpid()}",
                confine=confine,
            )
            assert "REACHED" not in said and "s3cret" not in said
            assert not outside.exists() and "outside" in said


def test_terminal_input_exit_status_and_signals_are_the_commands_own(ground: Ground) -> None:
    plan, _, ended = ground.rehearse("sh", "-c", "exit 7")
    assert (ended.status, plan.changes) == (7, ())
    assert ground.rehearse("sh", "-c", "kill -TERM $$")[2].status == 128 + signal.SIGTERM
    assert ground.rehearse("/no/such/command")[1].began.failed == 127


def test_the_plan_names_every_kind_of_change(ground: Ground) -> None:
    before = tree(ground.data)
    plan, _ = ground.bash(
        "rm a; echo more >> b; mkdir n; echo x > 'n/two\nlines'; ln -s b l; ln b h; chmod 700 d; "
        "truncate -s 64M sparse; cat d/c > /dev/null; touch -d 2001-01-01 d/c; mkdir gone; rmdir gone"
    )
    assert tree(ground.data) == before, LOST
    found = {(each.op, Path(each.path).name) for each in plan.changes}
    assert found == {
        ("remove", "a"), ("edit", "b"), ("create", "n"), ("create", "two\nlines"), ("create", "l"), ("create", "h"),
        ("dress", "d"), ("dress", "c"), ("create", "sparse"),
    }  # fmt: skip
    assert all("\n" not in line for line in shown(plan)) and "5 created" in shown(plan)[0]
    ground.apply(plan)
    assert (ground.data / "h").samefile(ground.data / "b") and (ground.data / "b").read_text() == "bmore\n"
    assert (ground.data / "sparse").stat().st_blocks == 0
    ground.journal.undo("t-1")
    assert tree(ground.data) == before


@pytest.mark.parametrize(
    "change",
    ["echo y >> b", "rm b", "touch n", "chmod 600 b", "rm -r d; ln -s /etc d", "touch d/new"],
)
def test_a_world_that_is_not_as_rehearsed_is_left_alone(ground: Ground, change: str) -> None:
    plan, _ = ground.bash("echo x >> b; mkdir n; echo z > d/z; rm -r d; echo kept")
    subprocess.run(["sh", "-c", change], cwd=ground.data, check=True)
    before = tree(ground.data)
    with pytest.raises(Drifted, match="rehearse it again"):
        ground.apply(plan)
    assert tree(ground.data) == before


def test_a_file_that_changes_while_it_is_rehearsed_is_drift(ground: Ground) -> None:
    """The command edits it on its layer; somebody else meanwhile does in the world."""
    (ground.scratch / "go").unlink(missing_ok=True)
    meddler = subprocess.Popen(
        ["sh", "-c", f"until [ -e {ground.scratch}/go ]; do sleep 0.01; done; echo other >> {ground.data}/b; "
         f"touch {ground.scratch}/done"],
    )  # fmt: skip
    plan, _ = ground.bash("echo x >> b; touch $TMPDIR/go; until [ -e $TMPDIR/done ]; do sleep 0.01; done")
    meddler.wait()
    with pytest.raises(Drifted, match="changed since the rehearsal began"):
        ground.apply(plan)
    assert (ground.data / "b").read_text() == "bother\n"


@pytest.mark.parametrize("name", [".env", "id_ed25519", ".ssh/config", "server.key"])
def test_a_secret_is_no_target(ground: Ground, name: str) -> None:
    with pytest.raises(Refused, match="secret"):
        ground.bash(f"mkdir -p $(dirname {name}); echo x > {name}")


def test_a_tree_that_the_journal_could_not_keep_is_refused_before_it_is_rehearsed(
    ground: Ground, tmp_path: Path
) -> None:
    (ground.data / ".env").write_text("A=1")
    with pytest.raises(Refused, match="secret"):
        ground.bash("true")
    (ground.data / ".env").unlink()
    with (ground.data / "big").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2**30 + 2**20)
    with pytest.raises(ResourceExhausted, match="narrower"):
        ground.bash("true")


HOLDER = """
import sys, time
from pathlib import Path
from chassis.layout import Layout
from cli.run.stage import opened
with opened(Layout(Path(sys.argv[1])), "held") as folder:
    (folder / "0").mkdir()
    (folder / "0" / "deep").mkdir(mode=0)
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_rehearsal_left_goes_at_the_next_start_and_a_living_one_stays(tmp_path: Path) -> None:
    home = Layout(tmp_path).work("rehearsals")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
    assert sweep(home) == 0
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert sweep(home) == 1
    assert [each.name for each in home.iterdir()] == [".lock"]


def test_a_copy_is_planned_applied_and_undone_without_any_namespace(tmp_path: Path) -> None:
    """What the kernel adds is only that the command sees the copy where the folder is."""
    with opened(Layout(tmp_path / "state"), "test") as folder:
        ground = Ground(tmp_path, folder, overlay=False)
        before = tree(ground.data)
        stage = Stage(folder, [ground.data], lambda _: None)
        stage.look()
        (layer,) = stage.copies()
        assert tree(layer.upper) == before and stage.plan().changes == ()
        subprocess.run(["sh", "-c", "rm a; echo x >> b; mv d e; ln b h; chmod 600 e/c"], cwd=layer.upper, check=True)
        plan = stage.plan()
        assert tree(ground.data) == before, LOST
        ground.apply(plan)
        assert tree(ground.data) == tree(layer.upper)
        ground.journal.undo("t-1")
        assert tree(ground.data) == before


NO_NAMESPACES = """
import sys
from pathlib import Path
from chassis.layout import Layout
from cli.run.stage import obstacle
print(obstacle(Layout(Path(sys.argv[1])), print))
"""


def test_where_no_user_namespace_can_be_made_it_says_so(tmp_path: Path) -> None:
    """As in a container: a limit of this test's own namespace."""
    if subprocess.run(["unshare", "-Ur", "true"], check=False).returncode:
        pytest.skip("no user namespace can be made here at all, which other tests show then")
    said = subprocess.run(
        ["unshare", "-Ur", "sh", "-c",
         'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh", sys.executable, "-c", NO_NAMESPACES,
         str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.startswith("namespaces: "), said
