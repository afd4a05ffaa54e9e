import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog
from memory_fakes import START, HashEmbedder, experience

from chassis.audit import Audit
from chassis.clock import VirtualClock
from chassis.errors import NotFound, Refused, ResourceExhausted, Unavailable
from services.memory.catalog import Standing
from services.memory.commits import Change
from services.memory.exact import ExactIndex
from services.memory.experience import Finding, Outcome, experience_of, finding_of, told, told_finding
from services.memory.feedback import Verdict
from services.memory.memory import Memory
from services.memory.redo import Entry, RedoLog, Spoilt, line
from services.memory.store import Store
from tests.full_disk import full_disk

AT = "2026-11-01T00:00:00.000000Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def opened(folder: Path, *, durable: bool = False, **terms: int) -> Store:
    return Store(folder / "experience.sqlite", durable=durable, redo=RedoLog(folder / "redo", durable=durable, **terms))


def finding(name: str, outcome: Outcome = Outcome.FAILURE) -> Finding:
    return Finding(
        amendment_id=name,
        outcome=outcome,
        tes=None,
        duration_seconds=None,
        files_changed=None,
        cost={},
        evidence="regressed",
        recorded_at=AT,
    )


def rows(path: Path, *tables: str) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    names = tables or ("event", "objective", "context", "confidence", "outcome", "feedback", "standing")
    found = {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}
    connection.close()
    return found


def fill(store: Store, start: int = 1, end: int = 11) -> None:
    for number in range(start, end):
        store.append(experience(number, objective=f"objective {number % 4}"), AT)
    store.amend(f"e-{start}", finding(f"v-{start}"))


def test_an_experience_and_a_finding_come_back_from_json_as_they_were() -> None:
    one = experience(1, tes=None, cost={"cpu_seconds": 0.1}, context={"a": "ü\n"})
    assert experience_of(json.loads(json.dumps(told(one)))) == one
    assert finding_of(json.loads(json.dumps(told_finding(finding("v"))))) == finding("v")


# the log by itself


def test_entries_are_read_back_in_order_over_segments_and_after_a_number(folder: Path) -> None:
    log = RedoLog(folder, durable=False, segment_bytes=230)
    for number in range(1, 8):
        with log.written([b'{"kind":"x","value":%d}' % number]) as through:
            assert through == number
    assert len(log.segments()) > 2
    log.close()
    log = RedoLog(folder, durable=False, segment_bytes=230)
    assert log.last == 7
    for after in range(8):
        found = list(log.read(after))
        assert [(each.number, each.body["value"]) for each in found if isinstance(each, Entry)] == [
            (number, number) for number in range(after + 1, 8)
        ]
    log.close()


def test_what_is_taken_back_is_not_in_the_log_and_its_number_is_given_again(folder: Path) -> None:
    log = RedoLog(folder, durable=False)
    with log.written([b'{"a":1}']):
        pass
    with pytest.raises(Refused), log.written([b'{"a":2}', b'{"a":3}']):
        raise Refused("the commit failed")
    with log.written([b'{"a":4}']) as through:
        assert through == 2
    assert [each.body["a"] for each in log.read() if isinstance(each, Entry)] == [1, 4]
    log.close()


def test_a_torn_last_line_is_set_aside(folder: Path) -> None:
    log = RedoLog(folder)
    with log.written([b'{"a":1}']):
        pass
    log.close()
    segment = next(folder.glob("*.jsonl"))
    torn = line(2, b'{"a":2}')[:-7]
    whole = segment.read_bytes()
    place = whole.rindex(b"\n") + 1
    segment.write_bytes(whole[:place] + torn + whole[place + len(torn) :])
    log = RedoLog(folder)
    assert (log.last, len(list(log.read()))) == (1, 1)
    assert segment.with_name(segment.name + ".torn").read_bytes().rstrip() == torn
    with log.written([b'{"a":3}']):
        pass
    log.close()
    assert [each.body["a"] for each in RedoLog(folder).read() if isinstance(each, Entry)] == [1, 3]


def test_a_segment_has_its_full_size_before_its_first_entry_and_an_entry_larger_than_that_gets_its_own(
    folder: Path,
) -> None:
    log = RedoLog(folder, segment_bytes=1000)
    for size in (10, 10, 3000, 10):
        with log.written([b'{"a":"%s"}' % (b"x" * size)]):
            pass
    log.close()
    assert [path.stat().st_size >= 1000 for _, path in log.segments()] == [True, True, True]
    assert [len(each.body["a"]) for each in RedoLog(folder).read() if isinstance(each, Entry)] == [10, 10, 3000, 10]


def test_damaged_and_missing_entries_are_named_by_their_numbers(folder: Path) -> None:
    log = RedoLog(folder, durable=False, segment_bytes=230)
    for number in range(1, 13):
        with log.written([b'{"value":%d}' % number]):
            pass
    segments = log.segments()
    assert len(segments) >= 4
    log.close()
    first = segments[0][1].read_bytes().replace(b'"value":2', b'"value":9')
    segments[0][1].write_bytes(first)
    segments[1][1].unlink()
    log = RedoLog(folder, durable=False)
    found = list(log.read())
    gone = range(segments[1][0], segments[2][0])
    spoilt = [(each.first, each.last) for each in found if isinstance(each, Spoilt)]
    assert spoilt == ([(2, gone[-1])] if segments[1][0] == 3 else [(2, 2), (gone[0], gone[-1])])
    kept = [each.number for each in found if isinstance(each, Entry)]
    assert kept == [number for number in range(1, 13) if number != 2 and number not in gone]
    log.close()


def test_only_whole_segments_that_are_elsewhere_are_dropped_and_never_the_last(folder: Path) -> None:
    log = RedoLog(folder, durable=False, segment_bytes=230)
    for number in range(1, 9):
        with log.written([b'{"value":%d}' % number]):
            pass
    segments = log.segments()
    assert log.drop_through(0) == []
    assert [path.name for path in log.drop_through(segments[2][0] - 1)] == [path.name for _, path in segments[:2]]
    assert not [each for each in log.read() if isinstance(each, Spoilt)]
    log.drop_through(10**6)
    assert [first for first, _ in log.segments()] == [segments[-1][0]]
    log.close()


# the log and the store


def test_a_store_that_lost_everything_is_made_anew_from_the_log_row_by_row(folder: Path) -> None:
    store = opened(folder)
    fill(store)
    before = rows(store.path)
    store.close()
    for path in folder.glob("experience.sqlite*"):
        path.unlink()
    with structlog.testing.capture_logs() as logged:
        store = opened(folder)
    assert any(each.get("brought_back") == 11 for each in logged)
    store.close()
    assert rows(store.path) == before
    with structlog.testing.capture_logs() as logged:
        opened(folder).close()
    assert logged == []  # nothing is brought back twice


def test_an_older_copy_of_the_store_is_brought_up_to_the_log(folder: Path) -> None:
    store = opened(folder)
    fill(store)
    store.close()
    old = store.path.read_bytes()
    store = opened(folder)
    fill(store, 11, 21)
    store.close()
    before = rows(store.path)
    store.path.write_bytes(old)
    store = opened(folder)
    assert store.count() == 20
    store.append(experience("after"), AT)
    store.close()
    assert rows(store.path, "feedback", "objective") == {name: before[name] for name in ("feedback", "objective")} | {
        "objective": [*before["objective"], (5, "rotate the logs")]
    }
    assert rows(store.path, "outcome")["outcome"][: len(before["outcome"])] == before["outcome"]


def test_replaying_everything_twice_changes_nothing(folder: Path) -> None:
    store = opened(folder)
    fill(store)
    before = rows(store.path)
    assert store.redo is not None
    done = store.replay(store.redo.read())
    assert (done.brought_back, done.known, done.lost) == (0, 11, ())
    assert rows(store.path) == before
    store.close()


def test_judgements_and_standings_come_back_too(folder: Path, tmp_path: Path) -> None:
    embedder, clock = HashEmbedder(), VirtualClock(START)
    store = opened(folder)
    memory = Memory(
        store=store,
        embedder=embedder,
        index=ExactIndex(embedder.dimension),
        clock=clock,
        audit=Audit(tmp_path / "audit.jsonl", clock, "memory"),
    )
    for number in range(1, 4):
        memory.record(experience(number))
    for task in range(5):  # enough harm to be evicted by
        memory.trust.judge("e-1", Verdict.HARMFUL, query="", cosine=None, task_id=f"t-{task}", caller="cbo")
    memory.trust.stand("e-2", Standing.SUPERSEDED, because_of="e-3", reason="a better one", caller="operator")
    memory.close()
    before = rows(store.path)
    assert len(before["feedback"]) == 5
    assert len(before["standing"]) >= 2
    for path in folder.glob("experience.sqlite*"):
        path.unlink()
    with structlog.testing.capture_logs():
        store = opened(folder)
    assert store.redo is not None
    assert store.replay(store.redo.read()).brought_back == 0
    store.close()
    assert rows(store.path) == before


KILLED = """
import os, sys
from pathlib import Path
from memory_fakes import START, HashEmbedder, experience
from services.memory.redo import RedoLog
from services.memory.store import Store
folder = Path(sys.argv[1])
store = Store(folder / "experience.sqlite", redo=RedoLog(folder / "redo"))
for number in range(1, 31):
    store.append(experience(number, objective=f"objective {number}"), "2026-11-01T00:00:00.000000Z")
os.kill(os.getpid(), 9)
"""


def killed(folder: Path) -> None:
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2])])}
    child = subprocess.run([sys.executable, "-c", KILLED, str(folder)], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("place", [0.02, 0.5, 0.97])
def test_a_flip_in_the_wal_loses_nothing_that_the_redo_log_holds(folder: Path, place: float) -> None:
    killed(folder)
    wal = folder / "experience.sqlite-wal"
    data = bytearray(wal.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    wal.write_bytes(data)
    for name in ("experience.sqlite", "experience.sqlite-wal"):
        shutil.copy(folder / name, folder / name.replace("experience", "alone"))
    alone = sqlite3.connect(folder / "alone.sqlite")  # what SQLite by itself makes of it, without a word
    try:
        left = alone.execute("SELECT count(*) FROM event").fetchone()[0]
    except sqlite3.OperationalError:
        left = 0
    alone.close()
    assert left < 30
    with structlog.testing.capture_logs() as logged:
        store = opened(folder)
    assert any("WAL is damaged" in each["event"] for each in logged)
    assert any(each.get("brought_back") == 30 - left for each in logged)
    found = store.newest(100, "")
    assert {each.experience.id for each in found} == {f"e-{number}" for number in range(1, 31)}
    assert all(each.damage is None for each in found)
    store.close()


def test_a_killed_process_with_a_sound_wal_needs_no_replay(folder: Path) -> None:
    killed(folder)
    with structlog.testing.capture_logs() as logged:
        store = opened(folder)
    assert (store.count(), logged) == (30, [])
    store.close()


def test_a_lost_log_is_said_and_goes_on_with_new_numbers(folder: Path) -> None:
    store = opened(folder)
    fill(store)
    store.close()
    for path in (folder / "redo").iterdir():
        path.unlink()
    with structlog.testing.capture_logs() as logged:
        store = opened(folder)
    assert any("holds less" in each["event"] for each in logged)
    store.append(experience("new"), AT)
    assert store.redo is not None
    assert store.redo.last == 12
    store.close()


def test_an_entry_that_means_nothing_is_named_and_the_others_come_back(folder: Path) -> None:
    log = RedoLog(folder / "redo", durable=False)
    entry = {"kind": "record", "seq": 7, "objective_key": 3, "outcome_seq": 9, "recorded_at": AT}
    whole = json.dumps({**entry, "experience": told(experience(1))}).encode()
    with log.written([b'{"kind":"unheard of"}', b'{"kind":"amend","id":"e-9"}', whole]):
        pass
    log.close()
    with structlog.testing.capture_logs() as logged:
        store = opened(folder)
    assert any("1–1 in the redo log" in each.get("lost", "") for each in logged)
    assert list(store.experiences([7])) == [7]
    store.close()


# one commit for many


def test_callers_share_commits_and_one_callers_failure_undoes_only_its_own(folder: Path) -> None:
    store = opened(folder)
    store.append(experience("first"), AT)
    entered, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> Change[None]:
        entered.set()
        assert go.wait(20)
        return Change(result=None)

    answers: dict[str, object] = {}

    def call(name: str) -> None:
        try:
            if name == "amends-nothing":
                answers[name] = store.amend("nobody", finding("v-x"))
            else:
                answers[name] = store.append(experience(name), AT)
        except NotFound as error:
            answers[name] = error

    holder = threading.Thread(target=store.commit, args=("hold", slow))
    holder.start()
    assert entered.wait(20)
    names = [*(f"c-{number}" for number in range(6)), "amends-nothing", "c-0"]
    callers = [threading.Thread(target=call, args=(name,)) for name in names]
    for each in callers:
        each.start()
    while len(store._commits._queue) < len(callers):
        pass
    commits: list[str] = []
    store._writer.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    go.set()
    for each in (holder, *callers):
        each.join(20)
    assert len(commits) == 2  # the holder's, and one for everybody else
    assert isinstance(answers["amends-nothing"], NotFound)
    assert store.count() == 7
    assert [each.experience.id for each in store.newest(99, "") if each.damage] == []
    store.close()


def test_eight_threads_lose_nothing_and_the_catalogs_order_holds(folder: Path) -> None:
    store = opened(folder)
    taken: list[int] = []

    def burst(worker: int) -> None:
        for number in range(50):
            name = f"{worker}-{number}"
            store.append(experience(name), AT, then=lambda appended, _: taken.append(appended.seq))

    threads = [threading.Thread(target=burst, args=(worker,)) for worker in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert taken == list(range(1, 401))
    assert store.redo is not None
    assert store.redo.last == 400
    store.close()
    assert [row[0] for row in rows(store.path, "event")["event"]] == taken


@pytest.mark.parametrize("where", ["log", "wal", "both"])
def test_a_full_disk_acknowledges_nothing_and_leaves_nothing_half_done(folder: Path, where: str) -> None:
    store = opened(folder, durable=True, segment_bytes=8_000 if where != "wal" else 10_000_000)
    fill(store)
    assert store.redo is not None
    room = {"log": 40_000, "wal": 10_000_000, "both": 0}[where]  # of 60,000 bytes the log takes one copy, the WAL two
    if where == "wal":
        store._writer.execute(f"PRAGMA max_page_count = {store._writer.execute('PRAGMA page_count').fetchone()[0]}")
    before, last = rows(store.path), store.redo.last
    with full_disk(room), pytest.raises((ResourceExhausted, Unavailable), match="nothing was half done"):
        store.append(experience("full", evidence="x" * 60_000), AT)
    assert rows(store.path) == before
    assert store.redo.last == last
    store._writer.execute("PRAGMA max_page_count = 1000000")
    store.append(experience("room again"), AT)
    assert not [each for each in store.redo.read() if isinstance(each, Spoilt)]
    assert not [each for each in store.redo.read() if isinstance(each, Entry) and "xxx" in str(each.body)]
    store.close()
    again = opened(folder)
    assert again.count() == 11
    again.close()
