"""A confined command: what it may write, what it can't read, what ends with it. Real processes, a real kernel."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chassis import confine
from chassis.confine import Fence
from cli.run.child import Child, Ended, Spec, environment, exit_status

needs_landlock = pytest.mark.skipif(confine.abi() == 0, reason="this kernel has no Landlock")
ROOT = Path(__file__).resolve().parents[2]


class Ground:
    def __init__(self, root: Path) -> None:
        self.open, self.hidden, self.scratch = root / "open", root / "station", root / "scratch"
        for folder in (self.open, self.hidden, self.scratch, self.hidden / "secrets"):
            folder.mkdir()
        (self.hidden / "secrets" / "operator.token").write_text("s3cret")
        (self.hidden / "manual_shutdown.flag").write_text("stop")
        self.said = self.open / "said"

    def run(self, script: str, *, contain: bool = True, confine: bool = True) -> tuple[Child, Ended]:
        child = Child(
            Spec(
                argv=("sh", "-c", f"exec >{self.said} 2>&1; {script}"),
                env=environment(os.environ, {"GIVEN": "yes"}, self.scratch),
                cwd=self.open,
                writable=(self.open, self.scratch),
                hidden=(self.hidden,),
                contain=contain,
                confine=confine,
            )
        )
        ended = child.ended(30.0)
        assert ended is not None, "it did not end"
        return child, ended


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


both = pytest.mark.parametrize("contain", [True, False], ids=["namespace", "supervisor"])


@needs_landlock
@both
def test_it_writes_below_its_folders_and_its_scratch_and_nowhere_else(ground: Ground, contain: bool) -> None:
    outside = ground.open.parent / "outside"
    child, ended = ground.run(
        f"echo in > in; mkdir d; echo more > d/more; mv d/more moved; mktemp >/dev/null && echo scratch; "
        f"echo x > {outside}; ln -s / root; echo x > root{outside}; mkfifo {outside}; echo null >/dev/null; exit 3",
        contain=contain,
    )
    assert child.began.landlock > 0
    assert ended.status == 3
    assert not outside.exists()
    said = ground.said.read_text()
    assert said.count("denied") == 3 and "scratch" in said
    assert (ground.open / "moved").read_text() == "more\n"


@needs_landlock
@both
def test_the_state_folder_can_be_neither_read_nor_changed(ground: Ground, contain: bool) -> None:
    station = ground.hidden
    _, ended = ground.run(
        f"cat {station}/secrets/operator.token; rm -f {station}/manual_shutdown.flag; mv {station} {station}2; "
        f"ln {station}/secrets/operator.token here; cp -r {station} copy; cat copy/secrets/operator.token; "
        f"umount {station}; cat {station}/secrets/operator.token; ls / >/dev/null && echo listed; true",
        contain=contain,
    )
    assert ended.status == 0
    said = ground.said.read_text()
    assert "s3cret" not in said and "listed" in said
    assert (station / "manual_shutdown.flag").exists()
    assert not (ground.open / "here").exists()


@needs_landlock
def test_in_its_own_namespace_not_even_the_names_in_the_state_folder_are_seen(ground: Ground) -> None:
    child, _ = ground.run(f"ls {ground.hidden} /proc/1/root{ground.hidden}; ls /proc | grep -c '^[0-9]'")
    if not child.began.apart:
        pytest.skip("namespaces are not allowed here")
    said = ground.said.read_text()
    assert "secrets" not in said
    assert int(said.split()[-1]) < 10, "other processes are seen"


@needs_landlock
@both
def test_it_can_signal_nobody_outside(ground: Ground, contain: bool) -> None:
    if confine.abi() < 6:
        pytest.skip("this kernel's Landlock knows no signals")
    _, ended = ground.run(f"kill -0 {os.getpid()} || echo refused", contain=contain)
    assert ended.status == 0
    assert "refused" in ground.said.read_text()


@both
def test_what_detached_itself_ends_with_the_command(ground: Ground, contain: bool) -> None:
    pid_file = ground.open / "pids"
    _, ended = ground.run(
        'for n in 1 2 3; do (setsid sh -c \'cat /proc/self/status | grep NSpid >> pids; trap "" TERM HUP; '
        "while :; do sleep 1; done' &) ; done; "
        "while [ $(cat pids 2>/dev/null | wc -l) -lt 3 ]; do sleep 0.01; done; exit 0",
        contain=contain,
    )
    assert ended.status == 0
    outer = [int(line.split()[1]) for line in pid_file.read_text().splitlines()]
    assert len(outer) == 3
    assert not any(_runs("while :; do sleep 1", str(ground.open)) for _ in outer)


def _runs(needle: str, cwd: str) -> bool:
    for folder in Path("/proc").iterdir():
        try:
            named = folder.name.isdigit() and needle.encode() in (folder / "cmdline").read_bytes()
            if named and (folder / "cwd").resolve() == Path(cwd):
                return True
        except OSError:
            continue
    return False


ENDS = [
    (("no-such-command-here",), 127),
    (("/etc/hostname",), 126),
    (("sh", "-c", "kill -9 $$"), 137),
    (("sh", "-c", "kill -TERM $$"), 143),
]


@pytest.mark.parametrize(("argv", "status"), ENDS, ids=lambda each: str(each)[:12])
@both
def test_it_ends_as_a_shell_would_say(ground: Ground, argv: tuple[str, ...], status: int, contain: bool) -> None:
    child = Child(
        Spec(argv=argv, env=dict(os.environ), cwd=ground.open, writable=(), hidden=(), contain=contain)
    )  # fmt: skip
    ended = child.ended(30.0)
    assert (child.began.failed or (ended and ended.status)) == status


def test_the_environment_holds_nothing_of_the_stations_but_what_is_given(tmp_path: Path) -> None:
    ours = {"PATH": "/bin", "CALYX_STATION_DIR": "x", "CALYX_SECRETS_DIR": "y"}
    made = environment(ours, {"CALYX_TASK_ID": "t"}, tmp_path)
    assert made == {"PATH": "/bin", "CALYX_TASK_ID": "t", **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(tmp_path))}


HOLDER = """
import os, sys
from pathlib import Path
from cli.run.child import Child, Spec
here = Path(sys.argv[1])
child = Child(Spec(argv=("sh", "-c", sys.argv[2]), env=dict(os.environ), cwd=here, writable=(here,), hidden=(),
                   contain=sys.argv[3] == "True"))
print("ready", flush=True)
child.ended(600)
"""


@both
def test_a_wrapper_ended_by_sigkill_takes_all_with_it(ground: Ground, contain: bool) -> None:
    script = "(setsid sh -c 'while :; do sleep 1; done # mine' &); echo begun; while :; do sleep 1; done # mine"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ground.open), script, str(contain)],
        stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert holder.stdout is not None
    assert {holder.stdout.readline(), holder.stdout.readline()} == {b"ready\n", b"begun\n"}
    assert _runs("# mine", str(ground.open))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    # The pipe closes when the last of them has gone: that is the event to wait for.
    assert holder.stdout.read() == b""
    holder.stdout.close()
    assert not _runs("# mine", str(ground.open))


def test_neighbours_of_a_hidden_folder_are_allowed_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "station" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("station")
    rules = dict(confine.rules(Fence(writable=(), hidden=(tmp_path / "station",))))
    assert rules[Path("/")] == confine.READ_DIR
    assert rules[tmp_path / "beside"] == confine.READ
    assert not any(path.is_relative_to(tmp_path / "station") for path in rules)
    assert tmp_path not in rules and tmp_path / "link" not in rules


def test_wait_statuses_read_as_in_a_shell() -> None:
    assert [exit_status(each) for each in (0, 7 << 8, signal.SIGKILL, signal.SIGTERM)] == [0, 7, 137, 143]
