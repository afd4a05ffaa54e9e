import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from memory_fakes import experience

from chassis.errors import CalyxError, ResourceExhausted
from chassis.executor import ThreadExecutor
from services.memory.experience import Experience
from services.memory.gather import Gather
from services.memory.recording import ROWS, Appended
from services.memory.redo import Entry, RedoLog
from services.memory.store import Store

AT = "2026-11-01T00:00:00.000000Z"
TABLES = ("event", "objective", "context", "confidence", "outcome", "sqlite_sequence")


def opened(folder: Path) -> Store:
    return Store(folder / "experience.sqlite", durable=False, redo=RedoLog(folder / "redo", durable=False))


def held(store: Store) -> list[object]:
    """All that a store keeps of its rows, and the redo log of them."""
    connection = sqlite3.connect(store.path)
    found: list[object] = [connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in TABLES]
    connection.close()
    assert store.redo is not None
    return [*found, [each.body for each in store.redo.read() if isinstance(each, Entry)]]


def together(store: Store, several: Sequence[Experience]) -> list[Appended | BaseException | None]:
    return store.append_all(several, AT, None)


def spent(store: Store, several: Sequence[Experience]) -> list[str]:
    """The statements that storing these together took."""
    said: list[str] = []
    store._writer.set_trace_callback(said.append)
    together(store, several)
    store._writer.set_trace_callback(None)
    return said


ODD = [
    experience("quoted", objective='a "quoted" \\ objective, 100 % of it', context={"k": 'v"\\', "": ""}),
    experience("unicode", objective="Größe 𝔘 ‰", context={"site": "Zürich"}),
    experience("bare", context={}, confidence=None, tes=None, duration_seconds=None, files_changed=None, cost={}),
    experience("digits", tes=97.123456789012345, confidence=1 / 3, duration_seconds=1e-300, cost={"a": 0.1 + 0.2}),
    experience("many facts", context={f"k{number}": str(number) for number in range(3 * ROWS)}),
]


def test_stored_together_they_are_the_same_rows_and_entries_as_one_by_one(tmp_path: Path) -> None:
    several = [experience(number, objective=f"objective {number % 7}") for number in range(1, 2 * ROWS + 4)]
    several += [*ODD, several[3], ODD[0]]
    one, other = opened(tmp_path / "one"), opened(tmp_path / "other")
    for store in (one, other):
        store.append(experience("before", objective="objective 3"), AT)
        store.append(several[5], AT)
    alone = [one.append(each, AT) for each in several]
    assert together(other, several) == alone
    assert [each for each in alone if each is None] == [None] * 3
    assert held(one) == held(other)
    assert all(each.damage is None for each in other.newest(500, ""))
    one.close()
    other.close()


def test_more_rows_take_no_more_statements(tmp_path: Path) -> None:
    store = opened(tmp_path)
    two = spent(store, [experience(number, objective=f"o {number}") for number in (1, 2)])
    many = spent(store, [experience(number, objective=f"o {number}") for number in range(3, 8)])
    assert len(two) == len(many)
    assert store.count() == 7
    store.close()


def test_one_that_fails_undoes_only_its_own_and_the_others_are_told_apart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    several = [experience(1), experience("wrong", tes=200.0), experience(2), experience(1)]  # past `check`, on purpose
    said: list[str] = []
    store._writer.set_trace_callback(said.append)
    first, wrong, second, again = together(store, several)
    store._writer.set_trace_callback(None)
    assert isinstance(wrong, CalyxError)
    assert [isinstance(each, Appended) for each in (first, second)] == [True, True]
    assert again is None
    assert sum(each.startswith("SAVEPOINT caller") for each in said) == len(several)
    assert said.count("COMMIT") == 1
    assert {each.experience.id for each in store.newest(9, "") if each.damage is None} == {"e-1", "e-2"}
    assert store.redo is not None
    assert [each.body["experience"]["id"] for each in store.redo.read() if isinstance(each, Entry)] == ["e-1", "e-2"]
    assert isinstance(together(store, [experience(3), experience(4)])[1], Appended)  # as before
    store.close()


def test_a_disk_that_is_full_for_one_of_them_takes_the_others(tmp_path: Path) -> None:
    store = opened(tmp_path)
    together(store, [experience(1), experience(2)])
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    small, large, other = together(store, [experience(3), experience(4, evidence="x" * 60_000), experience(5)])
    assert isinstance(large, ResourceExhausted)
    stored = {f"e-{number}" for number, each in ((3, small), (5, other)) if isinstance(each, Appended)}
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert {each.experience.id for each in store.newest(9, "") if each.damage is None} == {"e-1", "e-2"} | stored
    assert stored == {"e-3", "e-5"}
    store.close()


# calls that gather


def test_the_thread_that_ends_a_batch_takes_the_next_one_without_asking_the_loop() -> None:
    entered, go = threading.Event(), threading.Event()
    batches: list[tuple[int, list[int]]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append((threading.get_ident(), list(items)))
        entered.set()
        assert go.wait(60)
        return list(items)

    async def calls() -> list[int]:
        gather: Gather[int, int] = Gather(work, executor, most=100)
        first = asyncio.create_task(gather.run(0))
        await asyncio.to_thread(entered.wait, 60)
        rest = [asyncio.create_task(gather.run(each)) for each in range(1, 5)]
        await asyncio.sleep(0)  # they are waiting now
        go.set()
        answers = list(await asyncio.gather(first, *rest))
        return [*answers, await gather.run(5)]  # after a rest it begins again

    executor = ThreadExecutor("gather-test", threads=4)
    assert asyncio.run(calls()) == [0, 1, 2, 3, 4, 5]
    executor.close()
    assert [items for _, items in batches] == [[0], [1, 2, 3, 4], [5]]
    assert batches[0][0] == batches[1][0]


def test_who_was_just_answered_is_waited_for_so_that_one_commit_serves_all() -> None:
    entered, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if len(batches) > 1:
            gather._patience = 0.0  # nobody comes after these
        entered.set()
        assert go.wait(60)
        return list(items)

    async def calls() -> None:
        async def again() -> int:
            return await gather.run(await gather.run(0) + 4)

        first = asyncio.create_task(again())
        await asyncio.to_thread(entered.wait, 60)
        rest = [asyncio.create_task(gather.run(each)) for each in range(1, 4)]
        await asyncio.sleep(0)  # they are waiting now
        go.set()
        assert await asyncio.gather(first, *rest) == [4, 1, 2, 3]

    executor = ThreadExecutor("gather-test", threads=1)
    gather: Gather[int, int] = Gather(work, executor, most=100, patience_seconds=60)
    asyncio.run(calls())
    executor.close()
    assert batches == [[0], [1, 2, 3, 4]]


def test_nobody_waits_for_more_callers_than_may_wait_at_once() -> None:
    entered, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if len(batches) > 1:
            gather._patience = 0.0  # nobody comes after these
        entered.set()
        assert go.wait(60)
        return list(items)

    async def calls() -> list[int]:
        first = asyncio.create_task(gather.run(0))
        await asyncio.to_thread(entered.wait, 60)
        rest = [asyncio.create_task(gather.run(each)) for each in range(1, 4)]
        await asyncio.sleep(0)  # they are waiting now
        go.set()
        return list(await asyncio.gather(first, *rest))

    executor = ThreadExecutor("gather-test", threads=1)
    gather: Gather[int, int] = Gather(work, executor, most=3, patience_seconds=60)
    assert asyncio.run(calls()) == [0, 1, 2, 3]
    executor.close()
    assert batches == [[0], [1, 2, 3]]


def test_an_executor_that_takes_nothing_any_more_is_told_to_each_caller() -> None:
    executor = ThreadExecutor("gather-test", threads=1)
    executor.close()

    async def calls() -> list[int | BaseException]:
        gather: Gather[int, int] = Gather(list, executor, most=100)
        first = await asyncio.gather(gather.run(1), gather.run(2), return_exceptions=True)
        return [*first, *await asyncio.gather(gather.run(3), return_exceptions=True)]

    assert [type(each) for each in asyncio.run(calls())] == [RuntimeError] * 3


def test_a_caller_that_went_away_keeps_nobody_else_from_the_answer() -> None:
    entered, go = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        entered.set()
        assert go.wait(60)
        return list(items)

    async def calls() -> int:
        gather: Gather[int, int] = Gather(work, executor, most=100)
        gone, stays = asyncio.create_task(gather.run(1)), asyncio.create_task(gather.run(2))
        await asyncio.to_thread(entered.wait, 60)
        gone.cancel()
        go.set()
        return await stays

    executor = ThreadExecutor("gather-test", threads=1)
    assert asyncio.run(calls()) == 2
    executor.close()
