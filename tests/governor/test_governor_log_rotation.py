"""Log rotation on real files with real writers: no line is lost, nothing that moves is compressed."""

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from governor_journal import Undoable

from chassis.clock import Clock, SystemClock, VirtualClock
from chassis.errors import Drifted, InvalidInput, NotFound, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.probing import Check, Verdict, run_checks
from chassis.work import Effects, Outcome, Plan
from services.governor.codecs import PROCEDURES, Codec
from services.governor.holders import Holders, Holding, KernelHolders
from services.governor.log_rotation import LogRotation

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
STAMP = "20260304T050607890123"
WRITER = Path(__file__).with_name("governor_writer.py")


def task(number: int = 1, procedure: str = "gzip-6", **params: str) -> Manifest:
    return Manifest(
        station_id="st-1",
        task_id=TaskId(f"t-{number}"),
        owner="governor",
        issuer="cbo",
        domain="log_rotation",
        procedure=procedure,
        created_at=AT + timedelta(minutes=number - 1),
        expires_at=AT + timedelta(hours=1),
        ttl_seconds=600,
        params=params,
    )


@dataclass
class Yard:
    """A station folder with logs, the work, and a journal that can take things back."""

    root: Path
    clock: Clock = field(default_factory=VirtualClock)
    holders: Holders = field(default_factory=KernelHolders)

    def __post_init__(self) -> None:
        self.logs = self.root / "logs"
        self.logs.mkdir()
        self.journal = Undoable(self.root / "journal", self.clock, [self.root])
        self.cpu = iter(range(1000))
        self.work = LogRotation(
            default_folder=self.logs,
            roots=lambda: [self.logs, self.root / "work"],
            holders=self.holders,
            clock=self.clock,
            cpu_seconds=lambda: float(next(self.cpu)),
        )

    def scratch(self, name: str) -> Path:
        folder = self.root / "work" / "governor" / name
        folder.mkdir(parents=True)
        return folder

    def log(self, name: str = "app.log", lines: int = 5000) -> bytes:
        text = "".join(f"{n:07d} something happened in {name}\n" for n in range(lines)).encode()
        (self.logs / name).write_bytes(text)
        return text

    def perform(self, task: Manifest) -> Outcome:
        with self.journal.effects(task.task_id) as effects:
            return self.work.perform(task, self.scratch(f"{task.task_id}-perform"), effects)

    def rehearse(self, task: Manifest, name: str = "rehearsal") -> Plan:
        return self.work.rehearse(task, self.scratch(f"{task.task_id}-{name}"))

    def names(self) -> list[str]:
        return sorted(p.name for p in self.logs.iterdir())

    def lines(self) -> list[str]:
        """Every line that is anywhere: in archives, in segments, in logs."""
        text = b""
        for path in sorted(self.logs.iterdir()):
            codec = next((c for c in PROCEDURES.values() if path.name.endswith(c.suffix)), None)
            text += unpack(path, codec) if codec else path.read_bytes()
        assert text.endswith(b"\n")
        return text.decode().splitlines()


def unpack(path: Path, codec: Codec) -> bytes:
    with path.open("rb") as file, codec.unwrap(file) as content:
        return b"".join(iter(lambda: content.read(1 << 16), b""))


def verdict(claims: tuple[dict[str, object], ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


class Answers:
    """Holders that say what the test says, in turn; the last answer stays."""

    def __init__(self, *answers: Holding, then: Callable[[Path], None] = lambda _: None) -> None:
        self.answers, self.asked, self.then = list(answers), 0, then

    def writers(self, path: Path) -> Holding:
        self.asked += 1
        self.then(path)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


FREE, UNSEEN, HELD = Holding(state="free"), Holding(state="unseen"), Holding(state="held", by=("httpd (pid 41)",))


@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_a_log_becomes_an_archive_that_a_prober_confirms(yard: Yard, procedure: str) -> None:
    text = yard.log()
    outcome = yard.perform(task(procedure=procedure))
    codec = PROCEDURES[procedure]
    archive = yard.logs / f"app.log.{STAMP}{codec.suffix}"
    assert yard.names() == ["app.log", archive.name]
    assert (yard.logs / "app.log").read_bytes() == b""
    assert unpack(archive, codec) == text
    assert [c["kind"] for c in outcome.claims] == ["archive_of"]
    assert verdict(outcome.claims) is Verdict.CONFIRMED
    assert outcome.cost["bytes_saved"] == len(text) - archive.stat().st_size
    assert outcome.cost["cpu_seconds"] == 1.0
    assert outcome.cost["bytes_read"] >= len(text)
    assert outcome.detail == f"1 rotated, 1 compressed with {procedure}"


@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_undo_brings_back_the_same_bytes_mode_and_nothing_else(yard: Yard, procedure: str) -> None:
    text = {name: yard.log(name, 3000) for name in ("app.log", "batch.out")}
    (yard.logs / "app.log").chmod(0o640)
    yard.perform(task(procedure=procedure))
    assert yard.journal.undo("t-1")
    assert {p.name: p.read_bytes() for p in yard.logs.iterdir()} == text
    assert (yard.logs / "app.log").stat().st_mode & 0o777 == 0o640


def test_the_archive_keeps_the_logs_mode(yard: Yard) -> None:
    yard.log()
    (yard.logs / "app.log").chmod(0o600)
    yard.perform(task())
    assert {p.stat().st_mode & 0o777 for p in yard.logs.iterdir()} == {0o600}


@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_the_rehearsal_plans_exactly_what_is_then_done(yard: Yard, procedure: str) -> None:
    text = yard.log()
    plan = yard.rehearse(task(procedure=procedure))
    assert (yard.logs / "app.log").read_bytes() == text
    assert yard.names() == ["app.log"]
    assert verdict(plan.claims) is Verdict.CONFIRMED
    assert plan.digest == yard.rehearse(task(procedure=procedure), "again").digest
    yard.perform(task(procedure=procedure))
    rotate, create, remove = plan.changes
    assert (rotate.op, create.op, remove.op) == ("rotate", "create", "remove")
    for change in (rotate, create):
        content = Path(change.target).read_bytes()
        assert hashlib.sha256(content).hexdigest() == change.after_sha256
    assert Path(create.target).stat().st_size == create.size_bytes
    assert not Path(remove.target).exists()
    assert (rotate.before_sha256, remove.before_sha256) == (hashlib.sha256(text).hexdigest(),) * 2


def test_a_rehearsal_leaves_only_archives_in_scratch(yard: Yard) -> None:
    yard.log()
    yard.rehearse(task())
    (left,) = (yard.root / "work" / "governor" / "t-1-rehearsal").iterdir()
    assert left.suffix == ".gz"


def test_a_rehearsal_of_a_log_that_goes_on_growing_is_still_confirmed(yard: Yard) -> None:
    yard.log()
    plan = yard.rehearse(task())
    with (yard.logs / "app.log").open("a") as log:
        log.write("one more\n")
    assert verdict(plan.claims) is Verdict.CONFIRMED


def test_a_rehearsal_that_touched_the_log_would_be_refuted(yard: Yard) -> None:
    yard.log()
    plan = yard.rehearse(task())
    (yard.logs / "app.log").write_text("gone\n")
    assert verdict(plan.claims) is Verdict.REFUTED


def test_what_is_too_small_or_no_log_stays_and_is_no_work(yard: Yard) -> None:
    yard.log(lines=3)
    (yard.logs / "notes.txt").write_text("x" * 100_000)
    (yard.logs / "link.log").symlink_to(yard.logs / "notes.txt")
    (yard.logs / "empty.log").touch()
    before = yard.names()
    assert yard.perform(task()).no_work
    assert yard.rehearse(task()).changes == ()
    assert yard.perform(task(2, min_bytes="0")).detail.startswith("1 rotated")
    assert {*before} - {*yard.names()} == set()


def test_a_log_with_a_second_name_is_passed_over(yard: Yard) -> None:
    yard.log()
    (yard.logs / "same").hardlink_to(yard.logs / "app.log")
    outcome = yard.perform(task())
    assert outcome.no_work
    assert "app.log passed over: it has a second name" in outcome.detail


def test_without_a_log_folder_there_is_no_work(yard: Yard) -> None:
    yard.logs.rmdir()
    assert yard.rehearse(task()).changes == ()


def test_only_folders_with_consent_are_looked_at(yard: Yard, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (yard.logs / "way-out").symlink_to(outside)
    for folder in (str(outside), str(yard.logs / "way-out"), f"{yard.logs}/../outside"):
        with pytest.raises(Refused, match="no consent"):
            yard.rehearse(task(folders=folder), folder.replace("/", "_"))
        with pytest.raises(Refused, match="no consent"):
            yard.work._find(task(folders=folder))


@pytest.mark.parametrize("params", [{"folders": "logs"}, {"min_bytes": "-1"}, {"min_bytes": "1k"}])
def test_bad_params_are_refused(yard: Yard, params: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        yard.rehearse(task(**params))


def test_a_folder_that_is_not_there_is_said_to_be_missing(yard: Yard) -> None:
    with pytest.raises(NotFound):
        yard.rehearse(task(folders=str(yard.logs / "none")))


def test_an_unknown_procedure_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidInput, match="brotli"):
        yard.rehearse(task(procedure="brotli-11"))


def test_several_folders_are_rotated_in_one_task(yard: Yard) -> None:
    other = yard.logs / "other"
    other.mkdir()
    yard.log()
    yard.log("other/app.log")
    outcome = yard.perform(task(folders=f"{yard.logs}:{other}"))
    assert len(outcome.claims) == 2
    assert (other / f"app.log.{STAMP}.gz").exists()


def test_a_segment_that_somebody_still_writes_is_left_and_taken_up_once_free(yard: Yard) -> None:
    text = yard.log()
    with (yard.logs / "app.log").open("ab") as writer:
        outcome = yard.perform(task())
        assert yard.clock.monotonic() >= 3.0
        assert "0 compressed" in outcome.detail and f"app.log.{STAMP} left uncompressed" in outcome.detail
        assert yard.names() == ["app.log", f"app.log.{STAMP}"]
        assert [c["kind"] for c in outcome.claims] == ["prefix_digest"]
        writer.write(b"late\n")
        writer.flush()
        assert verdict(outcome.claims) is Verdict.CONFIRMED
        assert yard.perform(task(2)).no_work
        assert "still written" in yard.rehearse(task(2)).notes
    plan = yard.rehearse(task(3))
    assert [c.op for c in plan.changes] == ["create", "remove"]
    yard.perform(task(3))
    assert yard.names() == ["app.log", f"app.log.{STAMP}.gz"]
    assert unpack(yard.logs / f"app.log.{STAMP}.gz", PROCEDURES["gzip-6"]) == text + b"late\n"


def test_it_waits_for_a_writer_that_lets_go_in_time(tmp_path: Path) -> None:
    yard = Yard(tmp_path, holders=Answers(HELD, HELD, HELD, FREE))
    yard.log()
    assert "1 compressed" in yard.perform(task()).detail
    assert 0.2 < yard.clock.monotonic() < 0.4


def test_where_the_kernel_says_nothing_a_segment_has_to_stay_still_for_a_while(tmp_path: Path) -> None:
    yard = Yard(tmp_path, holders=Answers(UNSEEN))
    yard.log()
    assert "1 compressed" in yard.perform(task()).detail
    assert 1.0 <= yard.clock.monotonic() < 2.0


def test_a_segment_that_keeps_growing_unseen_is_left(tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(b"line\n")

    yard = Yard(tmp_path, holders=Answers(UNSEEN, then=grow))
    yard.log()
    outcome = yard.perform(task())
    assert "0 compressed" in outcome.detail
    assert verdict(outcome.claims) is Verdict.CONFIRMED


def test_one_wait_serves_all_segments(tmp_path: Path) -> None:
    yard = Yard(tmp_path, holders=Answers(HELD))
    for n in range(5):
        yard.log(f"app{n}.log")
    assert yard.perform(task()).detail.startswith("5 rotated, 0 compressed")
    assert yard.clock.monotonic() < 3.2


def test_a_segment_opened_again_before_its_removal_is_left(tmp_path: Path) -> None:
    yard = Yard(tmp_path, holders=Answers(FREE, HELD))
    yard.log()
    assert "it was opened again" in yard.perform(task()).detail
    assert yard.names() == ["app.log", f"app.log.{STAMP}"]


def test_a_segment_that_grows_while_it_is_read_is_left(tmp_path: Path) -> None:
    def late(path: Path) -> None:
        if answers.asked == 2:
            with path.open("ab") as file:
                file.write(b"late\n")

    answers = Answers(FREE, then=late)
    yard = Yard(tmp_path, holders=answers)
    yard.log()
    assert "it changed while it was read" in yard.perform(task()).detail
    assert (yard.logs / f"app.log.{STAMP}").read_bytes().endswith(b"late\n")


def test_an_archive_that_does_not_give_its_content_back_stops_the_work(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lossy(gzip.GzipFile):
        def write(self, data: bytes) -> int:  # type: ignore[override] - of bytes only
            return super().write(data[1:])

    lossy = replace(PROCEDURES["gzip-6"], wrap=lambda out, _: Lossy(filename="", mode="wb", fileobj=out, mtime=0))
    monkeypatch.setitem(PROCEDURES, "lossy", lossy)  # type: ignore[arg-type] - it is a dict
    text = yard.log()
    with pytest.raises(Drifted, match="does not give the bytes"):
        yard.perform(task(procedure="lossy"))
    assert (yard.logs / f"app.log.{STAMP}").read_bytes() == text


def test_done_twice_by_the_same_task_nothing_is_lost_or_doubled(yard: Yard) -> None:
    text = yard.log()
    with yard.journal.effects("t-1") as effects:
        effects.rotate(yard.logs / "app.log", yard.logs / f"app.log.{STAMP}")
    yard.log(lines=5000)
    with yard.journal.effects("t-1b") as effects:
        outcome = yard.work.perform(task(), yard.scratch("again"), effects)
    assert "app.log was rotated by this task before" in outcome.detail
    assert unpack(yard.logs / f"app.log.{STAMP}.gz", PROCEDURES["gzip-6"]) == text


def test_a_kill_switch_in_the_middle_stops_the_next_change(yard: Yard) -> None:
    text = yard.log()

    class Stopped(Exception): ...

    class AfterOne:
        def __init__(self, inner: Effects) -> None:
            self.inner = inner

        def rotate(self, target: Path, to: Path) -> None:
            self.inner.rotate(target, to)

        def create(self, target: Path, source: Path, *, mode: int = 0o644) -> None:
            raise Stopped

        def replace(self, target: Path, source: Path, *, expect_sha256: str | None = None) -> None:
            raise Stopped

        def remove(self, target: Path, *, inverse: object = None) -> None:
            raise Stopped

    with yard.journal.effects("t-1") as effects, pytest.raises(Stopped):
        yard.work.perform(task(), yard.scratch("p"), AfterOne(effects))
    assert yard.journal.undo("t-1")
    assert {p.name: p.read_bytes() for p in yard.logs.iterdir()} == {"app.log": text}


@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_the_drill_is_small_and_leaves_a_footprint(yard: Yard, procedure: str) -> None:
    folder = yard.scratch("drill")
    params = yard.work.stage_drill(folder, procedure)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    drill = task(procedure=procedure, **params)
    assert len(yard.rehearse(drill).changes) == 6
    yard.perform(drill)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} != before
    assert yard.journal.undo("t-1")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# --- writers -------------------------------------------------------------------------------------------------


@pytest.fixture
def writers() -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(style: str, path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(WRITER), style, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str]) -> int:
    out, _ = process.communicate("stop\n")
    return int(out)


def expected(style: str, count: int) -> list[str]:
    return [f"{style} {n:07d} of a program that goes on writing" for n in range(count)]


def running(yard: Yard, writer: subprocess.Popen[str]) -> None:
    while (yard.logs / "app.log").stat().st_size < 200_000:
        assert writer.poll() is None


@pytest.mark.parametrize("style", ["open", "watched"])
def test_no_line_is_lost_to_a_writer_that_reopens(
    tmp_path: Path, style: str, writers: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    yard = Yard(tmp_path, clock=SystemClock())
    writer = writers(style, yard.logs / "app.log")
    running(yard, writer)
    outcomes = [yard.perform(task(n, procedure=p, min_bytes="1")) for n, p in enumerate(PROCEDURES, 1)]
    count = stop(writer)
    assert sorted(yard.lines()) == expected(style, count)
    assert verdict(outcomes[-1].claims) is Verdict.CONFIRMED
    assert any(name.endswith(".gz") for name in yard.names())
    assert yard.journal.undo(f"t-{len(PROCEDURES)}")
    assert sorted(yard.lines()) == expected(style, count)


@pytest.mark.parametrize("style", ["open", "watched"])
@pytest.mark.parametrize("procedure", list(PROCEDURES))
def test_undo_puts_every_line_back_in_order_with_what_came_after(
    tmp_path: Path, style: str, procedure: str, writers: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    yard = Yard(tmp_path, clock=SystemClock())
    writer = writers(style, yard.logs / "app.log")
    running(yard, writer)
    yard.perform(task(procedure=procedure, min_bytes="1"))
    count = stop(writer)
    assert yard.journal.undo("t-1")
    assert yard.names() == ["app.log"]
    assert yard.lines() == expected(style, count)


def test_no_line_is_lost_to_a_writer_that_never_reopens(
    tmp_path: Path, writers: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    yard = Yard(tmp_path)
    writer = writers("hold", yard.logs / "app.log")
    running(yard, writer)
    first = yard.perform(task(min_bytes="1"))
    assert f"app.log.{STAMP} left uncompressed: still written by" in first.detail
    assert (yard.logs / "app.log").read_bytes() == b""
    count = stop(writer)
    assert (yard.logs / f"app.log.{STAMP}").read_text().splitlines() == expected("hold", count)
    yard.perform(task(2, "zstd-3", min_bytes="1"))
    assert yard.names() == ["app.log", f"app.log.{STAMP}.zst"]
    assert yard.lines() == expected("hold", count)
    assert yard.journal.undo("t-2") and yard.journal.undo("t-1")
    assert yard.names() == ["app.log"]
    assert yard.lines() == expected("hold", count)


def test_a_log_that_drifts_before_the_removal_is_not_removed(yard: Yard) -> None:
    yard.log()
    with yard.journal.effects("t-1") as effects:
        effects.rotate(yard.logs / "app.log", yard.logs / "segment")
        with pytest.raises(Drifted):
            effects.remove(
                yard.logs / "segment",
                inverse={"kind": "decompress", "codec": "gzip", "source": str(yard.logs / "none.gz")},
            )
    assert (yard.logs / "segment").exists()
