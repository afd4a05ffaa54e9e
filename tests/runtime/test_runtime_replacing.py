"""An SQLite file replaced: killed before or after any call, the next `finish` ends it, and nothing is lost."""

import os
from pathlib import Path

import pytest

from chassis import atomic, replacing
from tests.crash import Crash, crash_in

CALLS = [
    (Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (os, "link"),
    (replacing, "fsync_dir"), (replacing, "write_json"),
]  # fmt: skip


@pytest.mark.parametrize("with_new", [True, False], ids=["new", "empty"])
@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize(("owner", "name"), CALLS, ids=[name for _, name in CALLS])
def test_a_replacement_killed_anywhere_is_ended_or_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, at: int, with_new: bool
) -> None:
    path, new, aside = tmp_path / "a.sqlite", tmp_path / ".new", tmp_path / "replaced" / "one"
    path.write_text("old")
    path.with_name("a.sqlite-wal").write_text("its log")
    new.write_text("new")
    with monkeypatch.context() as patched:
        crash_in(patched, owner, name, at)
        try:
            replacing.put_in_place(path, new if with_new else None, aside)
        except Crash:
            begun = path.with_name(replacing.MARK).exists()
        else:
            begun = False
    if begun or not path.exists() or path.read_text() == "new":
        told = replacing.finish(path)
        assert told == ("replaced/one" if begun else "")
        assert (aside / "a.sqlite").read_text() == "old"
        assert (aside / "a.sqlite-wal").read_text() == "its log"
        assert (path.read_text() if path.exists() else None) == ("new" if with_new else None)
        assert not path.with_name("a.sqlite-wal").exists(), "no other database is opened with it"
    else:
        assert path.read_text() == "old"
        assert path.with_name("a.sqlite-wal").read_text() == "its log"
    assert replacing.finish(path) == ""


def test_a_full_disk_before_the_mark_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("old")
    (tmp_path / ".new").write_text("new")
    monkeypatch.setattr(atomic.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        replacing.put_in_place(path, tmp_path / ".new", tmp_path / "replaced")
    monkeypatch.undo()
    assert replacing.finish(path) == ""
    assert path.read_text() == "old"
