"""Who still writes to a renamed file: the kernel's word first, `/proc` where it gives none."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.governor.holders import Holding, KernelHolders, kernel_says_free


def say_nothing(_: Path) -> bool | None:
    return None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.log.20260101T000000000000"
    path.write_text("line\n")
    return path


def test_a_file_that_nobody_writes_is_free(file: Path) -> None:
    with file.open("rb"):
        assert KernelHolders().writers(file) == Holding(state="free")


def test_an_open_writer_holds_it_until_it_closes(file: Path) -> None:
    with file.open("ab"):
        assert KernelHolders().writers(file).state == "held"
    assert KernelHolders().writers(file).state == "free"


def test_a_writer_in_another_process_is_named_and_the_rename_does_not_hide_it(file: Path) -> None:
    code = "import sys; f = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        renamed = file.rename(file.with_name("renamed"))
        for holders in (KernelHolders(), KernelHolders(lease=say_nothing)):
            holding = holders.writers(renamed)
            assert holding.state == "held"
            assert any(f"(pid {writer.pid})" in name for name in holding.by)
        writer.communicate()
    assert KernelHolders().writers(renamed).state == "free"


def test_a_reader_is_no_writer_for_proc_either(file: Path) -> None:
    with file.open("rb"):
        assert KernelHolders(lease=say_nothing).writers(file) == Holding(state="unseen")


def test_what_proc_does_not_show_is_unseen_and_never_free(file: Path, tmp_path: Path) -> None:
    (tmp_path / "proc" / "41").mkdir(parents=True)
    assert KernelHolders(tmp_path / "proc", say_nothing).writers(file) == Holding(state="unseen")


def test_a_descriptor_in_a_proc_that_is_laid_out_by_hand_is_found(file: Path, tmp_path: Path) -> None:
    fds = tmp_path / "proc" / "41" / "fd"
    fds.mkdir(parents=True)
    (fds / "0").symlink_to("socket:[77]")
    (fds / "3").symlink_to(file)
    (tmp_path / "proc" / "41" / "comm").write_text("httpd\n")
    (tmp_path / "proc" / "meminfo").touch()
    assert KernelHolders(tmp_path / "proc", say_nothing).writers(file) == Holding(state="held", by=("httpd (pid 41)",))


def test_the_kernels_refusal_counts_even_if_proc_shows_nobody(file: Path, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert KernelHolders(tmp_path / "proc", lambda _: False).writers(file) == Holding(state="held")


def test_asking_the_kernel_leaves_no_lease_behind(file: Path) -> None:
    assert kernel_says_free(file) is True
    with file.open("ab") as writer:  # a lease still held would block this open until it is broken
        writer.write(b"more\n")
    assert file.read_text() == "line\nmore\n"
