"""A drill counts for the code that passed it, and for no other."""

from pathlib import Path

from chassis.drill import Passed


def test_a_passed_drill_is_known_again_under_the_same_digest_only(tmp_path: Path) -> None:
    Passed(tmp_path / "drills.json", "code-1+manifest-1").remember("log_rotation", "gzip-6")
    assert Passed(tmp_path / "drills.json", "code-1+manifest-1").known("log_rotation", "gzip-6")
    for changed in ("code-2+manifest-1", "code-1+manifest-2", ""):
        assert not Passed(tmp_path / "drills.json", changed).known("log_rotation", "gzip-6")
    assert not Passed(tmp_path / "drills.json", "code-1+manifest-1").known("log_rotation", "xz-6")
