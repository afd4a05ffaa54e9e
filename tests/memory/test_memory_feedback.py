"""What feedback changes: the floor, evictions, and all of it back again."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import HashEmbedder, experience

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, NotFound
from services.memory.catalog import Standing
from services.memory.eviction import weigh
from services.memory.feedback import LABELS_NEEDED, SAME_WORDS, Label, Tally, Verdict, learned_floor
from services.memory.memory import Memory
from services.memory.recall import FLOOR, Query
from services.memory.trust import Judged

Make = Callable[..., Memory]
ASK = "rotate the logs"
USEFUL, USELESS, HARMFUL, WITHDRAWN = Verdict.USEFUL, Verdict.USELESS, Verdict.HARMFUL, Verdict.WITHDRAWN


def judge(memory: Memory, name: str, verdict: Verdict, **told: object) -> Judged:
    fields = {"query": "", "cosine": None, "task_id": "", "caller": "cbo", **told}
    return memory.trust.judge(name, verdict, **fields)  # type: ignore[arg-type]  # fields by name


def labels(*parts: tuple[int, int, float]) -> list[Label]:
    """(useful, useless, cosine) each, of as many experiences."""
    verdicts = [(cosine, verdict) for a, b, cosine in parts for verdict in [USEFUL] * a + [USELESS] * b]
    return [
        Label(event=n, verdict=verdict, query=ASK, cosine=cosine, task_id="", caller="operator", recorded_at="")
        for n, (cosine, verdict) in enumerate(verdicts)
    ]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "audit" / "memory.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["event"] == name]


# labels


def test_a_judgement_counts_once_for_each_caller_and_task_and_the_newest_counts(
    make_memory: Make, tmp_path: Path
) -> None:
    memory = make_memory()
    memory.record(experience(1))
    assert judge(memory, "e-1", USEFUL, task_id="t-1").labels == 1
    assert judge(memory, "e-1", USEFUL, task_id="t-1").labels == 1
    assert judge(memory, "e-1", USEFUL, task_id="t-1", query="other words").labels == 1
    assert judge(memory, "e-1", USEFUL, task_id="t-2").labels == 2
    assert judge(memory, "e-1", USEFUL, task_id="t-1", caller="operator").labels == 3
    assert judge(memory, "e-1", USEFUL, caller="operator").labels == 4
    assert judge(memory, "e-1", USEFUL, caller="operator").labels == 4
    assert judge(memory, "e-1", USELESS, task_id="t-1").labels == 4
    assert memory.trust.figures.precision == 0.75
    assert judge(memory, "e-1", WITHDRAWN, task_id="t-1").labels == 3
    assert judge(memory, "e-1", WITHDRAWN, task_id="t-9").labels == 3
    assert make_memory().trust.figures == memory.trust.figures
    assert [each["verdict"] for each in events(tmp_path, "memory.feedback")] == [
        "useful", "useful", "useful", "useful", "useless", "withdrawn",
    ]  # fmt: skip


def test_judging_what_is_not_there_or_can_not_be_is_refused(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    with pytest.raises(NotFound):
        judge(memory, "e-9", USEFUL)
    for wrong in ({"cosine": 1.5}, {"cosine": float("nan")}, {"query": "a\x00b"}, {"task_id": "t\n1"}):
        with pytest.raises(InvalidInput):
            judge(memory, "e-1", USEFUL, **wrong)
    assert memory.trust.figures.labels == 0
    assert memory.trust.figures.precision is None


# the floor


def test_the_floor_stays_below_a_hundred_labels_whatever_they_say() -> None:
    assert learned_floor(labels((0, LABELS_NEEDED - 1, 0.81))).value == FLOOR


def test_the_floor_rises_to_where_the_lower_bound_holds() -> None:
    found = learned_floor(labels((40, 60, 0.82), (110, 5, 0.90)))
    assert found.value == 0.82
    assert "110 of 115" in found.reason
    assert learned_floor(labels((95, 5, 0.82), (95, 5, 0.90))).value == FLOOR


def test_the_floor_stays_where_no_higher_one_is_better() -> None:
    assert learned_floor(labels((100, 100, 0.82), (100, 100, 0.90))).value == FLOOR
    assert learned_floor(labels((0, 300, 0.9))).value == FLOOR


def test_the_same_words_and_repeated_pairs_and_harm_say_nothing_of_the_floor() -> None:
    bad = labels((0, 60, 0.82))
    assert learned_floor([*bad, *labels((500, 0, 1.0))]).value == FLOOR
    assert "60 labels" in learned_floor([*bad, *bad, *bad]).reason
    harmful = [
        Label(event=n, verdict=HARMFUL, query=ASK, cosine=0.9, task_id="", caller="cbo", recorded_at="")
        for n in range(200)
    ]
    assert "0 labels" in learned_floor(harmful).reason


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.floats(-1, 1)), max_size=20))
def test_the_floor_is_never_below_080_nor_above_095(parts: list[tuple[int, int, float]]) -> None:
    assert 0.80 <= learned_floor(labels(*parts)).value <= 0.95


SAID = st.builds(
    Label,
    event=st.integers(0, 3),
    verdict=st.sampled_from(Verdict),
    query=st.sampled_from(["a", "b"]),
    cosine=st.sampled_from([None, 0.5, 0.80, 0.801, 0.81, 0.8101, 0.9, 0.96, SAME_WORDS]),
    task_id=st.sampled_from(["", "t-1"]),
    caller=st.sampled_from(["cbo", "operator"]),
    recorded_at=st.just(""),
)


@given(st.lists(SAID, max_size=40))
def test_what_is_kept_up_label_by_label_is_what_counting_them_all_gives(said: list[Label]) -> None:
    counted: dict[tuple[object, ...], Label] = {}
    tally = Tally()
    for each in said:
        tally.put(each)
        key = (each.event, each.caller, each.task_id, "" if each.task_id else each.query)
        counted.pop(key, None)
        if each.verdict is not WITHDRAWN:
            counted[key] = each
    assert len(tally) == len(counted)
    assert tally.useful == sum(each.verdict is USEFUL for each in counted.values())
    pairs = {
        (each.query, each.event): each
        for each in counted.values()
        if each.cosine is not None and FLOOR < each.cosine < SAME_WORDS and each.verdict is not HARMFUL
    }
    for step in range(16):
        above = [
            each for each in pairs.values() if each.cosine is not None and each.cosine > round(0.8 + step / 100, 2)
        ]
        assert sum(tally._all[step:]) == len(above)
        assert sum(tally._good[step:]) == sum(each.verdict is USEFUL for each in above)


def test_labels_raise_the_floor_of_every_recall_and_taking_them_back_lowers_it(
    make_memory: Make, tmp_path: Path
) -> None:
    memory = make_memory()
    for number in range(230):
        memory.record(experience(number, objective=f"{ASK} of host {number}"))
    for number in range(100):
        judge(memory, f"e-{number}", USELESS, query=ASK, cosine=0.84)
    for number in range(100, 230):
        judge(memory, f"e-{number}", USEFUL, query=ASK, cosine=0.93)
    for each in (memory, make_memory()):
        found = each.recall(Query(objective=ASK))
        assert found.floor == each.trust.figures.floor.value == 0.84
        assert each.recall(Query(objective=ASK, min_cosine=0.81)).floor == 0.84
        assert each.recall(Query(objective=ASK, min_cosine=0.9)).floor == 0.9
        assert all(match.cosine > 0.84 for match in found.matches)
        assert all(
            match.near == (match.cosine <= 0.84) for match in each.recall(Query(objective=ASK, near=True)).matches
        )
    for number in range(100):
        judge(memory, f"e-{number}", WITHDRAWN, query=ASK)
    assert memory.recall(Query(objective=ASK)).floor == FLOOR
    moves = [(each["before"], each["after"]) for each in events(tmp_path, "memory.floor")]
    assert moves[0][0] == moves[-1][1] == FLOOR
    assert moves[0][1] > FLOOR


def test_a_missing_cosine_is_that_of_the_question(make_memory: Make) -> None:
    memory = make_memory()
    for number in range(LABELS_NEEDED):
        memory.record(experience(number, objective=f"{ASK} of host {number}"))
    one, other = HashEmbedder().embed([ASK, f"{ASK} of host 1"])
    assert 0.5 < one @ other < 0.9999
    judge(memory, "e-1", USELESS, query=f"{ASK} of host 1 now")
    assert memory.trust.figures.floor.reason.startswith("1 labels")
    judge(memory, "e-2", USELESS)  # no question: it can't be placed
    assert memory.trust.figures.floor.reason.startswith("1 labels")


# eviction


def test_four_failures_on_end_evict_and_ten_do_among_sixteen_that_went_well() -> None:
    assert not weigh([HARMFUL] * 3).evict
    assert weigh([HARMFUL] * 4).evict
    for seed in range(50):
        uses = [HARMFUL] * 10 + [USEFUL] * 16
        random.Random(seed).shuffle(uses)
        assert weigh(uses).evict
    assert not weigh([USEFUL, USEFUL, USEFUL, HARMFUL] * 250).evict


@given(st.lists(st.sampled_from([USEFUL, USELESS, HARMFUL]), max_size=60), st.integers(0, 300))
def test_praise_before_the_first_failure_and_useless_ones_change_nothing(told: list[Verdict], before: int) -> None:
    found = weigh(told)
    assert weigh([USEFUL] * before + told).evict == found.evict
    assert weigh([each for each in told if each is not USELESS]) == found
    assert found.evict <= (found.harmful >= 4)


@pytest.mark.parametrize(("fails", "most"), [(0.02, 0.01), (0.05, 0.03)])
def test_a_good_memory_survives_a_thousand_uses(fails: float, most: float) -> None:
    draw = random.Random(7)
    evicted = sum(weigh(HARMFUL if draw.random() < fails else USEFUL for _ in range(1000)).evict for _ in range(400))
    print(f"{evicted} of 400 evicted that fail {fails:.0%} of 1,000 uses")
    assert evicted <= most * 400


@pytest.mark.parametrize("fails", [1.0, 0.8, 2 / 3])
def test_a_memory_that_misleads_is_gone_within_ten_failures(fails: float) -> None:
    draw, counts = random.Random(7), []
    for _ in range(400):
        uses: list[Verdict] = []
        while not weigh(uses).evict:
            uses.append(HARMFUL if draw.random() < fails else USEFUL)
        counts.append(uses.count(HARMFUL))
    print(f"evicted after {max(counts)} failures at most")
    assert max(counts) <= 10


def test_an_evicted_experience_is_left_out_counted_listed_with_the_evidence_and_reinstated(
    make_memory: Make, tmp_path: Path
) -> None:
    memory = make_memory()
    clock = memory._clock
    assert isinstance(clock, VirtualClock)
    memory.record(experience(1))
    memory.record(experience(2, procedure="xz"))
    for number in range(3):
        assert judge(memory, "e-1", HARMFUL, task_id=f"t-{number}").standing is Standing.VALID
    assert memory.recall(Query(objective=ASK, procedure="gzip-6")).matches[0].harmful == 3
    judged = judge(memory, "e-1", HARMFUL, task_id="t-3")
    assert judged.standing is Standing.EVICTED
    assert "of 4 judged uses 4 failed" in judged.reason
    for each in (memory, make_memory()):
        found = each.recall(Query(objective=ASK))
        assert [match.experience.id for match in found.matches] == ["e-2"]
        assert found.evicted == each.trust.figures.evicted == 1
        assert [summary.procedure for summary in found.summaries] == ["xz"]
        ((listed, stand),) = each.trust.listed(Standing.EVICTED, 10)
        assert (listed.id, stand.caller, stand.reason) == ("e-1", "memory", judged.reason)
    clock.advance(1)
    assert memory.trust.stand("e-1", Standing.VALID, because_of="", reason="a cable was loose", caller="operator")
    clock.advance(1)
    assert "e-1" in {each.experience.id for each in memory.recall(Query(objective=ASK)).matches}
    for number in range(4, 7):  # what was said before counts no longer
        assert judge(memory, "e-1", HARMFUL, task_id=f"t-{number}").standing is Standing.VALID
    assert judge(memory, "e-1", HARMFUL, task_id="t-7").standing is Standing.EVICTED
    assert [(each["standing"], each["caller"]) for each in events(tmp_path, "memory.standing")] == [
        ("evicted", "memory"), ("valid", "operator"), ("evicted", "memory"),
    ]  # fmt: skip


def test_taking_judgements_back_brings_an_evicted_experience_back_to_where_it_stood(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    memory.trust.stand("e-1", Standing.INVALIDATED, because_of="", reason="wrong file", caller="operator")
    for number in range(4):
        judge(memory, "e-1", HARMFUL, task_id=f"t-{number}")
    assert memory.trust.figures.evicted == 1
    assert judge(memory, "e-1", WITHDRAWN, task_id="t-0").standing is Standing.INVALIDATED
    assert memory.recall(Query(objective=ASK)).matches[0].why.startswith("invalidated (said memory): wrong file")
    assert judge(memory, "e-1", HARMFUL, task_id="t-0").standing is Standing.EVICTED


def test_one_failed_task_told_many_times_is_one_failure(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    for _ in range(20):
        assert judge(memory, "e-1", HARMFUL, task_id="t-1").standing is Standing.VALID
    assert memory.recall(Query(objective=ASK)).matches[0].harmful == 1
