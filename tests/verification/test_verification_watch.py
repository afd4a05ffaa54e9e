"""The prober's book: what it keeps over a restart, what it says when it could not look, whose change is whose."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.errors import Unavailable
from chassis.footprints import Terms
from chassis.probing import Check, Verdict, run_checks
from chassis.watchbook import WatchBook
from tests.verification.lie_world import LieStation, station

C, R, Q = Verdict.CONFIRMED, Verdict.REFUTED, Verdict.INCONCLUSIVE


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    made = tmp_path / "shelf"
    made.mkdir()
    (made / "a.md").write_text("a\n" * 50)
    (made / "b.md").write_text("b\n" * 50)
    (made / "x.log").write_text("began\n")
    return made


@pytest.fixture
def book(tmp_path: Path) -> WatchBook:
    return again(tmp_path)


def again(tmp_path: Path) -> WatchBook:
    """As a prober has it after a restart: with nothing in mind."""
    return WatchBook(tmp_path / "book", lambda: [tmp_path], lambda task: tmp_path / f"{task}.ack")


def said(book: WatchBook, task: str, **terms: object) -> tuple[Verdict, str]:
    made = book.compare(task, "scout", Terms(**terms))  # type: ignore[arg-type]  # as the caller names them
    return made.verdict, made.found


def test_a_task_that_nobody_looked_before_is_unknown(book: WatchBook, shelf: Path) -> None:
    assert said(book, "t-1") == (Q, "nobody looked at its folders before it began")


def test_folders_elsewhere_are_not_looked_at(book: WatchBook) -> None:
    assert "outside the folders" in book.begin(["t-1"], ["/etc"])
    assert said(book, "t-1")[0] is Q


def test_the_two_looks_hold_over_a_restart_in_between_and_after(tmp_path: Path, shelf: Path) -> None:
    again(tmp_path).begin(["t-1", "t-2"], [str(shelf)])
    (shelf / "new.md").write_text("undeclared")
    assert again(tmp_path).end("t-1") == ""
    (shelf / "new.md").unlink()
    verdict, found = said(again(tmp_path), "t-1")
    assert (verdict, found) == (R, f"not declared: {shelf / 'new.md'} was made")
    assert said(again(tmp_path), "t-2")[0] is C, "it ended later, when all was as before"


def test_a_repeated_look_before_changes_nothing_unless_nobody_can_have_begun(book: WatchBook, shelf: Path) -> None:
    book.begin(["t-1"], [str(shelf)])
    (shelf / "new.md").write_text("undeclared")
    book.begin(["t-1"], [str(shelf)])
    assert said(book, "t-1")[0] is R
    book.begin(["t-1"], [str(shelf)], again=True)
    assert said(book, "t-1")[0] is C


def test_what_was_declared_has_to_be_there_and_to_have_been_changed(book: WatchBook, shelf: Path) -> None:
    book.begin(["t-1"], [str(shelf)])
    (shelf / "b.md").write_text("other\n")
    effects = [
        {"op": "replace", "target": str(shelf / "a.md")},
        {"op": "replace", "target": str(shelf / "b.md"), "after_sha256": "00"},
        {"op": "create", "target": str(shelf / "c.md")},
    ]
    verdict, found = said(book, "t-1", effects=effects)
    assert verdict is R
    for words in ("a.md is as it was before", "b.md has another content", "c.md is not there"):
        assert words in found


def test_a_log_may_grow_where_the_manifest_says_so_but_not_be_rewritten(book: WatchBook, shelf: Path) -> None:
    book.begin(["t-1", "t-2"], [str(shelf)])
    with (shelf / "x.log").open("a") as log:
        log.write("more\n")
    assert said(book, "t-1", grows=["*.log"])[0] is C
    assert said(book, "t-1")[0] is R
    (shelf / "x.log").write_text("quite another beginning, and longer\n")
    assert said(book, "t-2", grows=["*.log"])[0] is R


def test_what_another_task_declares_is_explained(book: WatchBook, shelf: Path) -> None:
    book.begin(["t-1"], [str(shelf)])
    (shelf / "a.md").unlink()
    assert said(book, "t-1", others=[str(shelf / "a.md")])[0] is C


def test_a_file_that_somebody_changes_while_no_task_runs_is_not_held_against_the_next(
    book: WatchBook, shelf: Path
) -> None:
    book.begin(["t-1"], [str(shelf)])
    book.end("t-1")
    (shelf / "a.md").write_text("a person's\n")
    book.begin(["t-2"], [str(shelf)])
    (shelf / "a.md").write_text("a person's again\n")
    assert said(book, "t-2")[0] is C
    (shelf / "b.md").write_text("nobody's\n")
    book.begin(["t-3"], [str(shelf)])
    (shelf / "a.md").unlink()
    assert said(book, "t-3")[0] is R, "to remove it is another thing"


def test_a_change_while_another_task_is_under_way_makes_no_file_restless(book: WatchBook, shelf: Path) -> None:
    book.begin(["t-0"], [str(shelf)])
    book.begin(["t-1"], [str(shelf)])
    book.end("t-0")
    (shelf / "a.md").write_text("by the task t-1\n")
    book.begin(["t-2"], [str(shelf)])
    (shelf / "a.md").write_text("by the task t-2\n")
    assert said(book, "t-2")[0] is R


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_theirs_only_where_the_doer_is_a_service_that_is_not_root(
    tmp_path: Path, shelf: Path
) -> None:
    book = again(tmp_path)
    book.begin(["t-1"], [str(shelf)])
    (shelf / "theirs.md").write_text("theirs")
    os.chown(shelf / "theirs.md", 1234, 1234)
    book.end("t-1")
    acked = tmp_path / "t-1.ack"
    acked.write_text("{}")
    assert book.compare("t-1", "governor", Terms()).verdict is R, "root may write as anybody"
    os.chown(acked, 1000, 1000)
    assert book.compare("t-1", "governor", Terms()).verdict is C
    assert book.compare("t-1", "scout", Terms()).verdict is R, "nobody knows as whom an outside agent works"


def test_a_secret_is_listed_and_never_read(tmp_path: Path, shelf: Path) -> None:
    (shelf / ".env").write_text("TOKEN=1")
    again(tmp_path).begin(["t-1"], [str(shelf)])
    (shelf / ".env").write_text("TOKEN=22")
    assert said(again(tmp_path), "t-1")[0] is R


def test_the_copies_that_a_rehearsal_leaves_for_the_prober_are_no_effects(book: WatchBook, shelf: Path) -> None:
    copies = shelf / ".calyx-rehearsal"
    book.begin(["t-1", "t-2"], [str(shelf)])
    copies.mkdir()
    (copies / "t-1-0").write_text("as it would be")
    assert said(book, "t-1")[0] is C
    (copies / "anything.md").write_text("as it should not be")
    assert said(book, "t-2")[0] is R


def test_a_damaged_listing_is_unknown(tmp_path: Path, shelf: Path) -> None:
    again(tmp_path).begin(["t-1"], [str(shelf)])
    (tmp_path / "book" / "t-1.before").write_bytes(b"nonsense")
    assert said(again(tmp_path), "t-1")[0] is Q


def test_none_left_looks_at_names_alone(shelf: Path) -> None:
    def look(target: Path, pattern: str) -> Verdict:
        return run_checks([Check(kind="none_left", target=str(target), expect={"pattern": pattern})]).verdict

    assert [look(shelf, "*.txt"), look(shelf, "*.md"), look(shelf / "gone", "*")] == [C, R, Q]
    assert look(shelf / "a.md", "*") is not C


# --- in the station


@pytest.fixture
def lone() -> Iterator[LieStation]:
    made = station()
    made.stock(2)
    made.execute()
    yield made
    made.close()


def test_while_the_prober_is_down_at_dispatch_a_task_goes_and_its_score_is_unknown(lone: LieStation) -> None:
    prober = lone.probers["guardian"]
    watch = prober.watch

    def down(*_args: object) -> str:
        raise Unavailable("connection refused")

    prober.watch = down  # type: ignore[method-assign]  # a prober that does not answer
    task = lone.dispatch()
    prober.watch = watch  # type: ignore[method-assign]  # and does again
    lone.work()
    found = lone.judge(task).task
    assert (found.state, found.scored, found.tes) == ("done", True, None)


def test_what_nobody_declared_is_on_the_audit_log_by_name(lone: LieStation) -> None:
    lone.works["governor"].during = lambda shelf: (shelf / "extra.md").write_text("more")  # type: ignore[return-value]  # as a lambda
    task = lone.dispatch()
    lone.work()
    assert lone.judge(task).failed
    (line,) = lone.audit("effects.undeclared")
    assert line["task"] == task.id and json.dumps(line["found"]).count("extra.md was made") == 1


def test_a_task_that_says_it_had_nothing_to_do_and_did_something_has_failed(lone: LieStation) -> None:
    for text in lone.shelf.glob("*.txt"):
        text.unlink()
    lone.works["governor"].during = lambda shelf: (shelf / "extra.md").write_text("more")  # type: ignore[return-value]  # as a lambda
    task = lone.dispatch()
    lone.work()
    found = lone.judge(task)
    assert found.task.ack is not None and found.task.ack["status"] == "no_work"
    assert found.failed


def test_a_task_waits_for_another_that_is_under_way_in_the_same_folders(lone: LieStation) -> None:
    annex = lone.shelf / "annex"
    annex.mkdir()
    (annex / "theirs.txt").write_text("theirs\n")
    task = lone.dispatch()
    lone.execute("polish")
    other = lone.dispatch("polish", annex)
    (annex / "half.md").write_text("what the other one is about to declare, or not\n")
    lone.work()
    lone.cbo.reap()
    lone.clock.advance(60.0)
    lone.cbo.run_pulse()
    waiting = lone.cbo.bridge.store.task(task.id)
    assert not waiting.scored and other.id in waiting.tes_note
    lone.forge(
        lambda _task, plain: plain.__class__.from_json(
            {**plain.to_json(), "effects": [{"op": "create", "target": str(annex / "half.md")}]}
        ),
        "analytics",
    )
    lone.judge(other)
    assert lone.cbo.bridge.store.task(task.id).stability == 1.0
